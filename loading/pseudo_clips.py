"""Pseudo-clips: an annotated image becomes a clip, as if the camera moved.

One frame is the image itself; each other frame is a copy, changed in brightness, seen in perspective, shifted, turned,
and sometimes blurred as by motion; then the frames are shuffled. Masks move along, so an object may leave the picture.

Source: the joint training of SOC (arXiv:2305.17011), which augments with imgaug; the ranges are the published ones.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from loading.sampling import random_index

MAX_CORNER_SHIFT = 0.25
"""Limit of the normal samples of the perspective, as a share of the picture; larger ones could turn it inside out."""


@dataclass(frozen=True, slots=True)
class PseudoClips:
    """Turns an image with masks into a clip; used by `loading.clips` for records with `is_pseudo_clip`.

    Attributes:
        brightness: largest change of all channels, in grey levels of 255.
        perspective: standard deviation of the way that each corner moves inwards, as a share of the picture.
        shift: largest translation along each axis, as a share of the picture.
        rotation_degrees: largest rotation to either side.
        blur_probability: of motion blur, for each frame.
        blur_lengths: of the blur, in pixels; odd.
    """

    brightness: float = 40.0
    perspective: float = 0.08
    shift: float = 0.1
    rotation_degrees: float = 20.0
    blur_probability: float = 0.25
    blur_lengths: tuple[int, ...] = (9, 11)

    def __call__(
        self,
        frame: UInt8[Tensor, "1 3 height width"],
        masks: Bool[Tensor, "target 1 height width"],
        *,
        num_frames: int,
        generator: torch.Generator,
    ) -> tuple[UInt8[Tensor, "time 3 height width"], Bool[Tensor, "target time height width"]]:
        """Frames and masks of a clip in a random order.

        Args:
            frame: the image.
            masks: of its objects.
            num_frames: of the clip; one of them is the image itself.
            generator: of everything random.
        """
        frames, moved = [frame[0]], [masks[:, 0]]
        for _ in range(num_frames - 1):
            copy, masks_of_copy = self._moved_copy(frame[0], masks[:, 0], generator)
            frames.append(copy)
            moved.append(masks_of_copy)
        order = torch.randperm(num_frames, generator=generator).tolist()
        return torch.stack([frames[i] for i in order]), torch.stack([moved[i] for i in order], dim=1)

    def _moved_copy(
        self,
        image: UInt8[Tensor, "3 height width"],
        masks: Bool[Tensor, "target height width"],
        generator: torch.Generator,
    ) -> tuple[UInt8[Tensor, "3 height width"], Bool[Tensor, "target height width"]]:
        height, width = image.shape[-2:]
        image = add_brightness(image, _uniform(self.brightness, generator))
        # One warp for perspective and affine part together: pixels are interpolated once.
        warp = self._random_perspective(height, width, generator) @ self._random_affine(height, width, generator)
        coefficients = (warp / warp[2, 2]).ravel()[:8].tolist()
        image = functional.perspective(
            tv_tensors.Image(image),
            None,
            None,
            interpolation=InterpolationMode.BILINEAR,
            coefficients=coefficients,
        ).as_subclass(Tensor)
        masks = functional.perspective(
            tv_tensors.Mask(masks.view(torch.uint8)), None, None, coefficients=coefficients
        ).as_subclass(Tensor)
        if float(torch.rand((), generator=generator)) < self.blur_probability:
            length = self.blur_lengths[random_index(len(self.blur_lengths), generator)]
            angle = 180.0 * float(torch.rand((), generator=generator))
            image = motion_blur(image, length=length, angle_degrees=angle)
        return image, masks.view(torch.bool)

    def _random_perspective(self, height: int, width: int, generator: torch.Generator) -> Float64[np.ndarray, "3 3"]:
        """Maps pixels of the new picture to pixels of the image: a random quadrilateral of it fills the new picture."""
        inwards = (self.perspective * torch.randn(4, 2, generator=generator)).abs().clamp(max=MAX_CORNER_SHIFT).numpy()
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
        towards_middle = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float32)
        quadrilateral = corners + towards_middle * inwards * np.array([width, height], dtype=np.float32)
        return cv2.getPerspectiveTransform(corners, quadrilateral.astype(np.float32))

    def _random_affine(self, height: int, width: int, generator: torch.Generator) -> Float64[np.ndarray, "3 3"]:
        """Maps pixels of the new picture to pixels of the image: rotated about the centre, then shifted."""
        angle = math.radians(_uniform(self.rotation_degrees, generator))
        shift_x, shift_y = (_uniform(self.shift, generator) * side for side in (width, height))
        cos, sin = math.cos(angle), math.sin(angle)
        to_middle = np.array([[1, 0, -width / 2 - shift_x], [0, 1, -height / 2 - shift_y], [0, 0, 1]])
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        back = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
        return back @ turn @ to_middle


def add_brightness(image: UInt8[Tensor, "3 height width"], levels: float) -> UInt8[Tensor, "3 height width"]:
    """Adds to all channels, within 0 and 255.

    `adjust_brightness` of torchvision multiplies; the published augmentation adds.
    """
    return (image.short() + round(levels)).clamp(0, 255).to(torch.uint8)


def motion_blur(
    image: UInt8[Tensor, "3 height width"], *, length: int, angle_degrees: float
) -> UInt8[Tensor, "3 height width"]:
    """Averages along a line of `length` pixels through each pixel; reflects at the border."""
    middle = (length - 1) / 2
    line = np.zeros((length, length), dtype=np.float32)
    line[length // 2] = 1
    turn = cv2.getRotationMatrix2D((middle, middle), angle_degrees, 1.0)
    kernel = cv2.warpAffine(line, turn, (length, length))
    pixels = image.permute(1, 2, 0).contiguous().numpy()  # (height, width, 3)
    blurred = cv2.filter2D(pixels, -1, kernel / kernel.sum())
    return torch.from_numpy(blurred).permute(2, 0, 1).contiguous()  # (3, height, width)


def _uniform(limit: float, generator: torch.Generator) -> float:
    """A number between -`limit` and `limit`."""
    return limit * (2 * float(torch.rand((), generator=generator)) - 1)
