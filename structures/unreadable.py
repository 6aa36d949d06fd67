"""What a file is that is no file of weights, in one sentence."""

import struct
import zipfile
from pathlib import Path

HEAD = 512
"""Bytes at the start that tell what a file is."""

ZIP = b"PK\x03\x04"

MAGIC = {
    b"version https://git-lfs": "is a pointer of Git LFS, not the file itself; run `git lfs pull`",
    b"<": "is a web page, not weights; the download failed",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed by xz; unpack it first",
    b"(\xb5/\xfd": "is compressed by zstd; unpack it first",
    b"7z\xbc\xaf": "is a 7z archive; unpack it first",
    b"Rar!": "is a RAR archive; unpack it first",
    b"\x89HDF": "is a file of HDF5 (as Keras writes), not of PyTorch",
    b"\x93NUMPY": "is a NumPy array, not a checkpoint",
    b"GGUF": "is a GGUF file, which holds quantised weights",
    b"\x89PNG": "is a picture",
    b"\xff\xd8\xff": "is a picture",
    b"%PDF": "is a PDF",
}
"""How files start that people take for weights, and what they are."""


def is_safetensors(path: Path) -> bool:
    """Whether a file starts as safetensors do, whatever it is called: with the length of a header in JSON."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < 100_000_000


def what_it_is(path: Path) -> str | None:
    """What a file is instead of weights, as the end of a sentence that starts with "it"; None where that is unknown."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    start = head.lstrip()
    if not head.strip(b"\0"):
        found = "is empty" if not head else "holds zeros alone, as after a copy that was cut off"
        return f"{found}; copy or download it again"
    if zipfile.is_zipfile(path):
        return _zip(path)
    if head.startswith(ZIP) or is_safetensors(path):
        return "is cut off or damaged; copy or download it again"
    known = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if known is None and head[257:262] == b"ustar":
        known = "is a tar archive; unpack it first"
    if known is None and _is_text(head):
        known = f"is a text, which starts with {head.decode('utf-8', 'replace').splitlines()[0][:40]!r}"
    return known


def _zip(path: Path) -> str | None:
    """What a zip archive is that is no checkpoint; None where it is one."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return "is a program of TorchScript; save the state_dict() of the model instead"
    if "data.pkl" in inner:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays, not a checkpoint"
    shown = ", ".join(name[:40] for name in names[:3]) or "nothing"
    return f"is a zip archive, but no checkpoint: it holds {shown}; unpack it if the weights lie in it"


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return False
    try:
        head[: len(head) if len(head) < HEAD else -4].decode("utf-8")  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
