"""The golden vectors of a model version, golden.npz: raw inputs, the tensors they must become and the expected outputs.

Publishing writes them, and loading replays them: a version becomes READY only after it reproduced these outputs on the
device that will serve it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import ManifestInvalid


@dataclass(frozen=True, slots=True)
class Golden:
    """N examples with their outputs.

    Attributes:
        raw: N encoded pictures or UTF-8 sentences; empty for task ``"tensor"``.
        inputs: An array (N, ...) for each input of the graph: what ``raw`` must become, exactly. Token ids are padded
            on the right to the longest.
        outputs: An array (N, ...) for each output of the graph: the expected outputs.
    """

    raw: tuple[bytes, ...]
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]

    @property
    def count(self) -> int:
        """N, at least 1."""
        return len(self.inputs[0])


def write_golden(golden: Golden, path: Path) -> None:
    """Write the archive so that :func:`read_golden` returns equal examples."""
    arrays = {f"input_{i}": array for i, array in enumerate(golden.inputs)}
    arrays |= {f"output_{i}": array for i, array in enumerate(golden.outputs)}
    arrays["raw_bytes"] = np.frombuffer(b"".join(golden.raw), dtype=np.uint8)
    arrays["raw_sizes"] = np.array([len(item) for item in golden.raw], dtype=np.int64)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def read_golden(path: Path) -> Golden:
    """Read an archive; nothing in it is unpickled.

    Raises:
        ManifestInvalid: The file is missing, damaged or empty, or its parts differ in length.
    """
    if not path.is_file():  # reading a pipe would never end
        raise ManifestInvalid(f"{path}: golden vectors are not readable (no such file)")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        inputs = _numbered(arrays, "input")
        outputs = _numbered(arrays, "output")
        raw = _cut(arrays["raw_bytes"].tobytes(), arrays["raw_sizes"].tolist())
    except Exception as error:  # NumPy, zipfile and zlib raise anything on damaged data
        raise ManifestInvalid(f"{path}: golden vectors are not readable ({error})") from None
    counts = {len(array) for array in (*inputs, *outputs)} | ({len(raw)} if raw else set())
    if not inputs or not outputs or len(counts) != 1 or 0 in counts:
        raise ManifestInvalid(f"{path}: golden vectors are empty or of different lengths {sorted(counts)}")
    return Golden(raw, inputs, outputs)


def _numbered(arrays: dict[str, np.ndarray], kind: str) -> tuple[np.ndarray, ...]:
    names = [f"{kind}_{i}" for i in range(sum(name.startswith(f"{kind}_") for name in arrays))]
    return tuple(np.atleast_1d(arrays[name]) for name in names)


def _cut(blob: bytes, sizes: list[int]) -> tuple[bytes, ...]:
    if min(sizes, default=0) < 0 or sum(sizes) != len(blob):
        raise ValueError(f"raw_sizes do not add up to the {len(blob)} bytes of raw_bytes")
    ends = itertools.accumulate(sizes)
    return tuple(blob[end - size : end] for end, size in zip(ends, sizes, strict=True))
