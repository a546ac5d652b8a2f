"""Answers to votes: what the fuser sees of the humans, and what is kept back for the audit."""

from __future__ import annotations

import orjson
import polars as pl

from schemas.ids import hash_fields
from schemas.rows import HUMAN, vote_frame
from schemas.tables import Annotations, conform
from transforms.annotate.checked import latest


def votes_of(annotations: pl.DataFrame, queue: pl.DataFrame | None = None) -> pl.DataFrame:
    """Votes of kind human, one per (pair, annotator): the latest answer; skips are none.

    `both_bad` is a tie that says so in `aspects` (`{"both_bad": true}`): neither response is better.

    Args:
        annotations: `schemas.tables.Annotations`.
        queue: where given, the answers it holds out for the audit (`held_out_answers`) are left out.
    """
    rows = _counted(annotations)
    if queue is not None:
        rows = rows.join(held_out_answers(annotations, queue), on="annotation_id", how="anti")
    voter = [HUMAN + name for name in rows["annotator"]]
    ids = [hash_fields("human-vote", p, v) for p, v in zip(rows["pair_id"], voter, strict=True)]
    bad = rows["label"] == "both_bad"
    aspects = [_aspects(text, is_bad) for text, is_bad in zip(rows["aspects"], bad, strict=True)]
    votes = rows.select(
        pl.Series("vote_id", ids, dtype=pl.String),
        "pair_id",
        pl.Series("voter", voter, dtype=pl.String),
        pl.lit("human").alias("kind"),
        pl.when(pl.col("label") == "both_bad").then(pl.lit("tie")).otherwise("label").alias("label"),
        pl.Series("aspects", aspects, dtype=pl.String),
        "rationale",
        (pl.col("seconds").fill_null(0.0) * 1000).alias("ms"),
    )
    return vote_frame(votes).sort("vote_id")


def held_out_answers(annotations: pl.DataFrame, queue: pl.DataFrame) -> pl.DataFrame:
    """The answers that serve the audit alone: `annotation_id`, `pair_id`, `answer`, `at` (when it was given).

    Of each audited pair the first `held_out` by a hash of (pair, annotator): a choice that neither the
    answers nor their order in time can influence. Of a pair that was asked for the audit alone all of them, more than
    were asked for too: what only audited pairs have must not make their labels better than the others'.
    """
    audited = queue.filter(pl.col("held_out") > 0).select("pair_id", "held_out", "overlap")
    rows = _counted(annotations).join(audited, on="pair_id", how="inner")
    keys = [hash_fields("held-out", p, a) for p, a in zip(rows["pair_id"], rows["annotator"], strict=True)]
    rows = rows.with_columns(pl.Series("_key", keys, dtype=pl.String)).sort("pair_id", "_key")
    place = pl.int_range(pl.len()).over("pair_id")
    kept = rows.filter((place < pl.col("held_out")) | audited_alone())
    return kept.select("annotation_id", "pair_id", pl.col("label").alias("answer"), pl.col("updated_at").alias("at"))


def audited_alone() -> pl.Expr:
    """Whether a pair of a queue was asked for the audit alone."""
    return (pl.col("held_out") > 0) & (pl.col("overlap") == pl.col("held_out"))


def known_answers(annotations: pl.DataFrame, queue: pl.DataFrame) -> pl.DataFrame:
    """Answers to pairs whose answer is known, but for those in the audit: `pair_id, known, answer, at`."""
    controls = queue.filter(pl.col("known_label").is_not_null() & (pl.col("purpose") != "audit"))
    rows = _counted(annotations).join(controls.select("pair_id", known="known_label"), on="pair_id", how="inner")
    return rows.select("pair_id", "known", answer="label", at="updated_at").sort("pair_id", "at", "answer")


def _counted(annotations: pl.DataFrame) -> pl.DataFrame:
    """Answers that count: not skipped, the latest of each annotator."""
    kept, _ = latest(annotations.filter(~pl.col("cancelled")).iter_rows(named=True))
    ids = pl.Series([row["annotation_id"] for row in kept], dtype=pl.String)
    return conform(annotations, Annotations).filter(pl.col("annotation_id").is_in(ids.implode())).sort("annotation_id")


def _aspects(text: str | None, both_bad: bool) -> str | None:
    if not both_bad:
        return text
    return orjson.dumps((orjson.loads(text) if text else {}) | {"both_bad": True}, option=orjson.OPT_SORT_KEYS).decode()
