"""Clusters of prompts and their splits, over nodes that come in parts: one part is in memory at a time.

A node is a prompt: `prompt_id, slice, n_rows, keys, old_split`; parts are sorted by prompt_id and hold every prompt
once. Between parts remain some twenty bytes a prompt, and whole rows of those alone that share a key with another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.tables import SPLITS
from transforms.stats.minhash import U64, text_hashes
from transforms.storage.files import without_slack

BRIDGES = "bridges_splits"
KEYS_AT_ONCE = 1 << 24  # sorted in memory, some thirty bytes each
Parts = Callable[[], Iterable[pl.DataFrame]]
_LEFT_OUT = -1  # in place of a split's number
_CODES = {split: code for code, split in enumerate(SPLITS)}


def assign(parts: Parts, fractions: Mapping[Any, float], seed: int) -> Iterator[pl.DataFrame]:
    """Give every prompt its cluster and its split.

    Args:
        parts: gives the nodes anew whenever it is called, in the same order.
        fractions: of the rows, by split.
        seed: names the order in which clusters choose.

    Yields:
        Per part its nodes with `cluster_id`, `split` and `reason`; `split` is null where `reason` says why.
    """
    component = _components(parts)
    linked = np.bincount(component, minlength=1)[component] > 1
    members, alone = _split_by_links(parts, linked, seed)
    members = members.with_columns(component=pl.Series(component[members["node"].to_numpy()]))
    conflicting = _conflicting(members)
    members = _clustered(members, conflicting, _edges(parts, conflicting))
    codes = _choose(alone, members, fractions, seed, len(component))
    names = members.select("node", "cluster_id")
    for part in _numbered(parts):
        code = codes[part["node"].to_numpy()]
        chosen = pl.Series(code.clip(0), dtype=pl.UInt8).replace_strict(dict(enumerate(SPLITS)), return_dtype=pl.String)
        yield (
            part.join(names, on="node", how="left", maintain_order="left").with_columns(
                cluster_id=pl.coalesce("cluster_id", "prompt_id"),
                reason=pl.when(pl.Series(code == _LEFT_OUT)).then(pl.lit(BRIDGES)),
                split=pl.when(pl.Series(code >= 0)).then(pl.coalesce("old_split", chosen)),
            )
        )


def _numbered(parts: Parts) -> Iterator[pl.DataFrame]:
    """The parts with the column `node`: a prompt's place in all of them."""
    start = 0
    for part in parts():
        yield part.with_columns(node=pl.int_range(start, start + part.height, dtype=pl.UInt32, eager=True))
        start += part.height


