import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slurm.job import ARRAY, DASK, MPI, WAYS, Job
from slurm.script import Submission, batch_script, finalizer_script, job_name, quoted, slurm_time
from slurm.site import Site
from sweep.errors import SiteError, SubmitError

JOB = Job(
    via=ARRAY,
    workers=2,
    elements=10,
    tasks=1,
    cores=4,
    memory_mb=401,
    gpus=0,
    minutes=20,
    max_running=None,
    max_array_size=1001,
    core_hours=1.0,
    most_core_hours=2.0,
    price="",
)
SUBMISSION = Submission(
    Path("runs/a.zarr"), "/opt/env/bin/python", 3, "a-0123abcd", Path("runs/logs"), Path("/home/me")
)
PLAIN = Site()
KINDS = (*WAYS, "finalizer")
NOW = 1_000_000  # what the stub of `date` says

# What notes where it stands and what it was called with: "name", count, arguments.
STUB = """#!/bin/bash
printf '%s\\0' "${0##*/}" "$#" "$@" >>"$RECORD"
printf '%s\\0' "$$" "${TMPDIR-none}" >>"$RECORD.process"
"""
PYTHON = STUB + 'if [ "$4" = status ]; then exit "${STATE-0}"; fi\nexit 0\n'
DATE = f"#!/bin/bash\necho {NOW}\n"
# Ends with the next of the codes that $CODES holds.
LAUNCHER = STUB + 'read -ra codes <<<"$CODES"; n=$(<"$RECORD.n"); echo $((n + 1)) >"$RECORD.n"\n'
LAUNCHER += 'exit "${codes[$n]}"\n'


def script_of(kind: str, site: Site = PLAIN, submission: Submission = SUBMISSION) -> str:
    if kind == "finalizer":
        return finalizer_script(site, submission)
    return batch_script(replace(JOB, via=kind, tasks=1 if kind == ARRAY else 3), site, submission)


class Bench:
    """A folder with stubs, the only programs that a script run here can find."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record"
        self.bin = folder / "bin"
        self.work = folder / "work"
        self.bin.mkdir()
        self.work.mkdir()
        for name in ("touch", "mkdir", "module"):
            self.program(self.bin / name, STUB)
        self.program(self.bin / "date", DATE)
        self.program(self.bin / "srun", LAUNCHER)
        self.python = self.program(self.bin / "python", PYTHON)

    def program(self, path: Path, text: str) -> Path:
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        file = self.folder / "script.sh"
        file.write_bytes(os.fsencode(script))
        for name in ("record", "record.process"):
            (self.folder / name).write_bytes(b"")
        (self.folder / "record.n").write_text("0")
        own = {"PATH": str(self.bin), "RECORD": str(self.record), "CODES": "0"}
        return subprocess.Popen(
            ["/bin/bash", str(file), *arguments],
            cwd=self.work,
            env=own | {"SLURM_ARRAY_TASK_ID": "4"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        )

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Run a script to its end; return its exit code and what it said to stderr."""
        process = self.start(script, *arguments, **environment)
        _, errors = process.communicate(timeout=60)
        return process.returncode, errors

    def calls(self) -> list[list[str]]:
        """Return what was run: the name of each program, and its arguments."""
        words = os.fsdecode(self.record.read_bytes()).split("\0")[:-1]
        found = []
        while words:
            end = 2 + int(words[1])
            found.append([words[0], *words[2:end]])
            words = words[end:]
        return found


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def work(store: str, *options: str, end: int = NOW + 20 * 60) -> list[str]:
    return ["sweep", "work", store, "--run", "3", *options, "--until", str(end)]


# -- what is run ---------------------------------------------------------------------------------


def test_an_element_works_on_its_share_until_the_end_of_its_job(bench):
    script = script_of(ARRAY, submission=replace(SUBMISSION, python=str(bench.python)))

    code, errors = bench.run(script, "10", "20")

    assert (code, errors) == (0, "")
    store = "/home/me/runs/a.zarr"
    options = ("--share", "14/20", "--workers", "2")
    assert bench.calls() == [["python", "-P", "-m", *work(store, *options)]]


def test_the_end_that_slurm_tells_goes_before_our_own_reckoning(bench):
    script = script_of(ARRAY, submission=replace(SUBMISSION, python=str(bench.python)))

    bench.run(script, "0", "1", SLURM_JOB_END_TIME="123456")

    assert bench.calls()[0][-2:] == ["--until", "123456"]


