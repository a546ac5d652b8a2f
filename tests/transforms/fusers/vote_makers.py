"""Made-up votes for the fusers' tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import Votes, conform

PAIR_COLUMNS = {
    "pair_id": pl.String,
    "prompt_id": pl.String,
    "source_label": pl.String,
    "kind": pl.String,
    "language": pl.String,
    "origin": pl.String,
    "length_a": pl.Int64,
    "length_b": pl.Int64,
}


def vote(pair: int, voter: str, label: str, **fields: Any) -> dict[str, Any]:
    """A vote on pair number `pair`; defaults are a judge of a group of its own, order none."""
    row = {
        "pair_id": hash_fields("pair", str(pair)),
        "voter": voter,
        "voter_group": voter,
        "kind": "judge",
        "order": "none",
        "sample": 0,
        "label": label,
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
        **fields,
    }
    row["vote_id"] = hash_fields(*(str(row[name]) for name in ("pair_id", "voter", "order", "sample")))
    return row


def votes_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A `votes` frame."""
    if not rows:
        return conform(pl.DataFrame({"pair_id": []}, schema={"pair_id": pl.String}), Votes)
    return conform(pl.DataFrame(rows, infer_schema_length=None), Votes)


def pairs_frame(n: int, **columns: list[Any]) -> pl.DataFrame:
    """`n` pairs, two to a prompt, all alike but for `columns`."""
    base: dict[str, list[Any]] = {
        "pair_id": [hash_fields("pair", str(i)) for i in range(n)],
        "prompt_id": [hash_fields("prompt", str(i // 2)) for i in range(n)],
        "source_label": [None] * n,
        "kind": ["chat"] * n,
        "language": ["en"] * n,
        "origin": ["made"] * n,
        "length_a": [100] * n,
        "length_b": [100] * n,
    }
    return pl.DataFrame({**base, **columns}, schema=PAIR_COLUMNS)


def mirrored_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """The same votes with a and b exchanged."""
    swap = pl.col("label").map_elements(mirrored, return_dtype=pl.String)
    return votes.with_columns(
        swap.alias("label"),
        pl.col("order").map_elements(mirrored, return_dtype=pl.String),
        (1 - pl.col("p_a")).alias("p_a"),
        pl.col("score_b").alias("score_a"),
        pl.col("score_a").alias("score_b"),
    )


def mirrored_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """The same pairs with a and b exchanged."""
    return pairs.with_columns(pl.col("length_b").alias("length_a"), pl.col("length_a").alias("length_b"))


def simulated(
    n: int,
    accuracies: dict[str, float],
    seed: int,
    *,
    humans: int = 0,
    groups: dict[str, str] | None = None,
    kind: list[str] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Pairs with a random truth and voters right with a known probability.

    Returns:
        votes (a human's, always right, on the first `humans` pairs), pairs and the truth.
    """
    rng = np.random.default_rng(seed)
    truth = ["a" if u < 0.5 else "b" for u in rng.random(n)]
    rows = [
        vote(i, voter, t if rng.random() < p else mirrored(t), voter_group=(groups or {}).get(voter, voter))
        for voter, p in accuracies.items()
        for i, t in enumerate(truth)
    ]
    rows += [vote(i, "human:h", truth[i], kind="human") for i in range(humans)]
    return votes_frame(rows), pairs_frame(n, **({"kind": kind} if kind else {})), truth
