"""Exact and near duplicates across all buckets, in two steps that a linear shard pipeline can run.

`prompt_keys` and `pair_keys` turn a bucket into one small row per record (about 500 bytes, no text);
`resolve` takes the rows of all buckets and says what to drop. The outcome depends on the set of rows alone:
not on their order, the buckets or the machine.

Of records that are alike the one with the smallest id stays. A record is dropped only for one that stays
(greedy, in order of ids), so whatever is dropped has a kept near-duplicate, which its row names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from transforms.hygiene.signatures import BANDS, PERMUTATIONS, Signatures, signatures, similarity, union_signatures

NEIGHBOURS = 32  # in a larger band a record is compared with the first and the preceding so many only
MIN_WORDS = 8  # shorter responses recur under other prompts by right ("Yes.")
KEYS: dict[str, pl.DataType | type[pl.DataType]] = {
    "id": pl.String,
    "exact": pl.Binary,  # hash of everything that must be equal in an exact duplicate
    "context": pl.Binary,  # hash of the context; near-duplicates must agree in it exactly
    "bands": pl.Binary,  # BANDS uint64
    "values": pl.Binary,  # signature: the prompt's, or for pairs that of both responses together
    "prompt": pl.Binary,  # pairs only: the prompt's signature; prompts: empty
    "words": pl.Int64,
}
DROPS: dict[str, type[pl.DataType]] = {
    "id": pl.String,
    "reason": pl.String,
    "kept_id": pl.String,
    "similarity": pl.Float64,
}
Indices = npt.NDArray[np.int64]


def prompt_keys(prompts: pl.DataFrame) -> pl.DataFrame:
    """One row of `KEYS` for each row of a `prompts` table; prompts with other documents are other prompts."""
    text = text_column(prompts["prompt"])
    documents = prompts["documents"].list.join("\x1f").fill_null("")
    return _keys(prompts["prompt_id"], _digest(_normal(text)), _digest(documents), signatures(text), None)


def pair_keys(pairs: pl.DataFrame) -> pl.DataFrame:
    """One row of `KEYS` for each row of a `pairs` table; exchanging a pair's responses changes nothing."""
    prompt, a, b = (text_column(pairs[name]) for name in ("prompt", "response_a", "response_b"))
    context = _digest(_normal(pairs["context"].fill_null("")))
    sides = pl.DataFrame({"a": _normal(a), "b": _normal(b), "p": _normal(prompt)})
    joined = sides.select(
        pl.concat_str(pl.col("p"), pl.min_horizontal("a", "b"), pl.max_horizontal("a", "b"), separator="\x1f").alias(
            "joined"
        )
    )["joined"]
    return _keys(pairs["pair_id"], _digest(joined), context, union_signatures(a, b), signatures(prompt))


def resolve(keys: pl.DataFrame, threshold: float = 0.8, other_prompt: Literal["keep", "drop"] = "keep") -> pl.DataFrame:
    """Which records to drop.

    Args:
        keys: rows of `prompt_keys` or of `pair_keys` (not both) from all buckets; repeated ids count once.
        threshold: estimated Jaccard similarity from which two records are near-duplicates. Pairs must reach it
            with their responses and with their prompts, and have the same context.
        other_prompt: whether a pair whose responses stand under another prompt too is dropped as well.

    Returns:
        Columns of `DROPS`, sorted by id; reason is `exact_duplicate`, `near_duplicate` or
        `same_responses_other_prompt`; similarity is that of the prompts, or of the responses.
    """
    exact = same(keys)
    rest = keys.unique("id").join(exact, on="id", how="anti").sort("id")
    return and_further(exact, _near(rest, threshold, other_prompt))


def same(keys: pl.DataFrame) -> pl.DataFrame:
    """Of `resolve` only the exact duplicates; needs the columns id, exact and context alone."""
    rows = keys.unique("id")
    first = rows.group_by("exact", "context").agg(pl.col("id").min().alias("kept_id"))
    joined = rows.join(first, on=["exact", "context"]).filter(pl.col("id") != pl.col("kept_id"))
    exact = joined.select("id", reason=pl.lit("exact_duplicate"), kept_id="kept_id", similarity=pl.lit(1.0))
    return exact.cast(pl.Schema(DROPS)).sort("id")


def and_further(drops: pl.DataFrame, further: pl.DataFrame) -> pl.DataFrame:
    """Both together, where `further` was found among what `drops` leaves.

    A duplicate of a record that itself goes is one of the record that stays instead, for the reason of that one.
    """
    return pl.concat([_of_dropped(drops, further), further]).cast(pl.Schema(DROPS)).sort("id")


def text_column(messages: pl.Series) -> pl.Series:
    """A column of message lists as plain texts: the contents joined by blank lines."""
    return messages.list.eval(pl.element().struct.field("content")).list.join("\n\n")


