"""A bounded sample of the whole workspace, for fitting models on the driver."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from pipelines.stage import PAIR_STAGES
from schemas.tables import Pairs, Votes, polars_schema
from transforms.storage.workspace import Workspace

_DRAW = 8  # hex digits of an id used as its draw


def sample(
    workspace: Workspace,
    limit: int,
    vote_stages: Sequence[str],
    pair_columns: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Up to about `limit` pairs and their votes, the same ones in every run.

    A pair is in the sample if the last digits of its id, a uniform draw, fall below limit / n_pairs, so
    the sample is independent of buckets and grows and shrinks with few changes. Replies and rationales
    are left out: nobody fits on them.
    """
    n_pairs = sum(
        checkpoint.counts.get("pairs", 0)
        for stage in PAIR_STAGES
        for checkpoint in workspace.checkpoints(stage).values()
    )
    threshold = None if n_pairs <= limit else f"{int(16**_DRAW * limit / n_pairs):0{_DRAW}x}"
    vote_columns = [c for c in polars_schema(Votes) if c not in ("raw", "rationale")]
    pairs, votes = [], []
    for bucket in workspace.buckets:
        found = workspace.read("pairs", bucket, PAIR_STAGES, pair_columns)
        if threshold is not None:
            found = found.filter(pl.col("pair_id").str.tail(_DRAW) < threshold)
        if found.height:
            pairs.append(found)
            answers = workspace.read("votes", bucket, vote_stages, vote_columns)
            votes.append(answers.join(found.select("pair_id"), on="pair_id", how="semi"))
    empty_pairs = pl.DataFrame(schema=polars_schema(Pairs))
    if not pairs:
        columns = list(empty_pairs.columns) if pair_columns is None else list(dict.fromkeys(["pair_id", *pair_columns]))
        return empty_pairs.select(columns), pl.DataFrame(schema=polars_schema(Votes)).select(vote_columns)
    return pl.concat(pairs).sort("pair_id"), pl.concat(votes).sort("vote_id")
