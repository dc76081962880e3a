"""The digest of everything the native libraries are built from.

GPU test runs and benchmark records carry it, so that a result can be matched with its sources.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("CMakeLists.txt", "cmake", "csrc", "include", "pyproject.toml", "setup.py")


def source_digest(root: Path = ROOT) -> str:
    """sha256 over paths and bytes of all source files but prose, in the order of their paths."""
    files = {
        file.relative_to(root).as_posix(): file
        for source in SOURCES
        for file in ((root / source).rglob("*") if (root / source).is_dir() else [root / source])
        if file.is_file() and file.suffix != ".md"
    }
    digest = hashlib.sha256()
    for path in sorted(files):
        content = files[path].read_bytes()
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


if __name__ == "__main__":
    print(source_digest())
