"""What the crowd-kit baselines share: the library, its input, and additive log-odds by worker and label."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl

from schemas.errors import MissingExtra
from transforms.stats.human_labels import human_accuracy, human_cells, human_targets
from transforms.stats.known_answers import known_labels

PRIOR_ACCURACY = 0.85


def aggregation(name: str) -> Any:
    """A class of `crowdkit.aggregation`.

    Raises:
        MissingExtra: crowd-kit is not installed.
    """
    try:
        import crowdkit.aggregation as module
    except ImportError as error:
        raise MissingExtra('this fuser needs crowd-kit: pip install "prefine[baselines]"') from error
    return getattr(module, name)


@contextmanager
def quiet_pandas() -> Iterator[None]:
    """Keep crowd-kit's use of deprecated pandas keywords from filling the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        yield


def with_workers(valid: pl.DataFrame) -> pl.DataFrame:
    """`valid_votes` with `worker`: the voter and the order it saw, since a judge errs otherwise in each."""
    ordered = pl.format("{}|{}", "voter", "order")
    return valid.with_columns(
        pl.when(pl.col("order") == "none").then(pl.col("voter")).otherwise(ordered).alias("worker")
    )


def task_worker_label(valid: pl.DataFrame) -> Any:
    """A pandas frame `task, worker, label` with a worker's first vote on each pair."""
    return (
        with_workers(valid)
        .unique(["pair_id", "worker"], keep="first", maintain_order=True)
        .select(pl.col("pair_id").alias("task"), "worker", "label")
        .to_pandas()
    )


def labels_of_humans(valid: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """`pair_id, target, tie` of the pairs that humans or controls decide (see `human_targets`)."""
    votes = valid.filter(pl.col("kind") == "human")
    known = known_labels(pairs)
    return human_targets(human_cells(votes, human_accuracy(votes, known, PRIOR_ACCURACY), PRIOR_ACCURACY), known)


def worker_cells(valid: pl.DataFrame, weights: pl.DataFrame) -> pl.DataFrame:
    """Contributions by voter: the sum of its votes' log-odds.

    Args:
        valid: `valid_votes`.
        weights: `worker, label, log_odds, log_tie`; votes without a row add nothing.

    Returns:
        `pair_id, voter, n_votes, labels, log_odds, log_tie`.
    """
    return (
        with_workers(valid)
        .join(weights, on=["worker", "label"], how="left", maintain_order="left")
        .group_by("pair_id", "voter", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int32).alias("n_votes"),
            pl.col("label").str.join("+").alias("labels"),
            pl.col("log_odds").sum(),
            pl.col("log_tie").sum(),
        )
    )
