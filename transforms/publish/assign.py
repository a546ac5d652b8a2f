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
from transforms.minhash import U64, text_hashes
from transforms.storage.files import without_slack

BRIDGES = "bridges_splits"
KEYS_AT_ONCE = 1 << 24  # sorted in memory, some thirty bytes each
Parts = Callable[[], Iterable[pl.DataFrame]]
_LEFT_OUT = -2  # in place of a split's number
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
    n = len(component)
    linked = np.bincount(component, minlength=1)[component] > 1
    members, alone = _collect(parts, linked, seed)
    members = members.with_columns(component=pl.Series(component[members["node"].to_numpy()]))
    members = _clustered(members, _edges(parts, _torn(members)))
    codes = np.full(n, -1, np.int8)
    _choose(alone, members, fractions, seed, codes)
    names = members.select("node", "cluster_id").sort("node")
    start = 0
    for part in parts():
        nodes = pl.int_range(start, start + part.height, dtype=pl.UInt32, eager=True)
        code = codes[start : start + part.height]
        start += part.height
        chosen = pl.Series(code.clip(0), dtype=pl.UInt8).replace_strict(
            {code: split for split, code in _CODES.items()}, return_dtype=pl.String
        )
        yield (
            part.with_columns(node=nodes)
            .join(names, on="node", how="left", maintain_order="left")
            .with_columns(
                cluster_id=pl.coalesce("cluster_id", "prompt_id"),
                reason=pl.when(pl.Series(code == _LEFT_OUT)).then(pl.lit(BRIDGES)),
                split=pl.when(pl.Series(code >= 0)).then(pl.coalesce("old_split", chosen)),
            )
        )


