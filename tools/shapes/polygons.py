"""Polygons that COCO's tools turn back into exactly the mask that they were made from."""

import cv2
import numpy as np
from jaxtyping import Bool


def mask_to_polygons(mask: Bool[np.ndarray, "height width"]) -> list[list[float]]:
    """Outlines along the borders of pixels: x, y, x, y, ... in pixels from the upper left corner of the image.

    Their union is the mask. COCO polygons have no holes, so a part with a hole is cut into two at the hole.
    """
    polygons = []
    parts = [mask]
    while parts:
        part = parts.pop()
        num_labels, labels = cv2.connectedComponents(part.astype(np.uint8), connectivity=4)
        for label in range(1, num_labels):
            piece = labels == label
            column = _column_of_a_hole(piece)
            if column is None:
                polygons.append(_outline(piece))
            else:
                left = piece.copy()
                left[:, column:] = False
                parts += [left, piece & ~left]
    return polygons


def _column_of_a_hole(piece: Bool[np.ndarray, "height width"]) -> int | None:
    """The middle column of a hole, before which a cut opens it; None without a hole."""
    outside = np.pad(~piece, 1, constant_values=True).astype(np.uint8)
    num_labels, labels = cv2.connectedComponents(outside, connectivity=8)
    for label in range(1, num_labels):
        if label != labels[0, 0]:
            columns = np.nonzero((labels == label).any(axis=0))[0] - 1
            return int(columns[len(columns) // 2])
    return None


def _outline(piece: Bool[np.ndarray, "height width"]) -> list[float]:
    """The one outline of a 4-connected piece without holes, clockwise, corners only."""
    padded = np.pad(piece, 1)
    row, column = (int(v) for v in np.argwhere(padded)[0])
    start = (column, row)  # upper left corner of a pixel that has nothing above it and nothing to its left
    corners = [start]
    (x, y), (dx, dy) = start, (1, 0)
    while True:
        x, y = x + dx, y + dy
        # pixels ahead of the corner (x, y), on the right hand and on the left hand
        right = padded[y + (dx + dy - 1) // 2, x + (dx - dy - 1) // 2]
        left = padded[y + (-dx + dy - 1) // 2, x + (dx + dy - 1) // 2]
        if not right:
            dx, dy = -dy, dx
        elif left:
            dx, dy = dy, -dx
        else:
            continue
        if (x, y) == start and (dx, dy) == (1, 0):
            break
        corners.append((x, y))
    return [float(v - 1) for corner in corners for v in corner]
