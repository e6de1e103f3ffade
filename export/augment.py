"""Distortions of training pictures: pure functions of a batch, the epoch and a random generator.

Letters: N batch, H height, W width, C channels. Pictures stay uint8, so a model trains only on
pictures that a client could send.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own spelling)

# (pictures, their positions in the training part, epoch, generator of this batch) -> pictures
Augment = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]

_MIRROR_SEED = 20180  # arbitrary; it decides which half of the pictures is mirrored first

# LeCun et al. (1998), section III.B: "planar affine transformations: horizontal and vertical
# translations, scaling, squeezing and horizontal shearing"; the amounts are ours.
_ROTATION = 10.0  # degrees
_SCALE = 0.1
_SHEAR = 0.15
_SHIFT = 0.12  # of half the picture


def mirror_shift_4(images: np.ndarray, positions: np.ndarray, epoch: int, rng: np.random.Generator) -> np.ndarray:
    """Mirror half of the pictures at random. Shift each by up to 4 pixels and fill the edge with black.

    Source:
        He et al. (2016), section 4.2.
    """
    del positions, epoch
    return _shift(_mirror(images, rng.integers(0, 2, len(images)) == 1), 4, "constant", rng)


def alternate_shift_2(images: np.ndarray, positions: np.ndarray, epoch: int, rng: np.random.Generator) -> np.ndarray:
    """Mirror each picture in every other epoch. Shift it by up to 2 pixels and fill the edge with its reflection.

    Alternating shows each picture equally often from both sides; random mirroring does not.

    Source:
        Jordan (2024), "94% on CIFAR-10 in 3.29 seconds on a single GPU", section 3.6.
    """
    first = np.random.default_rng(_MIRROR_SEED).integers(0, 2, int(positions.max()) + 1)
    return _shift(_mirror(images, (first[positions] + epoch) % 2 == 1), 2, "reflect", rng)


def distort(images: np.ndarray, positions: np.ndarray, epoch: int, rng: np.random.Generator) -> np.ndarray:
    """Rotate, scale, squeeze, shear and shift each picture a little, each differently."""
    del positions, epoch
    count = len(images)
    angle = np.radians(rng.uniform(-_ROTATION, _ROTATION, count))
    across, down = rng.uniform(1 - _SCALE, 1 + _SCALE, (2, count))
    shear = rng.uniform(-_SHEAR, _SHEAR, count)
    shift = rng.uniform(-_SHIFT, _SHIFT, (count, 2))
    cos, sin = np.cos(angle), np.sin(angle)
    matrices = np.empty((count, 2, 3), dtype=np.float32)
    matrices[:, 0, 0], matrices[:, 0, 1] = cos * across, (shear * cos - sin) * down
    matrices[:, 1, 0], matrices[:, 1, 1] = sin * across, (shear * sin + cos) * down
    matrices[:, :, 2] = shift
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()  # (N, C, H, W)
    grid = F.affine_grid(torch.from_numpy(matrices), list(pixels.shape), align_corners=False)
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    array: np.ndarray = moved.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    return array


AUGMENTATIONS: dict[str, Augment | None] = {
    "none": None,
    "mirror-shift-4": mirror_shift_4,
    "alternate-shift-2": alternate_shift_2,
    "distort": distort,
}


def _mirror(images: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Mirror the pictures that ``which`` selects, left to right."""
    return np.where(which[:, None, None, None], images[:, :, ::-1], images)


def _shift(images: np.ndarray, pixels: int, edge: str, rng: np.random.Generator) -> np.ndarray:
    """Shift each picture by up to ``pixels`` along both axes; ``edge`` is a mode of :func:`numpy.pad`."""
    count, height, width, _ = images.shape
    around = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = np.pad(images, around, mode=edge)  # type: ignore[call-overload]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    down, right = rng.integers(0, 2 * pixels + 1, (2, count))
    moved: np.ndarray = np.ascontiguousarray(windows[np.arange(count), down, right].transpose(0, 2, 3, 1))
    return moved
