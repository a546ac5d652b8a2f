"""Duplicates in meaning, by embeddings (SemDeDup, Abbas et al. 2023; its clusters only if a group is large)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.hygiene.duplicates import DROPS

EXACT = 20_000  # members of a group up to which every two are compared
_CELL = 5_000  # members of a cell of a larger group, on average
_BLOCK = 2048


def semantic_duplicates(
    ids: Sequence[str],
    vectors: npt.NDArray[np.float32],
    threshold: float = 0.95,
    groups: Sequence[str] | None = None,
) -> pl.DataFrame:
    """Which records to drop as saying what another says.

    Exact: every two records of a group are compared, so time grows with the square of a group's size (20,000 of
    384 dimensions: seconds) and linearly with the number of groups; memory is one block. As with near-duplicates
    the smallest id of those alike stays and a record goes only for one that stays, so the order of the rows does
    not matter.

    Args:
        ids: n unique ids.
        vectors: (n, d) embeddings of unit length.
        threshold: cosine in [-1, 1] from which two records are the same.
        groups: n names; only records of one group are compared (a pair's context, a language).

    Returns:
        Columns of `duplicates.DROPS`; reason `semantic_duplicate`, similarity the cosine.

    Raises:
        ValueError: lengths disagree or vectors are not of unit length.
    """
    if vectors.ndim != 2 or len(ids) != len(vectors) or (groups is not None and len(groups) != len(ids)):
        raise ValueError(f"{len(ids)} ids, vectors of shape {vectors.shape}: one vector per id is needed")
    if len(ids) and not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
        raise ValueError("vectors must have unit length: divide each by its norm")
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        members.setdefault("" if groups is None else groups[i], []).append(i)
    drops = [
        (ids[rows[dropped]], "semantic_duplicate", ids[rows[kept]], cosine)
        for rows in members.values()
        if len(rows) > 1
        for dropped, kept, cosine in _within(vectors[rows], threshold)
    ]
    return pl.DataFrame(sorted(drops), schema=DROPS, orient="row")


def cells(ids: Sequence[str], vectors: npt.NDArray[np.float32], groups: Sequence[str]) -> list[str]:
    """Groups for `semantic_duplicates` that are never much larger than `EXACT`.

    A group of n > `EXACT` members is divided among n / `_CELL` of its own vectors, drawn by the ids' order: each
    member goes to the one it is closest to, as SemDeDup divides by clusters. Two records that are alike and lie on
    both sides of a border are missed. Time grows with n^2 / `_CELL`, far below that of comparing every two.

    Args:
        ids: n unique ids.
        vectors: (n, d) embeddings of unit length.
        groups: n names.
    """
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        members.setdefault(groups[i], []).append(i)
    names = list(groups)
    for name, rows in members.items():
        if len(rows) <= EXACT:
            continue
        centres = vectors[rows[:: max(1, _CELL)]]
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            for i, cell in zip(block, (vectors[block] @ centres.T).argmax(axis=1), strict=True):
                names[i] = f"{name} {cell}"
    return names


def _within(ranked: npt.NDArray[np.float32], threshold: float) -> Iterator[tuple[int, int, float]]:
    """(dropped, kept, cosine) among rows in the order of who stays, by index; the closest kept row is named."""
    gone = np.zeros(len(ranked), dtype=bool)
    for start in range(0, len(ranked), _BLOCK):
        stop = min(start + _BLOCK, len(ranked))
        cosines = ranked[start:stop] @ ranked[:stop].T
        for i in range(start, stop):
            row = cosines[i - start, :i]
            alike = (row >= threshold) & ~gone[:i]
            if alike.any():
                kept = int(np.argmax(np.where(alike, row, -2.0)))
                gone[i] = True
                yield i, kept, float(row[kept])
