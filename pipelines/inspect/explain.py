"""Why a pair has its label."""

from __future__ import annotations

import re
from collections.abc import Iterator

import polars as pl

from pipelines.inspect.tables import TABLE_STAGES
from pipelines.runtime.stage import PAIR_STAGES
from pipelines.stages.fuse import judgement
from schemas.errors import UsageError
from schemas.ids import ID_PATTERN
from transforms.publish.explain import Explanation, explain
from transforms.publish.read import open_version
from transforms.publish.recompute import FUSER, POLICY, stored_plugin
from transforms.publish.rows import PUBLISHED
from transforms.storage.workspace import Workspace


def find_pair(workspace: Workspace, pair_id: str) -> int:
    """The bucket that holds a pair.

    Raises:
        UsageError: it is not an id, or no bucket holds it.
    """
    if not re.fullmatch(ID_PATTERN, pair_id):
        raise UsageError(f"{pair_id!r} is not a pair id: 32 hex digits, as in the column pair_id")
    for bucket in workspace.buckets:
        if (workspace.read("pairs", bucket, PAIR_STAGES, ["prompt_id"])["pair_id"] == pair_id).any():
            return bucket
    raise UsageError(f"no pair {pair_id} in workspace {workspace.root}")


def explain_pair(root: str, pair_id: str, dataset: str | None = None) -> Explanation:
    """Why a pair has its label, from the workspace or, with `dataset` (NAME or NAME@V), from a version alone."""
    if dataset is not None:
        return _from_version(root, pair_id, dataset)
    workspace = Workspace.open(root)
    bucket = find_pair(workspace, pair_id)
    frames = {table: workspace.read(table, bucket, TABLE_STAGES[table]) for table in ("pairs", "votes", "verdicts")}
    return explain(
        pair_id,
        frames["pairs"],
        frames["votes"],
        frames["verdicts"],
        **judgement(workspace),
        published=_published_margins(workspace),
    )


def _published_margins(workspace: Workspace) -> Iterator[pl.LazyFrame]:
    """`margin` of the rows that the verdicts publish, bucket by bucket."""
    for bucket in workspace.buckets:
        verdicts = workspace.read("verdicts", bucket, TABLE_STAGES["verdicts"], ["margin", "action"])
        yield verdicts.lazy().filter(pl.col("action").is_in(PUBLISHED)).select("margin")


def _from_version(root: str, pair_id: str, dataset: str) -> Explanation:
    version = open_version(Workspace.open(root).datasets, dataset)
    pairs, votes, verdicts = (
        version.scan(table).filter(pl.col("pair_id") == pair_id).collect() for table in ("pairs", "votes", "verdicts")
    )
    plugins = stored_plugin(version, FUSER), stored_plugin(version, POLICY)
    return explain(pair_id, pairs, votes, verdicts, *plugins, published=[version.scan("rows").select("margin")])
