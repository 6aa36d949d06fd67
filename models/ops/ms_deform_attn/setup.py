"""Builds the compiled kernels as the package `soc_ms_deform_attn`: libraries `_cpu.so` and `_cuda.so`.

    pip install --no-build-isolation ./models/ops/ms_deform_attn

Nobody has to: where a compiler is found, the libraries are compiled on first use. Build them where the machine that
runs has no compiler, or where the first use should not wait. Compiler, flags and sources are those of `build.py`.

Environment variables:
    SOC_MS_DEFORM_ATTN_BUILD: `cpu` builds the library for the CPU only, which needs no CUDA toolkit.
    TORCH_CUDA_ARCH_LIST: GPUs to compile for, as in "8.0;9.0+PTX"; else those that are there, or the usual ones.
    SOC_CPU_ARCH: for the CPU library, -march or -mcpu of the compiler; else x86-64-v3 (AVX2: servers since 2015) on
        Intel and AMD, and the compiler's own choice elsewhere. `native` fits this machine only.
"""

import importlib.util
import os
import platform
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ModuleNotFoundError as error:  # Python 3.11 comes with an older one
    raise SystemExit("setuptools is too old; do: pip install 'setuptools>=70.1'") from error

FOLDER = Path(__file__).resolve().parent
PACKAGE = "soc_ms_deform_attn"


def load_build_module() -> ModuleType:
    """`build.py` beside this file; the repository itself cannot be imported from here."""
    spec = importlib.util.spec_from_file_location("soc_ms_deform_attn_build", FOLDER / "build.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build = load_build_module()


def requested_targets() -> list[str]:
    """Which libraries to build.

    Raises:
        CompileError: if SOC_MS_DEFORM_ATTN_BUILD is something else.
    """
    choice = os.environ.get("SOC_MS_DEFORM_ATTN_BUILD", "cpu,cuda")
    if choice not in ("cpu", "cpu,cuda"):
        raise CompileError(f"SOC_MS_DEFORM_ATTN_BUILD={choice!r}: expected 'cpu' or 'cpu,cuda'")
    return choice.split(",")


def cpu_flags() -> list[str]:
    """Unlike those of a library that is compiled on first use, they fit other machines too."""
    is_x86 = platform.machine() in ("x86_64", "AMD64")
    architecture = os.environ.get("SOC_CPU_ARCH", "x86-64-v3" if is_x86 else "")
    tuning = ["-mprefer-vector-width=256"] if is_x86 else []
    return [*build.CPU_FLAGS, *tuning, *([f"-m{'arch' if is_x86 else 'cpu'}={architecture}"] if architecture else [])]


def target_of(extension_name: str) -> str:
    """`soc_ms_deform_attn._cpu` -> `cpu`."""
    return extension_name.rpartition("_")[2]


class BuildLibrary(build_ext):
    """Compiles with the command lines of `build.py`."""

    def get_ext_filename(self, fullname: str) -> str:
        """The libraries use no Python, so their names hold no version of it."""
        return str(Path(*fullname.split(".")).with_suffix(".so"))

    def run(self) -> None:
        """Compiles all libraries, or none where one of them cannot be.

        Raises:
            CompileError: in one sentence, with what to do.
        """
        commands = {extension.name: self.command_for(extension) for extension in self.extensions}
        for name, command in commands.items():
            path = Path(self.build_lib, self.get_ext_filename(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                build.compile_library(target_of(name), command, path)
            except build.BuildError as error:
                raise CompileError(str(error)) from error

    def command_for(self, extension: Extension) -> list[str]:
        """Compiler and flags.

        Raises:
            CompileError: in one sentence, with what to do.
        """
        target = target_of(extension.name)
        try:
            if target == "cuda" and torch.version.cuda is None:
                raise build.BuildError("this PyTorch is built without CUDA: install one with it")
            return [*build.find_compiler(target), *(cpu_flags() if target == "cpu" else build.cuda_flags())]
        except build.BuildError as error:
            way_out = ", or set SOC_MS_DEFORM_ATTN_BUILD=cpu to build for the CPU only" if target == "cuda" else ""
            raise CompileError(f"{error}{way_out}") from error


class AnyPython(bdist_wheel):
    """One wheel for every Python 3, and for every PyTorch from 2.10 on."""

    def get_tag(self) -> tuple[str, str, str]:
        """The platform is all that matters."""
        return "py3", "none", super().get_tag()[2]


def main() -> None:
    """Runs setuptools."""
    # Nothing is left in the source tree.
    with tempfile.TemporaryDirectory() as scratch:
        options: dict[str, Any] = {"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}}
        setup(
            name=PACKAGE.replace("_", "-"),
            version="0.1.0",
            description="Compiled kernels of multi-scale deformable attention, for SOC",
            license="Apache-2.0",
            python_requires=">=3.10",
            packages=[PACKAGE],
            package_dir={PACKAGE: "extension"},
            ext_modules=[Extension(f"{PACKAGE}._{target}", sources=[]) for target in requested_targets()],
            cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
            options=options,
            zip_safe=False,
        )


# Run as `setup.py` by hand and executed by pip, which does not call it __main__ in every version.
main()
