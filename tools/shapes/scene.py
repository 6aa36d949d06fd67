"""The scene of a clip of Referring Shapes: appearance and trajectories of its objects, and how they are arranged.

Lengths are given for frames of 64 x 96 pixels and 12 frames, and scaled to other sizes and counts. Most clips hold a
pair of look-alikes (same shape, colour and size) that move or change differently. Their start positions are sampled so
that the two motions could be exchanged with the same probability: the first frame does not show which object moves how.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
TURNABLE_SHAPES = ("square", "triangle", "star", "cross")
"""Shapes whose rotation is visible."""

COLOURS = {
    "red": (215, 45, 40),
    "green": (50, 165, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
    "cyan": (60, 205, 215),
}
TEXTURES = ("plain", "stripes", "dots", "noise")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
CHANGES = ("grow", "shrink", "spin")

SIZE_FACTORS = {"circle": 1.0, "ring": 1.0, "square": 1.15, "triangle": 1.2, "star": 1.25, "cross": 1.1}
"""Radius of the circumscribed circle at which a shape looks as large as a circle of radius 1."""

_SCENARIOS = {"motion": 0.34, "change": 0.30, "pass": 0.22, "border": 0.09, "free": 0.05}
"""Probability of each arrangement of a clip. Each makes one kind of sentence possible; others may be true as well."""

_MAX_TRIES = 60


@dataclass(frozen=True, slots=True)
class Canvas:
    """Size and length of a clip, and the units that follow from them.

    Attributes:
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        num_frames: of the clip.
        unit: pixels that one length unit covers; 1 for frames of 64 x 96.
        pace: pixels per frame of speed 1; below `unit` in clips longer than 12 frames, whose objects move slower.
    """

    height: int
    width: int
    num_frames: int
    unit: float
    pace: float


def make_canvas(size: tuple[int, int], num_frames: int) -> Canvas:
    """The canvas of clips of `num_frames` frames of `size` (height, width).

    Raises:
        ValueError: frames too small to distinguish shapes, or too few frames to see a motion.
    """
    height, width = size
    if height < 48 or width < 72 or height > 1080 or width > 1920:
        raise ValueError(f"size={height}x{width} must lie between 48x72 and 1080x1920 (height x width)")
    if not 4 <= num_frames <= 200:
        raise ValueError(f"num_frames={num_frames} must lie between 4 and 200")
    unit = min(height / 64, width / 96)
    return Canvas(height, width, num_frames, unit, unit * min(1.0, 11 / (num_frames - 1)))


@dataclass(frozen=True, slots=True)
class Texture:
    """Pattern that modulates the brightness of a shape and moves with it.

    Attributes:
        kind: one of `TEXTURES`.
        frequency: periods per radius.
        strength: relative amplitude of the brightness.
        seed: of the noise pattern and the phase.
    """

    kind: str
    frequency: float
    strength: float
    seed: int


@dataclass(frozen=True)
class Actor:
    """An object of the scene: its appearance and its trajectory.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        rgb: the shade of that colour, 0 to 255.
        texture: pattern on it.
        centres: (x, y) in pixels, where pixel centres lie at integers.
        radii: of the circumscribed circle, in pixels.
        angles: in radians.
    """

    shape: str
    colour: str
    rgb: tuple[float, float, float]
    texture: Texture
    centres: Float[np.ndarray, "time 2"] = field(repr=False)
    radii: Float[np.ndarray, " time"] = field(repr=False)
    angles: Float[np.ndarray, " time"] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip before it is rendered.

    Attributes:
        canvas: size and length of the clip.
        actors: from the back to the front; object id is the index plus one.
        background_seed: of the background texture.
    """

    canvas: Canvas
    actors: tuple[Actor, ...]
    background_seed: int


def sample_scene(rng: np.random.Generator, canvas: Canvas) -> Scene:
    """Samples appearance, motion and position of 2 to 4 objects.

    Args:
        rng: source of all randomness.
        canvas: size and length of the clip.
    """
    while True:
        scenario = str(rng.choice(list(_SCENARIOS), p=list(_SCENARIOS.values())))
        count = int(rng.choice([2, 3, 4], p=[0.2, 0.45, 0.35]))
        count = max(count, 3) if scenario in ("pass", "free") else count
        actors = _arrange_actors(rng, canvas, scenario, _sample_appearances(rng, canvas, scenario, count))
        if actors is not None:
            order = rng.permutation(len(actors))
            return Scene(canvas, tuple(actors[i] for i in order), int(rng.integers(2**31)))


