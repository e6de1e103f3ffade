"""Draw the scenes in examples/pictures, such as a ship at sea or a truck on a road.

Usage: .venv/bin/python examples/draw_scenes.py

export/data/scenes.py draws them; smaller versions are golden inputs. This needs .venv with the extra `export`. The
output is always the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from export.data.scenes import SCENES, draw_scene

SIDE_PX = 160  # five times the model's input: the server scales down
SEED = 100  # differs from the golden pictures


def main() -> None:
    """Write scene-<label>.png for every scene, and scene-ship.jpg as a JPEG example."""
    folder = Path(__file__).parent / "pictures"
    for name in SCENES:
        Image.fromarray(draw_scene(name, SIDE_PX, SIDE_PX, SEED)).save(folder / f"scene-{name}.png", optimize=True)
    Image.fromarray(draw_scene("ship", SIDE_PX, SIDE_PX, SEED)).save(folder / "scene-ship.jpg", quality=90)


if __name__ == "__main__":
    main()
