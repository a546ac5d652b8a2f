"""Votes as numbers: one cell a (pair, slot), where voters that always vote alike share a slot."""

from __future__ import annotations

from typing import Any

import polars as pl
import scipy

VALID = ("a", "b", "tie")
LOGIT_CLIP = 6.0
BIAS_PRIOR_VOTES = 4.0
CONSISTENCY_PRIOR_CELLS = 10.0
# What a voter that was never asked twice is taken to be worth, before anything is known of it.
DEFAULT_CONSISTENCY = {"source": 0.85, "judge": 0.7, "reward": 0.75, "rule": 0.6}


def valid_votes(votes: pl.DataFrame) -> pl.DataFrame:
    """The votes that carry an opinion, in canonical order, as signs.

    Returns:
        `pair_id, voter, voter_group, kind, label, sign` (+1 a, -1 b, 0 tie), `position` (+1 where a was
        shown first, -1 where b was, 0 unknown) and `raw` (logit of `p_a`, else score_a - score_b, else null).
        Votes that are invalid, refused or failed are gone: they are states, not opinions.
    """
    raw = pl.coalesce(
        _finite("p_a")
        .clip(scipy.special.expit(-LOGIT_CLIP), scipy.special.expit(LOGIT_CLIP))
        .map_batches(scipy.special.logit, return_dtype=pl.Float64),
        _finite("score_a") - _finite("score_b"),
    )
    return (
        votes.filter(pl.col("label").is_in(VALID))
        .select(
            "pair_id",
            "voter",
            "voter_group",
            "kind",
            "order",
            "sample",
            "label",
            _code("label", "a", "b").alias("sign"),
            _code("order", "ab", "ba").alias("position"),
            raw.alias("raw"),
        )
        .with_columns(pl.col("pair_id").str.slice(0, 15).str.to_integer(base=16, strict=False).alias("_pair"))
        # Numbers sort three times faster than strings; equal prefixes of two ids would only interleave their rows.
        .sort("_pair", pl.col("voter").rank("dense"), "position", "sample", "sign", "raw")
        .drop("_pair")
    )


def describe_voters(votes: pl.DataFrame) -> pl.DataFrame:
    """What can be said of each voter without any label; one row a voter, sorted by name.

    Args:
        votes: `valid_votes` of voters that are not human.

    Returns:
        `voter, group, kind, n_votes, ties` (share), `numeric` (gives p_a or scores), `scale` (median |raw|),
        `bias` (mean of vote times position: +1 always prefers what it saw first; shrunk) and `consistency`
        (correlation of two of its votes on the same pair after `bias` is taken off; shrunk to its kind's
        default, less what its bias costs, where it was seldom asked twice; 0 where it only ever says tie).
        Only orders and samples ask again: the same row twice in a source is no second question.

    Pairs are stored in hash order, so a voter without position bias prefers the first response it sees
    half of the time: the bias is known without labels.
    """
    voters = (
        votes.group_by("voter")
        .agg(
            pl.col("voter_group").min().alias("group"),
            pl.col("kind").min(),
            pl.len().cast(pl.Int64).alias("n_votes"),
            (pl.col("label") == "tie").mean().alias("ties"),
            (pl.col("raw").is_not_null().mean() > 0.5).alias("numeric"),
            pl.col("raw").abs().filter(pl.col("raw") != 0).median().alias("scale"),
            (pl.col("sign") * pl.col("position")).sum().alias("_lean"),
            (pl.col("position") != 0).sum().alias("_seen"),
        )
        .with_columns(
            pl.col("scale").fill_null(1.0),
            (pl.col("_lean") / (pl.col("_seen") + BIAS_PRIOR_VOTES)).alias("bias"),
        )
        .drop("_lean", "_seen")
        .sort("voter")
    )
    centred = votes.join(voters.select("voter", "bias"), on="voter").with_columns(
        (pl.col("sign") - pl.col("bias") * pl.col("position")).alias("x")
    )
    cells = (
        centred.group_by("voter", "pair_id")
        .agg(
            pl.len().alias("n"),
            pl.col("x").sum().alias("s"),
            (pl.col("x") ** 2).sum().alias("q"),
            (pl.struct("position", "sample").n_unique() > 1).alias("again"),
        )
        .filter("again")
        .sort("voter", "pair_id")
        .group_by("voter", maintain_order=True)
        .agg(
            pl.len().alias("_cells"),
            ((pl.col("s") ** 2 - pl.col("q")) / (pl.col("n") * (pl.col("n") - 1))).sum().alias("_cross"),
            (pl.col("q") / pl.col("n")).sum().alias("_own"),
        )
    )
    measured = pl.when(pl.col("_own") > 0).then(pl.col("_cross") / pl.col("_own")).otherwise(0.0).fill_null(0.0)
    cells_seen = pl.col("_cells").fill_null(0)
    # A voter that goes by position a share |bias| of the time and by content otherwise agrees with itself
    # across orders this much: (1 - |bias|)^2 over the variance 1 - bias^2.
    by_position = (1 - pl.col("bias").abs()) / (1 + pl.col("bias").abs())
    default = pl.col("kind").replace_strict(DEFAULT_CONSISTENCY, default=0.7) * by_position
    expected = pl.when(pl.col("ties") < 1).then(default).otherwise(0.0)
    return (
        voters.join(cells, on="voter", how="left", maintain_order="left")
        .with_columns(
            (
                (measured * cells_seen + expected * CONSISTENCY_PRIOR_CELLS) / (cells_seen + CONSISTENCY_PRIOR_CELLS)
            ).alias("consistency")
        )
        .drop("_cells", "_cross", "_own")
    )


