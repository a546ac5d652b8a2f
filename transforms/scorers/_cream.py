"""Consistency regularised labels (CREAM): trust a ranking as far as two model snapshots agree on it.

CREAM ranks several responses to a prompt by the models of two iterations; the consistency is
C = (tau + 1) / 2 with Kendall's tau, and the loss C L + (1 - C) L_reversed, that is a soft label C.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kendall_tau(first: Array, second: Array) -> float:
    """Kendall's tau-a of two score vectors over the same items: (concordant - discordant) / all pairs, in [-1, 1].

    A pair tied in either vector is neither. Fewer than two items: 0 (no evidence either way).
    """
    n = len(first)
    if n < 2:
        return 0.0
    rows, columns = np.triu_indices(n, 1)
    agreement = np.sign(first[rows] - first[columns]) * np.sign(second[rows] - second[columns])
    return float(agreement.mean())


def consistency(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """C = (tau + 1) / 2 in [0, 1] over the items scored by both; 0.5 if they share fewer than two."""
    shared = sorted(first.keys() & second.keys())
    tau = kendall_tau(np.array([first[i] for i in shared]), np.array([second[i] for i in shared]))
    return (tau + 1.0) / 2.0


def soft_label(score_a: float, score_b: float, agreement: float) -> float:
    """P(a better): the agreement C if a scores higher, 1 - C if b does, 0.5 for equal scores."""
    if score_a == score_b:
        return 0.5
    return agreement if score_a > score_b else 1.0 - agreement