def _sample_appearances(rng: np.random.Generator, canvas: Canvas, scenario: str, count: int) -> list[Actor]:
    """Actors at rest at the origin; the first two look alike unless the scenario is "free"."""
    needs_turn = scenario == "change"
    pool = TURNABLE_SHAPES if needs_turn and rng.random() < 0.6 else SHAPES
    first = _new_actor(rng, canvas, str(rng.choice(pool)), str(rng.choice(list(COLOURS))), rng.uniform(7.5, 11.0))
    actors = [first]
    if scenario != "free":
        twin = _new_actor(rng, canvas, first.shape, first.colour, 1.0)
        actors.append(replace(twin, radii=first.radii * rng.uniform(0.93, 1.07), rgb=first.rgb))
    while len(actors) < count:
        model = actors[int(rng.integers(len(actors)))]
        shared = rng.random()
        shape = model.shape if shared < 0.35 else str(rng.choice(SHAPES))
        colour = model.colour if 0.35 <= shared < 0.7 else str(rng.choice(list(COLOURS)))
        if all((a.shape, a.colour) != (shape, colour) for a in actors):
            actors.append(_new_actor(rng, canvas, shape, colour, rng.uniform(6.8, 11.8)))
    return actors


def _new_actor(rng: np.random.Generator, canvas: Canvas, shape: str, colour: str, radius: float) -> Actor:
    shade = np.array(COLOURS[colour]) * rng.uniform(0.88, 1.06) + rng.uniform(-12, 12, size=3)
    red, green, blue = (float(v) for v in np.clip(shade, 0, 255))
    texture = Texture(
        kind=str(rng.choice(TEXTURES)),
        frequency=float(rng.uniform(1.0, 1.8)),
        strength=float(rng.uniform(0.12, 0.28)),
        seed=int(rng.integers(2**31)),
    )
    radius *= SIZE_FACTORS[shape] * canvas.unit
    return Actor(
        shape=shape,
        colour=colour,
        rgb=(red, green, blue),
        texture=texture,
        centres=np.zeros((canvas.num_frames, 2)),
        radii=np.full(canvas.num_frames, radius),
        angles=np.full(canvas.num_frames, rng.uniform(-0.25, 0.25)),
    )


def sample_path(
    rng: np.random.Generator, canvas: Canvas, motion: str, speed: tuple[float, float] | None = None
) -> Float[np.ndarray, "time 2"]:
    """Offsets from the start, in pixels, of a named motion.

    Args:
        rng: source of randomness.
        canvas: size and length of the clip.
        motion: a direction, "still", or "stop" (moves in some direction, then rests).
        speed: range in units of `canvas.pace`; by default 2.4 to 3.4 sideways, 1.9 to 2.6 up and down.
    """
    steps = np.ones(canvas.num_frames - 1)
    if motion == "still":
        return np.zeros((canvas.num_frames, 2))
    direction = motion
    if motion == "stop":
        direction = str(rng.choice(list(DIRECTIONS)))
        steps[round(len(steps) * rng.uniform(0.4, 0.6)) :] = 0
        speed = (2.6, 3.8)
    low, high = speed or ((2.4, 3.4) if direction in ("left", "right") else (1.9, 2.6))
    angle = rng.uniform(-0.14, 0.14)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    velocity = turn @ np.array(DIRECTIONS[direction]) * rng.uniform(low, high) * canvas.pace
    travelled = np.concatenate([[0.0], np.cumsum(steps)])
    return travelled[:, None] * velocity


def _arrange_actors(
    rng: np.random.Generator, canvas: Canvas, scenario: str, waiting: list[Actor]
) -> list[Actor] | None:
    """Gives the actors their trajectories; None when no arrangement was found."""
    if scenario == "motion":
        actors = _arrange_pair(rng, canvas, waiting[:2], _contrasting_paths(rng, canvas))
    elif scenario == "change":
        pair = _change_pair(rng, canvas, waiting[:2])
        motions = [str(m) for m in rng.choice(["left", "right", "up", "down", "still", "still"], size=2)]
        actors = _arrange_pair(rng, canvas, pair, [sample_path(rng, canvas, m) for m in motions])
    elif scenario == "pass":
        actors = _arrange_crossing(rng, canvas, waiting)
        actors = None if actors is None else _add_look_alike(rng, canvas, waiting[1], actors)
        waiting = [waiting[0], waiting[2], waiting[1], *waiting[3:]]
    elif scenario == "border":
        actors = _arrange_at_border(rng, canvas, waiting[0])
    else:
        actors = []
    if actors is None:
        return None
    for actor in waiting[len(actors) :]:
        arranged = _arrange_freely(rng, canvas, actor, actors)
        if arranged is None:
            return None
        actors.append(arranged)
    return actors


