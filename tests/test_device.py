"""On what a study computes that can do so on a processor and on a GPU. No test here needs one."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import xarray as xr
from click.testing import CliRunner, Result

import sweep as package
from sweep import Axis, Needs, Pipeline, Var
from sweep.cli import main
from sweep.engines.devices import VARIABLE
from sweep.errors import DefinitionError, EngineError
from sweep.options import Options
from sweep.study import load_study, study_of


@pytest.fixture(autouse=True)
def without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")


@pytest.fixture
def both(studies: Path) -> Path:
    return studies / "both.py"


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3,5")


def sweep(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def pending(store: str, *names: str) -> None:
    """Have blocks of a store as if they had not been computed."""
    for name in names:
        Path(store, "status", name).unlink()


class TestNeeds:
    @pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1)])
    def test_are_a_gpu_where_the_parameter_says_so(
        self, device: str, gpus: int, both: Path
    ) -> None:
        pipeline = load_study(str(both)).pipeline
        assert pipeline.with_values(device=device).needs.gpus == gpus
        assert pipeline.with_values(device="cuda").with_values(device=device).needs.gpus == gpus

    def test_are_a_gpu_also_where_it_is_swept(self, both: Path) -> None:
        pipeline = load_study(str(both)).pipeline
        assert pipeline.with_values(device=["cpu", "cuda"]).needs.gpus == 1
        assert pipeline.with_values(device=["cpu"]).needs.gpus == 0

    def test_that_are_more_stay(self) -> None:
        def f(a: float, device: Literal["cpu", "cuda"] = "cpu") -> Annotated[float, Var(())]:
            return a

        pipeline = Pipeline(f, axes=[Axis("a", [1.0])], needs=Needs(gpus=2, cores=3))
        assert pipeline.with_values(device="cuda").needs == Needs(gpus=2, cores=3)

    def test_do_not_hang_on_a_device_that_is_something_else(self) -> None:
        def f(a: float, device: str = "cuda") -> Annotated[float, Var(())]:
            return a

        assert Pipeline(f, axes=[Axis("a", [1.0])]).needs.gpus == 0

    def test_leave_the_study_what_it_is(self, both: Path) -> None:
        study = load_study(str(both))
        found = study_of(study.pipeline.with_values(device="cuda"))
        assert found is not None
        assert found.file == study.file


class TestRun:
    def test_gives_each_worker_a_gpu_and_records_the_device(
        self, both: Path, two_gpus: None
    ) -> None:
        result = sweep("run", both, "s.zarr", "--device", "cuda", "--on", "processes")
        assert result.exit_code == 0, result.output
        found = xr.open_zarr("s.zarr")
        assert "processes, 2 workers" in result.stderr
        assert set(found.place.values.tolist()) <= {3, 5}
        assert found.device.item() == "cuda"

    def test_is_the_same_as_setting_the_parameter(self, both: Path, two_gpus: None) -> None:
        found = package.run(str(both), "s.zarr", on="serial", device="cuda")
        assert found.device.item() == "cuda"
        result = sweep("run", both, "s.zarr", "--device", "cuda")
        assert "Nothing was left to do." in result.stdout

    @pytest.mark.parametrize("device", ["cuda", "auto"])
    def test_goes_on_with_the_device_of_the_store(
        self, device: str, both: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep("run", both, "s.zarr", "--device", "cuda", "--on", "serial")
        pending("s.zarr", "c.1", "c.2")

        assert sweep("resume", "s.zarr", "--on", "serial").exit_code == 0

        pending("s.zarr", "c.1", "c.2")
        monkeypatch.setenv(VARIABLE, "")
        for words in (["resume", "s.zarr"], ["run", both, "s.zarr", "--device", device]):
            result = sweep(*words, "--on", "serial")
            assert result.exit_code == 2
            assert "needs gpus=1, and this machine shows none" in result.stderr
            assert "because of device='cuda'; with device='cpu', in a store of its" in result.stderr

    def test_refuses_another_device_than_that_of_the_store(
        self, both: Path, two_gpus: None
    ) -> None:
        sweep("run", both, "s.zarr", "--on", "serial")
        result = sweep("run", both, "s.zarr", "--device", "cuda", "--on", "serial")
        assert result.exit_code == 2
        assert "constant 'device' was 'cpu', now 'cuda'" in result.stderr
        assert "Give a new store" in result.stderr

    def test_makes_no_store_where_there_is_no_gpu(self, both: Path) -> None:
        for on in ("serial", "processes", "dask"):
            result = sweep("run", both, "s.zarr", "--device", "cuda", "--on", on)
            assert result.exit_code == 2
            assert "needs gpus=1, and this machine shows none" in result.stderr
        assert list(Path().iterdir()) == []

    def test_refuses_a_device_that_is_given_twice(self, both: Path) -> None:
        result = sweep("run", both, "device=cpu", "--device", "cuda")
        assert result.exit_code == 2
        assert "--device cuda, and device=cpu: 'device' is given twice" in result.stderr

    def test_tells_what_a_study_without_a_device_has_to_have(self, studies: Path) -> None:
        result = sweep("run", studies / "throw.py", "--device", "auto")
        assert result.exit_code == 2
        assert "--device auto: the parameters of this study are speed, " in result.stderr
        assert 'device: Literal["cpu", "cuda"] = "cpu"' in result.stderr


class TestAuto:
    def test_is_a_gpu_where_there_is_one(self, both: Path, two_gpus: None) -> None:
        result = sweep("run", both, "s.zarr", "--device", "auto", "--on", "serial")
        assert "--device auto: cuda; this machine shows 2 GPUs.\n" in result.stderr
        assert xr.open_zarr("s.zarr").device.item() == "cuda"

    @pytest.mark.thorough
    @pytest.mark.parametrize(
        ("study", "word", "device"),
        [
            ("nbody", "method=direct,tree", "cpu; method=tree is not for a GPU"),
            ("nbody", "integrator=hermite", "cpu; integrator=hermite is not for a GPU"),
            ("nbody", "integrator=yoshida", "cuda; this machine shows 2 GPUs"),
            ("heat_flow", "scheme=implicit", "cpu; scheme=implicit is not for a GPU"),
        ],
    )
    def test_is_the_processor_for_what_a_gpu_cannot_compute(
        self, study: str, word: str, device: str, two_gpus: None
    ) -> None:
        file = Path(__file__).parent.parent / "pipelines" / f"{study}.py"
        result = sweep("plan", file, word, "--device", "auto")
        assert result.exit_code == 0, result.output
        assert f"--device auto: {device}.\n" in result.stderr

    def test_is_the_processor_where_there_is_none(self, both: Path) -> None:
        result = sweep("run", both, "s.zarr", "--device", "auto", "--on", "serial")
        assert "--device auto: cpu; no GPU is here.\n" in result.stderr
        assert xr.open_zarr("s.zarr").device.item() == "cpu"

    def test_is_what_a_store_was_made_with(
        self, both: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sweep("run", both, "s.zarr", "--on", "serial")
        monkeypatch.setenv(VARIABLE, "0")
        result = sweep("run", both, "s.zarr", "--device", "auto", "--on", "serial")
        assert "--device auto: cpu; as s.zarr was made.\n" in result.stderr
        assert result.exit_code == 0

    def test_is_told_by_a_plan_too(self, both: Path, two_gpus: None) -> None:
        result = sweep("plan", both, "--device", "auto")
        assert result.exit_code == 0, result.output
        assert "--device auto: cuda" in result.stderr

    @pytest.mark.parametrize(("gpus", "device"), [(4, "cuda"), (None, "cpu")])
    def test_is_for_slurm_what_the_nodes_of_the_site_have(
        self, gpus: int | None, device: str, both: Path
    ) -> None:
        Path("site.toml").write_text(f"gpus_per_node = {gpus}\n" if gpus else "")
        result = sweep("submit", both, "--site", "site.toml", "--device", "auto", "--print")
        assert result.exit_code == 0, result.output
        assert f"--device auto: {device}; gpus_per_node of site.toml: " in result.stderr
        assert ("#SBATCH --gres=gpu:1" in result.stdout) is (device == "cuda")


def test_checking_points_again_needs_the_gpu_that_they_were_computed_on(
    both: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep("run", both, "s.zarr", "--device", "cuda", "--on", "serial")
    monkeypatch.setenv(VARIABLE, "")

    result = sweep("verify", "s.zarr", "--rerun", 1)

    assert result.exit_code == 2
    assert "this machine shows none" in result.stderr


def test_from_python_there_is_no_auto_and_the_machine_is_looked_at(both: Path) -> None:
    pipeline = load_study(str(both)).pipeline
    with pytest.raises(DefinitionError, match=r"'device' of place\(\) is 'auto'"):
        pipeline.with_values(device="auto")
    with pytest.raises(EngineError, match=r"shows none .* because of device='cuda'"):
        Options("processes").engine(pipeline.with_values(device="cuda"), 1)