def _near(rows: pl.DataFrame, threshold: float, other_prompt: str) -> pl.DataFrame:
    n = len(rows)
    empty = pl.DataFrame(schema=DROPS)
    if n < 2:
        return empty
    bands = np.frombuffer(b"".join(rows["bands"].to_list()), dtype=np.uint64).reshape(n, BANDS)
    values = np.frombuffer(b"".join(rows["values"].to_list()), dtype=np.uint16).reshape(n, PERMUTATIONS)
    words = rows["words"].to_numpy()
    context = rows["context"].rank("dense").to_numpy()
    later, earlier = _candidates(bands, words)
    together = context[later] == context[earlier]
    later, earlier = later[together], earlier[together]
    alike = similarity(values, later, earlier)
    close = alike >= threshold
    later, earlier, alike = later[close], earlier[close], alike[close]
    reason = np.full(len(later), "near_duplicate", dtype=object)
    if len(rows["prompt"][0]):
        prompts = np.frombuffer(b"".join(rows["prompt"].to_list()), dtype=np.uint16).reshape(n, PERMUTATIONS)
        same_prompt = similarity(prompts, later, earlier) >= threshold
        wanted = same_prompt | ((other_prompt == "drop") & (np.minimum(words[later], words[earlier]) >= MIN_WORDS))
        reason[~same_prompt] = "same_responses_other_prompt"
        later, earlier, alike, reason = later[wanted], earlier[wanted], alike[wanted], reason[wanted]
    ids = rows["id"].to_list()
    drops = [(ids[i], why, ids[k], s) for i, k, s, why in _greedy(later, earlier, alike, reason)]
    return pl.DataFrame(drops, schema=DROPS, orient="row") if drops else empty


def _of_dropped(exact: pl.DataFrame, near: pl.DataFrame) -> pl.DataFrame:
    """Duplicates of a record that itself goes, as duplicates of the one that stays."""
    moved = exact.join(near, left_on="kept_id", right_on="id", how="left", suffix="_next").with_columns(
        reason=pl.coalesce("reason_next", "reason"),
        similarity=pl.coalesce("similarity_next", "similarity"),
        kept_id=pl.coalesce("kept_id_next", "kept_id"),
    )
    return moved.select("id", "reason", "kept_id", "similarity")


def _candidates(bands: npt.NDArray[np.uint64], words: Indices) -> tuple[Indices, Indices]:
    """Index pairs (later, earlier) that share a band: all of them up to 2 x `NEIGHBOURS` records in a band's group."""
    n = np.uint64(len(bands))
    codes: list[npt.NDArray[np.uint64]] = []
    holding = np.flatnonzero(words)
    for band in range(bands.shape[1]):
        keys = bands[holding, band]
        order = holding[np.argsort(keys, kind="stable")]  # stable: ids ascend within a group
        keys = bands[order, band]
        pairs: list[npt.NDArray[np.uint64]] = []
        for step in range(1, NEIGHBOURS + 1):
            at = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(at):
                break
            pairs.append(order[at + step].astype(np.uint64) * n + order[at].astype(np.uint64))
        pairs += _with_the_first(keys, order, n)
        if pairs:
            codes.append(np.concatenate(pairs))
    if not codes:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    unique = np.unique(np.concatenate(codes))
    return (unique // n).astype(np.int64), (unique % n).astype(np.int64)


def _with_the_first(keys: npt.NDArray[np.uint64], order: Indices, n: np.uint64) -> Iterator[npt.NDArray[np.uint64]]:
    """Pairs of the members of large groups with their group's first members, which are the likeliest to stay."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    sizes = np.diff(np.concatenate([starts, [len(keys)]]))
    large = sizes > NEIGHBOURS
    for start, size in zip(starts[large], sizes[large], strict=True):
        members = order[start : start + size].astype(np.uint64)
        for rank in range(NEIGHBOURS):
            yield members[rank + 1 :] * n + members[rank]


def _greedy(
    later: Indices, earlier: Indices, alike: npt.NDArray[np.float64], reason: npt.NDArray[np.object_]
) -> Iterator[tuple[int, int, float, str]]:
    """(dropped, kept, similarity, reason): in ascending order a record goes if it is close to one that stays."""
    dropped: set[int] = set()
    # Of several kept near-duplicates the closest is named, the earliest among equals.
    for edge in np.lexsort((earlier, -alike, later)):
        i, k = int(later[edge]), int(earlier[edge])
        if i not in dropped and k not in dropped:
            dropped.add(i)
            yield i, k, float(alike[edge]), str(reason[edge])


def _keys(
    ids: pl.Series, exact: pl.Series, context: pl.Series, made: Signatures, prompt: Signatures | None
) -> pl.DataFrame:
    n = len(ids)
    guard = [row.tobytes() for row in prompt.values] if prompt else [b""] * n
    return pl.DataFrame(
        {
            "id": ids,
            "exact": exact,
            "context": context,
            "bands": [row.tobytes() for row in made.bands],
            "values": [row.tobytes() for row in made.values],
            "prompt": guard,
            "words": made.words,
        },
        schema=KEYS,
    )


def _normal(texts: pl.Series) -> pl.Series:
    """The texts after NFKC, lower-casing and collapsing white space: equal here is an exact duplicate."""
    lowered = texts.str.normalize("NFKC").str.to_lowercase()
    return lowered.str.replace_all(r"\s+", " ").str.strip_chars()


def _digest(texts: pl.Series) -> pl.Series:
    from hashlib import blake2b

    digests = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    return pl.Series("digest", digests, dtype=pl.Binary)
