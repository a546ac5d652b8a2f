"""Ensemble statistics of "Secrets of RLHF in Large Language Models Part II" (Wang et al., 2024).

d_m = r_m(x, chosen) - r_m(x, rejected) over M reward models; mu is their mean, sigma their population standard
deviation. Low mu: the label is probably wrong; mu near zero: ambiguous; sigma is largest at both ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def moments(margins: Array) -> tuple[Array, Array]:
    """Mean mu and population standard deviation sigma over heads of margins (n, heads), each of shape (n,)."""
    return margins.mean(axis=1), margins.std(axis=1)
