"""What most people said of a pair, and where the fuser's weighted target differs."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages.judge import panel_labels
from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.rows import vote_frame
from schemas.tables import VOTE_LABELS
from transforms.report.voters import human_majority
from transforms.stats.human_labels import human_accuracy, human_cells, human_label, human_targets
from transforms.stats.reliability import judge_agreement
from transforms.stats.vote_cells import valid_votes

Ballots = list[tuple[str, str]]  # pair, label
BALLOTS = st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(VOTE_LABELS)), max_size=24)


def cast(ballots: Ballots, kind: str = "human") -> pl.DataFrame:
    rows = [
        {"vote_id": f"{i:032x}", "pair_id": hash_fields(pair), "voter": f"{kind}{i}", "kind": kind, "label": label}
        for i, (pair, label) in enumerate(ballots)
    ]
    return vote_frame(
        pl.DataFrame(rows, schema=dict.fromkeys(("vote_id", "pair_id", "voter", "kind", "label"), pl.String))
    )


def labels(votes: pl.DataFrame) -> dict[str, str | None]:
    found = human_label(votes)
    assert found["pair_id"].is_unique().all()  # at most one answer a pair
    return dict(found.iter_rows())


@given(BALLOTS)
def test_it_is_what_more_than_half_said(ballots: Ballots) -> None:
    valid = [(pair, label) for pair, label in ballots if label in ("a", "b", "tie")]
    votes: dict[str, Counter[str]] = {}
    for pair, label in valid:
        votes.setdefault(hash_fields(pair), Counter())[label] += 1
    expected = {pair: next((x for x, n in c.items() if 2 * n > c.total()), None) for pair, c in votes.items()}
    assert labels(cast(ballots)) == expected


@given(BALLOTS)
def test_exchanging_the_responses_exchanges_the_label(ballots: Ballots) -> None:
    turned = labels(cast([(pair, mirrored(label)) for pair, label in ballots]))
    assert turned == {pair: label and mirrored(label) for pair, label in labels(cast(ballots)).items()}


@given(BALLOTS, st.randoms())
def test_neither_the_order_of_votes_nor_other_voters_count(ballots: Ballots, chance: object) -> None:
    shuffled = sorted(ballots, key=lambda _: chance.random())  # type: ignore[attr-defined]
    votes = pl.concat([cast(shuffled), cast([(pair, "a") for pair in "xyz"], "judge")])
    assert labels(votes) == labels(cast(ballots))


@given(BALLOTS, st.sampled_from("xyz"))
def test_one_more_vote_for_the_label_leaves_it(ballots: Ballots, pair: str) -> None:
    before = labels(cast(ballots)).get(hash_fields(pair))
    if before is not None:
        assert labels(cast([*ballots, (pair, before)]))[hash_fields(pair)] == before


@given(st.permutations(["a", "b", "tie"]), st.integers(1, 4))
def test_a_draw_gives_no_label(names: list[str], n: int) -> None:
    for drawn in (names, names[:2]):
        assert labels(cast([("x", name) for name in drawn * n])) == {hash_fields("x"): None}


@pytest.mark.parametrize(
    ("said", "label"), [("a tie tie", "tie"), ("a b tie", None), ("a a tie", "a"), ("a tie", None)]
)
def test_report_panel_and_people_page_give_one_answer(said: str, label: str | None) -> None:
    votes = cast([(str(pair), word) for pair in range(30) for word in said.split()])
    assert set(labels(votes).values()) == {label}
    side = {"a": 1.0}.get(label or "")
    assert set(human_majority(votes)["human"]) == ({side} if side else set())
    assert set((panel_labels(votes, 100) or {}).values()) == ({side} if side else set())
    pairs = votes.select("pair_id", kind=pl.lit("chat")).unique()
    judged = judge_agreement(pl.concat([votes, cast([("0", "a")], "judge")]), pairs, "kind")
    assert judged["agreement"].to_list() == ([1.0] if side else [])


def test_the_fusers_target_weighs_people_instead_of_counting_them() -> None:
    votes = valid_votes(cast([("x", "a"), ("x", "tie")]))
    known = pl.DataFrame(schema={"pair_id": pl.String, "known": pl.Float64})
    target = human_targets(human_cells(votes, human_accuracy(votes, known, 0.85), 0.85), known)
    assert target.select("target", "tie").row(0) == (1.0, 0.0)  # one for a and none for b: evidence for a
    assert labels(cast([("x", "a"), ("x", "tie")])) == {hash_fields("x"): None}
