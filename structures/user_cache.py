"""The folder of this project in the user's cache folder."""

import os
from pathlib import Path

from structures.user_path import user_path


def user_cache_folder() -> Path:
    """Where files go that can be made or fetched again, unless the user chose a folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (user_path(base) if base else Path.home() / ".cache") / "soc"
