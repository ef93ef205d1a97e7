import importlib
import pkgutil

import pytest
from numba.core.registry import CPUDispatcher

from pipelines import kernels

FILES = [module.name for module in pkgutil.iter_modules(kernels.__path__)]


@pytest.mark.parametrize("file", FILES)
def test_compiled_code_lets_other_threads_of_python_run(file):
    module = importlib.import_module(f"{kernels.__name__}.{file}")
    compiled = [one for one in vars(module).values() if isinstance(one, CPUDispatcher)]

    assert [one.__name__ for one in compiled if not one.targetoptions.get("nogil")] == []


def test_most_files_have_compiled_code():
    modules = [importlib.import_module(f"{kernels.__name__}.{file}") for file in FILES]

    assert sum(any(isinstance(one, CPUDispatcher) for one in vars(m).values()) for m in modules) > 9
