import json
import sys
from pathlib import Path

import pytest

from sweep.definition import Axis, Coord, Pipeline
from sweep.errors import DefinitionError, StudyError
from sweep.modules import load_module, module_at
from sweep.study import load_study, split_reference, study_of

FADE = '''"""How fast does a spot fade?

In plates of one material.
"""

from typing import Annotated

from sweep import Axis, Pipeline, Var


def fade(radius: float, nx: int = 8) -> Annotated[float, Var(())]:
    return radius * nx


'''
STUDY = FADE + 'pipeline = Pipeline(fade, axes=[Axis("radius", [0.1, 0.2])])\n'


@pytest.fixture(autouse=True)
def _imports_are_undone(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(file: str, text: str = STUDY) -> Path:
    path = Path(file).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# --- found -------------------------------------------------------------------------------


def test_a_study_is_its_pipeline_its_place_and_its_docstring():
    file = write("plates.py")

    study = load_study("plates.py")

    assert isinstance(study.pipeline, Pipeline)
    assert (study.file, study.name) == (file, "pipeline")
    assert study.title == "How fast does a spot fade?"
    assert study.summary == "In plates of one material."


def test_a_study_without_a_docstring_has_no_title():
    write("plates.py", STUDY.partition('"""\n')[2])

    assert (load_study("plates.py").title, load_study("plates.py").summary) == ("", "")


@pytest.mark.parametrize(
    "reference", ["studies/plates.py", "studies.plates", "studies/plates.py:pipeline"]
)
def test_a_file_and_a_module_mean_the_same_study(reference):
    write("studies/__init__.py", "")
    file = write("studies/plates.py")

    assert load_study(reference).pipeline is load_study(str(file)).pipeline


def test_a_reference_finds_the_study_again_and_json_can_hold_it():
    write("plates.py", FADE + "a = Pipeline(fade)\nb = Pipeline(fade)\n")
    study = load_study("plates.py:b")

    reference = json.loads(json.dumps(study.reference))

    assert load_study(f"{reference['file']}:{reference['name']}") == study


def test_a_file_with_one_pipeline_needs_no_name():
    write("plates.py", FADE + "coarse = Pipeline(fade)\n")

    assert load_study("plates.py").name == "coarse"


def test_a_file_is_executed_once():
    write("plates.py", STUDY + "import sys\nsys.runs = getattr(sys, 'runs', 0) + 1\n")

    load_study("plates.py")
    load_study("plates")

    assert sys.__dict__.pop("runs") == 1


def test_a_module_that_was_imported_already_is_taken_as_it_is(monkeypatch):
    write("folder/plates.py")
    monkeypatch.syspath_prepend("folder")
    import plates

    assert load_study("folder/plates.py").pipeline is plates.pipeline


def test_a_place_with_a_colon_in_it_is_a_place():
    assert split_reference("a:b/plates.py") == ("a:b/plates.py", "")
    assert split_reference("a:b/plates.py:coarse") == ("a:b/plates.py", "coarse")


# --- the module is that of the named file, and one for everybody -------------------------


def test_the_folder_of_a_study_comes_last_on_the_path():
    write("folder/json.py", "raise AssertionError")
    write("folder/spots.py", "RADIUS = 0.1\n")
    write("folder/plates.py", f"{STUDY}\nimport json\nfrom spots import RADIUS\n")

    study = load_study("folder/plates.py")

    assert sys.path[-1] == str(Path("folder").absolute())
    assert sys.modules[study.pipeline.stages[0].function.__module__].RADIUS == 0.1


def test_a_file_in_a_package_is_one_module_by_its_dotted_name():
    write("top/__init__.py", "")
    write("top/inner/__init__.py", "")
    write("top/inner/spots.py", "from top.inner import plates\n")
    file = write("top/inner/plates.py", STUDY + "import top.inner.spots\n")

    study = load_study("top/inner/plates.py")

    assert study.pipeline.stages[0].function.__module__ == "top.inner.plates"
    assert sys.modules["top.inner.spots"].plates is module_at(file)
    assert sys.path[-1] == str(Path.cwd())


def test_a_study_may_be_the_package_itself():
    write("plates/__init__.py", STUDY)

    assert load_study("plates/__init__.py").pipeline is sys.modules["plates"].pipeline


@pytest.mark.parametrize("name", ["random", "dask", "2d plate", "heat-flow", "__main__"])
def test_a_file_named_as_another_module_gets_a_name_of_its_own(name):
    file = write(f"{name}.py")
    other = sys.modules.get(name)

    study = load_study(f"{name}.py")

    assert study.file == file
    assert study.pipeline.stages[0].function.__module__.startswith("study_")
    assert sys.modules.get(name) is other


def test_three_files_of_one_name_are_three_modules():
    files = [write(f"{folder}/plates.py") for folder in ("a", "b", "c")]

    modules = [load_module(file) for file in files]

    assert [Path(module.__file__) for module in modules] == files
    assert [load_module(file) for file in files] == modules


def test_a_package_of_the_user_goes_before_an_installed_one_of_that_name(monkeypatch):
    write("installed/plates/__init__.py", "raise AssertionError")
    write("installed/plates/spots.py")
    write("mine/plates/__init__.py", "")
    mine = write("mine/plates/spots.py")
    monkeypatch.syspath_prepend("installed")

    assert Path(sys.modules[_module_name("mine/plates/spots.py")].__file__) == mine


def _module_name(reference: str) -> str:
    return load_study(reference).pipeline.stages[0].function.__module__


def test_a_package_that_another_one_stands_in_for_is_refused(monkeypatch):
    write("installed/plates/__init__.py", "")
    write("mine/plates/__init__.py", "")
    write("mine/plates/spots.py")
    monkeypatch.syspath_prepend("installed")
    import plates  # noqa: F401

    with pytest.raises(StudyError, match=r"another one of that name in .*Rename the folder"):
        load_study("mine/plates/spots.py")


def test_a_package_named_as_one_of_the_standard_library_is_refused():
    write("wave/__init__.py", "")
    write("wave/height.py")

    with pytest.raises(StudyError, match=r"Rename the folder .*wave, or take its __init__.py away"):
        load_study("wave/height.py")


# --- not found ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [
        ("plate.py", r"There is no file plate\.py\. Did you mean plates\.py\?"),
        ("zzz.py", r"There is no file zzz\.py\. In its folder: empty\.py, plates\.py, two\.py"),
        ("nowhere/plates.py", r"There is no folder .*nowhere either"),
        ("./plates", r"There is no file \./plates\. Did you mean plates\.py\?"),
        ("plate", r"There is no module plate, here or installed\. Did you mean plates\.py\?"),
        ("no.such.module", r"There is no module no\.such\.module"),
        ("two words", "is neither a file nor a module"),
        ("folder", r"folder is a folder\. Name a file in it: inner\.py"),
        ("notes.txt", r"notes\.txt is no Python file\. A study is a \.py file"),
        ("math", "There is no module math"),
        ("plates.py:", r"Write plates\.py:pipeline"),
        ("plates.py:pipelin", r"has no variable 'pipelin'\. Did you mean 'pipeline'\?"),
        ("plates.py:fade", r"'fade' in .* is no Pipeline but of type function\. Known: pipeline"),
        ("empty.py", r"has no variable 'pipeline'\. Add to it: pipeline = Pipeline\(function"),
        ("two.py", r"holds 2 pipelines\. Say which: two\.py:coarse or two\.py:fine"),
    ],
)
def test_what_cannot_be_found_is_refused_with_a_remedy(reference, remedy):
    write("plates.py")
    write("empty.py", "")
    write("two.py", FADE + "coarse = Pipeline(fade)\nfine = Pipeline(fade)\n")
    write("folder/inner.py")
    write("notes.txt", "")

    with pytest.raises(StudyError, match=remedy):
        load_study(reference)


