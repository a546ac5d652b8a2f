"""Isotonic calibration: a monotone map of log-odds, fitted out of fold (Zadrozny & Elkan 2002).

The pool-adjacent-violators algorithm finds the nondecreasing step function of |z| that is nearest to how often the
side that z names was right. Each step is drawn towards what z itself says with the weight of `PRIOR_LABELS` labels,
so that a step on few labels is not certain, and steps are joined by straight lines in log-odds. The map is odd:
exchanging the responses negates it. In a verdict it multiplies prior and contributions by one factor, so they still add
up: a temperature that depends on how sure the voters are.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
PRIOR_LABELS = 4.0
MIN_LABELS = 50  # below this a map of many steps has nothing to stand on, and log-odds stay as they are
MOST = 6.0  # log-odds of a step at most


def fit_isotonic(z: Floats, target: Floats) -> dict[str, list[float]]:
    """The map as knots: `size` (|z|, increasing) and `log_odds` (nondecreasing, at least 0); empty below `MIN_LABELS`.

    Args:
        z: log-odds of "a is better" by weights that did not see the label, shape (n,).
        target: 1 a is better, 0 b is better, 0.5 split, shape (n,).
    """
    sided = z != 0
    if sided.sum() < MIN_LABELS:
        return {"size": [], "log_odds": []}
    z, target = z[sided], target[sided]
    size, index, count = np.unique(np.abs(z), return_inverse=True, return_counts=True)
    right = np.bincount(index, weights=np.where(z > 0, target, 1 - target)) / count
    starts = scipy.optimize.isotonic_regression(right, weights=count).blocks[:-1]
    n = np.add.reduceat(count, starts).astype(np.float64)
    hits, centre, predicted = (np.add.reduceat(v * count, starts) for v in (right, size, scipy.special.expit(size)))
    share = (hits + PRIOR_LABELS * predicted / n) / (n + PRIOR_LABELS)
    share = scipy.optimize.isotonic_regression(share, weights=n).x  # the prior may have put steps out of order
    log_odds = np.clip(scipy.special.logit(share), 0.0, MOST)
    return {"size": (centre / n).tolist(), "log_odds": log_odds.tolist()}


def isotonic(z: Floats, knots: dict[str, list[float]]) -> Floats:
    """The map at `z`: through the origin and the knots, constant beyond the last; `z` itself without knots."""
    if not knots["size"]:
        return z
    mapped = np.interp(np.abs(z), [0.0, *knots["size"]], [0.0, *knots["log_odds"]])
    return np.asarray(np.sign(z) * mapped)


def out_of_fold_isotonic(z: Floats, target: Floats, fold: NDArray[np.int64]) -> Floats:
    """`isotonic(z)` of each fold by the map fitted on the others: what to measure calibration on."""
    out = z.copy()
    for f in np.unique(fold):
        out[fold == f] = isotonic(z[fold == f], fit_isotonic(z[fold != f], target[fold != f]))
    return out


def calibrated(
    cells: pl.DataFrame, priors: pl.DataFrame, knots: dict[str, list[float]] | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cells and priors of each pair times one factor, by which their sum z becomes `isotonic(z)`.

    Args:
        cells: `pair_id, log_odds` and more, of the voters that are not human.
        priors: `pair_id, prior` and more.
        knots: `fit_isotonic`; None or empty: nothing changes.
    """
    if not knots or not knots["size"]:
        return cells, priors
    total = cells.group_by("pair_id").agg(pl.col("log_odds").sum().alias("_total"))
    sums = (
        priors.select("pair_id", "prior")
        .unique("pair_id", maintain_order=True)
        .join(total, on="pair_id", how="left", maintain_order="left")
    )
    z = (sums["prior"] + sums["_total"].fill_null(0.0)).to_numpy()
    factor = np.divide(isotonic(z, knots), z, out=np.ones(len(z)), where=z != 0)
    factors = sums.select("pair_id", pl.Series("_factor", factor, dtype=pl.Float64))

    def scaled(frame: pl.DataFrame, column: str) -> pl.DataFrame:
        joined = frame.join(factors, on="pair_id", how="left", maintain_order="left")
        return joined.with_columns(pl.col(column) * pl.col("_factor").fill_null(1.0)).drop("_factor")

    return scaled(cells, "log_odds"), scaled(priors, "prior")
