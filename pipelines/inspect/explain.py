"""Why a pair has its label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar

import polars as pl

from pipelines.inspect.judgement import judgement
from pipelines.inspect.tables import TABLE_STAGES
from pipelines.runtime.stage import PAIR_STAGES
from schemas.errors import UsageError
from transforms.publish.explain import Explanation, explain
from transforms.publish.read import open_version
from transforms.publish.recompute import FUSER, POLICY, stored_plugin
from transforms.publish.rows import PUBLISHED
from transforms.publish.texts import texts_of
from transforms.storage.workspace import Workspace

T = TypeVar("T")


def find_pair(workspace: Workspace, digits: str) -> tuple[int, str]:
    """The bucket and the id of the pair whose id begins with these digits.

    Raises:
        UsageError: they are no hex digits, or no pair's id or several begin with them.
    """
    frames = [workspace.read("pairs", bucket, PAIR_STAGES, []) for bucket in workspace.buckets]
    places = [(bucket, pair) for bucket, frame in enumerate(frames) for pair in _matching(frame["pair_id"], digits)]
    return _only(places, digits, f"workspace {workspace.root}")


def _matching(ids: pl.Series, digits: str) -> list[str]:
    """The ids that begin with these digits.

    Raises:
        UsageError: they are no hex digits.
    """
    if not re.fullmatch("[0-9a-f]{1,32}", digits):
        raise UsageError(f"{digits!r} is not a pair id: 32 hex digits, as in the column pair_id, or the first of them")
    return ids.filter(ids.str.starts_with(digits)).to_list()


def _only(matches: Sequence[T], digits: str, where: str) -> T:
    """The one match.

    Raises:
        UsageError: there is none, or there are several.
    """
    if not matches:
        raise UsageError(f"no pair {digits} in {where}")
    if len(matches) > 1:
        raise UsageError(f"{len(matches)} pairs of {where} begin with {digits}: give more digits")
    return matches[0]


def explain_pair(root: str, pair_id: str, dataset: str | None = None) -> Explanation:
    """Why a pair has its label, from the workspace or, with `dataset` (NAME or NAME@V), from a version alone.

    `pair_id` may be cut to as many digits as name no other pair.
    """
    if dataset is not None:
        return _from_version(root, pair_id, dataset)
    workspace = Workspace.open(root)
    bucket, pair_id = find_pair(workspace, pair_id)
    frames = {table: workspace.read(table, bucket, TABLE_STAGES[table]) for table in ("pairs", "votes", "verdicts")}
    plugins = judgement(workspace)
    return explain(
        pair_id,
        frames["pairs"],
        frames["votes"],
        frames["verdicts"],
        plugins.get("fuser"),
        plugins.get("policy"),
        published=_published_margins(workspace),
    )


def _published_margins(workspace: Workspace) -> Iterator[pl.LazyFrame]:
    """`margin` of the rows that the verdicts publish, bucket by bucket."""
    for bucket in workspace.buckets:
        verdicts = workspace.read("verdicts", bucket, TABLE_STAGES["verdicts"], ["margin", "action"])
        yield verdicts.lazy().filter(pl.col("action").is_in(PUBLISHED)).select("margin")


def _from_version(root: str, pair_id: str, dataset: str) -> Explanation:
    version = open_version(Workspace.open(root).datasets, dataset)
    ids = version.scan("pairs").select("pair_id").collect()["pair_id"]
    pair_id = _only(_matching(ids, pair_id), pair_id, version.manifest.label)
    pairs, votes, verdicts = (
        version.scan(table).filter(pl.col("pair_id") == pair_id).collect() for table in ("pairs", "votes", "verdicts")
    )
    plugins = stored_plugin(version, FUSER), stored_plugin(version, POLICY)
    texts = texts_of(version, [pair_id]).get(pair_id)
    margins = version.scan("rows").select("margin")
    return explain(pair_id, pairs, votes, verdicts, *plugins, published=[margins], texts=texts)
