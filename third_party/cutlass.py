"""Finds the CUTLASS headers that the kernels include, and prints their folder.

``DSA_OPS_CUTLASS_DIR`` names an include folder to use instead. Otherwise the pinned release lies in
``third_party/cutlass`` (not in git): copied from the installed ``nvidia-cutlass`` package if that
is the pinned release, else taken from its wheel, which pip downloads without its dependencies and
checks against the hash in ``cutlass-requirements.txt``. The path stays the same from build to
build, which compiler caches need.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_REQUIREMENTS = _HERE / "cutlass-requirements.txt"
_TARGET = _HERE / "cutlass"
_HEADERS_IN_PACKAGE = "source/include"


def pinned_version() -> str:
    return _REQUIREMENTS.read_text().split("==")[1].split()[0]


def _installed_headers() -> Path | None:
    """The headers of an installed package of the pinned version; nothing is imported."""
    spec = importlib.util.find_spec("cutlass_library")
    if spec is None or spec.origin is None:
        return None
    try:
        if importlib.metadata.version("nvidia-cutlass") != pinned_version():
            return None
    except importlib.metadata.PackageNotFoundError:
        return None
    headers = Path(spec.origin).parent / _HEADERS_IN_PACKAGE
    return headers if headers.is_dir() else None


def _downloaded_headers(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command = [*pip, "-d", str(folder), "-r", str(_REQUIREMENTS)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder / "cutlass_library" / _HEADERS_IN_PACKAGE


def include_dir() -> Path:
    """The folder to put on the include path."""
    if override := os.environ.get("DSA_OPS_CUTLASS_DIR"):
        return Path(override)
    include = _TARGET / pinned_version() / "include"
    if not include.is_dir():
        _TARGET.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_TARGET) as temporary:
            headers = _installed_headers() or _downloaded_headers(Path(temporary))
            # Copied beside the target first, so that an interrupted copy is never taken for it.
            staged = Path(temporary) / "include"
            shutil.copytree(headers, staged)
            include.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(include)
    return include


if __name__ == "__main__":
    print(include_dir())
