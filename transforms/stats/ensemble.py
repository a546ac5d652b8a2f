"""Ensemble statistics of "Secrets of RLHF in Large Language Models Part II" (Wang et al., 2024).

d_m = r_m(x, chosen) - r_m(x, rejected) over M reward models; mu is their mean, sigma their population standard
deviation. Low mu: the label is probably wrong; mu near zero: ambiguous; sigma is largest at both ends.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Array = NDArray[np.float64]


def moments(margins: Array) -> tuple[Array, Array]:
    """Mean mu and population standard deviation sigma over heads of margins (n, heads), each of shape (n,)."""
    return margins.mean(axis=1), margins.std(axis=1)


def toward_label(margin: Array, labels: Array) -> Array:
    """Margins r(a) - r(b) as margins of the labelled response: unchanged where y > 0.5, negated where y < 0.5, 0
    for ties (y = 0.5)."""
    return np.asarray(margin * np.sign(labels - 0.5))


def percentiles(values: Array) -> Array:
    """Share of the values that lie below each value, equal values counting half; in (0, 1), shape (n,)."""
    if not len(values):
        return np.zeros(0)
    return np.asarray((pl.Series(values).rank("average").to_numpy() - 0.5) / len(values))
