"""The threshold of an accuracy: what the audit's answers decide, when it is too small, and who counts as asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.fill import audit_draws
from transforms.routers.queue.threshold import fit_threshold, sized_queue, threshold_words
from transforms.stats.pac_labels import ASK_ALL, ASK_NONE

N, SEED = 400, 3
CONFIG = QueueConfig(accuracy=0.9)


def labels(n: int = N, *, stays: float = 1.0, decided: int = 0, answer: str = "a") -> pl.DataFrame:
    """All labels are `a`, more certain from pair to pair; people have said `answer` of the first `decided`."""
    place = np.arange(n)
    return pl.DataFrame(
        {
            "pair_id": [f"{i:032x}" for i in place],
            "label": ["a"] * n,
            "certainty": 0.5 + 0.5 * place / n,
            "stays": place % 100 < 100 * stays,
            "always": [False] * n,
            "answer": pl.Series([answer if i < decided else None for i in place], dtype=pl.String),
            "audited": [False] * n,
        }
    )


def answers(frame: pl.DataFrame, answer: str = "a", share: float = 1.0) -> pl.DataFrame:
    """Two equal answers to a share of the audit."""
    size = CONFIG.sized(frame.height).audit_pairs or 0
    frame = frame.filter(pl.col("answer").is_null() | pl.col("audited"))
    audit = frame.with_columns(audit_draws(frame["pair_id"], SEED)).bottom_k(size, by="draw")["pair_id"]
    asked = audit.head(round(share * len(audit)))
    return pl.DataFrame({"pair_id": [*asked, *asked], "answer": answer, "at": "2026"})


def fit(frame: pl.DataFrame, given: pl.DataFrame, config: QueueConfig = CONFIG, parts: int = 1) -> dict[str, Any]:
    def buckets() -> Iterator[pl.DataFrame]:
        yield from (frame[i::parts] for i in range(parts))

    return fit_threshold(buckets, given, config, SEED)


def test_the_audit_is_answered_first() -> None:
    found = fit(labels(), answers(labels(), share=0.85))
    assert (found["answered"], found["audit"]) == (85, 100)
    assert "certainty" not in found
    assert sized_queue(CONFIG, found)[1] == ASK_NONE
    assert "random audit first (85 of its 100 pairs" in threshold_words(found)


def test_buckets_do_not_matter() -> None:
    frame = labels(decided=40)
    assert fit(frame, answers(frame), parts=7) == fit(frame, answers(frame))


def test_labels_that_nobody_contradicts_stay_and_those_of_people_count_as_asked() -> None:
    found = fit(labels(decided=40), answers(labels()))
    assert (found["certainty"], found["asked"], found["kept"]) == (ASK_NONE, 40, N - 40)
    assert "people give 40 labels, and 360 stay" in threshold_words(found)


@pytest.mark.parametrize("answer", ["b", "split"])
def test_labels_that_people_contradict_or_split_on_count_as_wrong(answer: str) -> None:
    plain, found = (fit(labels(decided=n, answer=answer), answers(labels())) for n in (0, 20))
    assert (found["disputed"], found["asked"], found["kept"]) == (20, 0, N - 20)
    assert found["error"] > plain["error"] + 19 / N
    assert "20 labels that their people contradict or split on count as wrong" in threshold_words(found)
    frame = labels(decided=60, answer=answer)
    many = fit(frame, answers(frame))
    assert many["certainty"] == ASK_ALL


def test_ties_of_people_are_left_out() -> None:
    frame = labels(decided=60, answer="tie")
    found = fit(frame, answers(frame))
    assert (found["disputed"], found["asked"], found["kept"]) == (0, 0, N - 60)


def test_pairs_that_people_have_labelled_enter_no_audit_and_its_members_stay() -> None:
    """As many pairs as were answered are new: the audit is drawn from these alone, and stays as it is afterwards."""
    grown = labels(decided=200)
    eligible = grown.filter(pl.col("answer").is_null())
    audit = eligible.with_columns(audit_draws(eligible["pair_id"], SEED)).bottom_k(100, by="draw")["pair_id"]
    given = pl.DataFrame({"pair_id": [*audit, *audit], "answer": "a", "at": "2026"})
    found = fit(grown, given)
    assert (found["answered"], found["asked"], found["kept"]) == (100, 200, 200)
    member = pl.col("pair_id").is_in(audit.implode())
    later = grown.with_columns(audited=member, answer=pl.when(member).then(pl.lit("a")).otherwise("answer"))
    assert fit(later, given)["answered"] == 100


def test_if_everything_is_contradicted_everybody_is_asked_about_every_pair_once() -> None:
    found = fit(labels(stays=0.8, decided=40), answers(labels(), "b"))
    assert (found["certainty"], found["asked"], found["kept"]) == (ASK_ALL, N, 0)


def test_no_audit_is_drawn_of_data_that_it_would_hold_whole() -> None:
    for n in (1, 60, 100):
        found = fit(labels(n), answers(labels()).clear())
        assert (found["certainty"], found["asked"]) == (ASK_ALL, n)
        assert sized_queue(CONFIG, found)[0].audit_pairs == 0
        assert f"asked about all {n:,}" in threshold_words(found)
    assert fit(labels(101), answers(labels(101)))["audit"] == 100
    assert fit(labels(300, decided=250), answers(labels(300)))["audit"] == 0


def test_an_audit_that_says_too_little_asks_for_nothing_more_and_says_so() -> None:
    found = fit(labels(), answers(labels(), "tie"))
    assert found["usable"] == 0
    assert sized_queue(CONFIG, found)[1] == ASK_NONE
    assert "only 0 of the audit's 100 pairs" in threshold_words(found)
    few = fit(labels(stays=0.1), answers(labels()))
    assert few["usable"] < 20
    assert "`doubtful: flip`" in threshold_words(few)


def test_where_people_have_answered_most_of_the_audit_the_rest_is_asked() -> None:
    frame = (
        labels().with_columns(audited=True).with_columns(answer=pl.when(pl.col("certainty") < 0.96).then(pl.lit("a")))
    )
    found = fit(frame, answers(frame))
    assert found["usable"] < 20
    assert (found["certainty"], found["asked"], found["kept"]) == (ASK_ALL, N, 0)
    assert "people give 400 labels, all of them" in threshold_words(found)


@pytest.mark.parametrize("pairs", [49, 1])
def test_an_audit_too_small_to_bound_anything_is_refused(pairs: int) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 50"):
        QueueConfig(accuracy=0.9, audit_pairs=pairs)
