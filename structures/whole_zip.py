"""Whether a file that `torch.save` wrote is what was written: it is a zip archive, and holds a checksum of each record.

PyTorch reads such a file without looking at the checksums, so that a damaged one gives other numbers and no error.
"""

import zipfile
from pathlib import Path


def find_damage(path: Path, *, with_tensors: bool = True) -> str | None:
    """Reads the file and compares the checksum of every record that has one.

    Args:
        path: the file.
        with_tensors: also of the records with the numbers of tensors, which are nearly all of the file.

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
            for record in archive.infolist():
                # What is packed may be far larger than the file; torch.save packs nothing.
                if record.compress_type != zipfile.ZIP_STORED:
                    return f"its record {record.filename} is compressed, which torch.save never does"
                # 0: torch was told to leave checksums out.
                if record.CRC == 0 or ("/data/" in record.filename and not with_tensors):
                    continue
                with archive.open(record) as file:
                    try:
                        while file.read(1 << 20):
                            pass
                    except zipfile.BadZipFile:
                        return f"its record {record.filename} is damaged: the checksum differs"
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        return f"its directory is damaged ({error})"
    return None
