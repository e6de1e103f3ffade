"""From a row of probabilities to its best classes."""

from __future__ import annotations

import numpy as np


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k greatest scores, greatest first.

    Args:
        scores: (K,), any real dtype.
        k: How many, at least 1; more than K gives all.

    Returns:
        int64 (min(k, K),). Among equal scores the lower index comes first.
    """
    # Unsigned integers and the least signed one have no negative, and float64 has not all of 64 bits: their complement
    # falls as they rise, exactly.
    return np.argsort(-scores if scores.dtype.kind == "f" else ~scores, kind="stable")[:k]
