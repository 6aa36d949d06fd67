"""Copies of the repository to run tests in, so that the working tree is never changed."""

import os
import shutil
import subprocess
from pathlib import Path

# Folders of real data beside the repository, found by tests through its parent folder.
NEIGHBOURS = ("shared",)

LEFT_OUT = {".git", "__pycache__", "runs", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".venv"}


def tracked_files(root: Path) -> list[str]:
    """Files that git tracks, and those that it neither tracks nor ignores; all files where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if (root / ".git").exists() and listing.returncode == 0:
        return sorted(name for name in listing.stdout.split("\0") if name and (root / name).is_file())
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in files if LEFT_OUT.isdisjoint(path.parts))


def copy_tree(root: Path, target: Path) -> None:
    """Copy those files, without bytecode, and link the folders of data beside the repository."""
    for name in tracked_files(root):
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy, follow_symlinks=True)
    for name in NEIGHBOURS:
        beside, link = root.parent / name, target.parent / name
        if beside.is_dir() and not link.exists():
            link.symlink_to(beside, target_is_directory=True)


def environment_of_tests(temporary: Path) -> dict[str, str]:
    """Variables of the processes that run tests: one thread, no bytecode, temporary files in a folder of their own."""
    temporary.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "TMPDIR": str(temporary),
    }
