"""MinHash of many texts at once, in NumPy: the one home of it, for splits and for hygiene.

A text is the set of its word shingles. A shingle's hash is a window of a running polynomial hash over the bytes of
many texts; a permutation of the hashes is x -> a x + b modulo 2^32 with a odd; texts of about equal length stand side
by side in a rectangle, so that every step is one vector operation. Hashes are arithmetic on bytes with constants, so
they are the same on every machine and in every process.

Broder, "On the resemblance and containment of documents", 1997 (MinHash); Indyk and Motwani 1998 (banding); Karp and
Rabin 1987 (rolling hash); Steele, Lea and Flood, OOPSLA 2014 (SplitMix64's finaliser).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import polars as pl

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so invertible modulo 2^64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_CHUNK = 1 << 20  # bytes of text at a time
_CELLS = 1 << 15  # of a rectangle of shingles: it stays in the processor's cache


@dataclass(frozen=True)
class Shingles:
    """Shingles of n texts, text after text.

    `whole` (n,) uint64: hash of the whole text. `hashes` uint32: one a shingle, repeated ones included.
    `first` and `count` (n,): where a text's shingles begin and how many they are, at least 1.
    """

    whole: U64
    hashes: U32
    first: Ints
    count: Ints


def chunks(texts: pl.Series) -> Iterator[pl.Series]:
    """The column in slices of about a megabyte: what the rest works on, so that memory does not grow with it."""
    total = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64) + 1)
    start = 0
    while start < len(texts):
        base = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, base + _CHUNK, side="right")))
        yield texts.slice(start, stop - start)
        start = stop


def shingles(texts: pl.Series, width: int) -> Shingles:
    """Runs of `width` words of every text (of all its words, if it has fewer).

    Args:
        texts: words separated by single spaces, not null, at least one text.
        width: words a shingle, at least 1.
    """
    data, bounds = _flattened(texts)
    window = _Windows(data)
    ends = np.flatnonzero(data == 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = np.searchsorted(ends, bounds[1:] - 1)  # every text ends with its own space
    first_word = np.concatenate([[0], last[:-1] + 1])
    count = np.maximum(last - first_word + 2 - width, 1)
    first = np.cumsum(count) - count
    begin = np.arange(count.sum()) + np.repeat(first_word - first, count)
    final = np.minimum(begin + width - 1, np.repeat(last, count))
    hashes = (window(starts[begin], ends[final]) >> np.uint64(32)).astype(np.uint32)
    return Shingles(window(bounds[:-1], bounds[1:] - 1), hashes, first, count)


def text_hashes(texts: pl.Series) -> U64:
    """Hash of every text, shape (n,)."""
    hashes = np.empty(len(texts), np.uint64)
    done = 0
    for part in chunks(texts):
        data, bounds = _flattened(part)
        hashes[done : done + len(part)] = _Windows(data)(bounds[:-1], bounds[1:] - 1)
        done += len(part)
    return hashes


def minima(made: Shingles, n: int) -> U32:
    """Smallest value of each of `n` permutations over each text's shingles, shape (n, texts)."""
    multipliers, addends = _permutations(n)
    out: U32 = np.empty((n, len(made.count)), np.uint32)
    for texts, height in _rectangles(made.count):
        # A text with fewer shingles than the rectangle is high repeats its last one: a minimum does not mind.
        rows = np.minimum(np.arange(height)[:, None], made.count[texts] - 1)
        block = made.hashes[made.first[texts] + rows]
        values, lowest = np.empty_like(block), np.empty((n, len(texts)), np.uint32)
        for k in range(n):
            np.multiply(block, multipliers[k], out=values)
            np.add(values, addends[k], out=values)
            np.minimum.reduce(values, axis=0, out=lowest[k])
        out[:, texts] = lowest
    return out


def band_keys(lowest: U32, bands: int, rows: int) -> U64:
    """One key a band of `rows` minima, shape (texts, bands); equal bands of two texts have equal keys."""
    keys: U64 = np.empty((lowest.shape[1], bands), np.uint64)
    for band in range(bands):
        key: U64 = np.full(lowest.shape[1], band + 1, np.uint64)
        for values in lowest[band * rows : (band + 1) * rows]:
            key = key * _PRIME + values
        keys[:, band] = mixed(key)
    return keys


def mixed(x: U64) -> U64:
    """SplitMix64's finaliser: a bijection in which every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Windows:
    """Hashes of any windows of a buffer, after one pass over it."""

    def __init__(self, data: npt.NDArray[np.uint8]) -> None:
        powers, self._inverse = _powers(1 << (len(data) - 1).bit_length())
        # sums[j] - sums[i] is the polynomial of bytes i to j times the power at i, which the inverse undoes.
        self._sums: U64 = np.zeros(len(data) + 1, np.uint64)
        np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers[: len(data)], out=self._sums[1:])

    def __call__(self, start: Ints, end: Ints) -> U64:
        hashed: U64 = (self._sums[end] - self._sums[start]) * self._inverse[start]
        return mixed(hashed)


def _flattened(texts: pl.Series) -> tuple[npt.NDArray[np.uint8], Ints]:
    """All texts in one buffer, each followed by a space, and where each begins."""
    spaced = texts + " "
    lengths = spaced.str.len_bytes().to_numpy().astype(np.int64)
    data = np.frombuffer("".join(spaced.to_list()).encode("utf-8", "surrogatepass"), np.uint8)
    return data, np.concatenate([[0], np.cumsum(lengths)])


def _rectangles(count: Ints) -> Iterator[tuple[Ints, int]]:
    """Texts in groups of about equal numbers of shingles, and the largest number of each group."""
    order = np.argsort(count, kind="stable")
    size = count[order]
    start = 0
    while start < len(order):
        stop = min(len(order), start + max(1, _CELLS // int(size[start])))
        while stop - start > 1 and (stop - start) * int(size[stop - 1]) > 2 * _CELLS:
            stop = start + (stop - start) // 2
        yield order[start:stop], int(size[stop - 1])
        start = stop


@cache
def _powers(n: int) -> tuple[U64, U64]:
    """The first n powers of the base from 1 on, and their inverses."""
    powers: U64 = np.multiply.accumulate(np.full(n, _PRIME, np.uint64))
    inverse: U64 = np.multiply.accumulate(np.full(n, _INVERSE, np.uint64))
    return powers, inverse


@cache
def _permutations(n: int) -> tuple[U32, U32]:
    """Odd multipliers and addends of n permutations: fixed for ever, because published versions remember keys."""
    drawn = (mixed(np.arange(1, 2 * n + 1, dtype=np.uint64) * _PRIME) >> np.uint64(32)).astype(np.uint32)
    return drawn[:n] | np.uint32(1), drawn[n:]
