"""From values to a queue for people, under a budget.

Three steps, so that no process ever holds all candidates: `shortlist` keeps of one bucket what could
possibly be chosen, `narrow` folds shortlists together, `select` chooses. All three are pure and
`select(shortlist(all)) == select(narrow(shortlist(bucket) for every bucket))`, however the pairs lie in buckets.

What is chosen, in this order:

1. **Audit**: a simple random sample of all candidates: those with the smallest seeded hash of
   `pair_id`. It is drawn without looking at values, so accuracy measured on it is an unbiased estimate
   (`transforms.stats.certificate`), and it is stable: new candidates can only push members out.
   An audited pair stays eligible for step 3: it must go through the same process as any other pair, or
   the audit would describe a dataset nobody publishes. `held_out` says how many of its answers are kept
   for the audit and must not be fused.
2. **Controls**: pairs with a known answer (`known_label`), again by seeded hash.
3. **Value**: by the router's value (per second if the budget is in seconds), the j-th best pair of a
   family discounted by `same_prompt_decay**j`, after every slice has had its minimum. A family is a prompt with
   those nearly like it (`transforms.routers.queue.features.prompt_families`), within a slice if there are slices.

The budget is the total over the life of the recipe: what an earlier queue asked for (`previous`) stays
in the queue and is paid first, so routing again with the same budget and the same pairs asks nobody
anything new (in seconds: at most what fits into the unspent rest, less than one answer). If the pairs
grew, the audit is drawn anew from all of them, and only that may go beyond the budget.

If an accuracy is asked for in place of a budget, the audit has as many pairs as measure it
(`QueueConfig.audit_pairs`), and every pair is asked that is `wanted`: whose label is less certain than
`transforms.stats.pac_labels` allows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable

import numpy as np
import polars as pl

from schemas.errors import DataError
from schemas.tables import Queue, conform, polars_schema
from transforms.routers.queue.config import QueueConfig
from transforms.stats.value_of_answers import gain_of_answers, outcomes

RELIABILITY = 0.9  # P(one annotator is right), for what answers are expected to fix
OUTLOOK_LABELS = 100

SHORTLIST = pl.Schema(
    {
        "pair_id": pl.String,
        "value": pl.Float64,  # the router's value of one label
        "gain": pl.Float64,  # labels that `overlap` answers are expected to fix, whatever the router values
        "worth": pl.Float64,  # value per unit of the budget
        "family": pl.String,  # pairs of one are discounted against each other
        "priority": pl.Float64,  # what is ranked: worth, discounted within the family
        "overlap": pl.Int32,  # answers asked for at first
        "answered": pl.Int32,  # people whose answers the value already knows
        "unit": pl.Float64,  # cost of one answer in units of the budget (labels or seconds)
        "slice": pl.String,
        "known_label": pl.String,
        "draw": pl.Float64,  # seeded, uniform in [0, 1): the order of the audit
        "control_draw": pl.Float64,
        "shown": pl.String,
    }
)


def uniform(pair_ids: Iterable[str], seed: int, purpose: str) -> list[float]:
    """A reproducible draw per pair, uniform in [0, 1), independent between seeds and purposes."""
    base = hashlib.sha256(f"{seed}:{purpose}:".encode())
    draws = []
    for pair_id in pair_ids:
        digest = base.copy()
        digest.update(pair_id.encode())
        draws.append(int.from_bytes(digest.digest()[:6]) / 2**48)
    return draws


def audit_draws(pair_ids: Iterable[str], seed: int) -> pl.Series:
    """The draws of the audit: it has the pairs with the smallest."""
    return pl.Series("draw", uniform(pair_ids, seed, "audit"), dtype=pl.Float64)


def overlaps(certainty: pl.Expr, config: QueueConfig) -> pl.Expr:
    """Answers to ask for at first: `overlap_min` at certainty 1, `overlap_max` at certainty 1/3 (three outcomes).

    If more is asked one by one, everything starts with `overlap_min`.
    """
    if config.one_by_one:
        return pl.lit(config.overlap_min, dtype=pl.Int32)
    difficulty = ((1 - certainty) * 1.5).clip(0, 1)
    steps = config.overlap_max - config.overlap_min + 1
    return (config.overlap_min + (difficulty * steps).floor().clip(0, steps - 1)).cast(pl.Int32)


def shortlist(
    candidates: pl.DataFrame, values: pl.Series, config: QueueConfig, seed: int, asked: Collection[str] = ()
) -> pl.DataFrame:
    """Of one bucket's candidates, those that can still be chosen when all buckets meet.

    Args:
        candidates: verdict columns plus `origin`, `kind`, `language`, `n_chars` (characters on the page) and,
            optionally, `known_label` (the answer of a possible control), `context_kind`, `family` (in its place the
            prompt), `answered` (by how many people; in its place 0) and `wanted` (in its place true): where false,
            people see the pair in the audit or as a control only.
        values: expected gain of one label per candidate, in the same order.
        asked: pair ids of the earlier queue; they are always kept, for `select` must know what they cost.

    Returns:
        A frame of schema `SHORTLIST`, at most a few times the budget long.

    Raises:
        DataError: values are missing, not finite, or not one per candidate.
    """
    if len(values) != candidates.height:
        raise DataError(f"{len(values)} values for {candidates.height} candidates")
    wanted = candidates["wanted"] if "wanted" in candidates.columns else pl.repeat(True, candidates.height, eager=True)
    value = values.cast(pl.Float64) * wanted
    if value.null_count() or not value.is_finite().all():
        raise DataError("a router gave a value that is null or not finite")
    known = "known_label" if "known_label" in candidates.columns else None
    ids = candidates["pair_id"].to_list()
    seconds = config.base_seconds + pl.col("n_chars") / config.chars_per_second
    unit = (pl.lit(1.0) if config.budget_seconds is None else seconds).cast(pl.Float64)
    overlap = candidates.select(overlaps(pl.col("certainty"), config).alias("overlap"))["overlap"]
    overlap = (overlap * wanted).cast(pl.Int32).alias("overlap")
    answered = pl.col("answered") if "answered" in candidates.columns else pl.lit(0)
    frame = candidates.select(
        "pair_id",
        value.alias("value"),
        _gains(candidates, overlap),
        overlap,
        answered.cast(pl.Int32).alias("answered"),
        unit.alias("unit"),
        (value / unit).alias("worth"),
        pl.col("family" if "family" in candidates.columns else "prompt_id").cast(pl.String).alias("family"),
        pl.lit(None, dtype=pl.Float64).alias("priority"),
        (pl.col(config.slice) if config.slice else pl.lit(None, dtype=pl.String)).alias("slice"),
        (pl.col(known) if known else pl.lit(None, dtype=pl.String)).alias("known_label"),
        audit_draws(ids, seed),
        pl.Series("control_draw", uniform(ids, seed, "control"), dtype=pl.Float64),
        pl.Series("shown", ["ab" if u < 0.5 else "ba" for u in uniform(ids, seed, "shown")], dtype=pl.String),
    )
    return _keep(frame.select(SHORTLIST.names()), config, asked)


def _gains(candidates: pl.DataFrame, overlap: pl.Series) -> pl.Series:
    """Wrong labels that so many answers to each pair are expected to fix."""
    p, counts = outcomes(candidates), overlap.to_numpy()
    gains = np.zeros(candidates.height)
    for answers in np.unique(counts[counts > 0]):
        asked = counts == answers
        gains[asked] = gain_of_answers(p[asked], RELIABILITY, "zero_one", int(answers))
    return pl.Series("gain", gains, dtype=pl.Float64)


def narrow(shortlists: Iterable[pl.DataFrame], config: QueueConfig, asked: Collection[str] = ()) -> pl.DataFrame:
    """One shortlist of many, in memory bounded by the budget; any order of the parts gives the same choice."""
    merged = pl.DataFrame(schema=SHORTLIST)
    for part in shortlists:
        merged = _keep(pl.concat([merged, part]), config, asked)
    return merged


def select(
    candidates: pl.DataFrame, config: QueueConfig, previous: pl.DataFrame | None = None, *, seed: int
) -> pl.DataFrame:
    """The queue (`schemas.tables.Queue`) from a shortlist of all candidates.

    Args:
        previous: the queue of an earlier round; its pairs stay, its answers count against the budget.
    """
    before = _previous(previous, seed)
    audit = _audit(candidates.join(before.select("pair_id", "was_held"), on="pair_id", how="left"), config)
    frame = candidates.join(before, on="pair_id", how="full", coalesce=True).with_columns(
        pl.col("known_label").fill_null(pl.col("was_known")),
        pl.col("shown").fill_null(pl.col("was_shown")),
        pl.col("value").fill_null(pl.col("was_value")),
        pl.col("draw").fill_null(pl.col("was_draw")),
        pl.col("unit").fill_null(config.base_seconds if config.budget_seconds else 1.0),
        pl.col("pair_id").is_in(audit.implode()).alias("is_audit"),
    )
    held = pl.when("is_audit").then(config.audit_overlap).otherwise(0)
    still_held = pl.when("is_audit").then("was_held").otherwise(0)
    frame = frame.with_columns(
        held.cast(pl.Int32).alias("held_out"),
        (pl.col("was_overlap") - still_held).fill_null(0).alias("asked"),
        ((pl.col("was_purpose") == "control").fill_null(False) & ~pl.col("is_audit")).alias("is_control"),
    )
    frame = _with_controls(frame, config)
    frame = _with_value(frame, config)
    return _ranked(frame)


def outlook(candidates: pl.DataFrame, queue: pl.DataFrame, labels: int = OUTLOOK_LABELS) -> float:
    """How many wrong labels the next `labels` answers after this queue are expected to fix.

    Args:
        candidates: a shortlist; it keeps `OUTLOOK_LABELS` more pairs than the budget pays for.
    """
    rest = candidates.join(queue, on="pair_id", how="anti").filter(pl.col("known_label").is_null())
    rest = rest.sort(["priority", "draw"], descending=[True, False])
    return float(rest.filter(pl.col("overlap").cum_sum() <= labels)["gain"].sum())


def _ids(queue: pl.DataFrame | None) -> Collection[str]:
    return () if queue is None else queue["pair_id"].to_list()


def _keep(frame: pl.DataFrame, config: QueueConfig, asked: Collection[str]) -> pl.DataFrame:
    """Drop what cannot be chosen: neither asked before, nor an early draw, an early control or of high priority.

    Priorities are those among the pairs at hand. Where more join, the j-th of a family is worth at least as much as the
    j-th was before, so at least as many priorities lie above any level: what is not among the first here never will be.
    """
    frame = _prioritised(frame, config)
    if config.audit_pairs is not None:
        return _keep_wanted(frame, config, asked)
    if config.total == math.inf:
        return frame
    cheapest = config.cheapest
    audits = math.ceil(config.audit_share * config.total / (cheapest * config.audit_overlap))
    controls = math.ceil(config.control_share * config.total / (cheapest * config.control_overlap))
    picks = math.ceil(config.total / (cheapest * config.overlap_min)) + OUTLOOK_LABELS
    order = pl.struct(-pl.col("priority"), "draw")
    open_ = pl.col("known_label").is_null()
    kept = frame.with_columns(
        pl.col("draw").rank("ordinal").alias("_audit"),
        # Members of the audit are not asked as controls, so as many more controls may be needed.
        pl.col("control_draw").rank("ordinal").over(open_).alias("_control"),
        order.rank("ordinal").over(open_).alias("_pick"),
        order.rank("ordinal").over(open_, "slice").alias("_slice"),
    ).filter(
        pl.col("pair_id").is_in(pl.Series(list(asked), dtype=pl.String).implode())
        | (pl.col("_audit") <= audits)
        | (~open_ & (pl.col("_control") <= controls + audits))
        | (open_ & (pl.col("_pick") <= picks))
        | (open_ & pl.col("slice").is_not_null() & (pl.col("_slice") <= config.slice_minimum))
    )
    return kept.select(SHORTLIST.names())


def _keep_wanted(frame: pl.DataFrame, config: QueueConfig, asked: Collection[str]) -> pl.DataFrame:
    """With an accuracy: what is wanted or was asked before, and early draws of the audit and of the controls."""
    audits, controls = config.audit_pairs or 0, config.control_pairs or 0
    known = pl.col("known_label").is_not_null()
    return frame.filter(
        pl.col("pair_id").is_in(pl.Series(list(asked), dtype=pl.String).implode())
        | ((pl.col("overlap") > 0) & ~known)
        | (pl.col("draw").rank("ordinal").over(pl.col("answered") == 0) <= audits)
        | (known & (pl.col("control_draw").rank("ordinal").over(known) <= controls + audits))
    )


def _prioritised(frame: pl.DataFrame, config: QueueConfig) -> pl.DataFrame:
    """The shortlist with priorities: worth, discounted by how many of the family stand before."""
    frame = frame.sort(["worth", "draw"], descending=[True, False])
    # Within a slice, so that a slice's minimum does not depend on what other slices hold.
    place = pl.int_range(pl.len()).over("family", "slice", pl.col("known_label").is_null())
    return frame.with_columns((pl.col("worth") * pl.lit(config.same_prompt_decay).pow(place)).alias("priority"))


def _previous(queue: pl.DataFrame | None, seed: int) -> pl.DataFrame:
    queue = queue if queue is not None else pl.DataFrame(schema=polars_schema(Queue))
    return queue.select(
        "pair_id",
        pl.col("value").alias("was_value"),
        pl.col("overlap").alias("was_overlap"),
        pl.col("held_out").alias("was_held"),
        pl.col("purpose").alias("was_purpose"),
        pl.col("shown").alias("was_shown"),
        pl.col("known_label").alias("was_known"),
        audit_draws(queue["pair_id"], seed).alias("was_draw"),
    )


def _audit(frame: pl.DataFrame, config: QueueConfig) -> pl.Series:
    """Pair ids of the audit. Its size never depends on values, so the sample stays a simple random one."""
    frame = frame.sort("draw")
    if config.audit_pairs is not None:
        # Answers that have given a pair its label cannot measure labels.
        eligible = (pl.col("answered") == 0) | (pl.col("was_held") > 0)
        return frame.filter(eligible)["pair_id"].head(config.audit_pairs)
    if config.total == math.inf:
        return frame.filter(pl.col("draw") < config.audit_share)["pair_id"]
    cost = (pl.col("unit") * config.audit_overlap).cum_sum()
    return frame.filter(cost <= config.audit_share * config.total)["pair_id"]


def _with_controls(frame: pl.DataFrame, config: QueueConfig) -> pl.DataFrame:
    """Choose controls among pairs with a known answer that are not audited."""
    free = pl.col("known_label").is_not_null() & ~pl.col("is_audit") & (pl.col("asked") == 0)
    spent = frame.filter("is_control").select((pl.col("asked") * pl.col("unit")).sum()).item()
    allowance = config.control_share * config.total
    possible = frame.filter(free).sort("control_draw")
    if config.control_pairs is not None:
        chosen = possible["pair_id"].head(max(config.control_pairs - frame.filter("is_control").height, 0))
    elif config.total == math.inf:
        chosen = possible.filter(pl.col("control_draw") < config.control_share)["pair_id"]
    else:
        cost = (pl.col("unit") * config.control_overlap).cum_sum()
        chosen = possible.filter(cost + spent <= allowance)["pair_id"]
    new = pl.col("pair_id").is_in(chosen.implode())
    return frame.with_columns(
        (pl.col("is_control") | new).alias("is_control"),
        pl.when(new).then(config.control_overlap).otherwise("asked").cast(pl.Int32).alias("asked"),
    )


def _with_value(frame: pl.DataFrame, config: QueueConfig) -> pl.DataFrame:
    """Spend what is left: slices' minimums first, then by priority; the last pair may get fewer answers."""
    spent = frame.select(((pl.col("held_out") + pl.col("asked")) * pl.col("unit")).sum()).item()
    open_ = pl.col("known_label").is_null() & pl.col("priority").is_not_null()
    new = open_ & (pl.col("asked") == 0)
    answered = (pl.col("answered") >= pl.col("asked")).fill_null(False)
    wanted = (pl.col("overlap") > 0).fill_null(True)
    again = open_ & (pl.col("asked") > 0) & answered & (pl.col("asked") < config.overlap_max) & wanted
    frame = frame.with_columns(new.alias("_new"), (again & config.one_by_one).alias("_again"))
    places = frame.filter(open_).sort(["_new", "priority", "draw"], descending=[False, True, False])
    places = places.with_columns(
        (pl.int_range(pl.len()).over("slice") < config.slice_minimum).alias("_owed")
        & pl.col("slice").is_not_null()
        & pl.col("_new"),
        pl.when("_new").then("overlap").otherwise(1).alias("_wanted"),
    )
    picks = places.filter(pl.col("_new") | pl.col("_again"))
    picks = picks.sort(["_owed", "priority", "draw"], descending=[True, True, False])
    cost = pl.col("_wanted") * pl.col("unit")
    affordable = ((config.total - spent - (cost.cum_sum() - cost)) / pl.col("unit")).floor()
    more = picks.select("pair_id", pl.min_horizontal(affordable, "_wanted").cast(pl.Int32).alias("more"))
    frame = frame.join(more.filter(pl.col("more") > 0), on="pair_id", how="left")
    return frame.with_columns(pl.col("asked") + pl.col("more").fill_null(0))


def _ranked(frame: pl.DataFrame) -> pl.DataFrame:
    """Interleave the purposes evenly: nobody can tell them apart, and stopping early keeps their shares."""
    purpose = pl.when("is_audit").then(pl.lit("audit")).when("is_control").then(pl.lit("control"))
    frame = frame.with_columns(
        (pl.col("asked") + pl.col("held_out")).cast(pl.Int32).alias("overlap"),
        purpose.otherwise(pl.lit("value")).alias("purpose"),
    ).filter(pl.col("overlap") > 0)
    by_value = pl.when(pl.col("purpose") == "value").then(-pl.col("priority").fill_null(math.inf))
    frame = frame.sort(["purpose", by_value.otherwise("draw"), "pair_id"])
    place = (pl.int_range(pl.len()).over("purpose") + 0.5) / pl.len().over("purpose")
    frame = frame.with_columns(place.alias("_place")).sort(["_place", "draw"])
    return conform(frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("rank")), Queue)
