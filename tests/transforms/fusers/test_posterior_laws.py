"""Laws of the posterior, on votes drawn by hypothesis."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.tables import Verdicts, conform
from tests.transforms.fusers.vote_makers import (
    mirrored_pairs,
    mirrored_votes,
    pairs_frame,
    vote,
    votes_frame,
)
from transforms.plugins.registry import find
from transforms.stats.verdict_rows import COLUMNS

LABELS = ("a", "b", "tie", "invalid", "refused", "error")
SLOW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@st.composite
def elections(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Votes of judges in both orders, of a scorer with numbers, of rules and humans, on up to 16 pairs."""
    n = draw(st.integers(1, 16))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    humans = draw(st.integers(0, n))
    rows: list[dict[str, Any]] = []
    for i in range(n):
        for judge in ("j1", "j2"):
            for order in ("ab", "ba"):
                if rng.random() < 0.8:
                    rows.append(vote(i, judge, str(rng.choice(LABELS)), order=order, voter_group="llm"))
        if rng.random() < 0.8:
            p = float(rng.random())
            rows.append(vote(i, "heads", "a" if p > 0.5 else "b", kind="reward", p_a=p))
        if rng.random() < 0.8:
            gap = float(rng.normal())
            label = "a" if gap > 0 else "b"
            rows.append(vote(i, "rule", label, kind="rule", score_a=gap, score_b=0.0))
        if i < humans:
            rows.append(vote(i, "human:x", str(rng.choice(["a", "b", "tie"])), kind="human"))
    kinds = [str(k) for k in rng.choice(["chat", "code"], n)]
    lengths = [int(x) for x in rng.integers(1, 1000, n)], [int(x) for x in rng.integers(1, 1000, n)]
    return votes_frame(rows), pairs_frame(n, kind=kinds, length_a=lengths[0], length_b=lengths[1])


def fitted(votes: pl.DataFrame, pairs: pl.DataFrame, name: str = "posterior") -> tuple[Any, dict[str, Any]]:
    plugin = find("fusers", name)
    fuser = plugin(name, plugin.Config(), 0)
    model = fuser.fit(votes, pairs)
    return fuser, orjson.loads(orjson.dumps(model))  # what is read back is what was written


def fuse(votes: pl.DataFrame, pairs: pl.DataFrame, name: str = "posterior") -> pl.DataFrame:
    fuser, model = fitted(votes, pairs, name)
    out: pl.DataFrame = fuser.apply(model, votes, pairs)
    return out


def summed(verdicts: pl.DataFrame) -> np.ndarray[Any, Any]:
    parts = [sum(c["log_odds"] for c in row) for row in verdicts["contributions"].to_list()]
    return verdicts["prior"].to_numpy() + np.array(parts, dtype=float)


@pytest.mark.parametrize("name", ["posterior", "majority", "dawid_skene", "stack"])
@SLOW
@given(elections())
def test_verdicts_are_rows_of_the_table_and_contributions_add_up(name: str, election: Any) -> None:
    votes, pairs = election
    verdicts = fuse(votes, pairs, name)
    assert verdicts.columns == list(COLUMNS)
    assert verdicts["pair_id"].to_list() == pairs["pair_id"].to_list()
    full = conform(
        verdicts.with_columns(pl.lit("keep").alias("action"), pl.lit([], dtype=pl.List(pl.String)).alias("reasons")),
        Verdicts,
    )
    assert Verdicts.filter(full)[1].counts() == {}
    p = verdicts["p_a"].to_numpy()
    assert np.all((p > 0) & (p < 1))
    assert np.allclose(np.log(p / (1 - p)), summed(verdicts), atol=1e-11)
    assert np.allclose(verdicts["margin"].to_numpy(), summed(verdicts), atol=1e-12)


@SLOW
@given(elections())
def test_exchanging_the_responses_mirrors_the_verdict(election: Any) -> None:
    votes, pairs = election
    fuser, model = fitted(votes, pairs)
    straight = fuser.apply(model, votes, pairs)
    by_same_model = fuser.apply(model, mirrored_votes(votes), mirrored_pairs(pairs))
    refitted = fuse(mirrored_votes(votes), mirrored_pairs(pairs))
    for other, tolerance in ((by_same_model, 1e-9), (refitted, 1e-6)):
        assert np.allclose(straight["margin"].to_numpy(), -other["margin"].to_numpy(), atol=tolerance)
        assert np.allclose(straight["p_a"].to_numpy(), 1 - other["p_a"].to_numpy(), atol=tolerance)
        for same in ("p_tie", "certainty", "disagreement"):
            assert np.allclose(straight[same].to_numpy(), other[same].to_numpy(), atol=tolerance)
        clear = (straight["margin"].abs() > 10 * tolerance).to_numpy()
        labels = straight["label"].replace({"a": "b", "b": "a"}).to_numpy()
        near = np.abs(straight["p_tie"].to_numpy() - (1 - straight["p_tie"].to_numpy()) * 0.5) < 0.25
        assert np.all((labels == other["label"].to_numpy())[clear & ~near])


