"""Ten classes of drawn pictures, built in, so that every command has something to run on without a download.

Position, size, tilt, colours, background and clutter vary; the class is in the shape or the pattern alone, so that
neither the mean colour gives it away nor does a mirror change it. They vary as much as 40 pictures a class can teach: a
small model on latents learns most of it in minutes. Pictures are a function of (seed, split, index).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ci2p_cache.errors import InputError
from pipeline.encode.datasets.found import FoundImages
from pipeline.encode.datasets.split import UNKNOWN_STAMP, SourceSplit, Stamp, sorted_split

NUM_PER_CLASS = {"train": 40, "val": 20}
MIN_EDGE, MAX_EDGE = 272, 352  # pixels
MAX_TILT = np.pi / 12  # radians, either way

# H, W height and width of a picture; a shape maps coordinates u, v (float32 [H, W], 1 = the object's size) to a signed
# distance in the same unit: negative inside, 0 on the outline.
FloatHW = NDArray[np.float32]
Shape = Callable[[FloatHW, FloatHW], FloatHW]


def _polygon(num_sides: int, u: FloatHW, v: FloatHW, inner: float) -> FloatHW:
    """A regular polygon of corner radius 1; `inner` below 1 pulls the middle of each side in to that radius: a star."""
    half = np.float32(np.pi / num_sides)
    folded = np.abs((np.arctan2(v, u) % (2 * half)) - half)  # 0 in the middle of a side, `half` at a corner
    radius = np.hypot(u, v)
    x, y = radius * np.cos(folded), radius * np.sin(folded)
    corner = (np.cos(half), np.sin(half))
    edge = (corner[0] - inner, corner[1])
    length = float(np.hypot(*edge))
    distance: FloatHW = ((x - inner) * edge[1] - y * edge[0]) / np.float32(length)
    return distance


def _cross(u: FloatHW, v: FloatHW) -> FloatHW:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - np.float32(0.95), np.minimum(u, v) - np.float32(0.3))


SHAPES: dict[str, Shape] = {
    "circle": lambda u, v: np.hypot(u, v) - np.float32(0.9),
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - np.float32(0.75)) - np.float32(0.2),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - np.float32(0.8),
    "star": lambda u, v: _polygon(5, u, v, inner=0.42),
    "triangle": lambda u, v: _polygon(3, u, v, inner=0.5),
}
# Patterns fill the picture; their unit is the wave's length.
PATTERNS: dict[str, Shape] = {
    "checkerboard": lambda u, v: np.sin(np.pi * u) * np.sin(np.pi * v) / np.float32(np.pi),
    "dots": lambda u, v: np.hypot(u - np.round(u), v - np.round(v)) - np.float32(0.3),
    "stripes": lambda u, v: np.abs(u - np.round(u)) - np.float32(0.25),
    "waves": lambda u, v: np.abs((w := u + np.float32(0.45) * np.sin(np.pi * v)) - np.round(w)) - np.float32(0.25),
}
CLASSES: tuple[str, ...] = tuple(sorted({**SHAPES, **PATTERNS}))


@dataclass(frozen=True)
class DrawnImages:
    """An ImageSource: row r is picture r % num_per_class of class r // num_per_class, drawn when it is read."""

    seed: int
    split: str
    num_per_class: int

    def read(self, row: int) -> bytes:
        rng = np.random.default_rng([self.seed, sorted(NUM_PER_CLASS).index(self.split), row])
        buffer = BytesIO()
        draw(CLASSES[row // self.num_per_class], rng).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    def stamp(self, row: int) -> Stamp:
        return UNKNOWN_STAMP


def find_sample(data_dir: str | None, seed: int) -> FoundImages:
    """400 pictures to train on and 200 to validate with, JPEG, of 272 to 352 pixels an edge; keys are "star/0007"."""
    if data_dir is not None:
        raise InputError(f"--data-dir {data_dir}: sample is built in and reads no folder; leave the option out")
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or more")
    return FoundImages(
        layout="built-in pictures, drawn",
        parts={split: cache(partial(_draw_split, split, seed)) for split in NUM_PER_CLASS},
        called={split: f"sample's {split}" for split in NUM_PER_CLASS},
        expected="sample has train and val",
    )


def _draw_split(split: str, seed: int) -> SourceSplit:
    count = NUM_PER_CLASS[split]
    keys = [f"{name}/{number:04d}" for name in CLASSES for number in range(count)]
    labels = [label for label in range(len(CLASSES)) for _ in range(count)]
    return sorted_split(CLASSES, keys, labels, DrawnImages(seed, split, count))


def draw(class_name: str, rng: np.random.Generator) -> Image.Image:
    """One RGB picture of a class."""
    width, height = (int(edge) for edge in rng.integers(MIN_EDGE, MAX_EDGE + 1, size=2))
    ground, figure = _two_colours(rng)
    image = _background(width, height, ground, rng)
    is_pattern = class_name in PATTERNS
    if not is_pattern:
        _clutter(image, figure, rng)
    short = min(width, height)
    unit = short * (rng.uniform(0.16, 0.22) if is_pattern else rng.uniform(0.36, 0.44))
    angle = rng.uniform(-MAX_TILT, MAX_TILT)
    slack = 1.0 if is_pattern else 0.35
    centre_x = width / 2 + rng.uniform(-slack, slack) * max(width / 2 - unit, 0)
    centre_y = height / 2 + rng.uniform(-slack, slack) * max(height / 2 - unit, 0)
    x = (np.arange(width, dtype=np.float32)[None, :] - np.float32(centre_x)) / np.float32(unit)
    y = (np.arange(height, dtype=np.float32)[:, None] - np.float32(centre_y)) / np.float32(unit)
    angle -= np.pi / 2 if class_name in ("star", "triangle") else 0  # a corner on top
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    distance = {**SHAPES, **PATTERNS}[class_name](cos * x + sin * y, cos * y - sin * x)
    alpha = np.clip(np.float32(0.5) - distance * np.float32(unit), 0, 1)  # one pixel of soft edge
    mask = Image.fromarray((alpha * 255).astype(np.uint8))
    image.paste(_background(width, height, figure, rng), mask=mask)
    if is_pattern:
        _clutter(image, figure, rng)
    return image


def _two_colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours of ground and figure, [3] in 15..240, the figure clearly the lighter one also in grey.

    Which of the two is lighter never varies: 40 pictures a class are too few to learn that it does not matter.
    """
    while True:
        ground, figure = rng.uniform(15, 240, size=(2, 3))
        if np.dot(figure - ground, (0.299, 0.587, 0.114)) > 80:
            return ground, figure


def _background(width: int, height: int, colour: NDArray[np.float64], rng: np.random.Generator) -> Image.Image:
    """A colour with soft blotches and a slope across it."""
    cells = rng.normal(0, 8, size=(6, 6, 3)) + np.linspace(-1, 1, 6)[:, None, None] * rng.uniform(-15, 15, size=3)
    small = Image.fromarray(np.clip(colour + cells, 0, 255).astype(np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _clutter(image: Image.Image, figure: NDArray[np.float64], rng: np.random.Generator) -> None:
    """A few small discs, bars and lines, far smaller than the object, some in its colour."""
    pen = ImageDraw.Draw(image)
    short = min(image.size)
    for _ in range(int(rng.integers(2, 6))):
        x, y = rng.uniform(0, image.width), rng.uniform(0, image.height)
        dx, dy = rng.uniform(0.02, 0.05, size=2) * short
        chosen = figure if rng.random() < 0.3 else rng.uniform(20, 235, size=3)
        fill = (int(chosen[0]), int(chosen[1]), int(chosen[2]))
        kind = int(rng.integers(3))
        if kind == 0:
            pen.ellipse((x - dx, y - dx, x + dx, y + dx), fill=fill)
        elif kind == 1:
            pen.rectangle((x - dx, y - dy, x + dx, y + dy), fill=fill)
        else:
            pen.line((x - 2 * dx, y - 2 * dy, x + 2 * dx, y + 2 * dy), fill=fill, width=3)