def opinionated(voters: pl.DataFrame) -> pl.DataFrame:
    """The voters that ever preferred anything: one that only says tie tells neither a from b nor ties from others."""
    return voters.filter(pl.col("ties") < 1)


def assign_slots(votes: pl.DataFrame, voters: pl.DataFrame) -> pl.DataFrame:
    """`voters` with `slot`: the one that stands for all voters that cast exactly the same votes, whatever their group.

    Two names for one source of opinions (a copy, an alias) thus count once. The one that stands for them is of the
    group with most voters, then first by name, and its group is the group of all of them.
    """
    sizes = voters.group_by("group").agg((-pl.len().cast(pl.Int64)).alias("_rank"))
    ranked = voters.join(sizes, on="group", how="left").sort("_rank", "voter")
    slot_of = same_ballots(votes, ranked["voter"].to_list())
    group_of = dict(voters.select("voter", "group").iter_rows())
    slots = pl.DataFrame(
        {"voter": list(slot_of), "slot": list(slot_of.values()), "_group": [group_of[s] for s in slot_of.values()]},
        schema={"voter": pl.String, "slot": pl.String, "_group": pl.String},
    )
    return (
        voters.join(slots, on="voter", how="left", maintain_order="left")
        .with_columns(pl.col("_group").alias("group"))
        .drop("_group")
    )


def same_ballots(votes: pl.DataFrame, voters: list[str], least: int = 1) -> dict[str, str]:
    """For each of `voters` the first among them that cast exactly the same votes (`valid_votes`), or itself.

    Voters with fewer than `least` votes are nobody's copy.
    """
    key = pl.col("pair_id").str.slice(0, 12).str.to_integer(base=16, strict=False).fill_null(0)
    prints = votes.group_by("voter").agg(
        pl.len().alias("_n"),
        (key * (3 * pl.col("sign") + pl.col("position") + 5).cast(pl.Int64) % 1_000_003).sum().alias("_print"),
    )
    place = pl.DataFrame(
        {"voter": voters, "_place": range(len(voters))}, schema={"voter": pl.String, "_place": pl.Int64}
    )
    candidates = place.join(prints, on="voter", how="left").sort("_place")
    ballots: dict[str, pl.DataFrame] = {}
    slot_of: dict[str, str] = {}
    for members in candidates.partition_by("_n", "_print", maintain_order=True):
        names, n = members["voter"].to_list(), members["_n"][0]
        for index, name in enumerate(names):
            alike = (
                s
                for s in names[:index]
                if slot_of[s] == s and _ballot(votes, s, ballots).equals(_ballot(votes, name, ballots))
            )
            slot_of[name] = next(alike, name) if n is not None and n >= least else name
    return slot_of


