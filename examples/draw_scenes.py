"""Draw the scenes in examples/pictures: a ship at sea, a truck on a road, as small photographs.

Usage: .venv/bin/python examples/draw_scenes.py

The drawings are those of export/data/scenes.py, whose smaller sisters are golden inputs; so this needs .venv with the
extra `export`. The same files come out each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from export.data.scenes import SCENES, draw_scene

SIDE_PX = 160  # five times the model's input: scaling down is the server's work
SEED = 100  # none of the golden pictures


def main() -> None:
    """Write scene-<label>.png for every scene, and scene-ship.jpg for the other format."""
    folder = Path(__file__).parent / "pictures"
    for name in SCENES:
        Image.fromarray(draw_scene(name, SIDE_PX, SIDE_PX, SEED)).save(folder / f"scene-{name}.png", optimize=True)
    Image.fromarray(draw_scene("ship", SIDE_PX, SIDE_PX, SEED)).save(folder / "scene-ship.jpg", quality=90)


if __name__ == "__main__":
    main()