@pytest.mark.parametrize("kind", [ARRAY, DASK, "finalizer"])
def test_python_is_the_process_that_slurm_signals(bench, kind):
    script = script_of(kind, submission=replace(SUBMISSION, python=str(bench.python)))

    process = bench.start(script, "0", "1")
    process.communicate(timeout=60)

    noted = Path(f"{bench.record}.process").read_text().split("\0")
    assert noted[0] == str(process.pid)


def test_python_starts_the_workers_of_a_dask_job(bench):
    script = script_of(DASK, submission=replace(SUBMISSION, python=str(bench.python)))

    assert bench.run(script) == (0, "")
    assert bench.calls() == [["python", "-P", "-m", *work("/home/me/runs/a.zarr", "--on", "srun")]]
    assert "export SRUN_CPUS_PER_TASK=4 " in script


def test_the_finalizer_is_told_how_often_it_may_submit_again(bench):
    script = script_of("finalizer", submission=replace(SUBMISSION, python=str(bench.python)))

    assert bench.run(script, "5") == (0, "")
    finish = ["sweep", "finish", "/home/me/runs/a.zarr", "--run", "3", "--rounds", "5"]
    assert bench.calls() == [["python", "-P", "-m", *finish]]


@pytest.mark.parametrize(("kind", "missing"), [(ARRAY, "1: OFFSET"), ("finalizer", "1: ROUNDS")])
def test_a_script_submitted_without_its_arguments_says_which(bench, kind, missing):
    script = script_of(kind, submission=replace(SUBMISSION, python=str(bench.python)))

    code, errors = bench.run(script)

    assert code != 0
    assert missing in errors
    assert bench.calls() == []


def test_modules_setup_and_scratch_come_before_python(bench):
    site = Site(
        modules=("gcc/13", "a b"),
        setup=("touch one && touch 'two words'", 'export WHERE="$UNSET_IS_FINE/x"'),
        scratch="/fast disk/${WHERE}/$NAME;x",
    )
    script = script_of(DASK, site, replace(SUBMISSION, python=str(bench.python)))

    code, errors = bench.run(script, NAME="n $(touch canary)")

    assert (code, errors) == (0, "")
    assert [call for call in bench.calls() if call[0] != "python"] == [
        ["module", "load", "gcc/13"],
        ["module", "load", "a b"],
        ["touch", "one"],
        ["touch", "two words"],
        ["mkdir", "-p", "/fast disk//x/n $(touch canary);x"],
    ]
    noted = Path(f"{bench.record}.process").read_text().split("\0")
    assert noted[-2] == "/fast disk//x/n $(touch canary);x"


def test_a_module_that_is_not_there_ends_the_job(bench):
    bench.program(bench.bin / "module", "#!/bin/bash\nexit 1\n")
    script = script_of(ARRAY, Site(modules=("no",)), replace(SUBMISSION, python=str(bench.python)))

    assert bench.run(script, "0", "1")[0] == 2
    assert bench.calls() == []


def test_a_variable_of_scratch_that_is_not_set_is_named(bench):
    site = Site(scratch="$SLURM_TMPDIR/x")
    script = script_of(ARRAY, site, replace(SUBMISSION, python=str(bench.python)))

    code, errors = bench.run(script, "0", "1")

    assert code != 0
    assert "SLURM_TMPDIR: parameter null or not set" in errors
    assert bench.calls() == []


# -- the ranks of an MPI job ---------------------------------------------------------------------


def test_ranks_are_started_by_the_launcher_and_killed_together(bench):
    script = script_of(MPI, submission=replace(SUBMISSION, python=str(bench.python)))

    assert bench.run(script) == (0, "")
    ranks = [str(bench.python), "-P", "-m"]
    ranks += work("/home/me/runs/a.zarr", "--on", "mpi")
    assert bench.calls() == [
        ["srun", "--mpi=pmi2", "--kill-on-bad-exit=1", *ranks],
        ["python", "-P", "-m", "sweep", "status", "/home/me/runs/a.zarr"],
    ]


@pytest.mark.parametrize("own", ["srun -K", "srun --kill-on-bad-exit=0", "mpiexec -n 3"])
def test_other_launchers_are_taken_as_they_are(own):
    assert f'    {own} "$python" -P -m sweep' in script_of(MPI, Site(launcher=own))


