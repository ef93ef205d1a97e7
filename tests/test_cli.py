"""The command line: what a person types, reads, and gets as an exit code."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr
from click.testing import CliRunner, Result

from sweep.cli import main
from sweep.drive import Tally
from sweep.progress import Lines, clock_text, line
from sweep.store import Store

HEAT_FLOW = Path(__file__).parent.parent / "pipelines" / "heat_flow.py"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


@pytest.fixture
def throw_file(studies: Path) -> Path:
    return studies / "throw.py"


class TestRun:
    def test_says_what_was_done_and_how_to_open_it(self, throw_file: Path) -> None:
        result = sweep("run", throw_file, "speed=10,20", "--on", "serial")
        assert result.exit_code == 0, result.output
        assert "8 of 8 points to do (2 speed x 4 time)" in result.stderr
        assert "8 of 8 points done, 0 failed." in result.stdout
        assert "efficiency" in result.stdout
        assert 'import xarray as xr\nds = xr.open_zarr("runs/throw.zarr")\n' in result.stdout
        opened: dict[str, xr.Dataset] = {}
        exec(result.stdout[result.stdout.index("import xarray") :], opened)
        assert dict(opened["ds"].sizes) == {"speed": 2, "time": 4}

    def test_exits_with_1_where_points_failed_and_names_them(self, throw_file: Path) -> None:
        result = sweep("run", throw_file, "time=[1.0]", "--on", "serial")
        assert result.exit_code == 1
        assert "failed: speed=13.0, time=1.0: ValueError: unlucky" in result.stdout

    def test_takes_a_store_and_values_in_any_order(self, throw_file: Path) -> None:
        result = sweep("run", throw_file, "speed=20:40:3", "s.zarr", "g=1.6", "--on", "serial")
        assert result.exit_code == 0
        dataset = xr.open_zarr("s.zarr")
        assert dataset.speed.values.tolist() == [20, 30, 40]
        assert float(dataset.g) == 1.6

    def test_does_nothing_where_nothing_is_left(self, throw_file: Path) -> None:
        sweep("run", throw_file, "speed=20", "--on", "serial")
        result = sweep("run", throw_file, "speed=20")
        assert result.exit_code == 0
        assert "Nothing was left to do." in result.stdout

    def test_names_the_store_after_the_pipeline(self, throw_file: Path) -> None:
        sweep("run", f"{throw_file}:vectorized", "speed=20", "--on", "serial")
        assert Path("runs/throw-vectorized.zarr").is_dir()

    def test_refuses_a_store_of_another_sweep(self, throw_file: Path) -> None:
        sweep("run", throw_file, "speed=20", "--on", "serial")
        result = sweep("run", throw_file, "speed=20", "g=1.6", "--on", "serial")
        assert result.exit_code == 2
        assert "holds another sweep:\n  constant 'g' was 9.81, now 1.6" in result.stderr
        assert "Give a new store" in result.stderr

    @pytest.mark.parametrize(
        ("words", "remedy"),
        [
            (["sped=1"], "Did you mean 'speed'?"),
            (["speed=fast"], "speed takes float, not 'fast'"),
            (["speed=1,1"], "has the value 1.0 twice"),
            (["speed=1:2"], "count"),
            (["a.zarr", "b.zarr"], "Give one STORE, not 2"),
            (["--on", "sbatch"], "There is no engine 'sbatch'"),
            (["--on", "tls://127.0.0.1:1"], "--tls-dir DIR with ca.pem"),
        ],
    )
    def test_refuses_a_mistake_with_the_remedy_and_writes_nothing(
        self, words: list[str], remedy: str, throw_file: Path
    ) -> None:
        result = sweep("run", throw_file, *words)
        assert result.exit_code == 2
        assert remedy in result.stderr
        assert "Traceback" not in result.output
        assert list(Path().iterdir()) == []

    def test_shows_the_users_own_traceback_where_the_file_raises(self, tmp_path: Path) -> None:
        file = tmp_path / "broken_study.py"
        file.write_text("import math\nmath.sqrt(-1)\n")
        result = sweep("run", file)
        assert result.exit_code == 2
        assert "math.sqrt(-1)" in result.stderr
        assert "ValueError" in result.stderr

    def test_says_which_file_is_missing(self) -> None:
        result = sweep("run", "nowhere.py")
        assert result.exit_code == 2
        assert "nowhere.py" in result.stderr


class TestResume:
    def test_finds_the_pipeline_by_itself(self, throw_file: Path) -> None:
        sweep("run", throw_file, "speed=20,30", "--on", "serial")
        Path("runs/throw.zarr/status/c.1.2").unlink()
        result = sweep("resume", "runs/throw.zarr", "--on", "serial")
        assert result.exit_code == 0, result.output
        assert "1 of 8 points to do" in result.stderr
        assert xr.open_zarr("runs/throw.zarr").run.values[1, 2] == 2

    def test_takes_a_pipeline_that_has_moved(self, throw_file: Path, tmp_path: Path) -> None:
        first = tmp_path / "first_place.py"
        first.write_text(throw_file.read_text())
        sweep("run", first, "s.zarr", "speed=20", "--on", "serial")
        Path("s.zarr/status/c.1").unlink()
        first.rename(tmp_path / "second_place.py")
        result = sweep("resume", "s.zarr", "--on", "serial")
        assert result.exit_code == 2
        assert "which is gone" in result.stderr
        assert "--pipeline FILE" in result.stderr
        result = sweep("resume", "s.zarr", "--pipeline", "second_place.py", "--on", "serial")
        assert result.exit_code == 0

    def test_says_where_there_is_no_store(self) -> None:
        result = sweep("resume", "none.zarr")
        assert result.exit_code == 2
        assert "none.zarr does not exist. Make one: sweep run" in result.stderr


class TestPlan:
    def test_prints_the_cost_and_writes_nothing(self, throw_file: Path) -> None:
        result = sweep("plan", throw_file)
        assert result.exit_code == 0, result.output
        for word in ("points", "done", "blocks", "files", "data", "a point", "core time", "time"):
            assert f"\n{word} " in f"\n{result.stdout}"
        assert "20 (5 speed x 4 time)" in result.stdout
        assert list(Path().iterdir()) == []


class TestDescribe:
    def test_shows_parameters_outputs_and_needs(self) -> None:
        result = sweep("describe", HEAT_FLOW)
        assert result.exit_code == 0, result.output
        assert "coordinate  length" in result.stdout
        for text in ("diffusivity", "m2 s-1", "mixing", "0.25", "degC", "temperature at the end"):
            assert text in result.stdout
        assert "A point needs 1 core, 1 GB" in result.stdout


class TestStatus:
    def test_reads_the_store_only(self, throw_file: Path) -> None:
        sweep("run", throw_file, "--on", "serial")
        Path("runs/throw.zarr/status/c.2.3").unlink()
        result = sweep("status", "runs/throw.zarr")
        assert result.exit_code == 3
        assert "20: 1 pending, 15 done, 4 failed" in result.stdout
        assert "run 1" in result.stdout
        assert "unlucky" in result.stdout


class TestProgress:
    def test_line_tells_rate_and_time_left(self) -> None:
        tally = Tally(points=100, done=20, failed=5, computed=10)
        text = "20 of 100 points done, 5 failed, 75 left, 5 points/s, 15 s to go"
        assert line(tally, 2.0) == text

    def test_says_a_line_each_half_minute(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        now = [1000.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        lines = Lines()
        for _ in range(10):
            now[0] += 10
            lines.update(Tally(points=4, done=1, failed=0, computed=1))
        assert len(capsys.readouterr().err.splitlines()) == 3

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.00123, "0.00123 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
    )
    def test_durations_read_as_a_person_says_them(self, seconds: float, text: str) -> None:
        assert clock_text(seconds) == text


def test_help_answers_without_loading_what_is_slow_to_load() -> None:
    """Its time is measured in benchmarks/engine.py; this is what it hangs on."""
    code = (
        "import sys; from sweep.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Usage:" in done.stdout
    slow = {
        "dask",
        "distributed",
        "numba",
        "zarr",
        "xarray",
        "pandas",
        "rich",
        "numcodecs",
        "scipy",
    }
    assert not slow & set(done.stderr.split())


def test_store_is_found_by_a_relative_and_an_absolute_path(throw_file: Path) -> None:
    sweep("run", throw_file, "a/b/s.zarr", "speed=20", "--on", "serial")
    assert Store(Path("a/b/s.zarr")).path == Path.cwd() / "a/b/s.zarr"
    assert sweep("status", Path("a/b/s.zarr").resolve()).exit_code == 0


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["n-x=300"], "'n-x=300' sets no parameter. Write NAME=VALUE"),
        (["θ=3"], "there is no parameter 'θ'"),
        (["speed:1:2:3"], "'speed:1:2:3' is no STORE. To set 'speed', write speed=1:2:3."),
        (["--workers", "2", "--on", "serial"], "workers=2 does not go with serial"),
        (["--dashboard", "--on", "processes"], "dashboard goes with dask, not with processes"),
        (["--tls-dir", ".", "--on", "processes"], "tls_dir goes with tls://host:port"),
    ],
)
def test_what_looks_like_something_else_is_refused(
    words: list[str], remedy: str, throw_file: Path
) -> None:
    result = sweep("run", throw_file, *words)
    assert result.exit_code == 2
    assert remedy in result.stderr
    assert list(Path().iterdir()) == []


def test_a_store_may_have_an_equals_sign_below_a_folder(throw_file: Path) -> None:
    assert sweep("run", throw_file, "out/g=2.zarr", "speed=20", "--on", "serial").exit_code == 0
    assert Path("out/g=2.zarr").is_dir()


def test_a_store_is_found_below_the_home_folder(
    throw_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert sweep("run", throw_file, "~/s.zarr", "speed=20", "--on", "serial").exit_code == 0
    assert (tmp_path / "home" / "s.zarr").is_dir()


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_folder_that_takes_no_files_is_told_with_exit_code_3(
    command: str, throw_file: Path
) -> None:
    result = sweep(command, throw_file, "/proc/s.zarr")
    assert result.exit_code == 3
    assert "Nothing can be written in /proc" in result.stderr
    assert "Traceback" not in result.output


def test_a_store_with_a_name_that_is_no_text_works(throw_file: Path) -> None:
    name = os.fsdecode(b"b\xe9.zarr")
    done = subprocess.run(
        [sys.executable, "-m", "sweep", "run", throw_file, name, "speed=20", "--on", "processes"],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (xr.open_zarr(name).status == 1).all()
    assert sweep("status", name).exit_code == 0


def test_a_plan_counts_failed_points_apart(throw_file: Path) -> None:
    sweep("run", throw_file, "--on", "serial")
    assert "done    16, 4 failed" in sweep("plan", throw_file).stdout


@pytest.mark.parametrize("file", ["header.json", "axes-1.npz"])
@pytest.mark.parametrize("content", [b"damaged", b"{}", b"PK\x03\x04"])
def test_a_damaged_description_of_a_sweep_is_told(
    file: str, content: bytes, throw_file: Path
) -> None:
    sweep("run", throw_file, "speed=20", "--on", "serial")
    Path(f"runs/throw.zarr/.sweep/{file}").write_bytes(content)
    result = sweep("status", "runs/throw.zarr")
    assert result.exit_code == 2
    assert f"{file} is damaged" in result.stderr
    assert "opens in xarray still" in result.stderr


def test_a_mistake_of_the_program_is_not_taken_for_failed_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fall(path: Path) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sweep.cli.looking.read_status", fall)
    result = sweep("status", "runs/throw.zarr")
    assert result.exit_code == 3
    assert "this is a mistake of the program, not yours" in result.stderr


def test_a_reader_that_has_heard_enough_is_no_mistake_of_the_program(throw_file: Path) -> None:
    command = f"{sys.executable} -m sweep describe {throw_file} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    title, code = done.stdout.splitlines()
    assert title == "How high is a ball after a while, thrown straight up?"
    assert code in ("0", "141")  # it may have been quicker
    assert done.stderr == ""


def test_a_sweep_that_no_disk_holds_is_refused(throw_file: Path) -> None:
    huge = [f"{name}=0:1:60000" for name in ("speed", "time", "g")]
    result = sweep("run", throw_file, *huge, "--on", "processes", "--workers", "1")
    assert result.exit_code == 2
    assert "The sweep has 2.16e+14 points" in result.stderr
    assert "Take fewer values" in result.stderr
    assert not Path("runs/throw.zarr").exists()
