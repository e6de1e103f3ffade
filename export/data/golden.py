"""Raw inputs for golden vectors, drawn or written by this project and not taken from any data set.

They need not resemble the training data; they must exercise every part of the model.
"""

from __future__ import annotations

import functools
import io
import itertools
import math
from collections.abc import Callable, Sequence
from importlib import resources

import numpy as np
from PIL import Image, ImageDraw

from export.data.pictures import encode_png
from export.data.scenes import SCENES, draw_scene
from service.spec import ImageSpec, TextSpec

COUNT = 16
_SENTENCES_FILE = "golden_sentences.txt"
_DOUBTED = 4  # pictures of which a model should not be certain
_DOUBT = (0.9, 0.999)  # probability of the top-1 in slight doubt
_HALVINGS = 8  # down to one of 256 levels
_OVERSIZE = 8  # strokes are drawn this many times larger and shrunk, which smooths their edges

# Each digit as polylines in a unit square, x to the right and y down.
_Point = tuple[float, float]
_RING = [(0.5 + 0.28 * math.sin(a * math.pi / 8), 0.5 - 0.4 * math.cos(a * math.pi / 8)) for a in range(17)]
_UPPER = [(0.5 + 0.2 * math.sin(a * math.pi / 8), 0.3 - 0.2 * math.cos(a * math.pi / 8)) for a in range(17)]
_LOWER = [(0.5 + 0.25 * math.sin(a * math.pi / 8), 0.7 - 0.2 * math.cos(a * math.pi / 8)) for a in range(17)]
_STROKES: tuple[list[list[_Point]], ...] = (
    [_RING],
    [[(0.35, 0.25), (0.5, 0.1), (0.5, 0.9)]],
    [[(0.25, 0.3), (0.35, 0.13), (0.6, 0.1), (0.73, 0.3), (0.25, 0.9), (0.77, 0.9)]],
    [[(0.27, 0.1), (0.72, 0.1), (0.45, 0.45), (0.7, 0.55), (0.7, 0.8), (0.45, 0.9), (0.25, 0.8)]],
    [[(0.65, 0.9), (0.65, 0.1), (0.22, 0.65), (0.8, 0.65)]],
    [[(0.72, 0.1), (0.32, 0.1), (0.28, 0.45), (0.6, 0.42), (0.74, 0.65), (0.6, 0.88), (0.25, 0.86)]],
    [[(0.65, 0.1), (0.35, 0.4), (0.26, 0.7)], _LOWER],
    [[(0.24, 0.1), (0.76, 0.1), (0.42, 0.9)]],
    [_UPPER, _LOWER],
    [_UPPER, [(0.7, 0.3), (0.66, 0.6), (0.55, 0.9)]],
)


def golden_raw(spec: ImageSpec | TextSpec) -> tuple[bytes, ...]:
    """Return encoded pictures (:data:`COUNT` of them) or sentences, the same each time."""
    return golden_pictures(spec) if isinstance(spec, ImageSpec) else golden_sentences()


def golden_sentences() -> tuple[bytes, ...]:
    """Return sentences in UTF-8, from one word to many, some with words that no vocabulary has."""
    text = resources.files("export.data").joinpath(_SENTENCES_FILE).read_text(encoding="utf-8")
    return tuple(line.encode() for line in text.splitlines() if line and not line.startswith("#"))


@functools.lru_cache(maxsize=4)  # load asks four times for those of one model
def golden_pictures(spec: ImageSpec) -> tuple[bytes, ...]:
    """Draw pictures for a model, as PNGs: digits if it takes grey pictures, scenes if it takes coloured ones.

    Digits are light on dark and vary in stroke, position, slant, size and noise. The last two pictures
    have another size than the model's, and the last has another mode, so decoding and resizing are
    checked as well.
    """
    rng = np.random.default_rng(1998)
    pictures = []
    for number in range(COUNT):
        is_odd_one = number >= COUNT - 2
        height, width = (spec.height + 9, spec.width + 13) if is_odd_one else (spec.height, spec.width)
        if spec.mode == "RGB":
            picture = draw_scene(list(SCENES)[number % len(SCENES)], height, width, seed=number)
            pictures.append(encode_png(picture[..., :1] if number == COUNT - 1 else picture))
            continue
        grey = _draw(number % 10, height, width, rng)
        noise = rng.integers(-20, 21, size=grey.shape) if number % 3 == 2 else 0
        grey = np.clip(grey + noise, 0, 255).astype(np.uint8)
        pictures.append(encode_png(_tint(grey, rng) if number == COUNT - 1 else grey[..., np.newaxis]))
    return tuple(pictures)


def doubted_pictures(raw: Sequence[bytes], answer: Callable[[list[bytes]], np.ndarray]) -> tuple[bytes, ...]:
    """Return blends of a model's golden pictures that leave it in slight doubt, as PNGs; none if some of them do.

    Where softmax says 1.000000, a fault may move the logits and no probability. Between two pictures with different
    answers lies a blend in which it shows. In great doubt, rounding would show as well.

    Args:
        raw: What :func:`golden_pictures` drew.
        answer: Returns the right probabilities (N, K) for encoded pictures.
    """
    answers = answer(list(raw))
    if (answers.max(axis=1) < _DOUBT[1]).sum() >= _DOUBTED:
        return ()
    drawn = [np.asarray(Image.open(io.BytesIO(each)), dtype=np.float64) for each in raw[: COUNT - 2]]  # of one size
    tops = answers.argmax(axis=1)
    pairs = [(a, b) for a, b in itertools.combinations(range(len(drawn)), 2) if tops[a] != tops[b]]
    found: list[bytes] = []
    for one, other in pairs[:: max(1, len(pairs) // _DOUBTED)][:_DOUBTED]:
        low, high = 0.0, 1.0  # the share of the other
        for _ in range(_HALVINGS):
            share = (low + high) / 2
            blend = (drawn[one] + (drawn[other] - drawn[one]) * share).round().astype(np.uint8)
            picture = encode_png(np.atleast_3d(blend))
            (came,) = answer([picture])
            if _DOUBT[0] <= came[tops[one]] <= _DOUBT[1]:
                found.append(picture)
                break
            low, high = (share, high) if came[tops[one]] > _DOUBT[1] else (low, share)
    return tuple(found)


def _draw(digit: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one digit: int64 (height, width), 0 to 255."""
    size = (width * _OVERSIZE, height * _OVERSIZE)
    canvas = Image.new("L", size)
    pen = ImageDraw.Draw(canvas)
    scale = rng.uniform(0.6, 0.8)
    slant = rng.uniform(-0.2, 0.2)
    x0, y0 = (1 - scale) / 2 + rng.uniform(-0.08, 0.08, size=2)
    stroke = round(min(size) * rng.uniform(0.07, 0.12))
    light = int(rng.integers(180, 256))
    for line in _STROKES[digit]:
        points = [
            ((x0 + scale * (x + slant * (0.5 - y))) * size[0], (y0 + scale * y) * size[1])  # leans to the right
            for x, y in line
        ]
        pen.line(points, fill=light, width=stroke, joint="curve")
    return np.asarray(canvas.resize((width, height), Image.Resampling.BOX), dtype=np.int64)


def _tint(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colour a grey picture, with a different strength in each channel: uint8 (H, W, 3)."""
    strengths = rng.uniform(0.4, 1.0, size=3)
    return (grey[..., np.newaxis] * strengths).astype(np.uint8)
