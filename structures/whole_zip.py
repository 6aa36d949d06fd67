"""Whether a file that `torch.save` wrote is what was written: it is a zip archive, and holds a checksum of each record.

PyTorch reads such a file without looking at the checksums, so that a damaged one gives other numbers and no error.
"""

import zipfile
from pathlib import Path


def find_damage(path: Path) -> str | None:
    """Reads the whole file and compares the checksum of every record.

    Returns:
        What is wrong, in a few words; None for a file that is whole, and for one that is no zip archive at all (files
        from before PyTorch 1.6, of which nobody can tell).

    Raises:
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        return f"its directory is damaged ({error})"
    return None if broken is None else f"its record {broken} is damaged: the checksum differs"