def _components(parts: Parts) -> NDArray[np.int32]:
    """The connected component of every node, where two nodes that hold one key are connected.

    Keys are looked through some at a time, and of each time remain only the components there are by then.
    """
    counts = [(part.height, int(part["keys"].list.len().sum())) for part in parts()]
    n = sum(height for height, _ in counts)
    n_passes = max(1, -(-sum(held for _, held in counts) // KEYS_AT_ONCE))
    component: NDArray[np.int32] = np.arange(n, dtype=np.int32)
    for at in range(n_passes):
        keys: list[U64] = [np.zeros(0, np.uint64)]
        nodes: list[NDArray[np.int32]] = [np.zeros(0, np.int32)]
        start = 0
        for part in parts():
            lists = part["keys"]
            own = lists.filter(lists.list.len() > 0).explode().to_numpy()
            places = np.flatnonzero(own % np.uint64(n_passes) == at)
            ends = np.cumsum(lists.list.len().to_numpy().astype(np.int64))
            keys.append(own[places])
            nodes.append((start + np.searchsorted(ends, places, side="right")).astype(np.int32))
            start += part.height
        held, by = np.concatenate(keys), np.concatenate(nodes)
        del keys, nodes
        order = held.argsort(kind="stable")
        held, by = held[order], by[order]
        same = np.flatnonzero(held[1:] == held[:-1])
        component = _joined(component, by[same], by[same + 1])
    return component


def _joined(component: NDArray[np.int32], one: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32]:
    """Components after the nodes `one[i]` and `other[i]` have been connected for all i."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(component):
        return component
    size = int(component.max()) + 1
    graph = coo_array((np.ones(len(one), np.int8), (component[one], component[other])), shape=(size, size))
    labels: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return labels[component]


def _split_by_links(parts: Parts, linked: NDArray[np.bool_], seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Nodes that share a key, sorted by prompt_id, and what the choices of all others depend on (`_choosers`)."""
    members, alone, codes = [], [], {"": 0}
    for part in _numbered(parts):
        for value in part["slice"].unique(maintain_order=True):
            codes.setdefault(value, len(codes))
        slices = pl.col("slice").replace_strict(codes, return_dtype=pl.UInt32)
        rows = part.select("node", "prompt_id", "n_rows", "old_split", slices)
        is_linked = pl.Series(linked[rows["node"].to_numpy()])
        members.append(without_slack(rows.filter(is_linked)))
        alone.append(_choosers(rows.filter(~is_linked).rename({"prompt_id": "cluster_id"}), seed))
    return pl.concat(members).sort("prompt_id"), pl.concat(alone)


def _conflicting(members: pl.DataFrame) -> pl.DataFrame:
    """`node, place, old_split` of the members of components that hold old prompts of different splits."""
    splits = pl.col("old_split").drop_nulls().n_unique().over("component")
    return members.select("node", "old_split", place=pl.int_range(pl.len(), dtype=pl.UInt32)).filter(
        members.select(splits > 1).to_series()
    )


def _edges(parts: Parts, conflicting: pl.DataFrame) -> pl.DataFrame:
    """(place, key) of the keys that several conflicting members hold, sorted by key and place."""
    held = [pl.DataFrame(schema={"place": pl.UInt32, "key": pl.UInt64})]
    for part in _numbered(parts) if conflicting.height else ():
        joined = part.join(conflicting, on="node").filter(pl.col("keys").list.len() > 0)
        held.append(without_slack(joined.select("place", key="keys").explode("key")))
    return pl.concat(held).unique().filter(pl.len().over("key") > 1).sort("key", "place")


def _choosers(clusters: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Of `node, cluster_id, slice, n_rows, old_split` what choices depend on: the `draw` that orders them, `stratum`,
    `size`, and the number of `old_split` (-1: none)."""
    names = clusters.select(pl.format("{} split {}", pl.lit(str(seed)), "cluster_id")).to_series()
    return clusters.select(
        "node",
        pl.col("old_split").replace_strict(_CODES, default=-1, return_dtype=pl.Int8),
        draw=pl.Series(text_hashes(names), dtype=pl.UInt64),
        # Clusters without a published row are balanced among themselves: a later version may publish them.
        stratum=2 * pl.col("slice") + (pl.col("n_rows") > 0).cast(pl.UInt32),
        size=pl.max_horizontal("n_rows", 1).cast(pl.UInt32),
    )


def _clustered(members: pl.DataFrame, conflicting: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    """`members` with `cluster`, `cluster_id` (its smallest prompt_id) and `left_out`; `edges` connect `conflicting`."""
    component = members["component"].to_numpy()
    rejected = sorted(_bridges(edges, conflicting))
    if rejected:
        # Conflicting members start again, each alone, and are joined by the keys of those that were not rejected.
        places, component = conflicting["place"].to_numpy(), component.copy()
        component[places] = component.max() + 1 + np.arange(len(places), dtype=np.int32)
        star = edges.filter(~pl.col("place").is_in(rejected)).with_columns(centre=pl.col("place").first().over("key"))
        component = _joined(component, star["place"].to_numpy(), star["centre"].to_numpy())
    # Members are sorted by id, so the first of a component has its smallest.
    first, cluster = np.unique(component, return_index=True, return_inverse=True)[1:]
    left_out = np.zeros(members.height, np.bool_)
    left_out[rejected] = True
    return members.with_columns(
        cluster=pl.Series(cluster, dtype=pl.UInt32),
        cluster_id=members["prompt_id"].gather(first[cluster]),
        left_out=pl.Series(left_out),
    )


def _bridges(edges: pl.DataFrame, conflicting: pl.DataFrame) -> set[int]:
    """Places of new prompts that would join old prompts of different splits, taken in order of id."""
    old: dict[int, str | None] = dict(conflicting.select("place", "old_split").iter_rows())
    keys_of: dict[int, list[int]] = defaultdict(list)
    for node, key in edges.iter_rows():
        keys_of[node].append(key)
    root = {node: node for node in old}
    split = dict(old)
    holders: dict[int, list[int]] = defaultdict(list)

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    rejected: set[int] = set()
    for node in sorted(old, key=lambda m: (old[m] is None, m)):
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


def _choose(
    alone: pl.DataFrame, members: pl.DataFrame, fractions: Mapping[Any, float], seed: int, n: int
) -> NDArray[np.int8]:
    """The number of every node's split: in seeded order, each new cluster takes the split furthest below its share in
    its slice."""
    staying = members.filter(~pl.col("left_out"))
    together = staying.group_by("cluster", maintain_order=True).agg(
        pl.col("cluster_id", "slice").first(), pl.col("n_rows").sum(), pl.col("old_split").drop_nulls().first()
    )
    # Among nodes a cluster has the place of none: it follows them all.
    clusters = pl.concat([alone, _choosers(together.with_columns(node=pl.col("cluster") + n), seed)])
    codes = np.full(n + members["cluster"].n_unique(), _LEFT_OUT, np.int8)
    order = [s for s in SPLITS if s in fractions]
    filled: dict[int, list[int]] = defaultdict(lambda: [0] * len(order))
    old = clusters.filter(pl.col("old_split") >= 0)
    codes[old["node"].to_numpy()] = old["old_split"].to_numpy()
    for stratum, code, size in old.group_by("stratum", "old_split").agg(pl.col("size").sum()).iter_rows():
        if SPLITS[code] in order:
            filled[stratum][order.index(SPLITS[code])] = size
    fresh = clusters.filter(pl.col("old_split") < 0).sort("draw", maintain_order=True)
    share = [fractions[s] for s in order]
    number = [_CODES[s] for s in order]
    codes[fresh["node"].to_numpy()] = _choices(fresh, filled, share, number)
    codes[staying["node"].to_numpy()] = codes[n + staying["cluster"].to_numpy()]
    return codes[:n]


def _choices(
    fresh: pl.DataFrame, filled: dict[int, list[int]], share: Sequence[float], number: Sequence[int]
) -> NDArray[np.int8]:
    total = {stratum: sum(have) for stratum, have in filled.items()}
    choices = np.zeros(fresh.height, np.int8)
    for i, (stratum, size) in enumerate(fresh.select("stratum", "size").iter_rows()):
        have = filled[stratum]
        total[stratum] = n = total.get(stratum, 0) + size
        need = [f * n - h for f, h in zip(share, have, strict=True)]
        best = need.index(max(need))
        have[best] += size
        choices[i] = number[best]
    return choices