@SLOW
@given(
    elections(),
    st.sampled_from(["j1", "heads", "rule"]),
    st.sampled_from(["0-copy", "z-copy"]),
    st.sampled_from([None, "0-stranger", "z-stranger"]),
)
def test_a_copy_of_a_voter_adds_no_certainty(election: Any, voter: str, name: str, group: str | None) -> None:
    """Whatever it is called and whatever group it claims."""
    votes, pairs = election
    copy = votes.filter(pl.col("voter") == voter).with_columns(
        pl.lit(name).alias("voter"),
        pl.col("voter_group") if group is None else pl.lit(group).alias("voter_group"),
        pl.col("vote_id").str.reverse(),
    )
    once, twice = fuse(votes, pairs), fuse(pl.concat([votes, copy]), pairs)
    for column in ("margin", "p_a", "p_tie", "certainty"):
        assert np.allclose(once[column].to_numpy(), twice[column].to_numpy(), atol=1e-8)


@SLOW
@given(elections(), st.integers(0, 10))
def test_order_of_votes_and_bucketing_change_nothing(election: Any, seed: int) -> None:
    votes, pairs = election
    fuser, model = fitted(votes, pairs)
    shuffled_votes, shuffled_pairs = votes.sample(fraction=1, shuffle=True, seed=seed), pairs.reverse()
    assert fitted(shuffled_votes, shuffled_pairs)[1] == model
    whole = fuser.apply(model, votes, pairs)
    middle = len(pairs) // 2
    buckets = [pairs[:middle], pairs[middle:]]
    parts = pl.concat(
        [fuser.apply(model, shuffled_votes.join(b, on="pair_id", how="semi"), b) for b in buckets if len(b)]
    )
    assert whole.equals(parts)


@SLOW
@given(elections(), st.sampled_from(["invalid", "refused", "error", "tie"]))
def test_a_voter_without_opinions_moves_nothing(election: Any, label: str) -> None:
    votes, pairs = election
    mute = votes_frame([vote(i, "mute", label, voter_group="llm") for i in range(len(pairs))])
    before, after = fuse(votes, pairs), fuse(pl.concat([votes, mute]), pairs)
    for column in ("margin", "p_a", "p_tie"):
        assert np.allclose(before[column].to_numpy(), after[column].to_numpy(), atol=1e-8)


@SLOW
@given(elections())
def test_a_judge_that_only_sees_position_moves_nothing(election: Any) -> None:
    votes, pairs = election
    assume(len(pairs) >= 3)  # of one pair or two it cannot be told that it never looks at the responses
    rows = [vote(i, "first", {"ab": "a", "ba": "b"}[o], order=o) for i in range(len(pairs)) for o in ("ab", "ba")]
    before, after = fuse(votes, pairs), fuse(pl.concat([votes, votes_frame(rows)]), pairs)
    assert np.allclose(before["margin"].to_numpy(), after["margin"].to_numpy(), atol=1e-8)
    own = [c["log_odds"] for row in after["contributions"].to_list() for c in row if c["voter"] == "first"]
    assert np.allclose(own, 0.0, atol=1e-12)


@SLOW
@given(elections())
def test_without_votes_a_pair_has_its_prior(election: Any) -> None:
    votes, pairs = election
    fuser, model = fitted(votes, pairs)
    silent = fuser.apply(model, votes.clear(), pairs)
    assert np.allclose(silent["margin"].to_numpy(), silent["prior"].to_numpy())
    assert silent["n_votes"].sum() == 0
    assert silent["contributions"].list.len().sum() == 0
    alike = pairs.with_columns(pl.lit(5).alias("length_a"), pl.lit(5).alias("length_b"))
    assert fuser.apply(model, votes.clear(), alike)["p_a"].to_list() == [0.5] * len(pairs)


def test_no_votes_at_all() -> None:
    verdicts = fuse(votes_frame([]), pairs_frame(3))
    assert verdicts["p_a"].to_list() == [0.5] * 3
    assert verdicts["label"].to_list() == ["tie"] * 3
    empty = fuse(votes_frame([]), pairs_frame(0))
    assert empty.columns == list(COLUMNS)
    assert not len(empty)