@pytest.mark.parametrize(
    ("codes", "state", "starts", "code"),
    [
        ("0", 0, 1, 0),  # complete
        ("1", 1, 1, 1),  # some failed
        ("137", 0, 1, 0),  # complete: srun ended the other ranks when one had left
        ("143", 1, 1, 1),
        ("2", 3, 1, 2),  # a person's mistake
        ("130", 3, 1, 130),  # a person ended it
        ("0", 3, 1, 3),  # they left because the time is over
        ("137 " * 10, 3, 10, 3),  # deaths, again and again
        ("137 1 0", 3, 3, 3),
    ],
)
def test_ranks_are_started_again_after_deaths_until_the_store_is_complete(
    bench, codes, state, starts, code
):
    script = script_of(MPI, submission=replace(SUBMISSION, python=str(bench.python)))

    ended, _ = bench.run(script, CODES=codes, STATE=str(state))

    assert ended == code
    assert [call[0] for call in bench.calls()].count("srun") == starts


def test_ranks_are_not_started_again_shortly_before_the_end(bench):
    script = script_of(MPI, submission=replace(SUBMISSION, python=str(bench.python)))

    for left, starts in ((119, 1), (120, 10)):
        end = str(NOW + left)
        code, _ = bench.run(script, CODES="137 " * 10, STATE="3", SLURM_JOB_END_TIME=end)

        assert code == 3
        assert [call[0] for call in bench.calls()].count("srun") == starts


