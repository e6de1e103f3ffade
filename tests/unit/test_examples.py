"""The programs among the examples draw the pictures that lie beside them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from examples import draw_digits, draw_scenes

PICTURES = Path(__file__).parents[2] / "examples" / "pictures"


@pytest.mark.parametrize(
    ("program", "kind"), [(draw_digits, "digit"), (draw_scenes, "scene")], ids=["digits", "scenes"]
)
def test_drawn_again_they_are_the_same(
    program: ModuleType, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = tmp_path / "pictures"
    drawn.mkdir()
    monkeypatch.setattr(program, "__file__", str(tmp_path / "program.py"))
    program.main()
    names = {path.name for path in PICTURES.glob(f"{kind}-*")}
    assert {path.name for path in drawn.iterdir()} == names
    for name in names:
        with Image.open(drawn / name) as now, Image.open(PICTURES / name) as then:
            assert (now.mode, now.size, now.tobytes()) == (then.mode, then.size, then.tobytes()), name
