"""Train, validation and test: by cluster of prompts, stratified, and stable while the dataset grows.

A cluster is a connected component of prompts that share a `group_id` or a similarity key
(`transforms.publish.similarity`). A prompt that was in an earlier version keeps its split for ever. A new
prompt near an old one takes the old one's split; a new prompt near old ones of different splits
can have none without a leak, so it is left out with reason `bridges_splits`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.ids import hash_fields, unit_interval
from schemas.tables import SPLITS
from transforms.publish.rows import PUBLISHED
from transforms.publish.similarity import canonical_text, key_lists, similarity_keys

Split = Literal["train", "validation", "test"]
BRIDGES = "bridges_splits"
KEYS_SCHEMA = pl.Schema(
    [("prompt_id", pl.String), ("slice", pl.String), ("n_rows", pl.Int64), ("keys", pl.List(pl.UInt64))]
)
SPLITS_SCHEMA = pl.Schema(
    [*KEYS_SCHEMA.items(), ("cluster_id", pl.String()), ("split", pl.String()), ("reason", pl.String())]
)


class SplitsConfig(BaseModel):
    """Fractions of the rows and what counts as one cluster.

    `stratify` names columns of pairs; every combination of their values gets the fractions by itself.
    `bands`, `rows_per_band` and `shingle` set the MinHash keys; `bands: 0` keeps only identical texts together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fractions: dict[Split, float] = Field(default={"train": 0.9, "validation": 0.05, "test": 0.05})
    stratify: tuple[Literal["kind", "language", "origin", "user_id"], ...] = ("kind",)
    bands: int = Field(default=20, ge=0, le=64)
    rows_per_band: int = Field(default=10, ge=1, le=64)
    shingle: int = Field(default=3, ge=1, le=16)

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitsConfig:
        total = sum(self.fractions.values())
        if abs(total - 1) > 1e-9 or any(f < 0 for f in self.fractions.values()):
            raise ValueError(f"fractions must be at least 0 and sum to 1; they sum to {total:g}")
        return self


def prompt_keys(pairs: pl.DataFrame, verdicts: pl.DataFrame, config: SplitsConfig) -> pl.DataFrame:
    """What the split of a bucket's prompts depends on.

    Returns:
        `KEYS_SCHEMA`, one row a prompt, sorted by prompt_id: its slice, how many of its pairs the verdicts
        publish, and its keys (similarity keys and hashes of its group ids).
    """
    if pairs.is_empty():
        return pl.DataFrame(schema=KEYS_SCHEMA)
    published = verdicts.filter(pl.col("action").is_in(PUBLISHED)).select("pair_id", published=pl.lit(1, pl.Int64))
    slice_ = pl.concat_str([pl.col(c).fill_null("") for c in config.stratify] or [pl.lit("")], separator="|")
    prompts = (
        pairs.with_columns(slice=slice_, text=canonical_text())
        .join(published, on="pair_id", how="left")
        .sort("prompt_id", "pair_id")
        .group_by("prompt_id", maintain_order=True)
        .agg(
            pl.col("slice").first(),
            n_rows=pl.col("published").sum(),
            text=pl.col("text").first(),
            # What was generated from an ungrouped prompt names that prompt as its group.
            groups=pl.col("group_id").fill_null(pl.col("prompt_id")).unique().sort(),
        )
    )
    similar = similarity_keys(prompts["text"], config.bands, config.rows_per_band, config.shingle)
    names = sorted(set(prompts["groups"].explode().to_list()))
    group_key = pl.Series([int(hash_fields("group", g)[:16], 16) for g in names], dtype=pl.UInt64)
    groups = pl.col("groups").list.eval(
        pl.element().replace_strict(pl.Series(names, dtype=pl.String), group_key, return_dtype=pl.UInt64)
    )
    keyed = prompts.with_columns(keys=key_lists(similar))
    return keyed.with_columns(pl.col("keys").list.concat(groups)).select(KEYS_SCHEMA.names())


