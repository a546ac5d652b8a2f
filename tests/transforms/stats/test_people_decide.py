"""Where people decide, the pair they answered has their label, whichever fuser it is, and nothing else changes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.transforms.fusers.vote_makers import mirrored_pairs, mirrored_votes, pairs_frame, vote, votes_frame
from transforms.fusers.base import PEOPLE_DECIDE, Fuser
from transforms.plugins.registry import find, names
from transforms.report.voters import reliability
from transforms.stats.controls import MAJORITY
from transforms.stats.human_labels import human_label
from transforms.stats.people_decide import ACCURACY, people_decide
from transforms.stats.value_of_answers import human_agreement, without_humans

FEW = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SIDES = ("a", "b")


def election(seed: int, n: int = 30) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Three judges that mostly agree with each other, and up to three people who are asked about half of the pairs."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        side, other = SIDES if rng.random() < 0.5 else SIDES[::-1]
        rows += [vote(i, f"judge {j}", side if rng.random() < 0.9 else other) for j in range(3)]
        for person in range(int(rng.integers(0, 4)) if i % 2 else 0):
            label = str(rng.choice([side, other, "tie"]))
            rows.append(vote(i, f"human:{person}", label, kind="human", voter_group="human"))
    lengths = {name: [int(x) for x in rng.integers(1, 500, n)] for name in ("length_a", "length_b")}
    return votes_frame(rows), pairs_frame(n, **lengths)


def fuser_of(name: str) -> Fuser:
    plugin = find("fusers", name)
    fuser: Fuser = plugin(name, plugin.Config(), 0)
    return fuser


@pytest.mark.parametrize("name", names("fusers"))
@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_asked_pairs_take_the_label_of_their_people_and_no_other_verdict_changes(name: str, seed: int) -> None:
    votes, pairs = election(seed)
    fuser = fuser_of(name)
    model = fuser.fit(votes, pairs)
    before, after = (fuser.verdicts({**model, PEOPLE_DECIDE: on}, votes, pairs) for on in (False, True))
    assert before.equals(fuser.apply(model, votes, pairs))
    assert after.columns == before.columns
    assert after["pair_id"].equals(before["pair_id"])
    assert after.select("n_votes", "n_human", "disagreement").equals(
        before.select("n_votes", "n_human", "disagreement")
    )
    sums = after.select(
        pl.col("prior") + pl.col("contributions").list.eval(pl.element().struct.field("log_odds")).list.sum()
    )
    assert sums.to_series().to_numpy() == pytest.approx(after["margin"].to_numpy(), abs=1e-9)
    theirs = human_label(votes.filter(pl.col("kind") == "human")).filter(pl.col("label").is_in(SIDES))
    assert theirs.join(after, on="pair_id").filter(pl.col("label") != pl.col("label_right")).height == 0
    changed = after.filter(after["margin"] != before["margin"])
    assert set(changed["pair_id"]) <= set(theirs["pair_id"])
    assert (changed["certainty"] >= ACCURACY**2 - 1e-9).all()
    own = changed["contributions"].list.eval(pl.element().filter(pl.element().struct.field("voter") != MAJORITY))
    voters = before.filter(pl.col("pair_id").is_in(changed["pair_id"].implode()))["contributions"]
    assert [sorted(c["voter"] for c in row) for row in own] == [sorted(c["voter"] for c in row) for row in voters]
    assert people_decide(after, votes, pairs).equals(after)


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_believed_without_people_stays_as_it_is(seed: int) -> None:
    votes, pairs = election(seed)
    fuser = fuser_of("posterior")
    model = fuser.fit(votes, pairs)
    before, after = (
        fuser.verdicts({**model, PEOPLE_DECIDE: on}, votes, pairs).join(pairs.select("pair_id", "kind"), on="pair_id")
        for on in (False, True)
    )
    one, other = without_humans(before), without_humans(after)
    assert other["margin_machine"].to_numpy() == pytest.approx(one["margin_machine"].to_numpy(), abs=1e-9)
    flipped = after.select(pl.col("margin") * other["margin_machine"] < 0).to_series()
    assert other["flipped"].equals(flipped.alias("flipped"))
    assert human_agreement(after).equals(human_agreement(before))
    assert reliability(votes, after).equals(reliability(votes, before))


@FEW
@given(seed=st.integers(0, 2**32 - 1))
def test_neither_order_nor_exchanged_responses_change_it(seed: int) -> None:
    votes, pairs = election(seed)
    fuser = fuser_of("posterior")
    model = {**fuser.fit(votes, pairs), PEOPLE_DECIDE: True}
    plain = fuser.verdicts(model, votes, pairs)
    shuffled = fuser.verdicts(model, votes.sample(fraction=1, shuffle=True, seed=1), pairs[::-1])
    assert shuffled.sort("pair_id").equals(plain.sort("pair_id"))
    mirror = {**fuser.fit(mirrored_votes(votes), mirrored_pairs(pairs)), PEOPLE_DECIDE: True}
    other = fuser.verdicts(mirror, mirrored_votes(votes), mirrored_pairs(pairs))
    assert other["margin"].to_numpy() == pytest.approx(-plain["margin"].to_numpy(), abs=1e-6)


def test_three_judges_outvote_a_person_only_where_people_do_not_decide() -> None:
    rows = [vote(i, f"judge {j}", "a") for i in range(40) for j in range(3)]
    rows += [vote(i, "human:x", "a", kind="human", voter_group="human") for i in range(20)]
    rows.append(vote(30, "human:x", "b", kind="human", voter_group="human"))
    votes, pairs = votes_frame(rows), pairs_frame(40)
    fuser = fuser_of("posterior")
    model = fuser.fit(votes, pairs)
    asked = pairs.filter(pl.col("pair_id") == rows[-1]["pair_id"])
    assert fuser.verdicts(model, votes, asked)["label"].item() == "a"
    assert fuser.verdicts({**model, PEOPLE_DECIDE: True}, votes, asked)["label"].item() == "b"


def test_people_of_a_source_and_known_answers_are_as_before() -> None:
    rows = [vote(0, f"judge {j}", "a") for j in range(3)] + [vote(1, f"judge {j}", "a") for j in range(3)]
    rows.append(vote(0, "crowd", "b", kind="human", voter_group="human"))
    rows.append(vote(1, "human:x", "b", kind="human", voter_group="human"))
    votes, pairs = votes_frame(rows), pairs_frame(2).with_columns(known_label=pl.Series([None, "a"]))
    fuser = fuser_of("majority")
    model = fuser.fit(votes, pairs)
    plain = fuser.apply(model, votes, pairs)
    assert plain["label"].to_list() == ["a", "a"]
    assert people_decide(plain, votes, pairs).equals(plain)
