"""Keys of a prompt: two prompts that share one key are near-duplicates and must share a split.

MinHash with banding (Broder, "On the resemblance and containment of documents", 1997; Leskovec,
Rajaraman and Ullman, "Mining of Massive Datasets", ch. 3). Two prompts of Jaccard similarity J over
word shingles share a band with probability 1 - (1 - J^r)^b; with the default b = 20 bands of r = 10
rows that is 0.9998 at J = 0.9, 0.90 at 0.8, 0.44 at 0.7 and 0.02 at 0.5. Sharing a band *is* the
definition of a near-duplicate here, so that assignment and verification agree exactly.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

_PRIME = np.uint64(0x9E3779B97F4A7C15)  # odd, so invertible modulo 2^64
_INVERSE = np.uint64(pow(0x9E3779B97F4A7C15, -1, 2**64))
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"
_BLOCK = 1 << 17  # shingles at a time, so that the working set stays in the cache


def canonical_text(prompt: str = "prompt") -> pl.Expr:
    """Text by which prompts are compared: the user's turns, case-folded, compatibility-normalised, words only.

    System messages are left out (unless there is nothing else): a long one shared by all prompts would make
    all of them near-duplicates. Characters of scripts written without spaces are words of their own.
    """
    messages = pl.col(prompt).list
    user = messages.eval(
        pl.when(pl.element().struct.field("role") == "user").then(pl.element().struct.field("content"))
    ).list.drop_nulls()
    every = messages.eval(pl.element().struct.field("content"))
    text = pl.when(user.list.len() > 0).then(user).otherwise(every).list.join("\n")
    words = (
        text.str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all(_UNSPACED, " $1 ")
        .str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ")
        .str.strip_chars()
    )
    return pl.when(words.str.len_bytes() > 0).then(words).otherwise(text)


def similarity_keys(texts: pl.Series, bands: int, rows: int, shingle: int) -> U64:
    """Keys of canonical texts.

    Args:
        texts: canonical texts, not null.
        bands: number of bands; 0 gives the key of the whole text alone.
        rows: MinHash values a band.
        shingle: words a shingle.

    Returns:
        Array of shape (len(texts), 1 + bands): first the hash of the whole text, then one key a band.
    """
    if not len(texts):
        return np.zeros((0, 1 + bands), np.uint64)
    text_bytes, offsets = _flatten(texts)
    sums, inverse = _prefix_hash(text_bytes)
    whole = _substring(sums, inverse, offsets[:-1], offsets[1:] - 1)
    keys = np.empty((len(texts), 1 + bands), np.uint64)
    keys[:, 0] = _mix(whole)
    if bands:
        shingles, first = _shingles(text_bytes, offsets, sums, inverse, shingle)
        signature = _minhash(shingles, first, bands * rows)
        for band in range(bands):
            key: U64 = np.full(len(texts), band + 1, np.uint64)
            for value in signature[band * rows : (band + 1) * rows]:
                key = _mix(key * _PRIME + value)
            keys[:, 1 + band] = key
    return keys


def key_lists(keys: U64) -> pl.Series:
    """Keys as a column of lists."""
    return pl.Series(keys.ravel(), dtype=pl.UInt64).reshape((-1, keys.shape[1])).arr.to_list()


def _flatten(texts: pl.Series) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All texts in one byte buffer, each followed by a space, and where each begins."""
    spaced = texts.str.replace_all(r"\s+", " ") + " "
    buffer = np.frombuffer("".join(spaced.to_list()).encode(), np.uint8)
    lengths = spaced.str.len_bytes().to_numpy().astype(np.int64)
    return buffer, np.concatenate([[0], np.cumsum(lengths)])


def _prefix_hash(data: npt.NDArray[np.uint8]) -> tuple[U64, U64]:
    """Prefix sums of a polynomial rolling hash modulo 2^64, and the inverse powers that undo the position."""
    n = len(data)
    powers: U64 = np.multiply.accumulate(np.full(n, _PRIME, np.uint64))
    sums: U64 = np.zeros(n + 1, np.uint64)
    np.cumsum((data.astype(np.uint64) + np.uint64(1)) * powers, out=sums[1:])
    inverse: U64 = np.multiply.accumulate(np.full(n, _INVERSE, np.uint64))
    return sums, inverse


def _substring(sums: U64, inverse: U64, start: npt.NDArray[np.int64], end: npt.NDArray[np.int64]) -> U64:
    result: U64 = (sums[end] - sums[start]) * inverse[start]
    return result


def _shingles(
    data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], sums: U64, inverse: U64, width: int
) -> tuple[U32, npt.NDArray[np.int64]]:
    """Hashes of the runs of `width` words of every text (the whole text if shorter), and each text's first one."""
    ends = np.flatnonzero(data == 32)
    starts = np.concatenate([[0], ends[:-1] + 1])
    last = np.searchsorted(ends, offsets[1:] - 1)  # every text ends with its own space
    first_word = np.concatenate([[0], last[:-1] + 1])
    count = np.maximum(last - first_word + 2 - width, 1)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    within = np.arange(count.sum()) - np.repeat(first, count)
    begin = np.repeat(first_word, count) + within
    final = np.minimum(begin + width - 1, np.repeat(last, count))
    hashes = _mix(_substring(sums, inverse, starts[begin], ends[final]))
    return (hashes >> np.uint64(32)).astype(np.uint32), first


def _minhash(shingles: U32, first: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint64]:
    """MinHash signature, shape (n, texts)."""
    multipliers, addends = _permutations(n)
    out = np.full((n, len(first)), np.iinfo(np.uint32).max, np.uint32)
    bounds = np.unique(np.searchsorted(first, np.arange(0, len(shingles), _BLOCK)))
    bounds = np.unique(np.concatenate([[0], bounds, [len(first)]]))
    for lo, hi in pairwise(bounds):
        begin, end = first[lo], first[hi] if hi < len(first) else len(shingles)
        block, cuts = shingles[begin:end], first[lo:hi] - begin
        values = np.empty_like(block)
        for k in range(n):
            np.multiply(block, multipliers[k], out=values)
            np.add(values, addends[k], out=values)
            np.minimum.reduceat(values, cuts, out=out[k, lo:hi])
    return out.astype(np.uint64)


@cache
def _permutations(n: int) -> tuple[U32, U32]:
    """Coefficients of n hash functions a x + b modulo 2^32, a odd: fixed for ever, or old keys would be lost."""
    stream = _mix(np.arange(1, 2 * n + 1, dtype=np.uint64) * _PRIME)
    values = (stream >> np.uint64(32)).astype(np.uint32)
    return values[:n] | np.uint32(1), values[n:]


def _mix(x: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
