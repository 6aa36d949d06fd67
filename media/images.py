"""Image files as arrays: as data sets store them, and as a viewer shows them."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from media.files import reading, regular_file
from media.limits import require_pixels

Pixels = UInt8[np.ndarray, "height width 3"]

ANIMATED_FORMATS = ("WEBP", "PNG", "GIF")
"""Formats whose several pictures are an animation; those of others, such as TIFF, are pages."""

USUAL_FRAME_SECONDS = 0.1
"""How long a frame of an animation is shown where its file says zero: what browsers do."""

_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS
_ORIENTATION = 0x0112
"""Number of the tag of EXIF that says how a camera was held."""

_TO_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the stored pixels upright, for each value of it; 1 is upright, others mean nothing. Those of Pillow turn
counter-clockwise. (`ImageOps.exif_transpose` fails where other tags are damaged.)"""

_EXCHANGE_SIDES = (5, 6, 7, 8)


@contextmanager
def open_image(path: Path, data: bytes | None = None, *, kind: str = "image") -> Iterator[Image.Image]:
    """An image file of which no more than the header is decoded yet, and whose size is allowed.

    Args:
        path: of the file.
        data: its content; None: it is read from there.
        kind: of file, for the message where it is missing.

    Raises:
        ValueError: the file is missing, damaged or no image, also where that shows inside of the block; or it is too
            large, see `media.limits`.
    """
    try:
        with reading(path):
            source = regular_file(path) if data is None else io.BytesIO(data)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such {kind} file") from None
    except OSError as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    # Pillow's own limit cannot be raised by a setting of ours, and is no help where ours is lower.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with reading(path):
            image = Image.open(source)
    except UnidentifiedImageError:  # its text names the object in memory
        raise ValueError(f"{path}: not a readable image (not in a format that is known)") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _named(path, error) from None
    finally:
        Image.MAX_IMAGE_PIXELS = _PILLOWS_LIMIT
    with image:
        require_pixels(image.height, image.width, what=str(path))
        try:
            with reading(path):
                yield image
        except (OSError, SyntaxError, EOFError, ValueError) as error:
            raise _named(path, error) from None


def _named(path: Path, error: Exception) -> ValueError:
    """What to raise where reading an image failed: ours name it already, those of Pillow are of many kinds."""
    if isinstance(error, ValueError) and str(error).startswith(str(path)):
        return error
    return ValueError(f"{path}: not a readable image ({error})")


def read_rgb(path: Path) -> Pixels:
    """An image file of a data set as RGB, as it is stored: grey and CMYK are converted, transparency is dropped.

    How the camera was held is not looked at, because the masks of data sets lie on the stored pixels. Of 16 bits per
    channel the higher eight are taken. JPEG files are decoded by torchvision, which is faster; others by Pillow:
    torchvision 0.29 ends the process (signal 11) where a PNG file is damaged inside.

    Raises:
        ValueError: the file is missing, damaged or no image, or too large.
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
    with open_image(path, data) as opened:  # which checks the size
        if not data.startswith(b"\xff\xd8"):
            return _eight_bits(opened, path) if opened.mode.startswith(("I", "F")) else np.array(opened.convert("RGB"))
    try:
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    return image.permute(1, 2, 0).numpy()  # (height, width, 3)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as it is stored, from its header.

    Raises:
        ValueError: the file is missing, damaged or no image, or too large.
    """
    with open_image(path) as image:
        return image.height, image.width


def read_shown(path: Path) -> Pixels:
    """An image file as a viewer shows it, see `shown_pixels`; of an animation the first frame.

    Raises:
        ValueError: the file is missing, damaged or no image, too large, or of values that no viewer shows.
    """
    with open_image(path) as image:
        return shown_pixels(image, path)


def shown_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_shown` gives, without decoding more than needed.

    Raises:
        ValueError: as `image_size`.
    """
    with open_image(path) as image:
        return (image.width, image.height) if _orientation(image) in _EXCHANGE_SIDES else (image.height, image.width)


def shown_pixels(image: Image.Image, path: Path) -> Pixels:
    """The pixels of an opened image as a viewer shows them.

    It is turned and mirrored as its EXIF data ask for; of 16 bits per channel the higher eight are shown; what is
    transparent shows white, as on a web page.

    Args:
        image: of the file; the frame that it stands at.
        path: of the file, for messages.

    Raises:
        ValueError: its values have 32 bits, of which nobody knows what is black and what is white.
    """
    turn = _TO_UPRIGHT.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    if upright.mode.startswith(("I", "F")):
        return _eight_bits(upright, path)
    if not upright.has_transparency_data:
        return np.array(upright.convert("RGB"))
    shown = Image.new("RGBA", upright.size, "white")
    shown.alpha_composite(upright.convert("RGBA"))
    return np.array(shown.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    """How the camera was held, as the EXIF data say."""
    if image.format == "PNG":
        image.load()  # they may stand behind the pixels
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _eight_bits(image: Image.Image, path: Path) -> Pixels:
    """Grey values of more than eight bits as RGB."""
    if image.mode in ("I", "F") and image.format != "PNG":
        raise ValueError(f"{path}: an image with values of 32 bits; convert it to 8 or 16 bits per channel")
    grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def is_animation(path: Path) -> bool:
    """Whether an image file holds several pictures that are shown one after the other.

    Raises:
        ValueError: as `image_size`.
    """
    with open_image(path) as image:
        return image.format in ANIMATED_FORMATS and _num_pictures(image) > 1


def animation_seconds(path: Path) -> list[float]:
    """When each frame of an animation is shown, and when the last one ends: one number more than there are frames.

    Raises:
        ValueError: as `animation_frames`.
    """
    seconds = [0.0]
    with open_image(path) as image:
        for number in _shown_pictures(image):
            image.seek(number)
            image.load()
            duration = float(image.info.get("duration", 0)) / 1000
            seconds.append(seconds[-1] + (duration if duration > 0 else USUAL_FRAME_SECONDS))
    return seconds


def animation_frames(path: Path) -> Iterator[Pixels]:
    """The frames of an animation, each as a viewer shows it.

    Raises:
        ValueError: the file is damaged, or too large.
    """
    with open_image(path) as image:
        for number in _shown_pictures(image):
            image.seek(number)
            yield shown_pixels(image, path)


def _num_pictures(image: Image.Image) -> int:
    return int(getattr(image, "n_frames", 1))


def _shown_pictures(image: Image.Image) -> range:
    """Numbers of the pictures of the animation: a PNG may begin with one for programs that show no other."""
    return range(int(getattr(image, "default_image", False)), _num_pictures(image))