def test_a_file_that_raises_is_told_by_line_and_keeps_its_traceback():
    write("plates.py", "import sys\n\nradius = 1 / 0\n")

    with pytest.raises(StudyError, match=r"plates\.py, line 3, raised ZeroDiv.*: division") as told:
        load_study("plates.py")

    assert isinstance(told.value.__cause__, ZeroDivisionError)
    assert "plates" not in sys.modules


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def fade(:\n", r"plates\.py, line 1 is not Python: invalid syntax"),
        ("import no_such_thing\n", r"Install no_such_thing for .*, or mend the import"),
        ("raise SystemExit(3)\n", r"line 1, raised SystemExit while it was imported: 3"),
    ],
)
def test_what_a_file_raises_is_told(text, told):
    write("plates.py", text)

    with pytest.raises(StudyError, match=told):
        load_study("plates.py")


def test_a_definition_error_passes_as_it_is():
    write("plates.py", STUDY.replace('"radius"', '"radios"'))

    with pytest.raises(DefinitionError, match=r"Did you mean 'radius'\?"):
        load_study("plates.py")


# --- from a pipeline to its study --------------------------------------------------------


def test_a_pipeline_is_found_where_it_was_defined():
    write("plates.py", STUDY + "coarse = pipeline.with_values(nx=4)\n")
    study = load_study("plates.py")
    coarse = load_study("plates.py:coarse")

    assert study_of(study.pipeline) == study
    assert study_of(coarse.pipeline) == coarse


def test_a_pipeline_with_other_values_is_found_where_it_came_from():
    write("plates.py")
    study = load_study("plates.py")

    assert study_of(study.pipeline.with_values(nx=[4, 8], radius=0.3)) == study


def test_a_pipeline_is_found_where_it_is_and_not_where_its_functions_are():
    write("physics.py", FADE)
    write("plates.py", "from physics import *\npipeline = Pipeline(fade)\n")
    study = load_study("plates.py")

    assert study_of(study.pipeline) == study


def test_a_pipeline_of_the_same_functions_but_other_coords_is_another():
    write("plates.py")
    study = load_study("plates.py")
    other = Pipeline(study.pipeline.stages, axes=[Axis("radius", [1.0])], coords=[Coord("t", [0])])

    assert study_of(other) is None


def test_a_pipeline_of_local_functions_is_in_no_file(monkeypatch):
    write("plates.py")
    pipeline = load_study("plates.py").pipeline
    [stage] = pipeline.stages
    del sys.modules[stage.function.__module__]
    monkeypatch.setattr(sys.modules["__main__"], "pipeline", pipeline, raising=False)

    assert study_of(pipeline) is None


def test_a_pipeline_with_other_values_is_found_also_where_its_axes_have_no_units():
    write(
        "plates.py",
        FADE.replace("nx: int = 8", "nx: int = 8, k: float = 1.0")
        + ("pipeline = Pipeline(fade, axes=[Axis('radius', [0.1, 0.2]), Axis('k', [1.0, 2.0])])\n"),
    )
    study = load_study("plates.py")

    assert study_of(study.pipeline.with_values(nx=4)).file == study.file


def test_a_study_that_starts_a_sweep_while_it_is_imported_is_refused():
    write("plates.py", STUDY + "import sweep\nsweep.run(pipeline, on='processes')\n")

    with pytest.raises(StudyError, match=r'started while .*plates.py was imported.*"__main__"'):
        load_study("plates.py")
