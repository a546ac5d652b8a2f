"""Krippendorff's alpha in linear time, with a bootstrap interval.

alpha = 1 - D_o / D_e: observed over expected disagreement of two answers, expected ones drawn at random
from all answers to items with at least two (Krippendorff, Content Analysis, 4th ed. 2018, chapter 12).
1 is perfect agreement, 0 chance, negative systematic disagreement.

Per item only a few sums are needed: its number of answers m, and either its count per label (nominal) or
the sum and sum of squares of its values (interval). No pair of answers is ever formed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.errors import DataError

Floats = NDArray[np.float64]
_BLOCK = 5_000_000  # resampled counts held at a time
Metric = Literal["nominal", "interval"]


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's alpha and what it rests on; `low` and `high` bound a bootstrap interval.

    `alpha` is NaN where it is undefined: no item has two answers, or all answers are the same.
    """

    alpha: float
    low: float
    high: float
    items: int  # with at least two answers
    answers: int  # to those items


def krippendorff_alpha(
    items: pl.Series,
    labels: pl.Series,
    metric: Metric = "nominal",
    *,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Alpha:
    """Agreement of answers on items.

    Args:
        items: the item of each answer, of any type.
        labels: the answers; any type for `nominal`, numbers for `interval`. Null answers are left out.
        replicates: bootstrap resamples of items; 0 gives no interval (`low` and `high` are NaN).
        level: mass of the percentile interval.

    Raises:
        DataError: lengths differ, or an interval answer is not a finite number.
    """
    if len(items) != len(labels):
        raise DataError(f"{len(items)} items for {len(labels)} answers")
    if labels.null_count() or items.null_count():
        given = labels.is_not_null() & items.is_not_null()
        items, labels = items.filter(given), labels.filter(given)
    codes, n_items = _codes(items)
    sums = (_nominal_sums if metric == "nominal" else _interval_sums)(codes, n_items, labels)
    sums = sums[sums[:, 0] >= 2]
    if not len(sums):
        return Alpha(np.nan, np.nan, np.nan, 0, 0)
    statistic = _nominal_alpha if metric == "nominal" else _interval_alpha
    point = float(statistic(_totals(sums, np.ones((1, len(sums))), metric))[0])
    low, high = _interval(sums, statistic, metric, replicates, level, seed)
    return Alpha(point, low, high, len(sums), int(sums[:, 0].sum()))


def pairwise_agreement(items: pl.Series, labels: pl.Series) -> float:
    """Share of pairs of answers to one item that are equal; NaN where no item has two answers."""
    codes, n_items = _codes(items)
    sums = _nominal_sums(codes, n_items, labels)
    m, same = sums[:, 0], (sums[:, 1:] * (sums[:, 1:] - 1)).sum(axis=1)
    pairs = float((m * (m - 1)).sum())
    return float(same.sum()) / pairs if pairs else float("nan")


def _codes(values: pl.Series) -> tuple[NDArray[np.int64], int]:
    """Each value's number among the distinct values, and how many there are."""
    if values.dtype.is_integer() and len(values) and values.min() == 0:
        span = int(values.max()) + 1  # type: ignore[arg-type]
        if span <= 2 * len(values):
            return values.cast(pl.Int64).to_numpy(), span
    if values.dtype != pl.String:
        values = values.cast(pl.String)
    physical = values.cast(pl.Categorical).to_physical()
    used = physical.unique().sort().to_numpy()
    dense = np.zeros(int(used[-1]) + 1 if len(used) else 0, dtype=np.int64)
    dense[used] = np.arange(len(used))
    return dense[physical.to_numpy()], len(used)


def _nominal_sums(items: NDArray[np.int64], n_items: int, labels: pl.Series) -> Floats:
    """Per item: number of answers, then count per label."""
    codes, n_labels = _codes(labels)
    counts = np.bincount(items * n_labels + codes, minlength=n_items * n_labels).reshape(n_items, n_labels)
    return np.column_stack([counts.sum(axis=1), counts]).astype(np.float64)


def _interval_sums(items: NDArray[np.int64], n_items: int, labels: pl.Series) -> Floats:
    """Per item: number of answers, sum and sum of squares, of values centred to keep digits."""
    values = labels.cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        raise DataError("an interval answer is not a finite number")
    values = values - (values.mean() if len(values) else 0.0)
    columns = [np.bincount(items, weights=w, minlength=n_items) for w in (np.ones_like(values), values, values**2)]
    return np.column_stack(columns)


def _totals(sums: Floats, weights: Floats, metric: Metric) -> Floats:
    """Weighted totals over items, one row per row of `weights`: observed disagreement, n, then label totals."""
    m = sums[:, 0]
    if metric == "nominal":
        within = (m**2 - (sums[:, 1:] ** 2).sum(axis=1)) / (m - 1)
    else:
        within = 2 * (m * sums[:, 2] - sums[:, 1] ** 2) / (m - 1)
    return np.asarray(weights @ np.column_stack([within, sums]))


def _nominal_alpha(totals: Floats) -> Floats:
    n = totals[:, 1]
    expected = (n**2 - (totals[:, 2:] ** 2).sum(axis=1)) / (n - 1)
    return _ratio(totals[:, 0], expected)


def _interval_alpha(totals: Floats) -> Floats:
    n = totals[:, 1]
    expected = 2 * (n * totals[:, 3] - totals[:, 2] ** 2) / (n - 1)
    return _ratio(totals[:, 0], np.maximum(expected, 0.0))


def _ratio(observed: Floats, expected: Floats) -> Floats:
    return 1 - np.divide(observed, expected, out=np.full_like(observed, np.nan), where=expected > 0)


def _interval(
    sums: Floats, statistic: Callable[[Floats], Floats], metric: Metric, replicates: int, level: float, seed: int
) -> tuple[float, float]:
    """Percentile interval from resampling items.

    Items with the same sums are interchangeable, so resampling draws how often each distinct row occurs:
    the cost depends on the number of distinct rows, not of items.
    """
    if not replicates:
        return float("nan"), float("nan")
    frame = pl.from_numpy(sums)
    distinct = frame.group_by(frame.columns).len().sort(frame.columns)
    rows, counts = distinct.select(frame.columns).to_numpy(), distinct["len"].to_numpy()
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(rows))
    blocks = [
        statistic(_totals(rows, rng.multinomial(len(sums), counts / len(sums), size=size).astype(np.float64), metric))
        for size in np.diff([*range(0, replicates, block), replicates])
    ]
    resampled = np.concatenate(blocks)
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return float("nan"), float("nan")
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
