"""For an accuracy in place of a budget: the audit's answers become the certainty below which labels are asked.

`transforms.stats.pac_labels` has the statistics. Labels come bucket by bucket and are gone through three times, so that
no process ever holds all of them: how many there are sizes the audit, the audit's answers say which thresholds are
possible, and all labels say what each of them would cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import polars as pl

from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.fill import audit_draws
from transforms.stats.pac_labels import (
    ASK_ALL,
    ASK_NONE,
    FEWEST,
    Counts,
    audited_labels,
    choose_threshold,
    count_labels,
)

AUDIT_ANSWERED = 0.9  # share of the audit that must be answered before it decides what is asked: some pairs are skipped


def fit_threshold(
    buckets: Callable[[], Iterator[pl.DataFrame]], answers: pl.DataFrame, config: QueueConfig, seed: int
) -> dict[str, Any]:
    """From which certainty on labels stay without being asked.

    Args:
        buckets: gives the labels of each bucket: `pair_id, label, certainty`, `stays` (published as it is unless it is
            asked), `always` (asked, however certain), `answer` (of more than half of the people who voted on it: a, b
            or tie; "split" if they have no majority, null if nobody voted) and `audited` (was in the audit before).
        answers: the answers that touch no label: `pair_id, answer, at`.
        config: with an accuracy.

    Returns:
        JSON: `pairs`, `audit` (pairs of the audit; 0 if it would hold all that are open), `answered` (of these); once
        nine tenths of the audit are answered also `disputed` (labels that stay although people contradict them or
        split), `usable` (audited pairs that say something about labels that stay), and if these are enough the fields
        of `Threshold`.
    """
    assert config.accuracy is not None  # the stage fits a threshold for an accuracy alone
    sizes = [(frame.height, frame["answer"].null_count()) for frame in buckets()]
    n_pairs, n_open = sum(n for n, _ in sizes), sum(n for _, n in sizes)
    wanted = config.sized(n_pairs).audit_pairs or 0
    # The audit of today's pairs: if they grew, it has members that nobody was asked about.
    members = pl.concat(_first(frame, wanted, seed) for frame in buckets()).bottom_k(wanted, by="draw")
    known: dict[str, Any] = {"pairs": n_pairs, "audit": wanted, "answered": 0}
    if n_open <= wanted and not members["audited"].any():
        return {**known, "audit": 0, "certainty": ASK_ALL, "error": 0.0, "asked": n_pairs, "kept": 0}
    answers = answers.join(members, on="pair_id", how="semi")
    known["answered"] = answers["pair_id"].n_unique()
    if known["answered"] < AUDIT_ANSWERED * members.height:
        return known
    audit = audited_labels(members.filter(pl.col("answer").is_null() & pl.col("stays")), answers)
    decided = disputed = 0
    counts: list[Counts] = []
    for frame in buckets():
        voted = frame.filter(pl.col("stays") & pl.col("answer").is_not_null() & (pl.col("answer") != "tie"))
        agreed = voted.filter(pl.col("answer") == pl.col("label")).height
        decided, disputed = decided + agreed, disputed + voted.height - agreed
        counts.append(count_labels(frame.filter(pl.col("answer").is_null()), audit))
    total = reduce(Counts.with_more, counts)
    total = total._replace(asked=total.asked + decided)
    known |= {"usable": len(audit.certainty), "disputed": disputed}
    # What people have answered is no longer measured: if the audit is too small for that reason, the rest is asked.
    if known["usable"] + members.filter(pl.col("answer").is_not_null()).height < FEWEST and total.kept[-1]:
        return known
    return {**known, **choose_threshold(audit, total, 1 - config.accuracy, disputed=disputed)._asdict()}


def _first(labels: pl.DataFrame, wanted: int, seed: int) -> pl.DataFrame:
    """The pairs of a bucket that may be in the audit: answers that have given a pair its label cannot measure it."""
    eligible = labels.filter(pl.col("answer").is_null() | pl.col("audited"))
    return eligible.with_columns(audit_draws(eligible["pair_id"], seed)).bottom_k(wanted, by="draw")


def sized_queue(config: QueueConfig, threshold: dict[str, Any]) -> tuple[QueueConfig, float]:
    """The queue's settings with the size of the audit, and the certainty below which labels are asked."""
    return config.model_copy(update={"audit_pairs": threshold["audit"]}), threshold.get("certainty", ASK_NONE)


def threshold_words(threshold: dict[str, Any]) -> str:
    """What `fit_threshold` has come to, for the person who runs the recipe."""
    asked = f"people give {threshold.get('asked', 0):,} labels"
    if not threshold["audit"]:
        return (
            f"there are no more pairs than an audit would need, so people are asked about all {threshold['pairs']:,}; "
            "there is no certificate without an audit"
        )
    if "usable" not in threshold:
        return (
            f"people answer the random audit first ({threshold['answered']:,} of its {threshold['audit']:,} pairs so "
            "far); the run after that chooses the pairs to ask"
        )
    disputed = threshold["disputed"]
    split = (
        f"; {disputed:,} labels that their people contradict or split on count as wrong: more people per pair settle "
        "them (overlap_min, or one_by_one with overlap_max)"
        if disputed
        else ""
    )
    if "certainty" not in threshold:
        return (
            f"only {threshold['usable']:,} of the audit's {threshold['audit']:,} pairs have a label that would be "
            f"published and an answer that prefers a response, and {FEWEST} are needed; nothing more is asked: raise "
            "`audit_pairs`, or let the policy publish more (`doubtful: flip`)"
        )
    if threshold["certainty"] >= ASK_ALL:
        return f"{asked}, all of them: no label is certain enough to stay by what the audit shows{split}"
    below = f" (certainty below {threshold['certainty']:.3f})" if threshold["certainty"] > ASK_NONE else ""
    return (
        f"{asked}{below}, and {threshold['kept']:,} stay; at most {threshold['error']:.1%} of both are "
        f"wrong, with 95% confidence, people's labels being right{split}"
    )
