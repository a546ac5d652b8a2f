"""MinHash signatures of many texts at once, in NumPy.

A text is the set of its word `SHINGLE`-grams. Every step works on a whole column: Polars splits into words,
a shingle's hash is a window of a running polynomial hash over the column's bytes, and a permutation is a
multiply-shift hash reduced by minimum per text. Hashes are arithmetic on bytes with constants below, so a
signature is the same on every machine and in every process.

Broder 1997 (MinHash); Indyk and Motwani 1998 (banding); Dietzfelbinger et al. 1997 (multiply-shift).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

SHINGLE = 3
BANDS = 21
ROWS = 6
PERMUTATIONS = BANDS * ROWS
_BASE = np.uint64(0x9E3779B97F4A7C15 | 1)
_CHUNK = 4096  # texts at a time: the working set stays in the processor's cache
UInt64s = npt.NDArray[np.uint64]
UInt16s = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Signatures:
    """Signatures of n texts.

    `values` (n, PERMUTATIONS) uint16: the low half of each minimum; the share of equal values estimates the
    Jaccard similarity with standard error sqrt(j (1 - j) / PERMUTATIONS) (2^-16 chance agreements apart).
    `bands` (n, BANDS) uint64: two texts with similarity j share at least one with probability
    1 - (1 - j^ROWS)^BANDS: 0.998 at 0.8, 0.30 at 0.5, 0.005 at 0.25.
    `words` (n,): how many words a text has. A text without words has bands of its own that match nothing.
    """

    values: UInt16s
    bands: UInt64s
    words: npt.NDArray[np.int64]


def split_words(texts: pl.Series) -> pl.Series:
    """Lists of the texts' words after NFKC and lower-casing."""
    return texts.fill_null("").str.normalize("NFKC").str.to_lowercase().str.extract_all(r"\w+")


def signatures(texts: pl.Series) -> Signatures:
    """Signatures of a column of texts (null counts as empty)."""
    parts = [_signatures(texts.slice(i, _CHUNK)) for i in range(0, max(1, len(texts)), _CHUNK)]
    return Signatures(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.bands for p in parts]),
        np.concatenate([p.words for p in parts]),
    )


def union_signatures(first: pl.Series, second: pl.Series) -> Signatures:
    """Signatures of the unions of two columns' shingle sets, row by row: who comes first does not matter."""
    parts = []
    for i in range(0, max(1, len(first)), _CHUNK):
        one, two = (_minima(column.slice(i, _CHUNK)) for column in (first, second))
        parts.append(_finish(np.minimum(one[0], two[0]), one[1] + two[1]))
    return Signatures(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.bands for p in parts]),
        np.concatenate([p.words for p in parts]),
    )


def similarity(values: UInt16s, first: npt.NDArray[np.int64], second: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of the texts at rows `first` with those at rows `second`."""
    out = np.empty(len(first), dtype=np.float64)
    for i in range(0, len(first), _CHUNK):
        part = slice(i, i + _CHUNK)
        out[part] = (values[first[part]] == values[second[part]]).mean(axis=1)
    return out


def _signatures(texts: pl.Series) -> Signatures:
    return _finish(*_minima(texts))


def _finish(minima: npt.NDArray[np.uint32], words: npt.NDArray[np.int64]) -> Signatures:
    """Values and band keys from the 32-bit minima."""
    bands: UInt64s = np.zeros((len(words), BANDS), dtype=np.uint64)
    for row in range(ROWS):
        bands = _mixed(bands * _BASE + minima[:, row::ROWS].astype(np.uint64))
    empty = np.flatnonzero(words == 0)
    if len(empty):
        # Nothing is similar to nothing: callers find equal empty texts by their exact hash.
        bands[empty] = 0
    return Signatures((minima & np.uint32(0xFFFF)).astype(np.uint16), bands, words)


def _minima(texts: pl.Series) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Minimum of each permutation over each text's shingles (n, PERMUTATIONS), and words per text (n,)."""
    words = split_words(texts)
    counts = words.list.len().to_numpy().astype(np.int64)
    minima = np.full((len(counts), PERMUTATIONS), np.uint32(0xFFFFFFFF))
    holding = np.flatnonzero(counts)
    if not len(holding):
        return minima, counts
    hashes = _shingle_hashes(words.explode().drop_nulls(), counts[holding])
    per_text = np.maximum(1, counts[holding] - SHINGLE + 1)
    starts = np.concatenate([[0], np.cumsum(per_text)[:-1]])
    a, b = _permutations()
    for p in range(PERMUTATIONS):
        permuted = ((hashes * a[p] + b[p]) >> np.uint64(32)).astype(np.uint32)
        minima[holding, p] = np.minimum.reduceat(permuted, starts)
    return minima, counts


def _shingle_hashes(words: pl.Series, counts: npt.NDArray[np.int64]) -> UInt64s:
    """Hashes of all shingles, text after text; a text of SHINGLE words or fewer has one, of all its words."""
    lengths = words.str.len_bytes().to_numpy().astype(np.int64) + 1
    data = np.frombuffer((words.str.join("\x1f").item() + "\x1f").encode("utf-8", "surrogatepass"), dtype=np.uint8)
    ends = np.cumsum(lengths)
    # S[i] = sum of byte x base^position up to i, so a window's hash is (S[end] - S[start]) x base^-start.
    powers = _powers(len(data) + 1)
    running = np.concatenate([[np.uint64(0)], np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[:-1])])
    last = np.cumsum(counts)
    first = last - counts
    per_text = np.maximum(1, counts - SHINGLE + 1)
    offsets = np.arange(per_text.sum()) - np.repeat(np.cumsum(per_text) - per_text, per_text)
    begin = np.repeat(first, per_text) + offsets
    end = np.minimum(begin + SHINGLE, np.repeat(last, per_text)) - 1
    start_bytes = ends[begin] - lengths[begin]
    windows = running[ends[end]] - running[start_bytes]
    return _mixed(windows * _powers(len(data) + 1, inverse=True)[start_bytes])


def _powers(n: int, inverse: bool = False) -> UInt64s:
    base = np.uint64(pow(int(_BASE), -1, 2**64)) if inverse else _BASE
    steps = np.full(n, base, dtype=np.uint64)
    steps[0] = 1
    powers: UInt64s = np.cumprod(steps, dtype=np.uint64)
    return powers


def _mixed(x: UInt64s) -> UInt64s:
    """Finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _permutations() -> tuple[UInt64s, UInt64s]:
    """Odd multipliers and offsets of the permutations."""
    drawn = _mixed(np.arange(1, 2 * PERMUTATIONS + 1, dtype=np.uint64) * _BASE)
    return drawn[:PERMUTATIONS] | np.uint64(1), drawn[PERMUTATIONS:]
