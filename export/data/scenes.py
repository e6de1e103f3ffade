"""Draws scenes that resemble small photographs: a ship at sea, a truck on a road.

Coordinates run from 0 to 1, x to the right and y down, so a scene can be drawn at any size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
_OVERSIZE = 4  # scenes are drawn this many times larger and shrunk, which smooths edges
_LEAST_PX = 96  # size before oversizing; thin shapes would vanish in smaller drawings


class _Canvas:
    """Draws in coordinates from 0 to 1 and holds the random numbers of one scene."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.size = (max(width, _LEAST_PX) * _OVERSIZE, max(height, _LEAST_PX) * _OVERSIZE)
        self.image = Image.new("RGB", self.size)
        self._pen = ImageDraw.Draw(self.image)
        # Each drawing of a scene differs a little in position and size.
        self._scale = rng.uniform(0.9, 1.05)
        self._shift = rng.uniform(-0.04, 0.04, 2)

    def ground(self, top: Colour, bottom: Colour, begin: float = 0.0) -> None:
        """Fill from ``begin`` downwards with a gradient."""
        height = self.size[1]
        first = round(begin * height)
        for y in range(first, height):
            share = (y - first) / max(1, height - first)
            colour = tuple(round(a + (b - a) * share) for a, b in zip(top, bottom, strict=True))
            self._pen.line([(0, y), (self.size[0], y)], fill=colour)

    def shape(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Draw a polygon."""
        self._pen.polygon([self._at(*point) for point in points], fill=self._vary(colour))

    def oval(self, x: float, y: float, across: float, down: float, colour: Colour) -> None:
        """Draw an ellipse around a centre."""
        box = [*self._at(x - across, y - down), *self._at(x + across, y + down)]
        self._pen.ellipse(box, fill=self._vary(colour))

    def line(self, points: list[tuple[float, float]], width: float, colour: Colour) -> None:
        """Draw a line with round corners."""
        pixels = max(1, round(width * self._scale * self.size[0]))
        self._pen.line([self._at(*point) for point in points], fill=self._vary(colour), width=pixels, joint="curve")

    def finish(self, height: int, width: int) -> np.ndarray:
        """Blur, shrink and add noise like a camera's: uint8 (height, width, 3)."""
        soft = self.image.filter(ImageFilter.GaussianBlur(self.size[0] / 160))
        pixels = np.asarray(soft.resize((width, height), Image.Resampling.BOX), dtype=np.float64)
        noisy = pixels + self.rng.normal(0, 4, pixels.shape)
        picture: np.ndarray = np.clip(noisy.round(), 0, 255).astype(np.uint8)
        return picture

    def _at(self, x: float, y: float) -> tuple[float, float]:
        x, y = (0.5 + (v - 0.5) * self._scale + s for v, s in zip((x, y), self._shift, strict=True))
        return x * self.size[0], y * self.size[1]

    def _vary(self, colour: Colour) -> Colour:
        r, g, b = (int(np.clip(part + self.rng.normal(0, 5), 0, 255)) for part in colour)
        return r, g, b


def _airplane(c: _Canvas) -> None:
    c.ground((92, 140, 204), (176, 204, 232))
    c.shape([(0.42, 0.5), (0.6, 0.5), (0.3, 0.82), (0.22, 0.82)], (150, 156, 168))
    c.shape([(0.08, 0.52), (0.14, 0.46), (0.8, 0.44), (0.93, 0.49), (0.8, 0.55), (0.16, 0.57)], (232, 234, 238))
    c.shape([(0.08, 0.5), (0.03, 0.26), (0.13, 0.26), (0.24, 0.48)], (206, 64, 60))
    c.shape([(0.5, 0.46), (0.62, 0.46), (0.46, 0.28), (0.4, 0.28)], (188, 194, 204))
    c.line([(0.24, 0.49), (0.8, 0.48)], 0.012, (86, 96, 116))


def _automobile(c: _Canvas) -> None:
    c.ground((196, 206, 214), (170, 178, 180))
    c.ground((112, 112, 114), (140, 140, 140), 0.66)
    c.oval(0.5, 0.8, 0.44, 0.04, (58, 58, 60))
    c.shape([(0.25, 0.5), (0.36, 0.32), (0.66, 0.32), (0.8, 0.5)], (150, 26, 28))
    c.shape([(0.3, 0.5), (0.385, 0.36), (0.5, 0.36), (0.5, 0.5)], (60, 74, 88))
    c.shape([(0.53, 0.5), (0.53, 0.36), (0.64, 0.36), (0.74, 0.5)], (60, 74, 88))
    c.shape([(0.06, 0.54), (0.14, 0.48), (0.84, 0.48), (0.95, 0.56), (0.95, 0.72), (0.06, 0.72)], (198, 34, 36))
    for x in (0.25, 0.76):
        c.oval(x, 0.73, 0.1, 0.1, (26, 26, 28))
        c.oval(x, 0.73, 0.055, 0.055, (176, 178, 182))
    c.oval(0.92, 0.58, 0.025, 0.025, (250, 240, 190))


def _ship(c: _Canvas) -> None:
    c.ground((168, 196, 222), (206, 220, 230))
    c.ground((52, 92, 132), (30, 62, 96), 0.62)
    c.shape([(0.05, 0.54), (0.95, 0.5), (0.86, 0.7), (0.14, 0.7)], (40, 44, 58))
    c.shape([(0.12, 0.66), (0.88, 0.66), (0.86, 0.71), (0.14, 0.71)], (150, 44, 40))
    c.shape([(0.2, 0.53), (0.2, 0.43), (0.72, 0.43), (0.72, 0.52)], (236, 236, 232))
    c.shape([(0.28, 0.43), (0.28, 0.34), (0.6, 0.34), (0.6, 0.43)], (222, 224, 224))
    c.shape([(0.4, 0.34), (0.41, 0.2), (0.5, 0.2), (0.5, 0.34)], (206, 70, 52))
    c.line([(0.8, 0.51), (0.8, 0.2)], 0.012, (90, 90, 96))
    c.line([(0.24, 0.48), (0.7, 0.48)], 0.014, (70, 86, 110))


def _truck(c: _Canvas) -> None:
    c.ground((186, 204, 224), (206, 212, 214))
    c.ground((104, 104, 106), (134, 134, 134), 0.72)
    c.oval(0.5, 0.85, 0.46, 0.035, (52, 52, 54))
    c.shape([(0.05, 0.2), (0.64, 0.2), (0.64, 0.7), (0.05, 0.7)], (232, 230, 222))
    c.shape([(0.05, 0.4), (0.64, 0.4), (0.64, 0.48), (0.05, 0.48)], (40, 86, 160))
    c.shape([(0.67, 0.36), (0.84, 0.36), (0.94, 0.54), (0.95, 0.74), (0.67, 0.74)], (196, 44, 40))
    c.shape([(0.73, 0.4), (0.83, 0.4), (0.9, 0.54), (0.73, 0.54)], (70, 88, 104))
    c.shape([(0.05, 0.7), (0.95, 0.7), (0.95, 0.77), (0.05, 0.77)], (48, 48, 52))
    for x in (0.17, 0.3, 0.8):
        c.oval(x, 0.78, 0.075, 0.08, (22, 22, 24))
        c.oval(x, 0.78, 0.035, 0.038, (150, 150, 154))


def _horse(c: _Canvas) -> None:
    c.ground((176, 204, 226), (200, 216, 210))
    c.ground((104, 148, 66), (84, 122, 48), 0.6)
    brown, dark = (122, 74, 40), (64, 38, 24)
    for x in (0.3, 0.37, 0.6, 0.66):
        c.line([(x, 0.58), (x - 0.01, 0.88)], 0.045, brown)
    c.oval(0.47, 0.5, 0.24, 0.13, brown)
    c.shape([(0.58, 0.5), (0.7, 0.44), (0.8, 0.2), (0.72, 0.16), (0.6, 0.36)], brown)
    c.shape([(0.71, 0.15), (0.8, 0.16), (0.94, 0.29), (0.9, 0.35), (0.76, 0.28)], brown)
    c.line([(0.71, 0.15), (0.63, 0.27), (0.58, 0.39)], 0.04, dark)
    c.line([(0.24, 0.44), (0.16, 0.52), (0.15, 0.72)], 0.045, dark)
    c.shape([(0.72, 0.16), (0.72, 0.08), (0.76, 0.15)], brown)


def _frog(c: _Canvas) -> None:
    c.ground((126, 104, 74), (94, 76, 52))
    green, dark = (92, 138, 52), (62, 98, 36)
    c.oval(0.26, 0.68, 0.2, 0.14, dark)
    c.oval(0.74, 0.68, 0.2, 0.14, dark)
    c.oval(0.5, 0.58, 0.32, 0.26, green)
    c.oval(0.5, 0.7, 0.24, 0.13, (186, 186, 120))
    for x in (0.33, 0.67):
        c.oval(x, 0.35, 0.1, 0.1, green)
        c.oval(x, 0.34, 0.06, 0.06, (222, 196, 70))
        c.oval(x, 0.34, 0.032, 0.035, (16, 16, 14))
    c.line([(0.3, 0.56), (0.5, 0.61), (0.7, 0.56)], 0.014, (40, 62, 24))
    c.line([(0.2, 0.84), (0.36, 0.82)], 0.04, green)
    c.line([(0.64, 0.82), (0.8, 0.84)], 0.04, green)


def _bird(c: _Canvas) -> None:
    c.ground((150, 176, 130), (116, 148, 98))
    c.line([(0.0, 0.8), (1.0, 0.74)], 0.05, (92, 66, 44))
    c.line([(0.46, 0.66), (0.45, 0.78)], 0.02, (70, 50, 36))
    c.line([(0.54, 0.66), (0.54, 0.77)], 0.02, (70, 50, 36))
    c.shape([(0.34, 0.56), (0.08, 0.74), (0.14, 0.8), (0.42, 0.64)], (84, 62, 46))
    c.oval(0.48, 0.52, 0.19, 0.16, (150, 112, 80))
    c.oval(0.55, 0.56, 0.13, 0.11, (226, 178, 130))
    c.oval(0.66, 0.34, 0.11, 0.105, (142, 104, 74))
    c.shape([(0.75, 0.32), (0.87, 0.37), (0.75, 0.39)], (60, 52, 42))
    c.oval(0.69, 0.32, 0.02, 0.022, (14, 14, 14))
    c.shape([(0.34, 0.48), (0.56, 0.46), (0.4, 0.64), (0.26, 0.64)], (98, 72, 52))


def _cat(c: _Canvas) -> None:
    c.ground((190, 170, 150), (150, 128, 110))
    grey, dark = (122, 116, 112), (78, 74, 72)
    c.oval(0.5, 0.95, 0.36, 0.3, grey)
    c.shape([(0.22, 0.42), (0.22, 0.08), (0.46, 0.26)], grey)
    c.shape([(0.78, 0.42), (0.78, 0.08), (0.54, 0.26)], grey)
    c.shape([(0.26, 0.32), (0.26, 0.16), (0.38, 0.26)], (206, 150, 146))
    c.shape([(0.74, 0.32), (0.74, 0.16), (0.62, 0.26)], (206, 150, 146))
    c.oval(0.5, 0.47, 0.31, 0.27, grey)
    for x in (0.44, 0.5, 0.56):
        c.line([(x, 0.22), (x, 0.34)], 0.02, dark)
    for x in (0.37, 0.63):
        c.oval(x, 0.44, 0.065, 0.055, (186, 196, 84))
        c.oval(x, 0.44, 0.022, 0.05, (12, 12, 12))
    c.oval(0.5, 0.62, 0.13, 0.09, (206, 200, 196))
    c.shape([(0.46, 0.55), (0.54, 0.55), (0.5, 0.6)], (196, 112, 112))


SCENES: dict[str, Callable[[_Canvas], None]] = {
    "airplane": _airplane,
    "automobile": _automobile,
    "bird": _bird,
    "cat": _cat,
    "frog": _frog,
    "horse": _horse,
    "ship": _ship,
    "truck": _truck,
}


def draw_scene(name: str, height: int, width: int, seed: int) -> np.ndarray:
    """Draw a scene of :data:`SCENES`, the same for the same seed: uint8 (height, width, 3)."""
    canvas = _Canvas(height, width, np.random.default_rng([seed, *name.encode()]))
    SCENES[name](canvas)
    return canvas.finish(height, width)
