"""How a pipeline gets to the workers: by its name, and only where that cannot be, by value.

Workers import the study's file and check that its code is the driver's. What no file holds (a
pipeline of a notebook or a script, constants that JSON cannot hold) goes as it is to this very
process, else through a private file, outside the store and gone at the end.
"""

import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep.definition import Pipeline
from sweep.definition.constants import is_whole, plain
from sweep.errors import DefinitionError, StudyError
from sweep.source import reached, read_source
from sweep.study import Study, helpers_hash, load_study, script_of

Message = Mapping[str, str]

_local: dict[str, Pipeline] = {}  # of this very process


@contextmanager
def sent(pipeline: Pipeline, study: Study | None, on: object) -> Iterator[Message]:
    """Yield the words that stand for a pipeline in messages to the workers of engine `on`.

    Raises
    ------
    DefinitionError
        If it cannot be sent there.
    """
    if study is not None and not by_value(pipeline):
        yield study.reference
    elif on == "serial":
        key = uuid.uuid4().hex
        _local[key] = pipeline
        try:
            yield {"local": key}
        finally:
            del _local[key]
    elif isinstance(on, str) and on.startswith("tls://"):
        raise DefinitionError(
            f"The workers of {on} cannot be sent a pipeline of a notebook or a script, nor "
            f"constants that JSON cannot hold{_listed(by_value(pipeline))}. Put it in a file of "
            'its own that they see, constants as defaults, and run that: sweep.run("FILE.py", ...).'
        )
    else:
        with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
            file = Path(folder) / "pipeline.pickle"
            raw = _pickled(dict(pipeline.constants) if study else pipeline)
            file.write_bytes(raw)
            pickle = {"pickle": str(file), "sha256": hashlib.sha256(raw).hexdigest()}
            yield {**(study.reference if study else _script(pipeline)), **pickle}


def received(message: Message) -> Pipeline:
    """Return the pipeline that a message means.

    Raises
    ------
    StudyError
        If the file is not the one that was sent.
    """
    if "local" in message:
        return _local[message["local"]]
    if "file" not in message:
        if "script" in message:
            script = Path(message["script"])
            _refuse_other_code(script, helpers_hash(script, read_source(reached(script))), message)
        found: Pipeline = _unpickled(message)
        return found
    study = load_study(f"{message['file']}:{message['name']}")
    _refuse_other_code(study.file, study.reference["code"], message)
    if "pickle" not in message:
        return study.pipeline
    constants = {**study.pipeline.constants, **_unpickled(message)}
    return study.pipeline.having(study.pipeline.axes, constants)


def _script(pipeline: Pipeline) -> dict[str, str]:
    """Return the script of a pipeline, and the hash of the modules that workers import for it."""
    script, source = script_of(pipeline)
    return {"script": str(script), "code": helpers_hash(script, source)} if script else {}


def _refuse_other_code(file: Path, code: str, message: Message) -> None:
    if code != message["code"]:
        raise StudyError(
            f"{file} (or what it imports) is not the code that this run was started with: it was "
            "edited since, or is another one on this machine. Points that are done are kept; "
            "start the run again."
        )


def _unpickled(message: Message) -> Any:
    import cloudpickle

    raw = Path(message["pickle"]).read_bytes()
    if hashlib.sha256(raw).hexdigest() != message["sha256"]:
        raise StudyError(f"{message['pickle']} is not the pipeline that was sent.")
    return cloudpickle.loads(raw)


def by_value(pipeline: Pipeline) -> list[str]:
    """Return the names of the constants set by a caller that JSON cannot hold."""
    return [name for name, value in pipeline.constants.items() if not is_whole(plain(value))]


def _listed(names: list[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _pickled(value: object) -> bytes:
    import cloudpickle

    try:
        raw: bytes = cloudpickle.dumps(value)
    except Exception as error:
        raise DefinitionError(
            f"The pipeline cannot be sent to workers: {error}. Put it in a file of its own, or "
            'run it on="serial".'
        ) from error
    return raw
