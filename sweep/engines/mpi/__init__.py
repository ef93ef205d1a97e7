"""MPI: rank 0 is the driver, every other rank keeps one worker for it.

All ranks start the same command line. Rank 0 hands calls to ranks that have none (`engine.py`);
each of the others is a supervisor (`supervisor.py`) whose worker is a process of its own: a kernel
that crashes costs one call, and not the MPI job, which ends with any of its ranks. One thread of a
rank talks to MPI, in messages of JSON (`post.py`). `launch.py` judges what the launcher has done.
"""
