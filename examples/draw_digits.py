"""Draw the digits in examples/pictures with pen strokes through hand-chosen points.

Usage: .venv-serve/bin/python examples/draw_digits.py

The digits are white on black and centred, like the training data of LeNet-5. The output is always the same.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

Point = tuple[float, float]

SIDE_PX = 140  # five times the model's input: the server scales down
OVERSAMPLING = 4  # drawn larger and then scaled down, for smooth edges
PEN = 0.085  # width of the pen as a share of the side

# x to the right, y down, from 0 to 1. A digit is one or more strokes. A stroke is a smooth curve through its points.
STROKES: dict[str, list[list[Point]]] = {
    "0": [[(0.55, 0.16), (0.36, 0.24), (0.29, 0.52), (0.38, 0.80), (0.55, 0.83), (0.70, 0.62), (0.68, 0.30),
           (0.52, 0.16)]],
    "1": [[(0.42, 0.30), (0.54, 0.17), (0.52, 0.50), (0.48, 0.84)]],
    "2": [[(0.32, 0.32), (0.42, 0.18), (0.62, 0.22), (0.62, 0.42), (0.42, 0.66), (0.29, 0.82)],
          [(0.29, 0.82), (0.50, 0.79), (0.74, 0.82)]],
    "3": [[(0.32, 0.22), (0.50, 0.15), (0.64, 0.26), (0.58, 0.42), (0.44, 0.48)],
          [(0.44, 0.48), (0.62, 0.53), (0.67, 0.70), (0.52, 0.84), (0.31, 0.78)]],
    "4": [[(0.40, 0.17), (0.35, 0.36), (0.30, 0.54), (0.48, 0.55), (0.72, 0.52)],
          [(0.64, 0.20), (0.61, 0.50), (0.58, 0.85)]],
    "5": [[(0.68, 0.18), (0.54, 0.18), (0.40, 0.20)],
          [(0.40, 0.20), (0.36, 0.45), (0.54, 0.44), (0.66, 0.60), (0.58, 0.80), (0.32, 0.82)]],
    "6": [[(0.60, 0.16), (0.42, 0.34), (0.34, 0.62), (0.44, 0.82), (0.60, 0.80), (0.66, 0.64), (0.52, 0.54),
           (0.37, 0.66)]],
    "7": [[(0.29, 0.22), (0.48, 0.21), (0.69, 0.20)],
          [(0.69, 0.20), (0.56, 0.50), (0.47, 0.84)]],
    "8": [[(0.62, 0.24), (0.46, 0.16), (0.37, 0.28), (0.50, 0.46), (0.62, 0.66), (0.52, 0.84), (0.37, 0.74),
           (0.46, 0.52), (0.61, 0.36), (0.62, 0.24)]],
    "9": [[(0.64, 0.28), (0.48, 0.17), (0.36, 0.32), (0.44, 0.47), (0.60, 0.42), (0.65, 0.26), (0.62, 0.56),
           (0.54, 0.85)]],
}  # fmt: skip


def smooth(points: list[Point], steps: int = 24) -> list[Point]:
    """Put a Catmull-Rom curve through the points."""
    padded = [points[0], *points, points[-1]]
    curve: list[Point] = []
    for before, start, end, after in zip(padded, padded[1:], padded[2:], padded[3:], strict=False):
        for step in range(steps):
            t = step / steps
            weights = (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2)
            four = (before, start, end, after)
            x, y = (sum(w * p[axis] for w, p in zip(weights, four, strict=True)) / 2 for axis in (0, 1))
            curve.append((x, y))
    return [*curve, points[-1]]


def draw(digit: str) -> Image.Image:
    """Draw one digit: the pen is a disc moved along each stroke."""
    side = SIDE_PX * OVERSAMPLING
    picture = Image.new("L", (side, side), 0)
    brush = ImageDraw.Draw(picture)
    radius = PEN * side / 2
    for stroke in STROKES[digit]:
        curve = [(x * side, y * side) for x, y in smooth(stroke)]
        brush.line(curve, fill=255, width=round(2 * radius))
        for x, y in curve:
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return picture.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def main() -> None:
    """Write digit-0.png to digit-9.png, and digit-7.jpg as a JPEG example."""
    folder = Path(__file__).parent / "pictures"
    folder.mkdir(exist_ok=True)
    for digit in STROKES:
        draw(digit).save(folder / f"digit-{digit}.png", optimize=True)
    draw("7").save(folder / "digit-7.jpg", quality=90)


if __name__ == "__main__":
    main()
