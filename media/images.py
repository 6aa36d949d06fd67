"""Image files as arrays."""

from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from media.files import reading, regular_file


def read_rgb(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image file as RGB: grey and CMYK are converted, transparency is dropped.

    JPEG and PNG files are decoded by torchvision, others, such as TIFF, by Pillow.

    Raises:
        ValueError: the file is missing, damaged or no image, or has 16 bits per channel.
    """
    # torchvision decodes; it is imported here, because configurations are read and checked without PyTorch.
    import torch
    from torchvision.io import ImageReadMode, decode_image

    try:
        with reading(path):
            data = regular_file(path).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path}: no such frame") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    if not data.startswith((b"\xff\xd8", b"\x89PNG")):
        return _read_other(path, data)
    try:
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    if image.dtype != torch.uint8:
        raise ValueError(f"{path}: an image with {image.dtype} values; convert it to 8 bits per channel")
    return image.permute(1, 2, 0).numpy()  # (height, width, 3)


def _read_other(path: Path, data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """See `read_rgb`."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{path}: an image of mode {image.mode}; convert it to 8 bits per channel")
            return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "not in a format that is known" if isinstance(error, UnidentifiedImageError) else str(error)
        raise ValueError(f"{path}: not a readable image ({reason})") from None


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file, from its header."""
    try:
        with reading(path), Image.open(regular_file(path)) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