def _contrasting_paths(rng: np.random.Generator, canvas: Canvas) -> list[Float[np.ndarray, "time 2"]]:
    """Two motions that a sentence can distinguish, in random order."""
    direction = str(rng.choice(list(DIRECTIONS)))
    kind = rng.random()
    if kind < 0.14:
        direction = str(rng.choice(["left", "right"]))
        fast, slow = (3.4, 4.2), (1.0, 1.4)
        paths = [sample_path(rng, canvas, direction, fast), sample_path(rng, canvas, direction, slow)]
    else:
        if kind < 0.50:
            other = OPPOSITE[direction]
        elif kind < 0.66:
            other = str(rng.choice([d for d in DIRECTIONS if d not in (direction, OPPOSITE[direction])]))
        else:
            other = "still" if kind < 0.78 else "stop"
        paths = [sample_path(rng, canvas, direction), sample_path(rng, canvas, other)]
    return paths[::-1] if rng.random() < 0.5 else paths


def _change_pair(rng: np.random.Generator, canvas: Canvas, pair: list[Actor]) -> list[Actor]:
    """Lets one or both actors grow, shrink or spin, differently; their sizes agree at a random time."""
    names = ["grow", "shrink", "none"]
    if pair[0].shape in TURNABLE_SHAPES:
        names.append("spin")
    chosen = [str(n) for n in rng.choice(names, size=2, replace=False)]
    moment = rng.uniform(0.25, 0.75)
    return [_apply_change(rng, canvas, actor, name, moment) for actor, name in zip(pair, chosen, strict=True)]


def _apply_change(rng: np.random.Generator, canvas: Canvas, actor: Actor, change: str, moment: float) -> Actor:
    time = np.linspace(0, 1, canvas.num_frames)
    if change in ("grow", "shrink"):
        rate = np.log(rng.uniform(1.6, 1.9)) * (1 if change == "grow" else -1)
        return replace(actor, radii=actor.radii * np.exp(rate * (time - moment)))
    if change == "spin":
        rate = np.deg2rad(rng.uniform(14, 21)) * rng.choice([-1, 1]) * min(1.0, 11 / (canvas.num_frames - 1))
        return replace(actor, angles=actor.angles + rate * np.arange(canvas.num_frames))
    return actor


def _random_start(rng: np.random.Generator, canvas: Canvas) -> Float[np.ndarray, "2"]:
    margin = 6 * canvas.unit
    return rng.uniform([margin, margin], [canvas.width - margin, canvas.height - margin])


def _stays_inside(canvas: Canvas, actor: Actor, share_of_radius: float) -> bool:
    """Whether the centre keeps this share of the radius from the border in every frame."""
    margin = (share_of_radius * actor.radii)[:, None]
    limit = np.array([canvas.width - 1, canvas.height - 1])
    return bool(((actor.centres >= margin) & (actor.centres <= limit - margin)).all())


def _closeness(a: Actor, b: Actor) -> Float[np.ndarray, " time"]:
    """Distance of the centres divided by the sum of the radii."""
    return np.linalg.norm(a.centres - b.centres, axis=-1) / (a.radii + b.radii)


def _arrange_pair(
    rng: np.random.Generator, canvas: Canvas, pair: list[Actor], paths: list[Float[np.ndarray, "time 2"]]
) -> list[Actor] | None:
    """Two look-alikes whose start positions suit both assignments of the paths, so that the start hides the path."""
    for _ in range(_MAX_TRIES):
        starts = [_random_start(rng, canvas), _random_start(rng, canvas)]
        arrangements = [
            [replace(actor, centres=start + path) for actor, start, path in zip(pair, starts, order, strict=True)]
            for order in (paths, paths[::-1])
        ]
        if all(
            all(_stays_inside(canvas, actor, 0.35) for actor in arranged) and _closeness(*arranged).min() > 0.8
            for arranged in arrangements
        ):
            return arrangements[0]
    return None


