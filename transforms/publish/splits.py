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

from schemas.tables import SPLITS
from transforms.minhash import text_hashes
from transforms.publish.rows import PUBLISHED
from transforms.publish.similarity import canonical_texts, key_lists, similarity_keys

Split = Literal["train", "validation", "test"]
BRIDGES = "bridges_splits"
_PARTS = 4  # of all keys, sorted one after another: a quarter of them is held twice
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


def key_columns(config: SplitsConfig) -> tuple[str, ...]:
    """Columns of `pairs` that splits depend on."""
    return tuple(dict.fromkeys(["pair_id", "prompt_id", "prompt", "group_id", *config.stratify]))


def prompt_keys(pairs: pl.DataFrame, verdicts: pl.DataFrame, config: SplitsConfig) -> pl.DataFrame:
    """What the split of a bucket's prompts depends on.

    Args:
        pairs: `pairs` rows; columns `key_columns` are enough.
        verdicts: `verdicts` rows; pair_id and action are enough.
        config: what is stratified and what is alike.

    Returns:
        `KEYS_SCHEMA`, one row a prompt, sorted by prompt_id: its slice, how many of its pairs the verdicts
        publish, and its keys (similarity keys and hashes of its group ids).
    """
    if pairs.is_empty():
        return pl.DataFrame(schema=KEYS_SCHEMA)
    published = verdicts.filter(pl.col("action").is_in(PUBLISHED)).select("pair_id", published=pl.lit(1, pl.Int64))
    slice_ = pl.concat_str([pl.col(c).fill_null("") for c in config.stratify] or [pl.lit("")], separator="|")
    # What was generated from an ungrouped prompt names that prompt as its group.
    group = pl.col("group_id").fill_null(pl.col("prompt_id"))
    rows = pairs.select("prompt_id", "pair_id", slice=slice_, group=group)
    prompts = (
        rows.join(published, on="pair_id", how="left")
        .sort("prompt_id", "pair_id")
        .group_by("prompt_id", maintain_order=True)
        .agg(pl.col("slice").first(), n_rows=pl.col("published").sum())
    )
    groups = rows.select("prompt_id", "group").unique().sort("prompt_id", "group")
    hashed = groups.with_columns(key=pl.Series(text_hashes("group:" + groups["group"]), dtype=pl.UInt64))
    shared = hashed.group_by("prompt_id", maintain_order=True).agg("key")["key"]
    texts = canonical_texts(pairs.select("prompt_id", "prompt").unique("prompt_id").sort("prompt_id")["prompt"])
    similar = similarity_keys(texts, config.bands, config.rows_per_band, config.shingle)
    keyed = prompts.with_columns(keys=key_lists(similar).list.concat(shared))
    return keyed.select(KEYS_SCHEMA.names())


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
    edges = shared_keys(nodes["keys"])
    component = _components(edges, nodes.height)
    rejected = _bridges(edges, component, nodes)
    if rejected:
        edges = edges.filter(~pl.col("node").is_in(sorted(rejected)))
        component = _components(edges, nodes.height)
    # Nodes are sorted by id, so the first of a component has its smallest.
    first, cluster = np.unique(component, return_index=True, return_inverse=True)[1:]
    left_out = np.zeros(nodes.height, np.bool_)
    left_out[sorted(rejected)] = True
    nodes = nodes.with_columns(
        cluster=pl.Series(cluster, dtype=pl.UInt32),
        cluster_id=nodes["prompt_id"].gather(first[cluster]),
        left_out=pl.Series(left_out),
    ).with_columns(reason=pl.when("left_out").then(pl.lit(BRIDGES)))
    chosen = _choose(nodes.filter(pl.col("reason").is_null()), config, seed)
    split = pl.when(pl.col("reason").is_null()).then(pl.coalesce("old_split", "split"))
    return (
        nodes.join(chosen, on="cluster", how="left", maintain_order="left")
        .with_columns(split=split)
        .select(SPLITS_SCHEMA.names())
    )


