"""Who, what code, which versions, which machine: the plain record of a run.

`gather` reads all of it once, in the time of a few calls of git; what can be decided without
looking at the machine are functions of texts.
"""

import ast
import getpass
import hashlib
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from sweep.engines import usable_cores
from sweep.study import module_name

LONGEST_DIFF = 5_000_000  # characters
GIT_SECONDS = 20.0  # a large repository on a slow network disk
GPU_SECONDS = 5.0

# What can change a result or a time, and nothing that lets anybody in.
ENVIRONMENT = re.compile(
    r"(OMP|GOMP|KMP|MKL|OPENBLAS|NUMBA|SLURM)_\w+"
    r"|CUDA_VISIBLE_DEVICES|CONDA_DEFAULT_ENV|VIRTUAL_ENV|PYTHONHASHSEED"
)
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH|JWT", re.IGNORECASE)


def gather(study_file: Path | None, argv: Sequence[str]) -> dict[str, Any]:
    """Return the record of this process, JSON-able.

    Parameters
    ----------
    study_file
        The file of the study; None for a pipeline that no file holds, whose ``source`` is
        empty then.
    argv
        The command line.
    """
    source = read_source(study_file) if study_file else {}
    return {
        "user": _user(),
        "hostname": socket.gethostname(),
        "cwd": _cwd(),
        "argv": list(argv),
        **_machine(),
        "python": platform.python_version(),
        "packages": _packages(),
        "environment": allowed(os.environ),
        **_git(study_file),
        "source": source,
        "code_hash": code_hash(source),
    }


# --- the machine and its software --------------------------------------------------------


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for the user
        return str(os.getuid())


def _cwd() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "cpu_model": cpu_model(_beginning(Path("/proc/cpuinfo"))) or platform.processor(),
        "cores": usable_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
    }


def _beginning(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(4096).decode(errors="replace")
    except OSError:
        return ""


def cpu_model(cpuinfo: str) -> str:
    """Return the name of the processor that the text of ``/proc/cpuinfo`` gives, "" if none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def _gpu() -> str:
    """Return the names of the GPUs and their driver, "" if there is none."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return "; ".join((_output(query, GPU_SECONDS) or "").splitlines())


def _packages() -> dict[str, str]:
    """Return the version of each installed distribution, the first found of each name."""
    found: dict[str, str] = {}
    for one in distributions():
        found.setdefault(one.name or "?", one.version)
    return dict(sorted(found.items()))


def allowed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are worth keeping and no secret."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if ENVIRONMENT.fullmatch(name) and not SECRET.search(name)
    }


def _output(command: list[str], seconds: float) -> str | None:
    """Return what a command prints; None if it fails, is missing or takes too long."""
    places = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # of a hook, not of the study
    environment = {k: v for k, v in os.environ.items() if k not in places}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


# --- git ---------------------------------------------------------------------------------


def _git(study_file: Path | None) -> dict[str, Any]:
    """Return commit, branch and difference of the repository that holds the study."""
    commit = branch = diff = others = None
    if study_file is not None:
        git = ["git", "-C", str(study_file.parent)]
        commit = _output([*git, "rev-parse", "--verify", "HEAD"], GIT_SECONDS)
        branch = _output([*git, "branch", "--show-current"], GIT_SECONDS)
        others = _output([*git, "ls-files", "--others", "--", study_file.name], GIT_SECONDS)
    if commit is not None:
        options = ["--no-ext-diff", "--no-textconv", "--no-color"]
        diff = _output([*git, "diff", *options, "HEAD"], GIT_SECONDS)
    return {
        "git_commit": (commit or "").strip(),
        "git_branch": (branch or "").strip(),
        "git_dirty": bool(diff or others),
        "git_diff": capped(diff or ""),
        "git_study_untracked": bool(others),
    }


