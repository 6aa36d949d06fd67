"""What lies in folders, looked at once."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from datasets.problems import Problem
from media.folders import listing


class FolderListing:
    """Which files exist, with one look at each folder."""

    def __init__(self) -> None:
        self._folders: dict[Path, frozenset[str]] = {}

    def inside(self, folder: Path) -> frozenset[str]:
        """Names of all that lies in a folder, clutter aside; empty without it."""
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(path.name for path in listing(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def exists(self, path: Path) -> bool:
        """Whether a file or folder of this name is there."""
        return path.name in self.inside(path.parent)

    def missing(self, wanted: Iterable[Path]) -> Iterator[Problem]:
        """Files that are not there; of a folder that is not there only its name, with the number of its files."""
        for folder, paths in _by_folder(wanted).items():
            absent = sorted(path for path in paths if not self.exists(path))
            if absent and not folder.is_dir():
                yield Problem("missing", f"{folder}/", f"no such folder; {len(absent)} files expected in it")
            else:
                yield from (Problem("missing", str(path)) for path in absent)

    def surplus(self, wanted: Iterable[Path]) -> Iterator[Problem]:
        """Files beside wanted ones that nobody asks for."""
        for folder, paths in _by_folder(wanted).items():
            for name in sorted(self.inside(folder) - {path.name for path in paths}):
                yield Problem("surplus", str(folder / name))

    def surplus_entries(self, folder: Path, wanted: Iterable[str], detail: str) -> Iterator[Problem]:
        """What lies in a folder besides the names that are wanted there."""
        for name in sorted(self.inside(folder) - set(wanted)):
            yield Problem("surplus", str(folder / name), detail)


def _by_folder(paths: Iterable[Path]) -> Mapping[Path, set[Path]]:
    folders: dict[Path, set[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, set()).add(path)
    return folders


def has_windows_line_ends(path: Path) -> bool:
    """Whether a text file separates lines by CR LF."""
    return b"\r\n" in path.read_bytes()


def first_folder(*candidates: Path) -> Path:
    """The first of several folders that exists.

    Raises:
        ValueError: none of them does.
    """
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no such folder: {' or '.join(map(str, candidates))}")
