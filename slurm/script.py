"""The batch scripts: text that a person can read and edit, and that SLURM and bash both parse.

Two parsers read a script. sbatch reads the ``#SBATCH`` lines: it splits them at white space, takes
quotes and backslashes as a shell does, knows no variables, and in the name of a log it replaces
``%x``. bash reads the rest. What comes from outside is quoted for the one that reads it.
"""

import hashlib
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from slurm.job import ARRAY, DASK, MPI, Job
from slurm.keys import VARIABLE, directive_name, has_control
from slurm.site import Site
from sweep.errors import SubmitError

SIGNAL_SECONDS = 90  # before the end: what is in flight may finish, and is committed
MOST_STARTS = 10  # of the ranks of an MPI job, each after a rank's death
LEAST_SECONDS = 120  # with less than these left, ranks are not started again
FINALIZER_MINUTES = 30
FINALIZER_MB = 2000


@dataclass(frozen=True)
class Submission:
    """What is submitted, from where.

    Parameters
    ----------
    store
        The store; if relative, to `folder`.
    python
        The interpreter that has this package, an absolute path.
    run
        The number of the run that the jobs are.
    name
        As `job_name` makes it.
    logs
        Folder for what the jobs print; it exists. If relative, to `folder`.
    folder
        Where the jobs run, an absolute path.
    """

    store: Path
    python: str
    run: int
    name: str
    logs: Path
    folder: Path


def job_name(store: Path, sweep_id: str) -> str:
    """Return the name of a sweep's jobs in this place, by which people and squeue find them."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", store.stem).lstrip("-.")[:40]
    place = f"{sweep_id} {os.path.realpath(store)}".encode(errors="surrogateescape")
    return f"{stem or 'sweep'}-{hashlib.sha256(place).hexdigest()[:8]}"


def slurm_time(minutes: int) -> str:
    """Return minutes as SLURM writes a time: "1-02:30:00"."""
    days, rest = divmod(minutes, 1440)
    return f"{days}-" * (days > 0) + f"{rest // 60:02}:{rest % 60:02}:00"


def batch_script(job: Job, site: Site, submission: Submission) -> str:
    """Return the script of a job.

    Raises
    ------
    SubmitError
        If SLURM cannot take a path.
    """
    one_node = job.via == ARRAY
    gpus = site.gpu if one_node else site.gpu_per_task
    size = [
        f"--time={slurm_time(job.minutes)}",
        "--nodes=1" if one_node else "",
        f"--ntasks={job.tasks}",
        f"--cpus-per-task={job.cores}",
        _memory(site, job.memory_mb)
        if one_node
        else site.memory_per_core.replace("{megabytes}", str(job.memory_per_core_mb)),
        gpus.replace("{gpus}", str(job.gpus)) if job.gpus else "",
        f"--signal=B:USR1@{SIGNAL_SECONDS}",
    ]
    lines = [
        f"walltime={job.minutes * 60}  # seconds, as in --time above; change both",
        "end=${SLURM_JOB_END_TIME:-$(($(date +%s) + walltime))}",
        *{ARRAY: _array_lines, DASK: _dask_lines, MPI: _mpi_lines}[job.via](job, site, submission),
    ]
    log = "%x-%A_%a.log" if one_node else "%x-%j.log"
    return _script(_COMMENTS[job.via], size, log, site, submission, lines)


def finalizer_script(site: Site, submission: Submission) -> str:
    """Return the script that looks after an array when all its elements have left.

    Raises
    ------
    SubmitError
        If SLURM cannot take a path.
    """
    minutes = min(FINALIZER_MINUTES, site.time_limit or FINALIZER_MINUTES)
    memory = min(FINALIZER_MB, site.memory_per_node or FINALIZER_MB)
    size = [f"--time={slurm_time(minutes)}", "--nodes=1", "--ntasks=1", "--cpus-per-task=1"]
    size.append(_memory(site, memory))
    finish = f'-P -m sweep finish "$store" --run {submission.run} --rounds "${{1:?ROUNDS}}"'
    lines = [f'exec "$python" {finish}']
    return _script(_COMMENTS["finalizer"], size, "%x-%j.log", site, submission, lines)


_COMMENTS = {
    ARRAY: """\
