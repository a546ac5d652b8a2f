"""The fast path of votes: whole columns of judges' verdicts, and the source's own labels, without a loop over votes.

Only columns where nothing can be wrong are taken: text labels and names, none missing. All else is left to votes.py,
which also explains what is wrong. Both give the same votes; tests assert it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import orjson
import polars as pl

from schemas.ids import ID_LENGTH
from schemas.pairs import mirrored
from schemas.rows import vote_frame
from schemas.tables import VOTE_LABELS
from transforms.sources.config import JudgeVotes, PairsSource
from transforms.sources.labels import UnknownLabel, read_label


def source_votes(pair_ids: Sequence[str], labels: Sequence[str | None], config: PairsSource) -> pl.DataFrame:
    """The source's label of each pair, in terms of the stored a and b, as a `votes` frame."""
    frame = pl.DataFrame({"pair_id": pair_ids, "label": labels}, schema={"pair_id": pl.String, "label": pl.String})
    frame = frame.drop_nulls("label").with_columns(
        pl.lit(config.name).alias("voter"),
        pl.lit("source").alias("kind"),
        pl.lit("none").alias("order"),
    )
    return _finished(frame)


def judge_votes(
    column: pl.Series, pair_ids: Sequence[str], swapped: Sequence[bool], votes: JudgeVotes, config: PairsSource
) -> pl.DataFrame | None:
    """A column of lists of {voter, label} as a `votes` frame.

    Args:
        column: one list a pair, in the order of `pair_ids` and `swapped` (whether the row's second response is the
            stored `response_a`).

    Returns:
        None if a name or label is missing or no text, or if more than labels is to be read: the careful path must
        look at every vote.

    Raises:
        DataError: the labels are numbers and the recipe does not say what they mean.
    """
    if votes.probability or votes.rationale:
        return None
    inner = column.dtype.inner if isinstance(column.dtype, pl.List) else None
    fields = {f.name: f.dtype for f in inner.fields} if isinstance(inner, pl.Struct) else {}
    if any(fields.get(name) != pl.String for name in (votes.voter, votes.label)) or votes.voter == votes.label:
        return None
    cells = pl.DataFrame({"pair_id": pair_ids, "swapped": swapped, "verdict": column})
    cells = cells.filter(pl.col("verdict").list.len() > 0).explode("verdict")
    verdict = pl.col("verdict").struct
    cells = cells.select("pair_id", "swapped", name=verdict.field(votes.voter), said=verdict.field(votes.label))
    if cells["name"].null_count() or cells["said"].null_count() or (cells["name"] == "").any():
        return None
    suffix = pl.col("name").str.extract(r"\|(ab|ba)$") if votes.order_suffix else pl.lit(None, dtype=pl.String)
    bare = pl.col("name").str.replace(r"\|(ab|ba)$", "") if votes.order_suffix else pl.col("name")
    cells = cells.with_columns(voter=pl.lit(votes.prefix) + bare, order=suffix.fill_null("none"))
    group = pl.col("voter")
    if votes.group_separator:
        group = group.str.split(votes.group_separator).list.first()
    meanings = _meanings(cells["said"].unique().to_list(), config)
    cells = cells.join(meanings, on="said", how="left", maintain_order="left").drop_nulls("label")
    swap = pl.col("swapped")
    mirror = {name: mirrored(name) for name in ("a", "b", "ab", "ba")}
    return _finished(
        cells.with_columns(
            group.alias("voter_group"),
            pl.lit("judge").alias("kind"),
            *(pl.when(swap).then(pl.col(c).replace(mirror)).otherwise(c).alias(c) for c in ("label", "order")),
        )
    )


def _meanings(labels: list[str], config: PairsSource) -> pl.DataFrame:
    """What each label text means: the vote's label, or `invalid` with what was said and why."""
    rows: list[tuple[str, str | None, str | None, str | None]] = []
    for value in sorted(labels):
        if value in VOTE_LABELS and value not in config.labels:
            rows.append((value, value, None, None))
            continue
        try:
            rows.append((value, read_label(value, config.labels, f"source {config.name!r}, a vote"), None, None))
        except UnknownLabel as error:
            rows.append((value, "invalid", value, f"The vote {error}"))
    return pl.DataFrame(rows, schema=dict.fromkeys(("said", "label", "raw", "detail"), pl.String), orient="row")


def _finished(frame: pl.DataFrame) -> pl.DataFrame:
    """With ids and the columns a read vote leaves empty; each vote once."""
    opinions = frame.select("kind", "voter", "order", "label").unique(maintain_order=True)
    ends = [
        (orjson.dumps(["source-vote", kind])[:-1] + b',"', b'",' + orjson.dumps([voter, order, label])[1:])
        for kind, voter, order, label in opinions.iter_rows()
    ]
    numbered = opinions.with_row_index("opinion")
    which = frame.join(numbered, on=["kind", "voter", "order", "label"], how="left", maintain_order="left")["opinion"]
    ids = [
        sha256(ends[i][0] + pair_id.encode() + ends[i][1]).hexdigest()[:ID_LENGTH]
        for i, pair_id in zip(which.to_list(), frame["pair_id"].to_list(), strict=True)
    ]
    frame = frame.with_columns(pl.Series("vote_id", ids, dtype=pl.String))
    return vote_frame(frame.unique("vote_id", keep="first", maintain_order=True))