def shared_keys(parts: Callable[[], Iterable[pl.Series]]) -> pl.DataFrame:
    """(node, key) for keys held by at least two nodes; a node is a list's place. Sorted by key and node.

    Args:
        parts: gives the lists of keys anew whenever it is called.
    """
    total = sum(int(lists.list.len().sum()) for lists in parts())
    n_passes = max(1, -(-total // KEYS_AT_ONCE))
    twice = np.sort(np.concatenate([_held_twice(parts, at, n_passes) for at in range(n_passes)]))
    held, start = [pl.DataFrame(schema={"node": pl.UInt32, "key": pl.UInt64})], 0
    for lists in parts():
        keys, lengths = _keys(lists), lists.list.len().to_numpy().astype(np.int64)
        at = np.searchsorted(twice, keys)
        hits = np.flatnonzero(twice[np.minimum(at, len(twice) - 1)] == keys) if len(twice) else np.zeros(0, np.int64)
        node = start + np.searchsorted(np.cumsum(lengths), hits, side="right")
        held.append(pl.DataFrame({"node": pl.Series(node, dtype=pl.UInt32), "key": pl.Series(keys[hits])}))
        start += len(lists)
    return pl.concat(held).unique().filter(pl.len().over("key") > 1).sort("key", "node")


def _held_twice(parts: Callable[[], Iterable[pl.Series]], at: int, n_passes: int) -> U64:
    own = np.concatenate([np.zeros(0, np.uint64), *(_own(_keys(lists), at, n_passes)[0] for lists in parts())])
    own.sort()
    twice: U64 = np.unique(own[1:][own[1:] == own[:-1]])
    return twice


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
            own, places = _own(_keys(part["keys"]), at, n_passes)
            ends = np.cumsum(part["keys"].list.len().to_numpy().astype(np.int64))
            keys.append(own)
            nodes.append((start + np.searchsorted(ends, places, side="right")).astype(np.int32))
            start += part.height
        held, by = np.concatenate(keys), np.concatenate(nodes)
        del keys, nodes
        order = held.argsort(kind="stable")
        held, by = held[order], by[order]
        same = np.flatnonzero(held[1:] == held[:-1])
        component = _joined(component, by[same], by[same + 1])
    return component


def _keys(lists: pl.Series) -> U64:
    keys: U64 = lists.filter(lists.list.len() > 0).explode().to_numpy()
    return keys


def _own(keys: U64, at: int, n_passes: int) -> tuple[U64, NDArray[np.int64]]:
    """The keys of one of several passes, and their places."""
    if n_passes == 1:
        return keys, np.arange(len(keys))
    places = np.flatnonzero(keys % np.uint64(n_passes) == at)
    return keys[places], places


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


def _collect(parts: Parts, linked: NDArray[np.bool_], seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Nodes that share a key, sorted by prompt_id, and of every other what its choice depends on."""
    members, alone, codes, start = [], [], {"": 0}, 0
    for part in parts():
        nodes = pl.int_range(start, start + part.height, dtype=pl.UInt32, eager=True)
        is_linked = pl.Series(linked[start : start + part.height])
        start += part.height
        for value in part["slice"].unique(maintain_order=True):
            codes.setdefault(value, len(codes))
        numbered = part.select(
            "prompt_id",
            "n_rows",
            "old_split",
            pl.col("slice").replace_strict(codes, return_dtype=pl.UInt32),
            node=nodes,
        )
        members.append(without_slack(numbered.filter(is_linked)))
        alone.append(_choosers(numbered.filter(~is_linked), pl.col("prompt_id"), seed).drop("prompt_id", "n_rows"))
    if not members:
        empty = {"prompt_id": pl.String, "n_rows": pl.Int64, "old_split": pl.String}
        members = [pl.DataFrame(schema={**empty, "slice": pl.UInt32, "node": pl.UInt32})]
        alone = [_choosers(members[0], pl.col("prompt_id"), seed).drop("prompt_id", "n_rows")]
    return pl.concat(members).sort("prompt_id"), pl.concat(alone)


def _torn(members: pl.DataFrame) -> pl.DataFrame:
    """The members of components that hold old prompts of different splits."""
    splits = pl.col("old_split").drop_nulls().n_unique().over("component")
    return members.with_columns(place=pl.int_range(pl.len(), dtype=pl.UInt32)).filter(splits > 1)


def _edges(parts: Parts, torn: pl.DataFrame) -> pl.DataFrame:
    """(node, key) of the keys that several torn members hold; a node is a place among the members here."""
    held, start = [pl.DataFrame(schema={"node": pl.UInt32, "key": pl.UInt64})], 0
    place = torn.select("node", "place")
    for part in parts() if torn.height else ():
        nodes = pl.int_range(start, start + part.height, dtype=pl.UInt32, eager=True)
        start += part.height
        found = part.select("keys", node=nodes).join(place, on="node").filter(pl.col("keys").list.len() > 0)
        held.append(without_slack(found.select(node="place", key="keys").explode("key")))
    return pl.concat(held).unique().filter(pl.len().over("key") > 1).sort("key", "node")


def _choosers(frame: pl.DataFrame, name: pl.Expr, seed: int) -> pl.DataFrame:
    """The frame with `draw` (the place in the order of choice), `stratum`, `size`, and the number of `old_split`."""
    names = frame.select(pl.format("{} split {}", pl.lit(str(seed)), name)).to_series()
    # Clusters without a published row are balanced among themselves: a later version may publish them.
    return frame.with_columns(
        pl.col("old_split").replace_strict(_CODES, default=-1, return_dtype=pl.Int8),
        draw=pl.Series(text_hashes(names), dtype=pl.UInt64),
        stratum=2 * pl.col("slice") + (pl.col("n_rows") > 0).cast(pl.UInt32),
        size=pl.max_horizontal("n_rows", 1).cast(pl.UInt32),
    ).drop("slice")


def _clustered(members: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    """`members` with `cluster`, `cluster_id` (its smallest prompt_id) and `left_out`; `edges` are those of the torn."""
    component = members["component"].to_numpy()
    rejected = sorted(_bridges(edges, component, members))
    if rejected:
        # Whoever was torn begins anew, alone, and is joined to others but by what was rejected.
        torn = np.isin(component, component[rejected])
        apart = component.max() + 1 + np.arange(members.height, dtype=np.int32)
        star = edges.filter(~pl.col("node").is_in(rejected)).with_columns(centre=pl.col("node").first().over("key"))
        component = _joined(np.where(torn, apart, component), star["node"].to_numpy(), star["centre"].to_numpy())
    # Members are sorted by id, so the first of a component has its smallest.
    first, cluster = np.unique(component, return_index=True, return_inverse=True)[1:]
    left_out = np.zeros(members.height, np.bool_)
    left_out[rejected] = True
    return members.with_columns(
        cluster=pl.Series(cluster, dtype=pl.UInt32),
        cluster_id=members["prompt_id"].gather(first[cluster]),
        left_out=pl.Series(left_out),
    )


def _bridges(edges: pl.DataFrame, component: NDArray[np.int32], members: pl.DataFrame) -> set[int]:
    """New prompts that would join old prompts of different splits, taken in order of id."""
    old = members["old_split"].to_list()
    splits_of: dict[int, set[str]] = defaultdict(set)
    for c, s in zip(component.tolist(), old, strict=True):
        if s:
            splits_of[c].add(s)
    torn = [c for c, s in splits_of.items() if len(s) > 1]
    if not torn:
        return set()
    torn_members = np.flatnonzero(np.isin(component, torn)).tolist()
    keys_of: dict[int, list[int]] = defaultdict(list)
    for node, key in edges.filter(pl.col("node").is_in(torn_members)).select("node", "key").iter_rows():
        keys_of[node].append(key)
    root = {m: m for m in torn_members}
    split = {m: old[m] for m in torn_members}
    holders: dict[int, list[int]] = defaultdict(list)

    def find(node: int) -> int:
        while root[node] != node:
            root[node] = root[root[node]]
            node = root[node]
        return node

    rejected: set[int] = set()
    for node in sorted(torn_members, key=lambda m: (old[m] is None, m)):
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
    alone: pl.DataFrame, members: pl.DataFrame, fractions: Mapping[Any, float], seed: int, codes: NDArray[np.int8]
) -> None:
    """Write the number of every node's split into `codes`: in seeded order, each new cluster takes the split furthest
    below its share in its slice."""
    staying = members.filter(~pl.col("left_out"))
    together = _choosers(
        staying.group_by("cluster", maintain_order=True).agg(
            pl.col("cluster_id", "slice").first(), pl.col("n_rows").sum(), pl.col("old_split").drop_nulls().first()
        ),
        pl.col("cluster_id"),
        seed,
    )
    columns = ["draw", "stratum", "size", "old_split", "node"]
    clusters = pl.concat(
        # A cluster's place follows those of all nodes.
        [alone.select(columns), together.with_columns(node=pl.col("cluster") + len(codes)).select(columns)]
    )
    found = np.concatenate([codes, np.full(members["cluster"].n_unique(), -1, np.int8)])
    order = [s for s in SPLITS if s in fractions]
    filled: dict[int, list[int]] = defaultdict(lambda: [0] * len(order))
    old = clusters.filter(pl.col("old_split") >= 0)
    found[old["node"].to_numpy()] = old["old_split"].to_numpy()
    for stratum, code, size in old.group_by("stratum", "old_split").agg(pl.col("size").sum()).iter_rows():
        if SPLITS[code] in order:
            filled[stratum][order.index(SPLITS[code])] = size
    fresh = clusters.filter(pl.col("old_split") < 0).sort("draw", maintain_order=True)
    share = [fractions[s] for s in order]
    number = [_CODES[s] for s in order]
    found[fresh["node"].to_numpy()] = _choices(fresh, filled, share, number)
    codes[:] = found[: len(codes)]
    codes[staying["node"].to_numpy()] = found[len(codes) :][staying["cluster"].to_numpy()]
    codes[members.filter("left_out")["node"].to_numpy()] = _LEFT_OUT


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
