"""Picks the best classes from a row of probabilities."""

from __future__ import annotations

import numpy as np


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k highest scores, highest first.

    Args:
        scores: (K,), any real dtype.
        k: Number of indices, at least 1; more than K gives all.

    Returns:
        int64 (min(k, K),). Ties go to the lower index.
    """
    # Unsigned integers and the least signed integer have no negative, and float64 cannot hold all 64-bit integers. The
    # complement reverses the order of integers exactly.
    return np.argsort(-scores if scores.dtype.kind == "f" else ~scores, kind="stable")[:k]