# Written by sweep submit. One element of an array: it computes its share of the blocks, then
# takes over from others. The array is given with sbatch, as it is another one each time:
#   sbatch --array=0-9%5 SCRIPT OFFSET COUNT
# starts elements OFFSET to OFFSET+9 of COUNT, five at a time.""",
    DASK: """\
# Written by sweep submit. One allocation: scheduler, driver and workers (a task each, started
# with srun) are all inside.
#   sbatch SCRIPT""",
    MPI: """\
# Written by sweep submit. One MPI job: rank 0 hands out the blocks, the other ranks compute.
# A rank's death ends them all; then they are started again, until the sweep is complete.
#   sbatch SCRIPT""",
    "finalizer": """\
# Written by sweep submit. When all elements of an array have left: submits what is missing, or
# finishes the sweep.
#   sbatch --dependency=afterany:ARRAY SCRIPT ROUNDS
# submits what is missing ROUNDS times at most.""",
}


def _script(
    comment: str, size: list[str], log: str, site: Site, submission: Submission, lines: list[str]
) -> str:
    """Put a script together: for sbatch, for the site, for Python."""
    parts = [
        "#!/bin/bash",
        comment,
        *_directives(site, submission, size, log),
        *_environment(site),
        "set -u",
        f"python={quoted(submission.python)}",
        f"store={quoted(os.fspath(submission.folder / submission.store))}",
        *lines,
    ]
    return "\n".join(parts) + "\n"


def _directives(site: Site, submission: Submission, size: list[str], log: str) -> list[str]:
    """Return the #SBATCH lines: ours but for those removed, then the site's own."""
    logs = _path(submission.folder / submission.logs)
    if "\\" in logs:  # SLURM: then nothing in the name of a log is replaced
        raise SubmitError(
            f"SLURM cannot write logs in {logs!r}: it has a backslash in its name. Take a store "
            "in a folder without."
        )
    ours = [
        f"--job-name={submission.name}",
        f"--chdir={_path(submission.folder)}",
        f"--output={logs.replace('%', '%%')}/{log}",
        "--open-mode=append",
        "--requeue",
        *(
            f"--{key}={value}"
            for key in ("partition", "account", "qos", "constraint")
            if (value := getattr(site, key))
        ),
        *filter(None, size),
    ]
    kept = [one for one in ours if directive_name(one) not in site.remove]
    return [f"#SBATCH {_for_sbatch(one)}" for one in (*kept, *site.directives)]


def _path(path: Path) -> str:
    """Return a path that can stand on a #SBATCH line."""
    if has_control(os.fspath(path)):
        raise SubmitError(
            f"SLURM cannot take the folder {os.fspath(path)!r}: it has a line's end or another "
            "control character in its name. Submit from, and into, folders without."
        )
    return os.fspath(path)


def _for_sbatch(directive: str) -> str:
    """Return a directive as one word for sbatch's own parser."""
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", directive):
        return directive
    return '"' + re.sub(r'(["\\])', r"\\\1", directive) + '"'


def _memory(site: Site, megabytes: int) -> str:
    """Return the directive for the memory of a job on one node."""
    return site.memory.replace("{megabytes}", str(megabytes))


def quoted(text: str) -> str:
    """Return a text as one word of bash, on one line: sbatch refuses some ends of lines."""
    if not has_control(text):
        return shlex.quote(text)
    text = re.sub(r"(['\\])", r"\\\1", text)
    return "$'" + re.sub(r"[\x01-\x1f\x7f]", lambda one: f"\\{ord(one[0]):03o}", text) + "'"


def _environment(site: Site) -> list[str]:
    """Return what is done before Python starts."""
    lines = [f"module load {quoted(name)} || exit 2" for name in site.modules]
    lines += site.setup
    if site.scratch:
        lines += [f"export TMPDIR={_with_variables(site.scratch)}", 'mkdir -p "$TMPDIR" || exit 2']
    return lines