def capped(diff: str) -> str:
    """Return a diff that is not too long to keep."""
    if len(diff) <= LONGEST_DIFF:
        return diff
    return f"{diff[:LONGEST_DIFF]}\n[{len(diff) - LONGEST_DIFF} more characters]\n"


# --- the code ----------------------------------------------------------------------------


def read_source(study_file: Path) -> dict[str, str]:
    """Return the text of the study and of each module that it reaches by import statements.

    Left out are the standard library, installed packages and `sweep`. Modules are found
    without importing them, so that the answer does not depend on what has run so far. The
    keys are paths relative to where each import starts, ``pipelines/kernels/heat.py``.
    """
    own = module_name(study_file)[1]
    top = own.partition(".")[0]
    files = {own: study_file}
    texts: dict[str, str] = {}
    waiting = [own, *prefixes(own)]
    while waiting:
        name = waiting.pop()
        file = files.get(name) or _own_file(name, top)
        if file is None or (key := _key(name, file)) in texts:
            continue
        texts[key] = file.read_text("utf-8", errors="replace")
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        waiting += imported(texts[key], package)
    return dict(sorted(texts.items()))


def _key(name: str, file: Path) -> str:
    return name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


def prefixes(name: str) -> list[str]:
    """Return the packages around a module: ``a`` and ``a.b`` of ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def imported(text: str, package: str) -> set[str]:
    """Return the modules that a file in `package` may import, and the packages around them.

    What ``from a import b`` takes may be a module or not, so ``a.b`` is among them.
    """
    names = set()
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names | {around for name in names for around in prefixes(name)}


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # then its text counts
        return ast.Module([ast.Expr(ast.Constant(text.encode()))], [])


def _base(node: ast.ImportFrom, package: str) -> str:
    """Return the module that ``from ... import`` names, relative ones resolved."""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def _own_file(name: str, top: str) -> Path | None:
    """Return a module's file if it is the user's own: of the study's package or not installed."""
    first = name.partition(".")[0]
    if first == "sweep" or (first in sys.stdlib_module_names and first != top):
        return None
    spec = _find_spec(name)
    origin = spec.origin if spec is not None and spec.has_location else None
    if origin is None or not origin.endswith(".py"):
        return None
    file = Path(origin)
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    return file if first == top or not is_installed else None


def _find_spec(name: str) -> ModuleSpec | None:
    """Return where a module is, as `importlib.util.find_spec` but without importing parents."""
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    path = None
    if parent := name.rpartition(".")[0]:
        package = _find_spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        path = list(package.submodule_search_locations)
    found = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def code_hash(source: Mapping[str, str]) -> str:
    """Return the SHA-256 of the syntax trees of some files, "" if there are none.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for name, text in sorted(source.items()):
        digest.update(f"{name}\n".encode())
        for word in _words(_parsed(text)):
            digest.update(word.encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest() if source else ""


def _words(tree: ast.AST) -> Iterator[str]:
    """Yield a syntax tree as words, without places, docstrings and what is empty.

    `ast.dump` would do for one version of Python, but newer ones add fields that are empty in
    older code. Without recursion, because a sum of a thousand terms is a thousand levels deep.
    """
    waiting: list[Any] = [tree]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
            continue
        is_node = isinstance(value, ast.AST)
        parts = _fields(value) if is_node else [_part(v) for v in value if not _is_remark(v)]
        waiting += [")", *reversed(parts), f"({type(value).__name__}"]


def _fields(node: ast.AST) -> list[Any]:
    """Return names and contents of the fields that say something (`kind` is the u of u'...')."""
    fields = [(n, v) for n, v in ast.iter_fields(node) if v is not None and v != [] and n != "kind"]
    return [part for name, value in fields for part in (name, _part(value))]


def _part(value: Any) -> Any:
    return value if isinstance(value, (ast.AST, list)) else repr(value)


def _is_remark(statement: Any) -> bool:
    """Tell whether a statement is nothing but a text, as a docstring is."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)
