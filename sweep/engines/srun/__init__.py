"""srun: what it takes to have workers on all nodes of the SLURM job that this process is in.

`job.py` says what the job is like; srun starts one `supervisor.py` a task, each with one worker.
The driver's end is an engine, ``dask/allocation.py``.
"""
