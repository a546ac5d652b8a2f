"""MinHash signatures of many texts at once, for near-duplicates (`transforms.stats.minhash`).

Signatures of whole texts are compared; splits call prompts alike that share a band (`transforms.publish.prompt_keys`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.stats.minhash import U32, U64, Ints, band_keys, chunks, minima, shingles

SHINGLE = 3
BANDS = 21
ROWS = 6
PERMUTATIONS = BANDS * ROWS
_COMPARED = 4096  # pairs of signatures at a time
UInt16s = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Signatures:
    """Signatures of n texts.

    `values` (n, PERMUTATIONS) uint16: the low half of each minimum; the share of equal values estimates the
    Jaccard similarity with standard error sqrt(j (1 - j) / PERMUTATIONS) (2^-16 chance agreements apart).
    `bands` (n, BANDS) uint64: two texts with similarity j share at least one with probability
    1 - (1 - j^ROWS)^BANDS: 0.998 at 0.8, 0.30 at 0.5, 0.005 at 0.25.
    `words` (n,): how many words a text has. A text without words has keys that must not be compared.
    """

    values: UInt16s
    bands: U64
    words: Ints


def word_texts(texts: pl.Series) -> pl.Series:
    """The texts' words after NFKC and lower-casing, separated by spaces (null counts as empty)."""
    lowered = texts.fill_null("").str.normalize("NFKC").str.to_lowercase()
    return lowered.str.replace_all(r"\W+", " ").str.strip_chars(" ")


def signatures(texts: pl.Series) -> Signatures:
    """Signatures of a column of texts (null counts as empty)."""
    return _finish(*_minima(texts))


def union_signatures(first: pl.Series, second: pl.Series) -> Signatures:
    """Signatures of the unions of two columns' shingle sets, row by row: who comes first does not matter."""
    one, two = _minima(first), _minima(second)
    return _finish(np.minimum(one[0], two[0]), one[1] + two[1])


def similarity(values: UInt16s, first: Ints, second: Ints) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of the texts at rows `first` with those at rows `second`."""
    out = np.empty(len(first), dtype=np.float64)
    for i in range(0, len(first), _COMPARED):
        part = slice(i, i + _COMPARED)
        out[part] = (values[first[part]] == values[second[part]]).mean(axis=1)
    return out


def _minima(texts: pl.Series) -> tuple[U32, Ints]:
    """Minimum of each permutation over each text's shingles (PERMUTATIONS, n), and words per text (n,)."""
    spaced = word_texts(texts)
    words = spaced.str.count_matches(" ", literal=True).to_numpy().astype(np.int64) + 1
    words[(spaced == "").to_numpy()] = 0
    parts = [minima(shingles(part, SHINGLE), PERMUTATIONS) for part in chunks(spaced)]
    lowest = np.concatenate(parts, axis=1) if parts else np.empty((PERMUTATIONS, 0), np.uint32)
    lowest[:, words == 0] = np.iinfo(np.uint32).max  # the minimum of nothing
    return lowest, words


def _finish(lowest: U32, words: Ints) -> Signatures:
    """Values and band keys from the 32-bit minima."""
    values = np.ascontiguousarray((lowest & np.uint32(0xFFFF)).astype(np.uint16).T)
    return Signatures(values, band_keys(lowest, BANDS, ROWS), words)
