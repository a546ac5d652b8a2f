"""A queue of candidates that fit into one frame."""

from __future__ import annotations

import polars as pl

from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.fill import merge, shortlist


def build_queue(
    candidates: pl.DataFrame, values: pl.Series, config: QueueConfig, seed: int, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The queue as the route stage makes it of a single bucket."""
    asked = [] if previous is None else previous["pair_id"].to_list()
    return merge([shortlist(candidates, values, config, seed, asked)], config, previous, seed=seed)