def _arrange_crossing(rng: np.random.Generator, canvas: Canvas, waiting: list[Actor]) -> list[Actor] | None:
    """The first actor crosses the third, which rests or drifts; the second is arranged later."""
    mover, crossed = waiting[0], waiting[2]
    for _ in range(_MAX_TRIES):
        path = sample_path(rng, canvas, str(rng.choice(list(DIRECTIONS))), (3.0, 4.0))
        mover = replace(mover, centres=_random_start(rng, canvas) + path)
        moment = round((canvas.num_frames - 1) * rng.uniform(0.4, 0.6))
        meeting = mover.centres[moment] + rng.uniform(-0.4, 0.4, size=2) * crossed.radii[0]
        drift = path - path[moment]
        crossed = replace(crossed, centres=meeting - drift * rng.choice([0.0, 0.0, 0.2]))
        apart = _closeness(mover, crossed)
        if (
            _stays_inside(canvas, mover, 0.35)
            and _stays_inside(canvas, crossed, 0.5)
            and apart[0] > 1
            and (apart[-1] > 1)
        ):
            return [mover, crossed]
    return None


def _add_look_alike(
    rng: np.random.Generator, canvas: Canvas, look_alike: Actor, actors: list[Actor]
) -> list[Actor] | None:
    """Adds a look-alike of the passing actor that starts about as far from the crossed one, but misses it."""
    mover, crossed = actors
    distance = np.linalg.norm(mover.centres[0] - crossed.centres[0])
    for _ in range(_MAX_TRIES):
        arranged = _arrange_freely(rng, canvas, look_alike, actors)
        if arranged is None:
            return None
        ratio = np.linalg.norm(arranged.centres[0] - crossed.centres[0]) / distance
        if 0.7 < ratio < 1.4 and _closeness(arranged, crossed).min() > 0.9 and _could_exchange(canvas, mover, arranged):
            return [*actors, arranged]
    return None


def _could_exchange(canvas: Canvas, a: Actor, b: Actor) -> bool:
    """Whether both would stay in the frame with their own motion and with that of the other."""
    between = b.centres[0] - a.centres[0]
    swapped = (replace(a, centres=b.centres - between), replace(b, centres=a.centres + between))
    return all(_stays_inside(canvas, actor, 0.35) for actor in (a, b, *swapped))


def _arrange_at_border(rng: np.random.Generator, canvas: Canvas, actor: Actor) -> list[Actor] | None:
    """The actor with a trajectory that enters the frame or leaves it."""
    for _ in range(_MAX_TRIES):
        direction = str(rng.choice(list(DIRECTIONS)))
        path = sample_path(rng, canvas, direction, (2.8, 3.8))
        start = _random_start(rng, canvas)
        axis, sign = (0, DIRECTIONS[direction][0]) if direction in ("left", "right") else (1, DIRECTIONS[direction][1])
        extent = (canvas.width, canvas.height)[axis]
        enters = rng.random() < 0.5
        edge = (0 if sign > 0 else extent) if enters else (extent if sign > 0 else 0) - path[-1, axis]
        start[axis] = edge + (-1 if enters else 1) * sign * actor.radii[0] * rng.uniform(1.0, 1.2)
        moving = replace(actor, centres=start + path)
        across = moving.centres[:, 1 - axis]
        margin = 0.8 * actor.radii[0]
        inside = moving.centres[len(path) // 2, axis]
        if (
            margin < across.min()
            and across.max() < (canvas.height, canvas.width)[axis] - margin
            and 0 < inside < extent
        ):
            return [moving]
    return None


def _arrange_freely(rng: np.random.Generator, canvas: Canvas, actor: Actor, others: list[Actor]) -> Actor | None:
    """The actor with any motion: mostly in the frame, apart from the others at first, and no long occlusion."""
    for _ in range(_MAX_TRIES):
        motion = str(
            rng.choice(["left", "right", "up", "down", "still", "stop"], p=[0.18, 0.18, 0.15, 0.15, 0.22, 0.12])
        )
        moving = replace(actor, centres=_random_start(rng, canvas) + sample_path(rng, canvas, motion))
        closeness = [_closeness(moving, other) for other in others]
        if _stays_inside(canvas, moving, 0.2) and all(
            c[0] > 0.85 and (c < 0.6).mean() < 0.3 and c.min() > 0.2 for c in closeness
        ):
            if len(others) >= 2 and rng.random() < 0.12:
                moving = _apply_change(rng, canvas, moving, str(rng.choice(CHANGES)), 0.5)
            return moving
    return None
