"""Where the native build under test lies, and the tools that read it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

import dsa_ops
from dsa_ops import _native

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = Path(dsa_ops.__file__).parent
CORE_LIBRARY = PACKAGE / "lib" / "libdsa_ops.so.0"
TORCH_LIBRARY = PACKAGE / "lib" / "libdsa_ops_torch.so"


def unavailable(what: str) -> None:
    """Skips, or fails where ``DSA_OPS_NATIVE=1`` demands a native build."""
    if os.environ.get("DSA_OPS_NATIVE") == "1":
        pytest.fail(f"DSA_OPS_NATIVE=1, but {what}", pytrace=False)
    pytest.skip(what)


def require_native() -> None:
    if not CORE_LIBRARY.exists():
        unavailable(f"this package has no compiled kernels: {_native.build_note()}")


def compiled_module() -> ModuleType:
    """``dsa_ops._C``, which a wheel holds for the Python that built it alone."""
    require_native()
    try:
        return importlib.import_module("dsa_ops._C")
    except ImportError:
        unavailable("dsa_ops._C was built for another Python")
        raise


def build_folder() -> Path:
    """The CMake build folder of the newest library."""
    require_native()
    libraries = list(ROOT.glob("build/cmake-*/libdsa_ops.so.0"))
    if not libraries:
        unavailable("the CMake build folder is gone (the package was not built in this tree)")
    return max(libraries, key=lambda library: library.stat().st_mtime).parent


def run_tool(*command: str | Path) -> str:
    """The standard output of a command-line tool, which must succeed."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 0, f"{command[0]} failed: {result.stderr}"
    return result.stdout


@functools.cache
def cuobjdump() -> Path:
    """cuobjdump of the ``nvidia-cuda-cuobjdump`` package, else the one on PATH."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        for tool in Path(folder).glob("*/bin/cuobjdump"):
            os.environ["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"  # finds nvdisasm
            return tool
    tool_on_path = shutil.which("cuobjdump")
    if tool_on_path is None:
        unavailable("cuobjdump is missing (pip install '.[test]')")
    return Path(str(tool_on_path))
