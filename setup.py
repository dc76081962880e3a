"""Builds the kernels through CMake where nvcc is found; otherwise the package is pure PyTorch.

``DSA_OPS_NATIVE=0`` skips the kernels, ``DSA_OPS_NATIVE=1`` makes a missing compiler an error.
Either way ``dsa_ops/lib/BUILD_NOTE.txt`` records in one sentence what was built and why.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
NOTE = "lib/BUILD_NOTE.txt"
OLDEST_NVCC = (12, 8)
NATIVE_BUILD_REQUIREMENTS = ["cmake>=3.25", "ninja", "pip", "pybind11>=2.13", "torch>=2.10"]


def find_nvcc() -> str | None:
    candidates = [
        os.environ.get("CUDACXX"),
        *(f"{os.environ[v]}/bin/nvcc" for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ),
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    ]
    return next((c for c in candidates if c and shutil.which(c)), None)


def why_not_native(nvcc: str | None) -> str | None:
    """The reason to leave the kernels out, or None."""
    if os.environ.get("DSA_OPS_NATIVE") == "0":
        return "DSA_OPS_NATIVE=0 was set when it was installed"
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return f"the kernels build on Linux x86_64 only, not on {sys.platform} {platform.machine()}"
    if nvcc is None:
        return "nvcc was not found when it was installed (PATH, CUDA_HOME, /usr/local/cuda)"
    if nvcc_version(nvcc) < OLDEST_NVCC:
        return f"nvcc must be 12.8 or newer, {nvcc} is {'.'.join(map(str, nvcc_version(nvcc)))}"
    return None


def nvcc_version(nvcc: str) -> tuple[int, ...]:
    text = subprocess.run([nvcc, "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"release (\d+)\.(\d+)", text)
    assert match is not None, text
    return tuple(int(part) for part in match.groups())


def package_dir(module: str) -> str:
    """Where a package lies, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(
            f"dsa_ops: building the kernels needs {', '.join(NATIVE_BUILD_REQUIREMENTS)}; {module} "
            "is missing. Install them, or drop --no-build-isolation."
        )
    return spec.submodule_search_locations[0]


NVCC = find_nvcc()
REASON = why_not_native(NVCC)
if REASON and os.environ.get("DSA_OPS_NATIVE") == "1":
    sys.exit(f"dsa_ops: DSA_OPS_NATIVE=1, but {REASON}")


class BuildKernels(build_ext):
    """Runs CMake and installs its result into the package folder."""

    def run(self) -> None:
        self.package = (ROOT if self.inplace else Path(self.build_lib).resolve()) / "dsa_ops"
        build = ROOT / "build" / f"cmake-cp{sys.version_info.major}{sys.version_info.minor}"
        options = {
            "CMAKE_CUDA_COMPILER": NVCC,
            "CMAKE_BUILD_TYPE": "Release",
            # Named, because the cache would keep one from an isolated build's deleted environment.
            "CMAKE_MAKE_PROGRAM": shutil.which("ninja"),
            "Python_EXECUTABLE": sys.executable,
            "DSA_OPS_PYTHON": "ON",
            "DSA_OPS_TORCH_DIR": package_dir("torch"),
            "pybind11_DIR": f"{package_dir('pybind11')}/share/cmake/pybind11",
        }
        defines = [f"-D{name}={value}" for name, value in options.items()]
        jobs = os.environ.get("MAX_JOBS", str(min(os.cpu_count() or 1, 8)))
        for command in (
            ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), *defines],
            ["cmake", "--build", str(build), "-j", jobs],
            ["cmake", "--install", str(build), "--prefix", str(self.package)],
        ):
            subprocess.run(command, check=True)
        major, minor = nvcc_version(str(NVCC))
        write_note(self.package, f"kernels for sm_90a, compiled with CUDA {major}.{minor}")

    def get_outputs(self) -> list[str]:
        return [str(file) for file in native_files(self.package)]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildPython(build_py):
    """Adds the note to a pure package, without the kernels of an installation before it."""

    def run(self) -> None:
        super().run()
        if REASON:
            package = (ROOT if self.editable_mode else Path(self.build_lib)) / "dsa_ops"
            for file in native_files(package):
                file.unlink()
            write_note(package, REASON)


def native_files(package: Path) -> list[Path]:
    """What an installation with kernels adds to the package."""
    folders = [package / name for name in ("lib", "include", "share")]
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [*files, *package.glob("_C*.so")]


def write_note(package: Path, sentence: str) -> None:
    (package / NOTE).parent.mkdir(parents=True, exist_ok=True)
    (package / NOTE).write_text(sentence + "\n")


class Wheel(bdist_wheel):
    """Only the optional ``_C`` depends on the Python version, so the tag names none."""

    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[] if REASON else [Extension("dsa_ops._C", sources=[])],
    setup_requires=[] if REASON else NATIVE_BUILD_REQUIREMENTS,
    cmdclass={"build_ext": BuildKernels, "build_py": BuildPython, "bdist_wheel": Wheel},
)