def assign_splits(
    keys: pl.DataFrame, config: SplitsConfig, seed: int, memory: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Give every prompt its cluster and its split.

    Args:
        keys: `prompt_keys` of every bucket, concatenated.
        config: fractions and strata.
        seed: the recipe's seed; it names the order in which clusters choose.
        memory: this function's result for the parent version, which is obeyed.

    Returns:
        `SPLITS_SCHEMA` for all prompts of `keys` and of `memory`, sorted by prompt_id; `split` is null
        where `reason` says why.
    """
    nodes = _nodes(keys, memory)
    if nodes.is_empty():
        return pl.DataFrame(schema=SPLITS_SCHEMA)
    edges = _shared_keys(nodes)
    component = _components(edges, nodes.height)
    old = nodes["old_split"].to_list()
    rejected = _bridges(edges, component, nodes)
    if rejected:
        edges = edges.filter(~pl.col("node").is_in(sorted(rejected)))
        component = _components(edges, nodes.height)
    nodes = nodes.with_columns(component=pl.Series(component))
    nodes = nodes.with_columns(cluster_id=pl.col("prompt_id").min().over("component"))
    chosen = _choose(nodes.filter(~pl.int_range(pl.len()).is_in(sorted(rejected))), config, seed)
    split = [
        o or (None if i in rejected else chosen[c])
        for i, (o, c) in enumerate(zip(old, nodes["cluster_id"].to_list(), strict=True))
    ]
    reason = [BRIDGES if i in rejected else None for i in range(nodes.height)]
    return nodes.with_columns(
        pl.Series("split", split, dtype=pl.String), pl.Series("reason", reason, dtype=pl.String)
    ).select(SPLITS_SCHEMA.names())


def _nodes(keys: pl.DataFrame, memory: pl.DataFrame | None) -> pl.DataFrame:
    """Old and new prompts, one row each, sorted by id; keys of the same prompt united."""
    remembered = pl.DataFrame(schema=SPLITS_SCHEMA) if memory is None else memory.filter(pl.col("split").is_not_null())
    old = remembered.select("prompt_id", old_split="split", old_slice="slice", old_rows="n_rows", old_keys="keys")
    return (
        keys.join(old, on="prompt_id", how="full", coalesce=True)
        .with_columns(
            slice=pl.coalesce("slice", "old_slice"),
            n_rows=pl.coalesce("n_rows", pl.lit(0)),
            keys=pl.coalesce(pl.col("keys").list.set_union("old_keys"), "keys", "old_keys"),
        )
        .sort("prompt_id")
        .select("prompt_id", "slice", "n_rows", "keys", "old_split")
    )


def _shared_keys(nodes: pl.DataFrame) -> pl.DataFrame:
    """(node, key) for keys held by at least two prompts; all others join nothing."""
    pairs = nodes.lazy().select(node=pl.int_range(pl.len(), dtype=pl.UInt32), key="keys").explode("key").unique()
    shared = pairs.group_by("key").len().filter(pl.col("len") > 1)
    return pairs.join(shared, on="key", how="semi").sort("key", "node").collect()


def _components(edges: pl.DataFrame, n: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    star = edges.with_columns(centre=pl.col("node").first().over("key"))
    rows, columns = star["node"].to_numpy(), star["centre"].to_numpy()
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(n, n))
    labels: np.ndarray[tuple[int], np.dtype[np.int32]] = connected_components(graph, directed=False)[1]
    return labels


def _bridges(
    edges: pl.DataFrame, component: np.ndarray[tuple[int], np.dtype[np.int32]], nodes: pl.DataFrame
) -> set[int]:
    """New prompts that would join old prompts of different splits, taken in order of id."""
    old = nodes["old_split"].to_list()
    splits_of: dict[int, set[str]] = defaultdict(set)
    for c, s in zip(component.tolist(), old, strict=True):
        if s:
            splits_of[c].add(s)
    torn = [c for c, s in splits_of.items() if len(s) > 1]
    if not torn:
        return set()
    members = np.flatnonzero(np.isin(component, torn)).tolist()
    keys_of: dict[int, list[int]] = defaultdict(list)
    for node, key in edges.filter(pl.col("node").is_in(members)).select("node", "key").iter_rows():
        keys_of[node].append(key)
    root = {m: m for m in members}
    split = {m: old[m] for m in members}
    holders: dict[int, list[int]] = defaultdict(list)

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    rejected: set[int] = set()
    for node in sorted(members, key=lambda m: (old[m] is None, m)):
        near = {find(h) for key in keys_of[node] for h in holders[key]}
        near_splits = {s for r in near if (s := split[r])}
        if old[node] is None and len(near_splits) > 1:
            rejected.add(node)
            continue
        split[node] = old[node] or next(iter(near_splits), None)
        for r in near:
            if split[r] in (None, split[node]):
                root[r] = node
        for key in keys_of[node]:
            holders[key].append(node)
    return rejected


def _choose(nodes: pl.DataFrame, config: SplitsConfig, seed: int) -> dict[str, str]:
    """Splits of new clusters: in seeded order, each takes the split furthest below its share in its slice."""
    clusters = (
        nodes.sort("prompt_id")
        .group_by("cluster_id", maintain_order=True)
        .agg(pl.col("slice").first(), pl.col("n_rows").sum(), old=pl.col("old_split").drop_nulls().first())
    )
    order = [s for s in SPLITS if s in config.fractions]
    fractions = [config.fractions[s] for s in order]
    filled: dict[tuple[str, bool], list[int]] = defaultdict(lambda: [0] * len(order))
    fresh: list[tuple[float, str, tuple[str, bool], int]] = []
    result: dict[str, str] = {}
    for cluster, slice_, rows, old in clusters.iter_rows():
        # Clusters without a published row are balanced among themselves: a later version may publish them.
        stratum, size = (slice_, rows > 0), max(rows, 1)
        if old is None:
            fresh.append((unit_interval(str(seed), "split", cluster), cluster, stratum, size))
        else:
            result[cluster] = old
            if old in order:
                filled[stratum][order.index(old)] += size
    for _, cluster, stratum, size in sorted(fresh):
        have = filled[stratum]
        total = sum(have) + size
        need = [f * total - h for f, h in zip(fractions, have, strict=True)]
        best = need.index(max(need))
        have[best] += size
        result[cluster] = order[best]
    return result