def _nodes(keys: pl.DataFrame, memory: pl.DataFrame | None) -> pl.DataFrame:
    """Old and new prompts, one row each, sorted by id; keys of the same prompt united."""
    columns = ["prompt_id", "slice", "n_rows", "keys", "old_split"]
    if memory is None:
        return keys.sort("prompt_id").with_columns(old_split=pl.lit(None, pl.String)).select(columns)
    remembered = memory.filter(pl.col("split").is_not_null())
    old = remembered.select("prompt_id", old_split="split", old_slice="slice", old_rows="n_rows", old_keys="keys")
    joined = keys.join(old, on="prompt_id", how="full", coalesce=True).with_columns(
        slice=pl.coalesce("slice", "old_slice"), n_rows=pl.coalesce("n_rows", pl.lit(0))
    )
    # Most prompts have the keys they had: only the others need the union, which copies.
    moved = pl.col("keys").ne_missing(pl.col("old_keys"))
    union = pl.coalesce(pl.col("keys").list.set_union("old_keys"), "keys", "old_keys")
    parts = [joined.filter(~moved), joined.filter(moved).with_columns(keys=union)]
    return pl.concat([part.select(columns) for part in parts]).sort("prompt_id")


def shared_keys(lists: pl.Series) -> pl.DataFrame:
    """(node, key) for keys held by at least two lists; a node is a list's place. Sorted by key and node."""
    lengths = lists.list.len()
    keys = lists.filter(lengths > 0).explode()
    found = []
    for part in range(_PARTS):
        ordered = keys.filter(keys % _PARTS == part).sort().to_numpy()
        found.append(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    places = keys.is_in(pl.Series(np.concatenate(found)).implode()).arg_true()
    node = np.searchsorted(np.cumsum(lengths.to_numpy().astype(np.int64)), places.to_numpy(), side="right")
    held = pl.DataFrame({"node": pl.Series(node, dtype=pl.UInt32), "key": keys.gather(places)})
    return held.unique().filter(pl.len().over("key") > 1).sort("key", "node")


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


def _choose(nodes: pl.DataFrame, config: SplitsConfig, seed: int) -> pl.DataFrame:
    """cluster, split: in seeded order, each new cluster takes the split furthest below its share in its slice."""
    clusters = (
        nodes.group_by("cluster", maintain_order=True)
        .agg(pl.col("cluster_id", "slice").first(), pl.col("n_rows").sum(), pl.col("old_split").drop_nulls().first())
        # Clusters without a published row are balanced among themselves: a later version may publish them.
        .with_columns(
            stratum=pl.struct("slice", pl.col("n_rows") > 0).rank("dense") - 1, size=pl.max_horizontal("n_rows", 1)
        )
    )
    order = [s for s in SPLITS if s in config.fractions]
    fractions = [config.fractions[s] for s in order]
    filled = [[0] * len(order) for _ in range(clusters["stratum"].n_unique())]
    old = clusters.filter(pl.col("old_split").is_not_null())
    for stratum, split, size in old.group_by("stratum", "old_split").agg(pl.col("size").sum()).iter_rows():
        if split in order:
            filled[stratum][order.index(split)] = size
    total = [sum(have) for have in filled]
    fresh = clusters.filter(pl.col("old_split").is_null())
    draw = pl.Series("draw", text_hashes(f"{seed} split " + fresh["cluster_id"]), dtype=pl.UInt64)
    fresh = fresh.with_columns(draw).sort("draw", "cluster_id")
    choices = []
    for stratum, size in fresh.select("stratum", "size").iter_rows():
        have = filled[stratum]
        total[stratum] = n = total[stratum] + size
        need = [f * n - h for f, h in zip(fractions, have, strict=True)]
        best = need.index(max(need))
        have[best] += size
        choices.append(order[best])
    new = fresh.select("cluster", split=pl.Series(choices, dtype=pl.String))
    return pl.concat([old.select("cluster", split="old_split"), new])