def cells_of(votes: pl.DataFrame, voters: pl.DataFrame) -> pl.DataFrame:
    """One row a (pair, voter) that `voters` knows, in canonical order.

    Args:
        votes: `valid_votes`, in their canonical order.
        voters: `voter, slot, group, bias, scale, numeric`.

    Returns:
        `pair_id, voter, slot, group, n_votes, labels` ("a+b"), `opinion` (mean of signs: 0 if its votes are ties or
        cancel), `sign` (the same less position bias),
        `strength` (mean of tanh(raw / 2 scale); equals `sign` where the voter gives no number), `ties` (share),
        `share` (1 / voters of this slot on this pair) and `present` (slots of this group on this pair).
    """
    keys = voters.select("voter", "slot", "group", "bias", "scale", "numeric")
    known = votes.join(keys, on="voter", maintain_order="left")
    shift = pl.col("bias") * pl.col("position")
    number = pl.when(pl.col("numeric") & pl.col("raw").is_not_null()).then(
        (pl.col("raw") / (2 * pl.col("scale"))).tanh()
    )
    by = ("pair_id", "voter")
    cells = (
        known.with_columns(number.otherwise(pl.col("sign")).alias("_number"))
        .group_by(by, maintain_order=True)
        .agg(
            pl.col("slot").first(),
            pl.col("group").first(),
            pl.len().cast(pl.Int32).alias("n_votes"),
            pl.col("label").first().alias("labels"),
            pl.col("label").last().alias("_last"),
            pl.col("sign").mean().alias("opinion"),
            (pl.col("sign") - shift).mean().alias("sign"),
            (pl.col("_number") - shift).mean().alias("strength"),
            (pl.col("sign") == 0).mean().alias("ties"),
        )
    )
    # Joining strings group by group takes longer than all the rest, and is seldom needed for more than two votes.
    many = cells.filter(pl.col("n_votes") > 2).select(by)
    joined = known.join(many, on=by, how="semi", maintain_order="left").group_by(by, maintain_order=True)
    two = pl.concat_str("labels", "_last", separator="+")
    cells = (
        cells.join(joined.agg(pl.col("label").str.join("+").alias("_all")), on=by, how="left", maintain_order="left")
        .with_columns(
            pl.when(pl.col("n_votes") == 1).then("labels").otherwise(pl.coalesce("_all", two)).alias("labels")
        )
        .drop("_last", "_all")
    )
    return cells.with_columns(
        (1.0 / pl.len().over("pair_id", "slot")).alias("share"),
        pl.col("slot").n_unique().over("pair_id", "group").cast(pl.Float64).alias("present"),
    )


def _ballot(votes: pl.DataFrame, voter: str, known: dict[str, pl.DataFrame]) -> pl.DataFrame:
    if voter not in known:
        known[voter] = votes.filter(pl.col("voter") == voter).select("pair_id", "order", "sample", "sign", "raw")
    return known[voter]


def _finite(column: str) -> pl.Expr:
    value = pl.col(column).cast(pl.Float64)
    return pl.when(value.is_finite()).then(value)


def _code(column: str, plus: str, minus: str) -> pl.Expr:
    value = pl.col(column)
    return (value == plus).cast(pl.Float64) - (value == minus).cast(pl.Float64)


def voter_rows(voters: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The voters as JSON: {voter: {column: value}}."""
    return {row.pop("voter"): row for row in voters.iter_rows(named=True)}
