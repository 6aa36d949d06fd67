"""Renders a scene: anti-aliased frames, and masks that are exact under occlusion."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from tools.shapes.scene import Actor, Canvas, Scene, Texture

_SUPERSAMPLING = 3
_SHIFT = 6
"""Fractional bits of the polygon corners given to OpenCV."""


@dataclass(frozen=True, slots=True)
class RenderedClip:
    """Frames and masks of a scene.

    Attributes:
        frames: RGB.
        object_ids: id of the front-most object at each pixel, 0 for the background.
        silhouettes: mask of each object within the frame as if nothing occluded it.
        full_areas: of each silhouette, in pixels, if the frame had no border.
    """

    frames: UInt8[np.ndarray, "time height width 3"]
    object_ids: UInt8[np.ndarray, "time height width"]
    silhouettes: Bool[np.ndarray, "object time height width"]
    full_areas: Float[np.ndarray, "object time"]


def render_scene(scene: Scene) -> RenderedClip:
    """Renders all frames of a scene, from the back to the front."""
    canvas = scene.canvas
    background = _render_background(np.random.default_rng(scene.background_seed), canvas)
    shape = (canvas.num_frames, canvas.height, canvas.width)
    frames = np.empty((*shape, 3), np.uint8)
    object_ids = np.zeros(shape, np.uint8)
    silhouettes = np.zeros((len(scene.actors), *shape), bool)
    full_areas = np.zeros((len(scene.actors), canvas.num_frames))
    patterns = [_noise_pattern(actor.texture) for actor in scene.actors]
    for t in range(canvas.num_frames):
        image = background.copy()
        for index, actor in enumerate(scene.actors):
            polygons = outline(actor, t)
            full_areas[index, t] = cv2.contourArea(polygons[0].astype(np.float32)) - sum(
                cv2.contourArea(hole.astype(np.float32)) for hole in polygons[1:]
            )
            window = _window(canvas, actor, t)
            if window is None:
                continue
            coverage = _coverage(polygons, window)
            rows, columns = window
            brightness = _brightness(actor, t, patterns[index], window)
            colour = np.minimum(brightness[..., None] * np.array(actor.rgb, np.float32), 255)
            image[rows, columns] += coverage[..., None] * (colour - image[rows, columns])
            covered = coverage >= 0.5
            silhouettes[index, t, rows, columns] = covered
            object_ids[t, rows, columns][covered] = index + 1
        frames[t] = np.rint(image).clip(0, 255).astype(np.uint8)
    return RenderedClip(frames, object_ids, silhouettes, full_areas)


def outline(actor: Actor, t: int) -> list[Float[np.ndarray, "corner 2"]]:
    """Polygons of an actor at frame `t` in pixels; the second one, if any, is a hole."""
    centre, radius, angle = actor.centres[t], actor.radii[t], actor.angles[t]
    polygons = []
    for corners in _unit_polygons(actor.shape):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        polygons.append(centre + radius * (corners @ turn))
    return polygons


def _unit_polygons(shape: str) -> list[Float[np.ndarray, "corner 2"]]:
    if shape in ("circle", "ring"):
        circle = _regular(40)
        return [circle] if shape == "circle" else [circle, 0.52 * circle]
    if shape == "square":
        return [_regular(4, np.pi / 4)]
    if shape == "triangle":
        return [_regular(3, -np.pi / 2)]
    if shape == "star":
        star = _regular(10, -np.pi / 2)
        star[1::2] *= 0.45
        return [star]
    arm = 0.34
    quarter = np.array([[arm, -0.94], [arm, -arm], [0.94, -arm]])
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    return [np.concatenate([quarter @ turn.T for turn in turns])]


def _regular(corners: int, start: float = 0.0) -> Float[np.ndarray, "corner 2"]:
    angles = start + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _window(canvas: Canvas, actor: Actor, t: int) -> tuple[slice, slice] | None:
    """Rows and columns of the frame that an actor can touch; None when it is outside."""
    reach = actor.radii[t] + 2
    x, y = actor.centres[t]
    left, right = max(0, int(x - reach)), min(canvas.width, int(x + reach) + 1)
    top, bottom = max(0, int(y - reach)), min(canvas.height, int(y + reach) + 1)
    return None if left >= right or top >= bottom else (slice(top, bottom), slice(left, right))


def _coverage(
    polygons: list[Float[np.ndarray, "_ 2"]], window: tuple[slice, slice]
) -> Float[np.ndarray, "height width"]:
    """Share of each pixel of the window that lies inside the polygon, by supersampling."""
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    fine = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    for corners, value in zip(polygons, (255, 0), strict=False):
        # a pixel centre at integer x covers [x - 0.5, x + 0.5]; on the fine grid centres lie at integers as well
        on_grid = (corners - [columns.start, rows.start] + 0.5) * _SUPERSAMPLING - 0.5
        cv2.fillPoly(fine, [np.rint(on_grid * 2**_SHIFT).astype(np.int32)], value, shift=_SHIFT)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _noise_pattern(texture: Texture) -> Float[np.ndarray, "64 64"]:
    """A tile of smooth noise in [-1, 1]."""
    coarse = np.random.default_rng(texture.seed).uniform(-1, 1, size=(16, 16)).astype(np.float32)
    tile = cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)
    return np.clip(tile * 1.3, -1, 1)


def _brightness(
    actor: Actor, t: int, pattern: Float[np.ndarray, "64 64"], window: tuple[slice, slice]
) -> Float[np.ndarray, "height width"]:
    """Factor on the colour at each pixel of the window; fixed to the actor, so it turns and grows with it."""
    rows, columns = window
    texture = actor.texture
    y, x = np.mgrid[rows, columns].astype(np.float32)
    x, y = (x - actor.centres[t, 0]) / actor.radii[t], (y - actor.centres[t, 1]) / actor.radii[t]
    cosine, sine = np.cos(actor.angles[t]), np.sin(actor.angles[t])
    along, across = cosine * x + sine * y, cosine * y - sine * x
    phase = 2 * np.pi * texture.frequency
    slant = texture.seed % 360 / 180 * np.pi
    if texture.kind == "stripes":
        wave = np.sin(phase * (np.cos(slant) * along + np.sin(slant) * across) + slant)
        pattern_value = np.clip(2.5 * wave, -1, 1)
    elif texture.kind == "dots":
        pattern_value = np.clip(3 * np.sin(phase * along + slant) * np.sin(phase * across), -1, 1)
    elif texture.kind == "noise":
        column = ((along * 0.42 + 0.5) * 63).clip(0, 63).astype(np.float32)
        row = ((across * 0.42 + 0.5) * 63).clip(0, 63).astype(np.float32)
        pattern_value = cv2.remap(pattern, column, row, cv2.INTER_LINEAR)
    else:
        pattern_value = 0.3 * along
    return (1 + texture.strength * pattern_value).astype(np.float32)


def _render_background(rng: np.random.Generator, canvas: Canvas) -> Float[np.ndarray, "height width 3"]:
    """Greyish noise of several scales with a gradient; far less saturated than any shape."""
    height, width = canvas.height, canvas.width
    base = rng.uniform(70, 185) + rng.uniform(-16, 16, size=3)
    image = np.zeros((height, width), np.float32)
    for num_rows, amplitude in ((3, 18.0), (8, 14.0), (24, 9.0)):
        grid = rng.normal(size=(num_rows, int(num_rows * width / height) + 1)).astype(np.float32)
        image += amplitude * rng.uniform(0.3, 1.0) * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:height, :width]
    slope = rng.uniform(-25, 25, size=2)
    image += (slope[0] * (x / width - 0.5) + slope[1] * (y / height - 0.5)).astype(np.float32)
    if rng.random() < 0.4:
        period = rng.uniform(6, 16) * canvas.unit
        slant = rng.uniform(0, np.pi)
        image += 9 * np.sin(2 * np.pi * (x * np.cos(slant) + y * np.sin(slant)) / period).astype(np.float32)
    return np.clip(image[..., None] + base, 12, 243).astype(np.float32)
