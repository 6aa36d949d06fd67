"""Names of files: what a folder holds, what a text file repeats."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.checks.report import Problem


class Names:
    """Which files exist, with one look at each folder.

    Args:
        root: names in problems are relative to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[Path, frozenset[str]] = {}

    def inside(self, folder: Path) -> frozenset[str]:
        """Names of all that lies in a folder; empty without it."""
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(path.name for path in folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def exists(self, path: Path) -> bool:
        """Whether a file or folder of this name is there."""
        return path.name in self.inside(path.parent)

    def show(self, path: Path) -> str:
        """The path as it is reported."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def missing(self, wanted: Iterable[Path]) -> Iterator[Problem]:
        """Files that are not there; of a folder that is not there only its name, with the number of its files."""
        for folder, paths in _by_folder(wanted).items():
            absent = sorted(path for path in paths if not self.exists(path))
            if not absent:
                continue
            if not folder.is_dir():
                yield Problem("missing", f"{self.show(folder)}/", f"no such folder; {len(absent)} files expected in it")
            else:
                yield from (Problem("missing", self.show(path)) for path in absent)

    def surplus(self, wanted: Iterable[Path]) -> Iterator[Problem]:
        """Files beside wanted ones that nobody asks for."""
        for folder, paths in _by_folder(wanted).items():
            for name in sorted(self.inside(folder) - {path.name for path in paths}):
                yield Problem("surplus", self.show(folder / name))


def _by_folder(paths: Iterable[Path]) -> Mapping[Path, set[Path]]:
    folders: dict[Path, set[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path)
    return folders


def repeated_keys(path: Path) -> list[str]:
    """Keys that one object of a JSON file has more than once; readers silently take the last.

    Raises:
        ValueError: not a JSON file.
    """
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            repeated.extend(sorted({name for name in names if names.count(name) > 1}))
        return content

    json.loads(path.read_bytes(), object_pairs_hook=note)
    return repeated


def has_windows_line_ends(path: Path) -> bool:
    """Whether a text file separates lines by CR LF."""
    return b"\r\n" in path.read_bytes()
