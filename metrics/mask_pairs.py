"""What annotated and predicted masks of objects share, in pixels and in outlines: all that J and F are made of.

Counted by `mask_pairs.cpp` where there is a C++ compiler (see `pair_library`), else by NumPy: the same counts.
"""

import numpy as np
from jaxtyping import Bool, UInt8

from metrics.bit_masks import BitMasks, Packer, PairCounts, compare
from metrics.pair_library import count_mask_pairs


def count_pairs(
    annotation: UInt8[np.ndarray, "time height width"],
    prediction: UInt8[np.ndarray, "time height width"],
    hidden: Bool[np.ndarray, "time height width"] | None,
    *,
    num_objects: int,
    radius: int,
) -> PairCounts:
    """Compare object k of the prediction with object k of the annotation, for k from 1 on, in each frame.

    Args:
        annotation: object ids.
        prediction: object ids.
        hidden: True where pixels are background in both.
        num_objects: how many are compared, at most 255.
        radius: in pixels, at which outlines still match; at least 1 unless images have no pixels.

    Returns:
        Counts with axes object, time.
    """
    function = count_mask_pairs()
    if function is None or not annotation.size:
        return _count_with_numpy(annotation, prediction, hidden, num_objects=num_objects, radius=radius)
    counts = np.empty((num_objects, len(annotation), len(PairCounts._fields)), dtype=np.int64)
    images = [image if image is None else np.ascontiguousarray(image) for image in (annotation, prediction, hidden)]
    addresses = [image if image is None else image.ctypes.data for image in images]
    function(*addresses, *annotation.shape, num_objects, radius, counts.ctypes.data)
    return PairCounts(*np.moveaxis(counts, -1, 0))


def _count_with_numpy(
    annotation: UInt8[np.ndarray, "time height width"],
    prediction: UInt8[np.ndarray, "time height width"],
    hidden: Bool[np.ndarray, "time height width"] | None,
    *,
    num_objects: int,
    radius: int,
) -> PairCounts:
    num_frames, height, width = annotation.shape
    packer = Packer(height, width)
    # all objects of an image, then the next image: so each is read from memory once
    packed = [
        [packer.pack(image, number, ignored) for number in range(1, num_objects + 1)]
        for images in (annotation, prediction)
        for image, ignored in zip(images, [None] * num_frames if hidden is None else hidden, strict=True)
    ]
    counts = np.empty((len(PairCounts._fields), num_objects, num_frames), dtype=np.int64)
    for index, masks in enumerate(zip(*packed, strict=True)):
        together = BitMasks.from_rows(masks, (2, num_frames), height=height, width=width, radius=radius)
        counts[:, index] = compare(together, 0, 1)
    return PairCounts(*counts)
