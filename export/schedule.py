"""Which examples a step uses and its learning rate: pure functions of seed, epoch and step."""

from __future__ import annotations

import math

import numpy as np

from export.recipe import Training

# Within a stretch of this many batches, each batch gets examples of similar length. That keeps padding
# small, and batches still differ in every epoch.
_BATCHES_A_STRETCH = 20


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of one epoch's random numbers; epoch 0 is for the initial weights.

    Each epoch starts from its own seed, so resuming at an epoch needs no saved generator state.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def epoch_batches(count: int, lengths: np.ndarray | None, batch_size: int, seed: int) -> list[np.ndarray]:
    """Divide ``count`` examples into batches in a random order.

    Args:
        count: Number of examples.
        lengths: int64 (count,); a batch gets examples of similar length. None if all lengths are equal.
        batch_size: Examples per batch; the last may have fewer.
        seed: Seed of this epoch.

    Returns:
        Arrays of positions, each position in exactly one of them.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    if lengths is None:
        return [order[start : start + batch_size] for start in range(0, count, batch_size)]
    batches = []
    stretch_size = batch_size * _BATCHES_A_STRETCH
    for start in range(0, count, stretch_size):
        stretch = order[start : start + stretch_size]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        batches += [stretch[i : i + batch_size] for i in range(0, len(stretch), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def rate_factor(step: int, steps: int, training: Training) -> float:
    """Return the factor of the peak learning rate at step ``step`` of ``steps``, counted from 0; in (0, 1]."""
    done = (step + 1) / steps
    if done <= training.warmup:
        return done / training.warmup
    if training.schedule == "constant":
        return 1.0
    left = (steps - step) / (steps * (1 - training.warmup))
    if training.schedule == "linear":
        return min(1.0, left)
    return 0.5 * (1 - math.cos(math.pi * min(1.0, left)))
