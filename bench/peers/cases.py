"""The models that are compared, and where they come from."""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from bench.errors import PeerFailed
from bench.output import last_line
from bench.peers.base import ROOT, Case

_ROWS = 8  # answers that are checked
_BUNDLED = ROOT / "models"


@dataclass(frozen=True, slots=True)
class _Known:
    input: str
    datatype: Literal["UINT8", "INT64"]
    row_shape: tuple[int, ...]
    highest: int  # of the numbers in a row
    golden: str | None = None  # bundled model whose golden inputs are the rows
    in_flight: tuple[int, ...] | None = None
    encoded_of: str | None = None  # bundled model that is sent JPEG files


_DIGITS = _Known("images", "UINT8", (28, 28, 1), 255, "lenet5-mnist")
_THINGS = _Known("images", "UINT8", (32, 32, 3), 255, "resnet20-cifar10")
_SENTENCES = _Known("ids", "INT64", (64,), 19_999)
_PHOTOS = _Known("images", "UINT8", (224, 224, 3), 255, None, (1, 4))
_KNOWN = {
    "lenet5-mnist": _DIGITS,
    "resnet20-cifar10": _THINGS,
    "textcnn-20k": _SENTENCES,
    "resnet50": _PHOTOS,
    "lenet5-mnist-int8": _DIGITS,
    "resnet20-cifar10-int8": _THINGS,
    "textcnn-20k-int8": _SENTENCES,
    "resnet50-int8": _PHOTOS,
    "lenet5-mnist-jpeg": dataclasses.replace(_DIGITS, encoded_of="lenet5-mnist"),
    "resnet20-cifar10-jpeg": dataclasses.replace(_THINGS, encoded_of="resnet20-cifar10"),
}
NAMES = tuple(_KNOWN)


def open_case(name: str, work: Path | None) -> Case:
    """Return a model, after making it if it does not exist.

    Args:
        name: One of :data:`NAMES`.
        work: Folder for models that are not bundled.

    Raises:
        PeerFailed: It cannot be made.
    """
    known = _KNOWN[name]
    name = known.encoded_of or name
    repository = _BUNDLED
    if not (_BUNDLED / name).exists():
        if work is None:
            raise PeerFailed("it has to be generated: give --work DIR")
        repository = work.resolve() / "models"
        if not (repository / name / "1" / "model.onnx").exists():
            _make(repository, name)
    encoded = known.encoded_of is not None
    rows = [_as_jpeg(row) for row in _rows(known)] if encoded else [*_rows(known)]
    return Case(
        name, repository, known.input, known.datatype, "probabilities", rows, known.row_shape, encoded, known.in_flight
    )


def _rows(known: _Known) -> np.ndarray:
    if known.golden is not None:
        with np.load(_BUNDLED / known.golden / "1" / "golden.npz") as golden:
            return np.ascontiguousarray(golden["input_0"][:_ROWS])
    dtype = np.dtype(known.datatype.lower())
    return np.random.default_rng(0).integers(1, known.highest, (_ROWS, *known.row_shape), dtype, endpoint=True)


def _as_jpeg(picture: np.ndarray) -> np.ndarray:
    """Encode (H, W, C) as a JPEG file; return its bytes as a flat array."""
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=95)
    return np.frombuffer(file.getvalue(), np.uint8)


def _make(repository: Path, name: str) -> None:
    """Make a model in a process of its own, since bench does not use torch."""
    command = [sys.executable, str(ROOT / "scripts" / "speed_models.py"), str(repository), name]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        why = last_line(ran.stderr)
        raise PeerFailed(f"scripts/speed_models.py could not generate it ({why}): make install installs what it needs")
