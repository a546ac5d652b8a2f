"""Duplicates in meaning, by embeddings (SemDeDup, Abbas et al. 2023, without its clustering)."""

from __future__ import annotations

from collections.abc import Sequence

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

    Exact: every two records of a group are compared, so time grows with the square of the number of records
    (20,000 of 384 dimensions: seconds); memory is one block. As with near-duplicates the smallest id of those
    alike stays and a record goes only for one that stays, so the order of the rows does not matter.

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
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    names = np.array([groups[i] if groups is not None else "" for i in order])
    ranked = vectors[order]
    dropped = np.zeros(len(order), dtype=bool)
    drops = []
    for start in range(0, len(order), _BLOCK):
        stop = min(start + _BLOCK, len(order))
        cosines = ranked[start:stop] @ ranked[:stop].T
        for i in range(start, stop):
            row = cosines[i - start, :i]
            alike = (row >= threshold) & ~dropped[:i] & (names[:i] == names[i])
            if alike.any():
                kept = int(np.argmax(np.where(alike, row, -2.0)))
                dropped[i] = True
                drops.append((ids[order[i]], "semantic_duplicate", ids[order[kept]], float(row[kept])))
    return pl.DataFrame(drops, schema=DROPS, orient="row")
