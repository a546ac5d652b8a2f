"""Keys of a prompt: two prompts that share one key are near-duplicates and must share a split.

MinHash with banding (`transforms.stats.minhash`; Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", ch. 3).
Two prompts of Jaccard similarity J over word shingles share a band with probability 1 - (1 - J^r)^b; with the default
b = 20 bands of r = 10 rows that is 0.9998 at J = 0.9, 0.90 at 0.8, 0.44 at 0.7 and 0.02 at 0.5. Sharing a band *is*
the definition of a near-duplicate here, so that assignment and verification agree exactly.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from transforms.stats.minhash import U64, band_keys, chunks, minima, shingles

_PARTS = 4  # of all keys, sorted one after another: a quarter of them is held twice
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])"


def canonical_texts(prompts: pl.Series) -> pl.Series:
    """Texts by which prompts are compared: the user's turns, case-folded, compatibility-normalised, words only.

    System messages are left out (unless there is nothing else): a long one shared by all prompts would make
    all of them near-duplicates. Characters of scripts written without spaces are words of their own.

    Args:
        prompts: a column of message lists.
    """
    field = pl.element().struct.field
    turns = prompts.alias("prompt").to_frame()
    user = pl.col("prompt").list.eval(pl.when(field("role") == "user").then(field("content"))).list.drop_nulls()
    every = pl.col("prompt").list.eval(field("content"))
    chosen = turns.select(user=user, every=every).select(
        pl.when(pl.col("user").list.len() > 0).then("user").otherwise("every")
    )
    texts = chosen.to_series().list.join("\n")
    words = _words(texts)
    return words.zip_with(words != "", texts.str.replace_all(r"\s+", " ")).alias("text")


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
    keys = np.empty((len(texts), 1 + bands), np.uint64)
    done = 0
    for part in chunks(texts):
        made = shingles(part, shingle)
        own = keys[done : done + len(part)]
        own[:, 0] = made.whole
        if bands:
            own[:, 1:] = band_keys(minima(made, bands * rows), bands, rows)
        done += len(part)
    return keys


def key_lists(keys: U64) -> pl.Series:
    """Keys as a column of lists."""
    return pl.Series(keys.ravel(), dtype=pl.UInt64).reshape((-1, keys.shape[1])).arr.to_list()


def shared_keys(lists: pl.Series) -> pl.DataFrame:
    """(node, key) for keys held by at least two lists; a node is a list's place. Sorted by key and node."""
    lengths = lists.list.len()
    keys = lists.filter(lengths > 0).explode()
    shared = []
    for part in range(_PARTS):
        ordered = keys.filter(keys % _PARTS == part).sort().to_numpy()
        shared.append(np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))
    places = keys.is_in(pl.Series(np.concatenate(shared)).implode()).arg_true()
    node = np.searchsorted(np.cumsum(lengths.to_numpy().astype(np.int64)), places.to_numpy(), side="right")
    held = pl.DataFrame({"node": pl.Series(node, dtype=pl.UInt32), "key": keys.gather(places)})
    return held.unique().filter(pl.len().over("key") > 1).sort("key", "node")


def _words(texts: pl.Series) -> pl.Series:
    """Words in lower case with single spaces between them; normalising is for the texts that need it."""
    foreign = texts.str.len_bytes() != texts.str.len_chars()
    if foreign.any():
        normal = texts.filter(foreign).str.normalize("NFKC").str.replace_all(_UNSPACED, " $1 ")
        texts = texts.scatter(foreign.arg_true(), normal)
    return texts.str.to_lowercase().str.replace_all(r"[^\p{L}\p{M}\p{N}]+", " ").str.strip_chars(" ")
