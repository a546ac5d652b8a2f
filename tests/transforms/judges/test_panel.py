"""The sequential panel: weights for correlated judges, the stopping rule, and the real verdicts of LLMBar."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from schemas.tables import Row
from tests.benchmarks.panel import folds, load, measure, replay
from tests.transforms.judges.fixtures import pair
from transforms.judges.base import Opinion, invalid, vote
from transforms.judges.panel.sequential import fit_panel, panel_votes, untrained_panel, word, words_of
from transforms.llm.request import Ask, Reply, Request


def simulated(n: int = 800, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Two good judges with errors of their own, five that copy one poor opinion."""
    chance = np.random.default_rng(seed)
    truth = chance.integers(0, 2, n).astype(float)
    sign = 2 * truth - 1
    good = [np.where(chance.random(n) < 0.85, sign, -sign) for _ in range(2)]
    poor = np.where(chance.random(n) < 0.6, sign, -sign)
    copies = [np.where(chance.random(n) < 0.98, poor, -poor) for _ in range(5)]
    return np.column_stack([*copies, *good]), truth, [f"prompt {i}" for i in range(n)]


NAMES = [f"copy {n}" for n in range(5)] + ["good 0", "good 1"]


def test_good_judges_come_first_and_copies_do_not_count_five_times() -> None:
    words, truth, groups = simulated()
    model = fit_panel(words, truth, groups, NAMES)
    assert set(model.judges[:2]) == {"good 0", "good 1"}
    weight = dict(zip(model.judges, model.weights[-1], strict=True))
    copies = sum(weight[name] for name in NAMES[:5])
    assert copies < min(weight["good 0"], weight["good 1"])
    fresh, labels, _ = simulated(4000, seed=1)
    z = model.log_odds(fresh[:, [NAMES.index(name) for name in model.judges]])[:, -1]
    assert ((z > 0) == (labels > 0.5)).mean() > 0.84
    # Calibrated: where it says 0.9, it is right 0.9 of the time.
    confidence, right = expit(np.abs(z)), (z > 0) == (labels > 0.5)
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        inside = (confidence >= low) & (confidence < high)
        if inside.sum() > 100:
            assert abs(right[inside].mean() - confidence[inside].mean()) < 0.06


def test_exchanging_the_responses_mirrors_the_log_odds() -> None:
    words, truth, groups = simulated(200)
    model = fit_panel(words, truth, groups, NAMES)
    assert np.allclose(model.log_odds(words), -model.log_odds(-words))


def test_a_dearer_judge_is_asked_later() -> None:
    words, truth, groups = simulated()
    costs = [1.0] * 5 + [1.0, 1000.0]
    model = fit_panel(words, truth, groups, NAMES, costs)
    assert model.judges[0] == "good 0"
    assert model.judges.index("good 1") > 1
    given = fit_panel(words, truth, groups, NAMES, reorder=False)
    assert list(given.judges) == NAMES


def test_stricter_rules_ask_more_and_no_rule_asks_all() -> None:
    words, truth, groups = simulated()
    model = fit_panel(words, truth, groups, NAMES)
    ordered = words[:, [NAMES.index(name) for name in model.judges]]
    ordered[::7, 0] = np.nan
    by_certainty = [replay(model, ordered, level, -1.0).calls.sum() for level in (0.6, 0.8, 0.9, 0.99)]
    assert by_certainty == sorted(by_certainty)
    by_change = [replay(model, ordered, 2.0, level).calls.sum() for level in (0.3, 0.1, 0.01, 0.0001)]
    assert by_change == sorted(by_change)
    everything = replay(model, ordered, 2.0, -1.0)
    assert (everything.calls == everything.available).all()
    assert (everything.available == (~np.isnan(ordered)).sum(axis=1)).all()
    assert np.allclose(everything.log_odds, model.log_odds(ordered)[:, -1])


def test_an_untrained_panel_grows_certain_slowly() -> None:
    model = untrained_panel(["x", "y", "z"])
    z = model.log_odds(np.ones((1, 3)))[0]
    assert expit(z[0]) == pytest.approx(0.7)
    assert z[0] < z[1] < z[2] < 3 * z[0]
    assert not model.done(z[2:], 3, 2.0, 0.9).any()


def test_words() -> None:
    row = pair()
    reply = Reply("0" * 32, "ok")
    said = [
        vote(row, "x", "ab", Opinion("a", p_first=0.9), [reply]),
        vote(row, "x", "ba", Opinion("a", p_first=0.9), [reply]),
        vote(row, "y", "ab", Opinion("tie"), [reply]),
        vote(row, "z", "ab", invalid("?"), [reply]),
    ]
    assert [word(v) for v in said[:3]] == pytest.approx([0.8, -0.8, 0.0])
    found = words_of(said, ["x", "y", "z"])[row["pair_id"]]
    assert found[:2].tolist() == [pytest.approx(0.0), 0.0]
    assert np.isnan(found[2])


class Fixed:
    """A judge that always says the same about pairs of a prompt."""

    def __init__(self, name: str, label: str) -> None:
        self.name, self.identity, self.label = name, name, label
        self.asked: list[str] = []

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        self.asked += [row["pair_id"] for row in pairs]
        return [vote(row, self.name, "ab", Opinion(self.label), []) for row in pairs]


async def nobody(request: Request) -> Reply:
    raise AssertionError("no request was expected")


def test_a_pair_that_is_certain_enough_is_asked_no_more() -> None:
    rows = [pair(prompt=f"question {n}") for n in range(3)]
    judges = [Fixed(f"j{n}", "a") for n in range(5)]
    votes = asyncio.run(panel_votes(judges, rows, nobody, None, stop_certainty=0.8))  # type: ignore[arg-type]
    per_judge = [len(made.asked) for made in judges]
    assert per_judge[0] == 3
    assert per_judge[-1] == 0
    assert len(votes) == sum(per_judge)
    split = [Fixed(f"j{n}", "ab"[n % 2]) for n in range(4)]
    asyncio.run(panel_votes(split, rows, nobody, None, stop_certainty=0.8))  # type: ignore[arg-type]
    assert [len(made.asked) for made in split] == [3, 3, 3, 3]


def test_without_a_rule_every_judge_is_asked_about_everything() -> None:
    rows = [pair(prompt=f"question {n}") for n in range(3)]
    judges = [Fixed("x", "a"), Fixed("y", "b")]
    votes = asyncio.run(panel_votes(judges, rows, nobody))  # type: ignore[arg-type]
    assert Counter(v["voter"] for v in votes) == {"x": 3, "y": 3}


@pytest.mark.slow
def test_llmbar_reaches_the_full_panels_accuracy_with_two_fifths_of_the_calls(shared_data: Path) -> None:
    verdicts = load(shared_data)
    fold, models = folds(verdicts)
    full = measure(verdicts, fold, models, 2.0, -1.0)
    sequential = measure(verdicts, fold, models, 2.0, 0.002)
    assert full["share_of_calls"] == 1.0
    assert sequential["accuracy"] >= full["accuracy"]
    assert sequential["share_of_calls"] <= 0.4