RANK = """
import os, signal, sys
heard = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
    signal.signal(number, lambda number, frame: heard.append(signal.Signals(number).name))
with open(sys.argv[1], "a") as file:
    file.write("ready ")
while not heard:
    signal.pause()
with open(sys.argv[1], "a") as file:
    file.write(heard[0])
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("sent", "got", "ended", "code", "asked"),
    [
        ("SIGUSR1", "SIGUSR1", 137, 3, 1),
        ("SIGUSR1", "SIGUSR1", 2, 2, 0),  # it is the ranks' end that is waited for
        ("SIGTERM", "SIGUSR2", 137, 130, 0),  # TERM tells ranks of the death of one of them
    ],
)
def test_a_signal_reaches_the_launcher_and_the_ranks_are_not_started_again(
    bench, sent, got, ended, code, asked
):
    (bench.folder / "rank.py").write_text(RANK)
    said = bench.folder / "said"
    rank = [sys.executable, str(bench.folder / "rank.py"), str(said), str(ended)]
    script = script_of(MPI, Site(launcher=rank), replace(SUBMISSION, python=str(bench.python)))

    process = bench.start(script, STATE="3")
    wait_for(lambda: said.exists() and said.read_text() == "ready ")
    process.send_signal(signal.Signals[sent])
    process.communicate(timeout=60)

    assert process.returncode == code
    assert said.read_text() == f"ready {got}"
    assert len(bench.calls()) == asked


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# -- quoting -------------------------------------------------------------------------------------

AWKWARD = [
    "with space",
    'quo\'te "double"',
    "$(touch canary) `touch canary` $HOME",
    "; touch canary #",
    "per%cent %j %A %%",
    "-dash",
    "häß 日本",
    "*? [a] {b,c} ~ ! & | < > ( )",
]
CONTROL = ["new\nline", "cr\r\nlf\n#SBATCH --exclusive", "\x01\x02\x1b\x7f", "tab\t"]


def names() -> st.SearchStrategy[str]:
    """What a folder or a file may be called."""
    letters = st.characters(codec="utf-8", exclude_characters="/\0")
    pieces = st.sampled_from([*AWKWARD, *CONTROL, "\\", "\\'", "'", "$", "\udcff"])
    texts = st.text(letters, min_size=1) | st.lists(pieces, min_size=1, max_size=3).map("".join)
    return texts.filter(lambda name: name not in (".", "..") and len(os.fsencode(name)) < 200)


@given(text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@example(text="a\\'\n'")
@example(text="\r\n")
@example(text="\x011")
def test_a_quoted_text_is_one_word_on_one_line(text):
    word = quoted(text)

    said = subprocess.run(["/bin/bash", "-c", f"printf %s {word}"], capture_output=True, check=True)
    assert said.stdout.decode() == text
    assert not {"\n", "\r"} & set(word)


@given(
    kind=st.sampled_from(KINDS),
    store=names(),
    python=names(),
    words=st.lists(names(), max_size=2),
    module=names(),
    scratch=names().filter(lambda name: "$" not in name),
)
@example(DASK, AWKWARD[2], AWKWARD[2], [AWKWARD[3]], AWKWARD[2], AWKWARD[3])
@example(ARRAY, CONTROL[1], CONTROL[0], [], AWKWARD[1], AWKWARD[1])
def test_whatever_things_are_called_the_intended_is_run_and_nothing_else(
    kind, store, python, words, module, scratch
):
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name).resolve())
        interpreter = bench.folder / python / "python"
        interpreter.parent.mkdir(exist_ok=True)
        shutil.copy(bench.python, interpreter)
        try:
            site = Site(
                launcher=["srun", *words], modules=[module], scratch=f"/{scratch}/$SLURM_TMPDIR"
            )
        except SiteError:
            site = Site()
        submission = replace(SUBMISSION, store=Path(store), python=str(interpreter))
        script = script_of(kind, site, submission)

        check_syntax(script)
        code, errors = bench.run(script, "6", "10", SLURM_TMPDIR="/t $(touch canary)")

        where = f"/home/me/{store}"
        work_of = {
            ARRAY: work(where, "--share", "10/10", "--workers", "2"),
            DASK: work(where, "--on", "srun"),
            "finalizer": ["sweep", "finish", where, "--run", "3", "--rounds", "6"],
        }
        ranks = [str(interpreter), "-P", "-m", *work(where, "--on", "mpi")]
        launcher = [*site.launcher, *site_kills(site), *ranks]
        status = ["python", "-P", "-m", "sweep", "status", where]
        expected = [["module", "load", one] for one in site.modules]
        if site.scratch:
            expected.append(["mkdir", "-p", f"/{scratch}//t $(touch canary)"])
        if kind == MPI:
            expected += [launcher, status]
        else:
            expected.append(["python", "-P", "-m", *work_of[kind]])
        assert (code, errors) == (0, "")
        assert bench.calls() == expected
        assert list(bench.work.iterdir()) == []


def site_kills(site: Site) -> list[str]:
    given = any(w == "-K" or w.startswith("--kill-on-bad-exit") for w in site.launcher)
    return [] if given else ["--kill-on-bad-exit=1"]


def check_syntax(script: str) -> None:
    done = subprocess.run(["/bin/bash", "-n"], input=os.fsencode(script), capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def directives(script: str) -> list[str]:
    """Return the directives as sbatch splits them, up to the first command."""
    lines = script.split("\n")
    lines = lines[: next(n for n, line in enumerate(lines) if line and line[0] != "#")]
    return [
        word
        for line in lines
        if line.startswith("#SBATCH")
        for word in shlex.split(line.removeprefix("#SBATCH"), comments=True)
    ]


@given(kind=st.sampled_from(KINDS), folder=names(), logs=names(), comment=st.text())
def test_a_directive_is_one_word_for_sbatch_or_refused(kind, folder, logs, comment):
    submission = replace(SUBMISSION, folder=Path("/", folder), logs=Path(logs))
    try:
        site = Site(directives=[f"--comment={comment}"])
        script = script_of(kind, site, submission)
    except (SiteError, SubmitError):
        assert "\\" in folder + logs or any(c < " " or c == "\x7f" for c in folder + logs + comment)
        return

    check_syntax(script)
    found = directives(script)
    log = "%x-%A_%a.log" if kind == ARRAY else "%x-%j.log"
    assert f"--chdir=/{folder}" in found
    assert f"--output=/{folder}/{logs}/".replace("%", "%%") + log in found
    assert found[-1] == f"--comment={comment}"
    assert len(found) == script.count("#SBATCH --") + script.count('#SBATCH "--')


def test_a_folder_that_slurm_cannot_take_is_refused_in_words():
    for folder in ("/a\nb", "/a\x7f"):
        with pytest.raises(SubmitError, match=r"SLURM cannot take the folder .* control character"):
            script_of(ARRAY, submission=replace(SUBMISSION, folder=Path(folder)))
    with pytest.raises(SubmitError, match=r"SLURM cannot write logs in .* backslash"):
        script_of(ARRAY, submission=replace(SUBMISSION, logs=Path("a\\b")))


# -- what sbatch is asked for --------------------------------------------------------------------


def test_an_element_asks_for_one_node_with_its_cores_and_memory():
    found = directives(script_of(ARRAY))

    assert found == [
        "--job-name=a-0123abcd",
        "--chdir=/home/me",
        "--output=/home/me/runs/logs/%x-%A_%a.log",
        "--open-mode=append",
        "--requeue",
        "--time=00:20:00",
        "--nodes=1",
        "--ntasks=1",
        "--cpus-per-task=4",
        "--mem=401M",
        "--signal=B:USR1@90",
    ]


@pytest.mark.parametrize("via", [DASK, MPI])
def test_a_job_on_several_nodes_asks_for_the_memory_of_each_core(via):
    found = directives(script_of(via))

    assert "--mem-per-cpu=101M" in found
    assert {"--ntasks=3", "--cpus-per-task=4"} <= set(found)
    assert not any(one.startswith(("--mem=", "--nodes")) for one in found)


def test_gpus_are_asked_for_of_a_node_or_of_each_task():
    job = replace(JOB, gpus=2)

    assert "--gres=gpu:2" in directives(batch_script(job, Site(), SUBMISSION))
    several = batch_script(replace(job, via=MPI), Site(), SUBMISSION)
    assert "--gpus-per-task=2" in directives(several)
    site = Site(gpu="--gres=gpu:a100:{gpus}")
    assert "--gres=gpu:a100:2" in directives(batch_script(job, site, SUBMISSION))
    assert not any("gpu" in one for one in directives(finalizer_script(site, SUBMISSION)))


def test_a_site_names_its_partition_adds_directives_and_removes_ours():
    site = Site(
        partition="short",
        account="p1",
        qos="q",
        constraint="a&b",
        directives=["--mem=0", "--exclusive"],
        remove=["--mem", "--requeue", "--signal", "--open-mode"],
    )

    found = directives(script_of(ARRAY, site))

    assert {"--partition=short", "--account=p1", "--qos=q", "--constraint=a&b"} <= set(found)
    assert found[-2:] == ["--mem=0", "--exclusive"]
    assert not any(one.startswith(("--requeue", "--signal", "--open", "--mem=4")) for one in found)
    assert not any("--mem" in one for one in directives(script_of(ARRAY, Site(memory=""))))


def test_the_finalizer_is_small_and_keeps_to_the_site():
    found = directives(finalizer_script(Site(time_limit=10, memory_per_node=900), SUBMISSION))

    assert {"--time=00:10:00", "--mem=900M", "--ntasks=1", "--cpus-per-task=1"} <= set(found)


@pytest.mark.parametrize(
    ("minutes", "text"), [(1, "00:01:00"), (1439, "23:59:00"), (1500, "1-01:00:00")]
)
def test_a_time_is_written_as_slurm_does(minutes, text):
    assert slurm_time(minutes) == text


@pytest.mark.parametrize(
    ("store", "stem"),
    [
        ("runs/heat_flow.zarr", "heat_flow"),
        ("-x.zarr", "x"),
        ("日本.zarr", "sweep"),
        ("a b$(c)\n.zarr", "a-b-c-"),
        ("x" * 99, 40 * "x"),
    ],
)
def test_jobs_are_named_after_the_store(store, stem):
    assert job_name(Path(store), "0123abcd").rpartition("-")[0] == stem


def test_a_copy_of_a_store_and_another_sweep_in_its_place_have_other_jobs(tmp_path):
    here = job_name(tmp_path / "a.zarr", "0123abcd")
    (tmp_path / "link").symlink_to(tmp_path)

    assert job_name(tmp_path / "link" / "a.zarr", "0123abcd") == here
    assert job_name(tmp_path / "b" / "a.zarr", "0123abcd") != here
    assert job_name(tmp_path / "a.zarr", "4567abcd") != here


@given(names())
def test_the_name_of_a_job_is_plain_whatever_the_store_is_called(store):
    name = job_name(Path("runs") / store, "0123abcd4567")

    stem, _, place = name.rpartition("-")
    assert re.fullmatch("[0-9a-f]{8}", place)
    assert 1 <= len(stem) <= 40
    assert name[0] not in "-."
    assert all(letter.isascii() and (letter.isalnum() or letter in "._-") for letter in name)


@pytest.mark.parametrize("kind", KINDS)
def test_shellcheck_has_nothing_to_say(kind):
    if shutil.which("shellcheck") is None:
        if os.environ.get("SWEEP_REQUIRE_CLUSTER") == "1":
            pytest.fail("shellcheck is missing: apt-get install shellcheck")
        pytest.skip("shellcheck is missing: apt-get install shellcheck")
    site = Site(modules=["gcc"], scratch="/s/$USER/x", launcher="mpiexec -n '4 5'")
    submission = replace(SUBMISSION, store=Path("a 'b'\n$(c).zarr"))

    done = subprocess.run(
        ["shellcheck", "-s", "bash", "-"],
        input=script_of(kind, site, submission),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")
