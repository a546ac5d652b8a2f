"""The queue as the route stage makes it, without a workspace."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.fill import narrow, select, shortlist


def merge(
    shortlists: Iterable[pl.DataFrame], config: QueueConfig, previous: pl.DataFrame | None = None, *, seed: int
) -> pl.DataFrame:
    """The queue of all buckets' shortlists."""
    asked = [] if previous is None else previous["pair_id"].to_list()
    return select(narrow(shortlists, config, asked), config, previous, seed=seed)


def build_queue(
    candidates: pl.DataFrame, values: pl.Series, config: QueueConfig, seed: int, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The queue of candidates that lie in a single bucket."""
    asked = [] if previous is None else previous["pair_id"].to_list()
    return merge([shortlist(candidates, values, config, seed, asked)], config, previous, seed=seed)
