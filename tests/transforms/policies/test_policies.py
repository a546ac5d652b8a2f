"""Policies: every action follows from the posterior, mirrors with it, and says why."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import DataError
from schemas.ids import hash_fields
from schemas.tables import ACTIONS, Verdicts
from transforms.plugins.registry import find, names
from transforms.stats.label_noise import (
    action_shares,
    decision_frame,
    ensemble_moments,
    worse_chosen,
)


def policy(name: str, **config: Any) -> Any:
    plugin = find("policies", name)
    return plugin(name, plugin.Config(**config), 0)


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """A decision frame of pairs given by `p_a`, `p_tie`, `source`, `mu`, `sigma`, `n_votes`, `n_human`."""
    built = []
    for i, row in enumerate(rows):
        p, tie = row["p_a"], row.get("p_tie", 0.0)
        options = {"a": p * (1 - tie), "b": (1 - p) * (1 - tie), "tie": tie}
        label = "tie" if p == 0.5 else max(options, key=lambda k: options[k])
        source = row.get("source")
        built.append(
            {
                "pair_id": hash_fields("pair", str(i)),
                "prompt_id": hash_fields("prompt", str(i // 3)),
                "p_a": p,
                "p_tie": tie,
                "label": label,
                "margin": float(np.log(p / (1 - p))),
                "certainty": options[label],
                "disagreement": row.get("disagreement", 0.0),
                "noise": None if source is None else 1 - options[source],
                "n_votes": row.get("n_votes", 3),
                "n_human": row.get("n_human", 0),
                "prior": 0.0,
                "contributions": [],
                "source_label": source,
                "mu": row.get("mu"),
                "sigma": row.get("sigma", 0.0 if row.get("mu") is not None else None),
            }
        )
    schema = {"source_label": pl.String, "mu": pl.Float64, "sigma": pl.Float64, "noise": pl.Float64}
    contributions = Verdicts.columns()["contributions"].dtype
    return pl.DataFrame(
        built,
        schema_overrides={**schema, "contributions": contributions, "n_votes": pl.Int32, "n_human": pl.Int32},
        infer_schema_length=None,
    )


ROW = st.fixed_dictionaries(
    {
        "p_a": st.floats(0.01, 0.99),
        "p_tie": st.floats(0.0, 0.95),
        "source": st.sampled_from(["a", "b", "tie", None]),
        "mu": st.floats(-5, 5),
        "sigma": st.floats(0, 3),
        "n_votes": st.integers(0, 5),
        "n_human": st.integers(0, 3),
        "disagreement": st.floats(0, 1),
    }
)
MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", ["posterior", "human_only", "moss"])
@MANY
@given(st.lists(ROW, min_size=1, max_size=12))
def test_every_row_gets_an_action_with_reasons_and_the_mirror_the_same(name: str, rows: list[dict[str, Any]]) -> None:
    chosen, verdicts = policy(name), frame(rows)
    model = json.loads(json.dumps(chosen.fit(verdicts)))
    decided = chosen.decide(model, verdicts)
    assert Verdicts.filter(decided)[1].counts() == {}
    assert decided["pair_id"].to_list() == verdicts["pair_id"].to_list()
    assert set(decided["action"]) <= set(ACTIONS)
    assert decided["reasons"].list.len().min() > 0
    predicted = model["predicted"]
    assert sum(predicted.values()) == pytest.approx(1.0)
    assert predicted == pytest.approx(action_shares(decided))
    mirror = verdicts.with_columns(
        (1 - pl.col("p_a")).alias("p_a"),
        -pl.col("margin"),
        -pl.col("mu"),
        *(
            pl.col(c).replace_strict({"a": "b", "b": "a", "tie": "tie"}, default=None)
            for c in ("label", "source_label")
        ),
    )
    assert chosen.decide(model, mirror)["action"].to_list() == decided["action"].to_list()
    assert chosen.decide(model, mirror)["reasons"].to_list() == decided["reasons"].to_list()


DOUBTFUL = ("drop", "flip", "soften", "ask")


@MANY
@given(st.lists(ROW, min_size=1, max_size=12), st.floats(0.51, 1.0), st.sampled_from(DOUBTFUL))
def test_posterior_publishes_as_certain_what_is_certain(
    rows: list[dict[str, Any]], least: float, doubtful: str
) -> None:
    chosen, verdicts = policy("posterior", certainty=least, doubtful=doubtful), frame(rows)
    decided = verdicts.with_columns(chosen.decide({}, verdicts).select("action", "reasons"))
    voted, certain = pl.col("n_votes") > 0, pl.col("certainty") >= least
    sided = pl.col("label") != "tie"
    published = decided.filter(voted & certain & sided)
    assert set(published["action"]) <= {"keep", "flip"}
    flipped = decided.filter(pl.col("action") == "flip")
    assert (flipped["label"] != flipped["source_label"]).all()
    assert flipped["source_label"].is_null().sum() == 0
    kept = decided.filter((pl.col("action") == "keep") & pl.col("source_label").is_not_null())
    assert (kept["label"] == kept["source_label"]).all()
    silent = set(decided.filter(~voted)["action"])
    assert silent <= ({"route"} if doubtful == "ask" else {"drop"})
    doubt = decided.filter(pl.col("reasons").list.contains("doubtful"))
    assert doubt.filter(certain & sided).is_empty()
    allowed = {"drop": {"drop"}, "flip": {"keep", "flip", "drop"}, "soften": {"soften", "drop"}, "ask": {"route"}}
    assert set(doubt["action"]) <= allowed[doubtful]
    assert set(doubt.filter(~sided)["action"]) <= {"drop", "route"}  # no side is more probable
    if doubtful in ("flip", "soften"):
        assert "drop" not in set(doubt.filter(sided)["action"])


@pytest.mark.parametrize("name", ["posterior", "human_only", "moss"])
@MANY
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from(DOUBTFUL))
def test_doubtful_changes_nothing_but_what_is_in_doubt(name: str, rows: list[dict[str, Any]], doubtful: str) -> None:
    verdicts = frame(rows)
    usual, other = policy(name), policy(name, doubtful=doubtful)
    model = usual.fit(verdicts)
    before, after = usual.decide(model, verdicts), other.decide(model, verdicts)
    assert after["reasons"].to_list() == before["reasons"].to_list()
    doubt = before["reasons"].list.contains("doubtful")
    unvoted = before["reasons"].list.contains("no_votes")
    sure = ~(doubt | unvoted)
    assert after.filter(sure)["action"].to_list() == before.filter(sure)["action"].to_list()
    assert set(before.filter(doubt)["action"]) <= {"drop"}
    assert usual.asks_only_routed is False
    assert other.asks_only_routed is (doubtful == "ask")


@pytest.mark.parametrize(
    ("doubtful", "actions"),
    [
        ("drop", ["keep", "flip", "drop", "drop", "drop", "tie", "keep", "drop", "drop", "drop", "drop"]),
        ("flip", ["keep", "flip", "keep", "flip", "flip", "tie", "keep", "keep", "drop", "keep", "drop"]),
        ("soften", ["keep", "flip", "soften", "soften", "soften", "tie", "keep", "soften", "drop", "soften", "drop"]),
        ("ask", ["keep", "flip", "route", "route", "route", "tie", "keep", "route", "route", "route", "route"]),
    ],
)
def test_posterior_by_example(doubtful: str, actions: list[str]) -> None:
    rows = [
        {"p_a": 0.95, "source": "a"},
        {"p_a": 0.05, "source": "a"},
        {"p_a": 0.55, "source": "a"},
        {"p_a": 0.45, "source": "a"},
        {"p_a": 0.3, "p_tie": 0.2, "source": "a"},  # P(a) = 0.24, but P(b) = 0.56 only: a tie counts against it
        {"p_a": 0.9, "p_tie": 0.9, "source": "a"},
        {"p_a": 0.9},
        {"p_a": 0.55},
        {"p_a": 0.5, "n_votes": 0},
        {"p_a": 0.52, "p_tie": 0.3},
        {"p_a": 0.5, "source": "tie"},
    ]
    decided = policy("posterior", doubtful=doubtful).decide({}, frame(rows))
    assert decided["action"].to_list() == actions
    reasons = decided["reasons"].to_list()
    assert reasons[0] == ["source_agrees"]
    assert reasons[1] == ["source_contradicted"]
    assert reasons[2][0] == reasons[3][0] == "doubtful"
    assert reasons[5] == ["tie_most_probable"]
    assert reasons[8][0] == "no_votes"
    assert reasons[10] == ["doubtful"]


def test_two_thirds_is_certain_however_it_was_computed() -> None:
    rows = [{"p_a": 2 / 3, "source": "a"}, {"p_a": 1 - 2 / 3, "source": "a"}, {"p_a": 1 - 1 / 3, "source": "a"}]
    decided = policy("posterior").decide({}, frame(rows))
    assert decided["action"].to_list() == ["keep", "flip", "keep"]
    assert all(">= certainty" in policy("posterior").because({}, row) for row in decided.iter_rows(named=True))
    even = frame([{"p_a": 0.5, "source": "a"}]).row(0, named=True)
    assert "equally probable" in policy("posterior").because({}, even | {"action": "drop"})


def test_what_is_set_wrongly_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"keep_noise, below: replaced by certainty .* and doubtful"):
        policy("posterior", keep_noise=0.8, below="route")
    with pytest.raises(ValidationError, match="certainty"):
        policy("posterior", certainty=0.5)
    with pytest.raises(ValidationError, match=r"soften_share: replaced by doubt_share"):
        policy("moss", soften_share=0.2)
    with pytest.raises(ValidationError, match="otherwise: drop"):
        policy("human_only", doubtful="ask", otherwise="drop")
    with pytest.raises(ValidationError, match="flip_share"):
        policy("moss", flip_share=0.5, doubt_share=0.2)


def test_moss_takes_shares_from_the_bottom() -> None:
    rng = np.random.default_rng(1)
    margins = rng.normal(0.5, 1.0, 1000)
    rows = [{"p_a": 0.6, "source": "b", "mu": -float(m), "sigma": float(rng.random())} for m in margins]
    chosen = policy("moss", spread_share=0.0, doubtful="soften")
    verdicts = frame(rows)
    decided = chosen.decide(chosen.fit(verdicts), verdicts)
    order = np.argsort(margins)
    actions = decided["action"].to_numpy()
    assert set(actions[order[:100]]) == {"flip"}
    assert set(actions[order[100:300]]) == {"soften"}
    assert set(actions[margins < 0]) <= {"flip", "soften"}
    assert set(actions[order[400:]]) == {"keep"}
    labels = decided["label"].to_numpy()
    assert set(labels[order[:100]]) == {"a"}
    assert set(labels[order[400:]]) == {"b"}


def test_moss_never_flips_what_the_ensemble_confirms() -> None:
    rows = [{"p_a": 0.6, "source": "a", "mu": 1.0 + i} for i in range(10)]
    chosen, verdicts = policy("moss"), frame([{"p_a": 0.6, "source": "a", "mu": 1.0 + i} for i in range(10)])
    assert len(rows) == 10
    assert "flip" not in set(chosen.decide(chosen.fit(verdicts), verdicts)["action"])


def test_moss_without_reward_votes_says_so() -> None:
    with pytest.raises(DataError, match="reward"):
        policy("moss").fit(frame([{"p_a": 0.6, "source": "a"}]))


def test_human_only_publishes_nothing_unseen() -> None:
    rows = [
        {"p_a": 0.99, "source": "a"},
        {"p_a": 0.99, "source": "a", "n_human": 1},
        {"p_a": 0.01, "source": "a", "n_human": 1},
        {"p_a": 0.55, "source": "a", "n_human": 2},
        {"p_a": 0.9, "p_tie": 0.95, "n_human": 1},
    ]
    decided = policy("human_only").decide({}, frame(rows))
    assert decided["action"].to_list() == ["route", "keep", "flip", "drop", "tie"]


def test_decision_frame_adds_noise_and_moments() -> None:
    fused = frame([{"p_a": 0.8, "p_tie": 0.1}, {"p_a": 0.8, "p_tie": 0.1}, {"p_a": 0.8}]).drop(
        "noise", "source_label", "mu", "sigma"
    )
    pairs = fused.select("pair_id").with_columns(pl.Series("source_label", ["a", "tie", None]))
    base = {
        "vote_id": "x",
        "kind": "reward",
        "label": "a",
        "p_a": None,
        "score_a": None,
        "score_b": None,
        "aspects": None,
    }
    ids = fused["pair_id"].to_list()
    votes = pl.DataFrame(
        [
            {**base, "pair_id": ids[0], "aspects": json.dumps({"mu": 2.0, "sigma": 0.5})},
            {**base, "pair_id": ids[1], "score_a": 1.0, "score_b": 3.0},
            {**base, "pair_id": ids[1], "vote_id": "y", "p_a": 0.5},
            {**base, "pair_id": ids[2], "label": "error", "p_a": 0.9},
        ],
        infer_schema_length=None,
    )
    out = decision_frame(fused, pairs, votes)
    assert out["noise"].to_list()[:2] == pytest.approx([1 - 0.8 * 0.9, 0.9])
    assert out["noise"][2] is None
    assert out["mu"].to_list() == [2.0, -1.0, None]
    assert out["sigma"].to_list() == [0.5, 1.0, None]
    assert ensemble_moments(votes.clear()).is_empty()


@MANY
@given(st.lists(ROW, min_size=1, max_size=12))
def test_a_label_is_wrong_if_the_other_response_is_better_and_a_tie_is_not_counted(rows: list[dict[str, Any]]) -> None:
    worse = frame(rows).select(worse_chosen()).to_series().to_list()
    assert worse == [{"a": 1 - row["p_a"], "b": row["p_a"]}.get(row["source"]) for row in rows]


def test_all_policies_are_registered() -> None:
    assert set(names("policies")) == {"posterior", "moss", "human_only"}
