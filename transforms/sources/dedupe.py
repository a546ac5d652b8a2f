"""The same pair or prompt from several rows or sources becomes one; the others become rejects.

Pure functions on one bucket's frames (equal ids are always in one bucket). The result depends on the set
of rows alone, not on their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import polars as pl

from schemas.rows import reject_row
from schemas.tables import Rejects, Row, rows_frame

CONFLICT_TAG = "conflicting_source_labels"
STAGE = "ingest"
_FILE_AND_ROW = r"^(.*):(\d+)(#.*)?$"


@dataclass(frozen=True)
class Deduped:
    """One row an id (`rows`, sorted by id), and a reject with reason "duplicate" for every other row."""

    rows: pl.DataFrame
    rejects: pl.DataFrame


def dedupe_pairs(pairs: pl.DataFrame) -> Deduped:
    """Keep of each pair the first row by (origin, file, row).

    Each (origin, label) counts once towards the pair's `source_label`: the label most of them give, or
    null where the most frequent labels draw. Where they differ the pair carries the tag
    "conflicting_source_labels". `source_strength` is that of the first row with the label. Votes are keyed
    by `pair_id`, so those of all rows stay with the pair: see `dedupe_votes`.

    Args:
        pairs: rows of the `pairs` table; ids may repeat.
    """
    ordered = _in_order(pairs, ["pair_id", "origin"]).with_columns(nth=pl.int_range(pl.len()).over("pair_id"))
    first = ordered.unique("pair_id", keep="first", maintain_order=True)
    repeated = ordered.filter(pl.len().over("pair_id") > 1)
    tags = pl.col("tags").fill_null([]).list.concat(pl.lit([CONFLICT_TAG])).list.unique(maintain_order=True)
    settled = pl.col("conflict").is_not_null()
    kept = first.join(_settled(repeated), on="pair_id", how="left", maintain_order="left").with_columns(
        pl.when(settled).then("settled_label").otherwise("source_label").alias("source_label"),
        pl.when(settled).then("settled_strength").otherwise("source_strength").alias("source_strength"),
        pl.when(pl.col("conflict")).then(tags).otherwise("tags").alias("tags"),
    )
    names = first.select("pair_id", kept_origin="origin", kept_ref="origin_ref")
    others = repeated.filter(pl.col("nth") > 0).join(names, on="pair_id", maintain_order="left")
    told = ("pair_id", "origin", "origin_ref", "source_label")
    rejects = [
        _reject(
            row["origin"],
            row["origin_ref"] or row["pair_id"],
            f"The same pair as {row['kept_origin']} {row['kept_ref']}, whose row is kept; this row's votes stay.",
            {name: row[name] for name in told},
            row["nth"],
        )
        for row in others.select(*told, "nth", "kept_origin", "kept_ref").iter_rows(named=True)
    ]
    return Deduped(kept.select(pairs.columns), rows_frame(rejects, Rejects))


def dedupe_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """Each vote once, sorted by id."""
    ordered = _by_id(votes)
    ids = ordered["vote_id"]
    again = (ids == ids.shift()).fill_null(value=False)
    if not again.any():
        return ordered
    repeated = ids.is_in(ids.filter(again).implode())
    first = _in_order(ordered.filter(repeated), ["vote_id"]).unique("vote_id", keep="first", maintain_order=True)
    return pl.concat([ordered.filter(~repeated), first]).sort("vote_id")


def _by_id(votes: pl.DataFrame) -> pl.DataFrame:
    """Sorted by `vote_id`: by the number in its first digits, which sorts faster than text, where that is enough."""
    digits = pl.col("vote_id").str.slice(0, 15).str.to_integer(base=16, strict=False, dtype=pl.Int64)
    ordered = votes.sort(digits, nulls_last=True, maintain_order=True)
    ids = ordered["vote_id"]
    return ordered if (ids >= ids.shift()).fill_null(value=True).all() else votes.sort("vote_id")


def dedupe_prompts(prompts: pl.DataFrame) -> Deduped:
    """Keep of each prompt one row: the first when the other columns are compared in turn, nulls last.

    Args:
        prompts: rows of the `prompts` table; ids may repeat.
    """
    ordered = _in_order(prompts, ["prompt_id"])
    copy = pl.int_range(pl.len()).over("prompt_id")
    rejects = [
        _reject(
            "prompts",
            f"{row['prompt_id']}#{row['copy']}",
            "The same prompt as another row, which is kept; remove one of them.",
            {name: row[name] for name in prompts.columns},
            row["copy"],
        )
        for row in ordered.with_columns(copy=copy).filter(pl.col("copy") > 0).iter_rows(named=True)
    ]
    return Deduped(ordered.filter(copy == 0), rows_frame(rejects, Rejects))


def _in_order(frame: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Rows in an order that only their content decides: `by`, then file and row number, then all plain columns."""
    keys = [pl.col(name) for name in by]
    if "origin_ref" in frame.columns:
        ref = pl.col("origin_ref")
        number = ref.str.extract(_FILE_AND_ROW, 2).cast(pl.UInt64, strict=False)
        keys += [ref.str.extract(_FILE_AND_ROW, 1), number, ref]
    for name, dtype in frame.schema.items():
        if name not in by and not isinstance(dtype, pl.List):
            keys.append(pl.col(name))
        elif dtype == pl.List(pl.String):
            keys.append(pl.col(name).list.join("\x1f"))
    return frame.sort(keys, nulls_last=True)


def _settled(repeated: pl.DataFrame) -> pl.DataFrame:
    """Per pair met in several rows: whether their labels differ, the label most give, and its strength."""
    labelled = repeated.filter(pl.col("source_label").is_not_null())
    strengths = labelled.unique(["pair_id", "source_label"], keep="first", maintain_order=True).select(
        "pair_id", settled_label="source_label", settled_strength="source_strength"
    )
    counts = labelled.unique(["pair_id", "origin", "source_label"]).group_by("pair_id", "source_label").len()
    winners = counts.filter(pl.col("len") == pl.col("len").max().over("pair_id"))
    settled = (
        counts.group_by("pair_id")
        .agg(conflict=pl.len() > 1)
        .join(
            winners.group_by("pair_id").agg(settled_label=pl.when(pl.len() == 1).then(pl.col("source_label").first())),
            on="pair_id",
        )
    )
    return settled.join(strengths, on=["pair_id", "settled_label"], how="left")


def _reject(origin: str, record_id: str, detail: str, record: dict[str, object], nth: int) -> Row:
    payload = orjson.dumps(record, default=repr).decode()
    id_fields = (STAGE, origin, record_id, "duplicate", payload, str(nth))
    return reject_row(STAGE, "duplicate", record_id, detail, payload, id_fields)
