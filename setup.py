"""Builds the wheel `soc-rvos`: all packages of this repository below the one name `soc_rvos`.

In a checkout the packages are called `datasets`, `models` and so on, and stand beside each other. Installed like that
they would hide Hugging Face's `datasets`, and who knows what else. So the build copies them below `soc_rvos` and puts
that name before the modules in their imports, at the places that the syntax tree names; nothing else of the code
changes. Commands that messages and docstrings name are turned into those of an installation.
"""

import ast
import io
import re
import shutil
import tokenize
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent
TOP = "soc_rvos"

NOT_PACKAGED = (
    "setup.py",
    "tests",
    "benchmarks",
    "tools/mutate",  # both need the tests
    "tools/parity",
    "models/ops/ms_deform_attn/benchmarks",
    "models/ops/ms_deform_attn/emulation",
    "models/ops/ms_deform_attn/extension",
    "models/ops/ms_deform_attn/setup.py",
)
DATA_SUFFIXES = (".yaml", ".cpp", ".cu", ".cuh", ".h", ".css", ".js", ".html")

COMMANDS = (
    (re.compile(r"python -m (?=(tools|models)\.)"), f"python -m {TOP}."),
    (re.compile(r"python main\.py"), "soc-rvos"),
)
"""What messages and docstrings say, and what it is after an installation."""


def source_files() -> list[Path]:
    """The files of the wheel, relative to the root: those of all packages at the top, and of the scripts there."""
    excluded = tuple(ROOT / name for name in NOT_PACKAGED)
    tops = [*ROOT.glob("*.py"), *(init.parent for init in ROOT.glob("*/__init__.py"))]
    files = [file for top in tops for file in ([top] if top.is_file() else top.rglob("*"))]
    return sorted(
        file.relative_to(ROOT)
        for file in files
        if file.is_file()
        and (file.suffix == ".py" or file.suffix in DATA_SUFFIXES)
        and not any(file == path or path in file.parents for path in excluded)
    )


def place_below_top(file: Path) -> Path:
    """Where a file of the checkout comes to lie: `models/soc.py` in `soc_rvos/models/soc.py`."""
    return file if file.parts[0] == TOP else Path(TOP, file)


def module_name(file: Path) -> str:
    """`models/ops/__init__.py` -> `models.ops`."""
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rewrite(source: str, *, modules: frozenset[str], name: str) -> str:
    """The source of a module with its imports of the project below `soc_rvos`.

    Args:
        source: of the module.
        modules: all modules of the wheel, by their names in the checkout.
        name: of the file, for messages.

    Raises:
        ValueError: it imports a module of the project that is not part of the wheel, or by a statement that binds the
            name at the top (`import models.soc`), which would be another one afterwards.
    """
    lines = source.splitlines(keepends=True)
    changes = [(line, column, 0, f"{TOP}.") for line, column in _imports(source, modules=modules, name=name)]
    changes += _commands(source)
    for line, column, length, text in sorted(changes, reverse=True):
        before = lines[line - 1]
        lines[line - 1] = before[:column] + text + before[column + length :]
    return "".join(lines)


def _imports(source: str, *, modules: frozenset[str], name: str) -> Iterator[tuple[int, int]]:
    """(line, column) of each module of the project that is imported; columns count characters."""
    own = {module.partition(".")[0] for module in modules} | {"tests", "benchmarks"}
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        named: list[tuple[str, ast.ImportFrom | ast.alias, bool]]
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            named = [(node.module, node, True)]
        elif isinstance(node, ast.Import):
            named = [(alias.name, alias, alias.asname is not None) for alias in node.names]
        else:
            continue
        for module, place, can_be_renamed in named:
            top = module.partition(".")[0]
            if top not in own or top == TOP:
                continue
            where = f"{name}:{place.lineno}"
            if module not in modules:
                raise ValueError(f"{where}: imports {module}, which is not part of the wheel; see NOT_PACKAGED")
            if not can_be_renamed:
                raise ValueError(f"{where}: `import {module}` binds {top}; write `from ... import ...` or `as`")
            line = lines[place.lineno - 1]
            column = line.find(module, len(line.encode()[: place.col_offset].decode()))
            if column < 0:
                raise ValueError(f"{where}: `from` and {module} must stand on one line")
            yield place.lineno, column


def _commands(source: str) -> Iterator[tuple[int, int, int, str]]:
    """(line, column, length, new text) of commands inside of strings."""
    kinds = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # Python 3.12 splits f-strings
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in kinds:
            continue
        for pattern, text in COMMANDS:
            for found in pattern.finditer(token.string):
                above = token.string[: found.start()]
                line = token.start[0] + above.count("\n")
                column = len(above) - above.rfind("\n") - 1 if "\n" in above else token.start[1] + len(above)
                yield line, column, len(found[0]), text


def assemble(target: Path) -> list[Path]:
    """Writes the package `soc_rvos` with everything in it below `target`; returns the files."""
    shutil.rmtree(target / TOP, ignore_errors=True)  # what an earlier build has left does not get into this one
    files = source_files()
    modules = frozenset(module_name(file) for file in files if file.suffix == ".py")
    written = []
    for file in files:
        path = target / place_below_top(file)
        if path in written:
            raise ValueError(f"{file} would lie at {path}, where another file lies already")
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".py":
            source = (ROOT / file).read_text(encoding="utf-8")
            path.write_text(rewrite(source, modules=modules, name=str(file)), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / file, path)
        written.append(path)
    return written


class BuildPackage(build_py):
    """Writes the packages below `soc_rvos`."""

    def run(self) -> None:
        """See `assemble`."""
        assemble(Path(self.build_lib))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """The files that `run` writes."""
        return [str(Path(self.build_lib, place_below_top(file))) for file in source_files()]

    def get_source_files(self) -> list[str]:
        """What a source distribution needs to build the same."""
        return [str(file) for file in source_files()]


class NoEditable(editable_wheel):
    """An editable installation is the checkout itself, and would put its `datasets` and `models` at the top."""

    def run(self) -> None:
        """Refuses."""
        raise SystemExit(
            "soc-rvos cannot be installed in editable mode, because its packages stand beside each other in a "
            "checkout: run from the root of the checkout, or put it on PYTHONPATH, and nothing has to be installed"
        )


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildPackage, "editable_wheel": NoEditable})
