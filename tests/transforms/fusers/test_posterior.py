"""What the posterior learns, against simulations whose truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.benchmarks.quality.real_data import fuser_pairs, load
from tests.transforms.fusers.vote_makers import pairs_frame, simulated, vote, votes_frame
from transforms.plugins.registry import find


def posterior(**config: Any) -> Any:
    plugin = find("fusers", "posterior")
    return plugin("posterior", plugin.Config(**config), 0)


def test_a_better_voter_weighs_more_and_near_what_bayes_says() -> None:
    votes, pairs, _ = simulated(4000, {"good": 0.9, "fair": 0.7, "coin": 0.5}, seed=1, humans=3000)
    voters = posterior().fit(votes, pairs)["voters"]
    for name, p in (("good", 0.9), ("fair", 0.7), ("coin", 0.5)):
        assert voters[name]["log_odds"]["a"] == pytest.approx(math.log(p / (1 - p)), abs=0.25)
        assert voters[name]["accuracy"] == pytest.approx(p, abs=0.03)


def test_a_coin_moves_almost_nothing_once_there_are_labels() -> None:
    votes, pairs, _ = simulated(1000, {"good": 0.85, "fair": 0.7, "coin": 0.5}, seed=2, humans=600)
    fuser = posterior()
    with_coin = fuser.apply(fuser.fit(votes, pairs), votes, pairs)
    without = votes.filter(pl.col("voter") != "coin")
    alone = fuser.apply(fuser.fit(without, pairs), without, pairs)
    assert np.abs(with_coin["p_a"].to_numpy() - alone["p_a"].to_numpy()).mean() < 0.03


def test_a_few_labels_do_not_spoil_what_agreement_knows() -> None:
    voters = {"one": 0.7, "two": 0.75, "three": 0.8, "four": 0.8, "five": 0.85}
    fuser, loss = posterior(), []
    for seed in range(3):
        for labels in (0, 40):
            votes, pairs, truth = simulated(800, voters, seed=seed, humans=labels)
            model = fuser.fit(votes, pairs)
            assert model["calibrated_by"] == ("people" if labels else "agreement")
            verdicts = fuser.apply(model, votes.filter(pl.col("kind") != "human"), pairs)
            side = np.array([1.0 if label == "a" else -1.0 for label in truth])
            loss.append(np.logaddexp(0.0, -verdicts["margin"].to_numpy() * side)[40:].mean())
    assert np.mean(loss[1::2]) < np.mean(loss[::2]) + 0.01


def test_a_voter_that_is_mostly_wrong_counts_against_itself() -> None:
    votes, pairs, truth = simulated(800, {"liar": 0.2}, seed=3, humans=400)
    fuser = posterior()
    verdicts = fuser.apply(fuser.fit(votes, pairs), votes.filter(pl.col("kind") != "human"), pairs)
    right = np.mean([(m > 0) == (t == "a") for m, t in zip(verdicts["margin"][400:], truth[400:], strict=True)])
    assert right > 0.75


def test_few_labels_leave_voters_near_the_prior() -> None:
    votes, pairs, _ = simulated(200, {"good": 0.95, "fair": 0.6}, seed=4, humans=200)
    none = votes.filter(pl.col("kind") != "human")
    few = pl.concat([none, votes.filter(pl.col("kind") == "human").head(3)])
    weight = [posterior().fit(v, pairs)["voters"]["good"]["log_odds"]["a"] for v in (none, few, votes)]
    assert weight[0] < weight[2]
    assert abs(weight[1] - weight[0]) < abs(weight[2] - weight[0]) / 2


def test_calibrated_on_new_pairs() -> None:
    accuracies = {f"v{i}": 0.55 + 0.05 * i for i in range(6)}
    votes, pairs, truth = simulated(3000, accuracies, seed=5, humans=500)
    fuser = posterior()
    model = fuser.fit(votes, pairs)
    verdicts = fuser.apply(model, votes.filter(pl.col("kind") != "human"), pairs)[500:]
    p, y = verdicts["p_a"].to_numpy(), np.array([t == "a" for t in truth[500:]])
    for low, high in ((0.05, 0.3), (0.3, 0.5), (0.5, 0.7), (0.7, 0.95)):
        inside = (p > low) & (p < high)
        assert y[inside].mean() == pytest.approx(p[inside].mean(), abs=0.06)
    assert model["calibration"]["n"] == 500
    assert sum(b["n"] for b in model["calibration"]["bins"]) == 500
    assert 0 <= model["calibration"]["ece"] < 0.06


def test_position_bias_is_seen_without_labels_and_taken_off() -> None:
    rng = np.random.default_rng(6)
    rows = []
    for i in range(600):
        order = "ab" if rng.random() < 0.5 else "ba"
        first = {"ab": "a", "ba": "b"}[order]
        rows.append(vote(i, "leaning", first if rng.random() < 0.8 else {"a": "b", "b": "a"}[first], order=order))
    model = posterior().fit(votes_frame(rows), pairs_frame(600))
    voter = model["voters"]["leaning"]
    assert voter["bias"] == pytest.approx(0.6, abs=0.07)
    assert abs(voter["log_odds"]["first"]) < abs(voter["log_odds"]["second"])


def test_slices_share_what_they_know_and_keep_what_differs() -> None:
    kinds = ["chat" if i % 4 < 2 else "code" for i in range(1200)]
    votes, pairs, truth = simulated(1200, {"expert": 0.85}, seed=7, humans=800, kind=kinds)
    upside_down = pl.col("pair_id").is_in(pairs.filter(pl.col("kind") == "code")["pair_id"].to_list())
    swapped = pl.col("label").replace({"a": "b", "b": "a"})
    is_expert = pl.col("voter") == "expert"
    votes = votes.with_columns(pl.when(upside_down & is_expert).then(swapped).otherwise(pl.col("label")).alias("label"))
    fuser = posterior()
    verdicts = fuser.apply(fuser.fit(votes, pairs), votes.filter(pl.col("kind") != "human"), pairs)
    right = [(m > 0) == (t == "a") for m, t in zip(verdicts["margin"][800:], truth[800:], strict=True)]
    assert np.mean(right) > 0.78


def test_a_tiny_slice_is_shrunk_to_the_pooled_weight_and_a_large_one_is_not() -> None:
    """One right of three labels says little of a slice; a hundred right of three hundred say what a voter is there."""

    def learned(n_code: int) -> tuple[float, float]:
        """What a vote adds in chat, where the voter is right in 85%, and in code, where it is right in a third."""
        n = 600
        rng = np.random.default_rng(17)
        right = rng.random(n) < 0.85
        right[:n_code] = np.arange(n_code) % 3 == 0
        sides = [("a", "b") if u < 0.5 else ("b", "a") for u in rng.random(n)]
        rows = [vote(i, "human:h", truth, kind="human") for i, (truth, _) in enumerate(sides)]
        rows += [vote(i, "expert", sides[i][0] if right[i] else sides[i][1]) for i in range(n)]
        fuser = posterior()
        kinds = ["code" if i < n_code else "chat" for i in range(n)]
        model = fuser.fit(votes_frame(rows), pairs_frame(n, kind=kinds))
        asked = votes_frame([vote(i, "expert", "a") for i in range(2)])
        chat, code = fuser.apply(model, asked, pairs_frame(2, kind=["chat", "code"]))["margin"].to_list()
        return chat, code

    empirical = math.log(1 / 2)
    (chat_tiny, tiny), (chat_large, large) = learned(3), learned(300)
    assert abs(tiny - chat_tiny) < abs(tiny - empirical)
    assert tiny > 0
    assert abs(large - empirical) < abs(large - chat_large) / 3
    assert chat_tiny == pytest.approx(math.log(0.85 / 0.15), abs=0.35)


def test_ties_are_learned_from_humans() -> None:
    rng = np.random.default_rng(8)
    rows = []
    for i in range(600):
        tie = rng.random() < 0.3
        for judge in ("j1", "j2"):
            says_tie = rng.random() < (0.7 if tie else 0.1)
            rows.append(vote(i, judge, "tie" if says_tie else str(rng.choice(["a", "b"]))))
        if i < 300:
            rows.append(vote(i, "human:h", "tie" if tie else str(rng.choice(["a", "b"])), kind="human"))
    votes, pairs = votes_frame(rows), pairs_frame(600)
    fuser = posterior()
    machine = votes.filter(pl.col("kind") != "human")
    verdicts = fuser.apply(fuser.fit(votes, pairs), machine, pairs)[300:]
    votes_tie = machine.group_by("pair_id").agg((pl.col("label") == "tie").all().alias("both"))
    joined = verdicts.join(votes_tie, on="pair_id")
    assert joined.filter(pl.col("both"))["p_tie"].mean() == pytest.approx(0.95, abs=0.15)
    assert joined["p_tie"].mean() == pytest.approx(0.3, abs=0.07)
    assert set(joined.filter(pl.col("both"))["label"]) == {"tie"}


def test_known_answers_of_controls_are_labels() -> None:
    votes, pairs, truth = simulated(400, {"good": 0.9, "bad": 0.5}, seed=9)
    known = [truth[i] if i < 200 else None for i in range(400)]
    model = posterior().fit(votes, pairs.with_columns(pl.Series("known_label", known, dtype=pl.String)))
    assert model["n_labels"] == 200
    assert model["voters"]["good"]["log_odds"]["a"] > 1.2
    assert abs(model["voters"]["bad"]["log_odds"]["a"]) < 0.6


def test_a_known_answer_is_not_turned_by_bad_annotators_and_says_nothing_of_its_source() -> None:
    votes, pairs, truth = simulated(100, {"judge": 0.8}, seed=14)
    wrong = {"a": "b", "b": "a"}
    rows = [vote(i, "source", truth[i] if i < 40 else wrong[truth[i]], kind="source") for i in range(100)]
    rows += [vote(i, f"human:{h}", wrong[truth[i]], kind="human") for i in range(40) for h in "xyz"]
    votes = pl.concat([votes, votes_frame(rows)])
    known = pl.Series("known_label", [t if i < 40 else None for i, t in enumerate(truth)], dtype=pl.String)
    controls = pairs.with_columns(known)
    fuser = posterior()
    model = fuser.fit(votes, controls)
    assert all(h["n_compared"] == 40 and h["log_odds"] == 0 for h in model["humans"].values())
    assert model["voters"]["source"]["n_labelled"] == 0
    assert model["voters"]["source"]["accuracy"] is None
    for trusted in (model, model | {"humans": {}}):  # annotators nobody measured have the prior's weight
        verdicts = fuser.apply(trusted, votes, controls)
        assert verdicts["label"].to_list()[:40] == truth[:40]
        assert verdicts["p_tie"][:40].max() < 0.01
        assert verdicts["certainty"][:40].min() > 0.99
    parts = [sum(c["log_odds"] for c in row) for row in verdicts["contributions"].to_list()]
    assert np.allclose(verdicts["margin"], verdicts["prior"].to_numpy() + np.array(parts), atol=1e-11)
    ties = pairs.with_columns(pl.lit("tie").alias("known_label"))
    assert set(fuser.apply(model, votes, ties)["label"]) == {"tie"}


def test_human_votes_decide_over_a_weak_voter_and_unreliable_humans_count_less() -> None:
    votes, pairs, truth = simulated(300, {"weak": 0.55}, seed=10)
    rng = np.random.default_rng(11)
    flip = {"a": "b", "b": "a"}
    rows = []
    for i, t in enumerate(truth):
        rows += [vote(i, f"human:{h}", t if rng.random() < 0.95 else flip[t], kind="human") for h in "xyz"]
        rows.append(vote(i, "human:careless", str(rng.choice(["a", "b"])), kind="human"))
    everything = pl.concat([votes, votes_frame(rows)])
    fuser = posterior()
    model = fuser.fit(everything, pairs)
    assert model["humans"]["human:x"]["log_odds"] > 4 * model["humans"]["human:careless"]["log_odds"]
    verdicts = fuser.apply(model, everything, pairs)
    assert np.mean([(m > 0) == (t == "a") for m, t in zip(verdicts["margin"], truth, strict=True)]) > 0.97
    assert verdicts["n_human"].to_list() == [4] * 300


@pytest.mark.parametrize("n", [10, 60])
def test_a_copied_human_adds_no_certainty_but_two_people_who_agree_on_a_few_pairs_do(n: int) -> None:
    votes, pairs, truth = simulated(200, {"good": 0.8}, seed=15)
    rng = np.random.default_rng(16)
    flip = {"a": "b", "b": "a"}
    rows = [
        vote(i, f"human:{h}", t if rng.random() < 0.85 else flip[t], kind="human")
        for h, m in (("x", n), ("y", 120))
        for i, t in enumerate(truth[:m])
    ]
    people = votes_frame(rows)
    copy = people.filter(pl.col("voter") == "human:x").with_columns(
        pl.lit("human:0").alias("voter"), pl.lit("human:0").alias("voter_group"), pl.col("vote_id").str.reverse()
    )
    fuser = posterior()
    once, twice = pl.concat([votes, people]), pl.concat([votes, people, copy])
    one, two = fuser.fit(once, pairs), fuser.fit(twice, pairs)
    before, after = fuser.apply(one, once, pairs), fuser.apply(two, twice, pairs)
    gained = after["margin"].abs()[:n].mean() - before["margin"].abs()[:n].mean()
    if n == 60:
        assert two["humans"]["human:x"]["log_odds"] == pytest.approx(one["humans"]["human:x"]["log_odds"])
        assert np.allclose(before["margin"], after["margin"], atol=1e-8)
        assert np.allclose(before["p_tie"], after["p_tie"], atol=1e-8)
    else:
        assert gained > 0.5


def test_numbers_are_used_beyond_their_sign() -> None:
    rng = np.random.default_rng(12)
    rows = []
    for i in range(1500):
        z = rng.normal(0, 2)
        truth = "a" if rng.random() < 1 / (1 + math.exp(-z)) else "b"
        rows.append(vote(i, "scorer", "a" if z > 0 else "b", kind="reward", score_a=10 * z, score_b=0.0))
        if i < 1000:
            rows.append(vote(i, "human:h", truth, kind="human"))
    votes, pairs = votes_frame(rows), pairs_frame(1500)
    fuser = posterior()
    machine = votes.filter(pl.col("kind") != "human")
    verdicts = fuser.apply(fuser.fit(votes, pairs), machine, pairs)[1000:]
    z = machine["score_a"].to_numpy()[1000:] / 10
    p, ideal = verdicts["p_a"].to_numpy(), 1 / (1 + np.exp(-z))
    assert np.abs(p - ideal).mean() < 0.06


def test_demo_without_humans_trusts_the_consistent_and_stays_modest() -> None:
    rng = np.random.default_rng(13)
    truth = rng.random(300) < 0.5
    rows = []
    for i, a in enumerate(truth):
        for order in ("ab", "ba"):  # always takes what it sees first
            rows.append(vote(i, "llm", {"ab": "a", "ba": "b"}[order], order=order, voter_group="llm"))
        right = "a" if a else "b"
        wrong = "b" if a else "a"
        p = 0.8 if (rng.random() < 0.8) == a else 0.2
        rows.append(vote(i, "bt_heads", "a" if p > 0.5 else "b", kind="reward", p_a=p))
        rows += [vote(i, f"rule{k}", right if rng.random() < 0.65 else wrong, kind="rule") for k in range(4)]
        rows.append(vote(i, "source", right if rng.random() < 0.8 else wrong, kind="source"))
    votes, pairs = votes_frame(rows), pairs_frame(300)
    fuser = posterior()
    verdicts = fuser.apply(fuser.fit(votes, pairs), votes, pairs)
    assert np.mean((verdicts["margin"].to_numpy() > 0) == truth) > 0.85
    assert verdicts["certainty"].mean() < np.mean((verdicts["margin"].to_numpy() > 0) == truth) + 0.05
    llm = [c["log_odds"] for row in verdicts["contributions"].to_list() for c in row if c["voter"] == "llm"]
    assert np.allclose(llm, 0.0)


@pytest.mark.parametrize("labels", [0, 50])
def test_does_not_collapse_on_adversarial_judges(shared_data: Path, labels: int) -> None:
    """LLMBar: most judges prefer the wrong answer, and EM makes that the truth (accuracy .48)."""
    pairs, votes, majority = load("llmbar", shared_data)
    shown = pairs["pair_id"].to_list()[::14][:labels]
    judges = votes.filter(pl.col("kind") == "judge")
    known = votes.filter((pl.col("kind") == "human") & pl.col("pair_id").is_in(shown))
    fuser = posterior()
    model = fuser.fit(pl.concat([judges, known]), fuser_pairs(pairs))
    verdicts = fuser.apply(model, judges, fuser_pairs(pairs)).join(majority, on="pair_id", suffix="_human")
    rest = verdicts.filter(~pl.col("pair_id").is_in(shown))
    accuracy = ((rest["margin"] > 0) == (rest["label_human"] == "a")).mean()
    assert accuracy > (0.84 if labels else 0.65)


def test_humans_taste_for_length_grows_by_ratio_and_stops_at_dumps() -> None:
    n = 600
    rng = np.random.default_rng(12)
    ratio = np.exp(rng.normal(size=n))
    longer = rng.random(n) < 1 / (1 + 1 / ratio)  # P(a better) = expit(log ratio): the weight to find is 1
    pairs = pairs_frame(n, length_a=[int(1000 * r) for r in ratio], length_b=[1000] * n)
    votes = votes_frame([vote(i, "human:h", "a" if a else "b", kind="human") for i, a in enumerate(longer)])
    fuser = posterior()
    model = fuser.fit(votes, pairs)
    assert model["length"] == pytest.approx(1.0, abs=0.3)
    shown = pairs_frame(4, length_a=[2000, 4000, 10**5, 10**7], length_b=[1000] * 4)
    prior = fuser.apply(model, votes.clear(), shown)["prior"].to_numpy()
    assert prior[1] == pytest.approx(2 * prior[0], rel=0.01)
    assert prior[2] == prior[3]