def _with_variables(text: str) -> str:
    """Return a text as one word of bash in which each $NAME is a variable that must be set."""
    parts, place = [], 0
    for match in VARIABLE.finditer(text):
        parts += [text[place : match.start()] and quoted(text[place : match.start()])]
        parts += [f'"${{{match[1] or match[2]}:?}}"']
        place = match.end()
    return "".join(parts) + (text[place:] and quoted(text[place:]))


def _work(submission: Submission, *options: str) -> str:
    """Return the command that all jobs call."""
    words = ['sweep work "$store" --run', str(submission.run), *options, '--until "$end"']
    return " ".join(words)


_EXEC = "# exec, so that the signal before the end reaches Python and not a shell that waits for it"


def _array_lines(job: Job, site: Site, submission: Submission) -> list[str]:
    share = '--share "$((SLURM_ARRAY_TASK_ID + ${1:?OFFSET}))/${2:?COUNT}"'
    work = _work(submission, share, f"--workers {job.workers}")
    return [_EXEC, f'exec "$python" -P -m {work}']


def _dask_lines(job: Job, site: Site, submission: Submission) -> list[str]:
    return [_cores_of_srun(job), _EXEC, f'exec "$python" -P -m {_work(submission, "--on srun")}']


def _mpi_lines(job: Job, site: Site, submission: Submission) -> list[str]:
    words, skip = list(site.launcher), []
    if Path(words[0]).name == "srun":
        skip = _SKIP.rstrip().split("\n")
        if not any(word == "-K" or word.startswith("--kill-on-bad-exit") for word in words):
            words.append("--kill-on-bad-exit=1")  # else a death leaves the other ranks waiting
    work = _work(submission, "--on mpi")
    ranks = f'{" ".join(map(quoted, words))} "$python" -P -m {work}'
    return [_cores_of_srun(job), *skip, *_LOOP.replace("RANKS", ranks).rstrip().split("\n")]


def _cores_of_srun(job: Job) -> str:
    return f"export SRUN_CPUS_PER_TASK={job.cores}  # srun does not take it from --cpus-per-task"


# Seen with mpich 5: a step of the same number as one that was killed on that node does not start.
_SKIP = f"""\
# mpich names its shared memory by job and step, and what was killed leaves it: a job that was
# requeued takes other numbers for its steps.
for ((skip = {MOST_STARTS} * ${{SLURM_RESTART_COUNT:-0}}; skip > 0; skip--)); do
    srun --ntasks=1 --nodes=1 --mpi=none true
done
"""

_LOOP = f"""\
child='' heard='' leaving=''
# USR1: begin no more; USR2: end at once; srun hands them on to all ranks. Not TERM: ranks get that
# when one of them has died, too.
trap 'heard=1 leaving=USR1; kill -s USR1 "$child" 2>/dev/null' USR1
trap 'heard=1 leaving=TERM; kill -s USR2 "$child" 2>/dev/null' TERM
for start in {{1..{MOST_STARTS}}}; do
    RANKS &
    child=$!
    heard=1
    while [ -n "$heard" ]; do  # a signal ends the waiting, not the ranks
        heard=''
        wait "$child"
        code=$?
    done
    child=''
    [ "$leaving" != TERM ] || exit 130
    case $code in 2 | 130) exit "$code" ;; esac
    # Where a rank leaves with an exit code, srun ends the others and says 137 or 143, as after a
    # death: so what became of the sweep is asked of the store.
    "$python" -P -m sweep status "$store"
    state=$?
    [ "$state" -eq 3 ] || exit "$state"
    [ "$code" -ne 0 ] && [ -z "$leaving" ] || exit 3  # they left because the time is over
    [ $((end - $(date +%s))) -ge {LEAST_SECONDS} ] || exit 3
    echo "Start $start of {MOST_STARTS} ended with exit code $code before the sweep was complete."
done
exit 3
"""
