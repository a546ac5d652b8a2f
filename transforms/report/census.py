"""Exact counts of a version's pairs, taken bucket by bucket and added up: what the report shows of every pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import polars as pl

from schemas.tables import DatasetRows, Pairs, Rejects, Verdicts, polars_schema
from transforms.publish.files import Bucket
from transforms.publish.read import Version
from transforms.publish.rows import STAGE

BINS = 20
_CELL = ("origin", "kind", "language", "action", "bin")
_PAIR = ("pair_id", "origin", "kind", "language")
_VERDICT = ("pair_id", "action", "reasons", "certainty", "disagreement", "noise")
_STEP = ("level", "source", "target")
_AT_ONCE = 32  # buckets whose counts are added up together


@dataclass(frozen=True)
class Census:
    """Counts and sums over some pairs.

    Attributes:
        judged: per origin, kind, language, action and `bin` of noise (its lower edge, null without a source label):
            `n` pairs with a verdict, the sums of their `certainty` and `noise`, and how many have noise (`n_noise`).
        routed: per `reason` of routing: `n` and the sums of `certainty` and `disagreement`.
        flow: `level, source, target, n`: where pairs came from, the action (level 0), where they ended (level 1).
    """

    judged: pl.DataFrame
    routed: pl.DataFrame
    flow: pl.DataFrame


def census(pairs: pl.DataFrame, verdicts: pl.DataFrame, rows: pl.DataFrame, rejects: pl.DataFrame) -> Census:
    """Count pairs of which all tables hold everything: a bucket's, or a whole version's."""
    judged = pairs.select(_PAIR).join(verdicts.select(_VERDICT), on="pair_id")
    cells = judged.with_columns(bin=(pl.col("noise") * BINS).floor().clip(0, BINS - 1) / BINS)
    return Census(
        judged=cells.group_by(_CELL).agg(
            _count(), pl.col("certainty", "noise").sum(), n_noise=pl.col("noise").count().cast(pl.Int64)
        ),
        routed=judged.filter(pl.col("action") == "route")
        .group_by(reason=pl.col("reasons").list.join(", "))
        .agg(_count(), pl.col("certainty", "disagreement").sum()),
        flow=_flow(pairs, judged, rows, rejects),
    )


def counted(buckets: Iterable[Bucket], parts: list[Census]) -> Iterator[Bucket]:
    """The buckets, whose counts are in `parts` once they have passed; `added_up` makes one of them."""
    for bucket in buckets:
        parts.append(census(bucket.pairs, bucket.verdicts, bucket.rows, bucket.rejects))
        if len(parts) == _AT_ONCE:
            parts[:] = [added_up(parts)]
        yield bucket


def added_up(parts: Iterable[Census]) -> Census:
    """The counts of several sets of pairs together; of none, those of an empty version."""
    empty = (pl.DataFrame(schema=polars_schema(table)) for table in (Pairs, Verdicts, DatasetRows, Rejects))
    every = [census(*empty), *parts]
    return Census(
        _sum([part.judged for part in every], _CELL),
        _sum([part.routed for part in every], ("reason",)),
        _sum([part.flow for part in every], _STEP),
    )


def census_of(version: Version) -> Census:
    """The counts of a whole version, in memory at once."""
    whole = census(
        version.scan("pairs").select(_PAIR).collect(),
        version.scan("verdicts").select(_VERDICT).collect(),
        version.scan("rows").select("pair_id", "split").collect(),
        version.scan("rejects").select("stage", "reason", "record_id").collect(),
    )
    return added_up([whole])


def _flow(pairs: pl.DataFrame, judged: pl.DataFrame, rows: pl.DataFrame, rejects: pl.DataFrame) -> pl.DataFrame:
    own = pl.col("stage") == STAGE
    made = _steps(judged.select(source="origin", target="action"), 0)
    unjudged = pairs.join(judged, on="pair_id", how="anti").select(source="origin", target=pl.lit("no verdict"))
    ended = pl.concat(
        [
            rejects.filter(own).select(pair_id="record_id", target="reason"),
            rows.select("pair_id", target=pl.format("published: {}", "split")),
        ]
    ).join(judged.select("pair_id", "action"), on="pair_id", how="left")
    left = ended.select(source=pl.col("action").fill_null("no verdict"), target="target")
    never = rejects.filter(~own).select(source=pl.format("rejected by {}", "stage"), target=pl.lit("not a pair"))
    why = rejects.filter(~own).select(source=pl.lit("not a pair"), target="reason")
    return pl.concat([made, _steps(unjudged, 0), _steps(left, 1), _steps(never, 0), _steps(why, 1)])


def _steps(steps: pl.DataFrame, level: int) -> pl.DataFrame:
    return steps.select(pl.lit(level).alias("level"), "source", "target").group_by(_STEP).agg(_count())


def _count() -> pl.Expr:
    return pl.len().cast(pl.Int64).alias("n")


def _sum(frames: list[pl.DataFrame], by: tuple[str, ...]) -> pl.DataFrame:
    """Added up in the order given, so that sums of fractions are the same in every run."""
    return pl.concat(frames).group_by(by, maintain_order=True).agg(pl.exclude(by).sum()).sort(by)
