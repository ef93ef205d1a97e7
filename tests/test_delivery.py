"""How a pipeline gets to a worker: what arrives is what was sent, or nothing does."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import cloudpickle
import pytest

from sweep import Axis, Pipeline, Var
from sweep.delivery import received, sent
from sweep.errors import StudyError
from sweep.study import load_study

STUDY = '''"""How warm is a wire?"""

from typing import Annotated

from sweep import Axis, Pipeline, Var


def warmth(current: float) -> Annotated[float, Var((), "W")]:
    return 2.5 * current**2


pipeline = Pipeline(warmth, axes=[Axis("current", [1.0, 2.0], "A")])
'''


@pytest.fixture
def wire(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a study that only this test imports."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    file = tmp_path / "wire.py"
    file.write_text(STUDY)
    yield file
    for name in ("wire", "wire_constants"):
        sys.modules.pop(name, None)


def in_a_notebook(factor: float) -> Pipeline:
    def scaled(a: float) -> Annotated[float, Var((), "m")]:
        return a * factor

    return Pipeline(scaled, axes=[Axis("a", [1.0, 2.0])])


class TestByName:
    def test_the_workers_own_import_of_the_file_arrives(self, wire: Path) -> None:
        study = load_study(str(wire))
        with sent(study.pipeline.with_values(current=7.0), study, "processes") as message:
            assert set(message) == {"file", "name", "code"}
            assert received(message) is study.pipeline

    @pytest.mark.parametrize("edited", ["2.6 * current**2", "2.5 * current**2 + 0"])
    def test_a_file_that_was_edited_since_is_refused(self, wire: Path, edited: str) -> None:
        message = load_study(str(wire)).reference
        wire.write_text(STUDY.replace("2.5 * current**2", edited))
        with pytest.raises(
            StudyError, match=r"wire\.py .* is not the code that this run.* start the run again"
        ):
            received(message)

    def test_a_module_beside_it_that_was_edited_since_is_refused(self, wire: Path) -> None:
        beside = wire.with_name("wire_constants.py")
        beside.write_text("OHM = 2.5\n")
        text = STUDY.replace("2.5 *", "OHM *")
        wire.write_text(
            text.replace("import Annotated", "import Annotated\nfrom wire_constants import OHM")
        )
        message = load_study(str(wire)).reference
        beside.write_text("OHM = 2.6\n")
        with pytest.raises(StudyError, match="or what it imports"):
            received(message)

    def test_a_comment_may_be_edited_meanwhile(self, wire: Path) -> None:
        message = load_study(str(wire)).reference
        wire.write_text(f"# as measured in May\n{STUDY}")
        assert received(message).swept == ("current",)


class TestByValue:
    def test_a_pipeline_that_no_file_holds_arrives_with_what_it_closes_over(self) -> None:
        with sent(in_a_notebook(3.0), None, "processes") as message:
            arrived = received(message)
        assert arrived.stages[0].function(2.0) == 6.0
        assert arrived.axes == in_a_notebook(3.0).axes

    def test_a_file_that_is_not_the_one_sent_is_refused(self) -> None:
        with sent(in_a_notebook(3.0), None, "processes") as message:
            Path(message["pickle"]).write_bytes(cloudpickle.dumps(in_a_notebook(4.0)))
            with pytest.raises(StudyError, match="is not the pipeline that was sent"):
                received(message)

    def test_a_file_that_is_not_the_one_sent_is_not_even_unpickled(self, tmp_path: Path) -> None:
        class Malice:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "harm",)

        with sent(in_a_notebook(3.0), None, "processes") as message:
            Path(message["pickle"]).write_bytes(cloudpickle.dumps(Malice()))
            with pytest.raises(StudyError):
                received(message)
        assert not (tmp_path / "harm").exists()

    def test_nothing_is_left_on_disk_at_the_end(self) -> None:
        with sent(in_a_notebook(3.0), None, "processes") as message:
            file = Path(message["pickle"])
            assert file.stat().st_size
            assert file.parent.stat().st_mode & 0o077 == 0  # nobody else reads or replaces it
        assert not file.parent.exists()

    def test_this_very_process_gets_it_as_it_is(self) -> None:
        pipeline = in_a_notebook(3.0)
        with sent(pipeline, None, "serial") as message:
            assert received(message) is pipeline
