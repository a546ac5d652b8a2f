"""Duplicates in meaning, by embeddings (SemDeDup, Abbas et al. 2023, without its clustering)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.hygiene.duplicates import DROPS

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
        raise ValueError(f"{len(ids)} ids, vectors of shape {vectors.shape}: one row of numbers an id is needed")
    if len(ids) and not np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3):
        raise ValueError("vectors must have unit length: divide each by its norm")
    members: dict[str, list[int]] = {}
    for i in sorted(range(len(ids)), key=lambda i: ids[i]):
        members.setdefault("" if groups is None else groups[i], []).append(i)
    found = [
        (ids[rows[dropped]], "semantic_duplicate", ids[rows[kept]], cosine)
        for rows in members.values()
        if len(rows) > 1
        for dropped, kept, cosine in _within(vectors[rows], threshold)
    ]
    return pl.DataFrame(sorted(found), schema=DROPS, orient="row")


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
