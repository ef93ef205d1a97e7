"""What becomes of numba when it is imported: its compiler is timed, its cache becomes ours.

Nothing here imports numba. A study without it pays nothing, and one that imports it inside of a
function, late, has all the same.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from sweep.compiling.clock import timed


def follow_numba() -> None:
    """Have numba, imported or to be imported, use our clock and our cache."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    for name in list(CHANGES):
        if name in sys.modules:
            _change(sys.modules[name])
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules of numba that are changed, where the other finders find them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where a module is that is to be changed once it is imported; else None."""
        if fullname not in CHANGES:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (other.find_spec(fullname, path, target) for other in others)
        spec = next((one for one in found if one is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            _change(module)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def _change(module: ModuleType) -> None:
    try:
        CHANGES[module.__name__](module)
    except (AttributeError, ImportError) as error:
        warnings.warn(
            f"This numba is not made as sweep knows it ({error}): compiled code is cached by "
            "numba's own rules, and compiling counts as computing. When you edit a kernel that "
            "other files import, remove their __pycache__. Or take an older numba.",
            stacklevel=2,
        )


def _change_caching(caching: ModuleType) -> None:
    """Have our locator asked first, and functions that it finds kept in files of ours."""
    from sweep.compiling.cache import Locator, entries_or

    ours = entries_or(caching.IndexDataCacheFile, caching.dumps)
    vars(caching)["IndexDataCacheFile"] = ours
    caching.CacheImpl._locator_classes.insert(0, Locator)
    if hasattr(caching, "CompileResultCacheImpl"):  # not of numba-cuda, which has no threads
        kind = caching.CompileResultCacheImpl
        kind.rebuild = _with_its_start(kind.rebuild)


def _with_its_start(rebuild: Callable[..., Any]) -> Callable[..., Any]:
    """Have code that was loaded pass on what it begins with to code that is compiled with it.

    Numba 0.68 forgets it: a function whose callee came from the cache is then kept without the
    start of the threads that this one needs, and crashes the next process.
    """

    def rebuild_with_it(*arguments: Any) -> Any:
        found = rebuild(*arguments)
        found.library._reload_init.update(found.reload_init or ())
        return found

    return rebuild_with_it


def _change_dispatcher(module: ModuleType) -> None:
    """Have the time of the compiler counted."""
    from numba.core.compiler_lock import global_compiler_lock

    name = "CUDADispatcher" if "cuda" in module.__name__ else "Dispatcher"
    kind = getattr(module, name)
    kind.compile = timed(kind.compile, global_compiler_lock)


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "numba.core.caching": _change_caching,
    "numba.core.dispatcher": _change_dispatcher,
    "numba.cuda.core.caching": _change_caching,  # of the package numba-cuda
    "numba.cuda.dispatcher": _change_dispatcher,
}
