"""A bounded sample of the whole workspace, for fitting models on the driver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from pipelines.runtime.stage import PAIR_STAGES
from schemas.tables import Pairs, Votes, polars_schema
from transforms.stats.bounded_sample import chosen, draw
from transforms.stats.controls import known_label
from transforms.storage.files import without_slack
from transforms.storage.workspace import Workspace

VOTE_COLUMNS = tuple(c for c in polars_schema(Votes) if c not in ("raw", "rationale"))  # nobody fits on those
_MACHINE_STAGES = ("judge", "score")  # no votes of people among theirs


class Sample(NamedTuple):
    """What models are fitted on.

    `pairs` and `votes` are sorted by id. `pairs` has a column `drawn`: in the random part, whole prompts each as
    likely as any other. Shares and percentiles of the data set are estimated on that part alone; the other pairs
    are here because people answered them, and those are not like the rest.
    """

    pairs: pl.DataFrame
    votes: pl.DataFrame


def sample(
    workspace: Workspace,
    limit: int,
    vote_stages: Sequence[str],
    pair_columns: Sequence[str] | None = None,
) -> Sample:
    """Up to about `limit` pairs and their votes, the same ones in every run; all of them where there are no more.

    Otherwise every pair that people answered or whose answer is known is in it, as long as these leave
    a share of the limit for whole prompts in the order of their draw (transforms/stats/bounded_sample.py), so the
    sample depends neither on the number of buckets nor on who is asked next. Replies and rationales are left out:
    nobody fits on them.
    """
    n_pairs = sum(
        checkpoint.counts.get("pairs", 0)
        for stage in PAIR_STAGES
        for checkpoint in workspace.checkpoints(stage).values()
    )
    kept, last = _chosen_of(workspace, limit, vote_stages) if n_pairs > limit else (_no_ids(), None)
    columns = None if pair_columns is None else list(dict.fromkeys(["pair_id", *pair_columns, "prompt_id"]))
    pairs, votes = [], []
    for bucket in workspace.buckets:
        own = workspace.read("pairs", bucket, PAIR_STAGES, columns).with_columns(
            (pl.lit(value=True) if last is None else draw() <= last).alias("drawn")
        )
        own = own.filter(pl.col("drawn") | pl.col("pair_id").is_in(kept["pair_id"].implode()))
        if own.height:
            pairs.append(without_slack(own))
            answers = workspace.read("votes", bucket, vote_stages, VOTE_COLUMNS)
            votes.append(without_slack(answers.join(own.select("pair_id"), on="pair_id", how="semi")))
    if not pairs:
        empty = pl.DataFrame(schema=polars_schema(Pairs))
        empty = empty if columns is None else empty.select(columns)
        none = pl.DataFrame(schema=polars_schema(Votes)).select(VOTE_COLUMNS)
        return Sample(empty.with_columns(pl.lit(value=True).alias("drawn")), none)
    return Sample(pl.concat(pairs).sort("pair_id"), pl.concat(votes).sort("vote_id"))


def _chosen_of(workspace: Workspace, limit: int, vote_stages: Sequence[str]) -> tuple[pl.DataFrame, int | None]:
    prompts, labelled = [], []
    stages = [stage for stage in vote_stages if stage not in _MACHINE_STAGES]
    for bucket in workspace.buckets:
        keys = workspace.read("pairs", bucket, PAIR_STAGES, ("prompt_id", "source_label", "tags")).select(
            "pair_id", draw(), known_label()
        )
        people = workspace.read("votes", bucket, stages, ("pair_id", "kind")).filter(pl.col("kind") == "human")
        answered = pl.col("pair_id").is_in(people["pair_id"].unique().implode())
        known = keys.filter(answered | pl.col("known_label").is_not_null())
        labelled.append(without_slack(known.select("pair_id", "draw")))
        prompts.append(keys.group_by("draw").agg(pl.len().cast(pl.Int64).alias("n")))
    return chosen(pl.concat(prompts), pl.concat(labelled), limit)


def _no_ids() -> pl.DataFrame:
    return pl.DataFrame(schema={"pair_id": pl.String})
