"""Annotators who are wrong on the same pairs: known answers say how much, and the certificate takes it out."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom

from tests.transforms.stats.shared_difficulty import POPULATION, Setting, answered, measured, simulate
from transforms.stats.annotator_error import wrong_answers
from transforms.stats.certificate import MIN_AUDITED, certify, certify_slices
from transforms.stats.certificate_text import notes_of
from transforms.stats.confidence_sequence import betting_interval
from transforms.stats.prediction_powered import Predictions, prediction_powered_mean


@given(st.integers(0, 6), st.integers(0, 6), st.floats(0.01, 0.5), st.floats(0.01, 0.9))
def test_wrong_answers_are_beta_binomial(x: int, rest: int, mu: float, rho: float) -> None:
    m, strength = x + rest, (1 - rho) / rho
    one_order = float(wrong_answers(x, m, np.array([mu]), np.array([rho]))[0])
    orders = len(list(itertools.combinations(range(m), x)))
    expected = betabinom.pmf(x, m, mu * strength, (1 - mu) * strength)
    assert one_order * orders == pytest.approx(expected, rel=1e-6)
    independent = float(wrong_answers(x, m, np.array([mu]), np.zeros(1))[0])
    assert independent * orders == pytest.approx(binom.pmf(x, m, mu), rel=1e-9)


def test_annotators_who_share_hard_pairs_are_covered_as_promised() -> None:
    """The bar of 94 %, within what luck does to so few audits; the whole table is `tests.benchmarks.certificate`."""
    audits, misses, widths = 15, 0, []
    for i, accuracy in enumerate((0.7, 0.8, 0.9, 0.95)):
        for j, shared in enumerate((1 / 6, 1 / 3, 0.5)):
            covered, width, _ = measured(Setting(accuracy, shared=shared), audits, seed=10 * i + j)
            misses += round(audits * (1 - covered))
            widths.append(width)
    assert misses <= binom.isf(1e-3, 12 * audits, 0.06)
    assert np.mean(widths) <= 0.25


def test_without_known_answers_shared_errors_are_not_seen_and_the_text_says_so() -> None:
    covered, _, found = measured(Setting(0.9, shared=0.5, known=0, answers=(2,)), 30, seed=1)
    assert covered < 0.8
    assert found[0].shared_difficulty is None
    assert any("not identified" in note and "control" in note for note in notes_of(found[0].as_dict()))
    known = measured(Setting(0.9, shared=0.5, answers=(2,)), 3, seed=1)[2][0]
    assert not any("not identified" in note for note in notes_of(known.as_dict()))


def test_error_and_shared_difficulty_are_recovered_from_many_answers() -> None:
    setting = Setting(0.85, error=0.15, shared=0.4, audited=8000, known=4000, answers_known=3)
    audit, known, _, truth = simulate(setting, np.random.default_rng(3))
    certificate = certify(audit, POPULATION, known=known)
    assert certificate.annotator_error == pytest.approx(0.15, abs=0.01)
    assert certificate.shared_difficulty == pytest.approx(0.4, abs=0.03)
    assert certificate.accuracy == pytest.approx(truth, abs=0.02)
    assert certificate.known_answers == 12_000


def test_order_and_names_of_sides_do_not_matter() -> None:
    audit, known, predictions, _ = simulate(Setting(0.8, sharpness=1.0), np.random.default_rng(5))
    other = {"a": "b", "b": "a"}
    turned = [f.with_columns(pl.col(c, "answer").replace(other)) for f, c in ((audit, "published"), (known, "known"))]
    shuffled = [f.sample(fraction=1.0, shuffle=True, seed=2) for f in (audit, known)]
    expected = certify(audit, POPULATION, known=known, predictions=predictions)
    for a, k in (turned, shuffled):
        assert certify(a, POPULATION, known=k, predictions=predictions) == expected


def test_known_ties_say_nothing() -> None:
    audit, known, _, _ = simulate(Setting(0.8), np.random.default_rng(6))
    ties = known.with_columns(known=pl.lit("tie"), pair_id="t" + pl.col("pair_id"))
    assert certify(audit, POPULATION, known=pl.concat([known, ties])) == certify(audit, POPULATION, known=known)


@pytest.mark.parametrize("seed", range(3))
def test_predictions_that_know_something_narrow_the_interval(seed: int) -> None:
    setting = Setting(0.8, error=0.02, shared=0.1, sharpness=2.5)
    rng = np.random.default_rng(seed)
    audit, known, predictions, _ = simulate(setting, rng)
    for given_known in (known, None):
        plain = certify(audit, POPULATION, known=given_known)
        powered = certify(audit, POPULATION, known=given_known, predictions=predictions)
        assert powered.power is not None
        assert powered.high - powered.low < plain.high - plain.low
        assert any("PPI++" in note for note in notes_of(powered.as_dict()))


def test_powered_intervals_are_covered_as_promised_whatever_predictions_are_worth() -> None:
    misses = 0
    for sharpness in (0.0, 2.0):
        covered, _, _ = measured(Setting(0.85, sharpness=sharpness), 40, seed=7, powered=True)
        misses += round(40 * (1 - covered))
    assert misses <= binom.isf(1e-3, 80, 0.06)


def test_prediction_powered_mean_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    f = rng.random(5000)
    y = (rng.random(5000) < f).astype(float)
    seen = rng.permutation(5000)[:400]
    power = np.cov(y[seen], f[seen], bias=True)[0, 1] / ((1 + 400 / 5000) * f[seen].var())
    found = prediction_powered_mean(y[seen], np.ones(400, bool), f[seen], Predictions.of(f))
    assert found.power == pytest.approx(power)
    assert found.estimate == pytest.approx(y[seen].mean() + power * (f.mean() - f[seen].mean()))
    assert found.variance < found.plain_variance
    assert found.gained is not None
    mean, precision = found.gained
    together = (precision * mean + found.plain_estimate / found.plain_variance) * found.variance
    assert together == pytest.approx(found.estimate)
    assert precision + 1 / found.plain_variance == pytest.approx(1 / found.variance)
    halves = Predictions.of(f[:1000]).with_more(Predictions.of(f[1000:]))
    assert halves == pytest.approx(Predictions.of(f))
    estimates = [
        prediction_powered_mean(y[s], np.ones(400, bool), 1 - f[s], Predictions.of(1 - f)).power
        for s in (rng.permutation(5000)[:400] for _ in range(5))
    ]
    assert estimates == [0.0] * 5  # predictions that are worse than none are not used


def test_the_sequence_holds_at_every_look() -> None:
    """Share of runs in which any of the looks missed the truth: at most 5 %, where a fixed interval misses often."""
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(40):
        population = (rng.random(500) < 0.85).astype(float)
        for n in range(20, 420, 40):
            low, high = betting_interval(population[:n], 500)
            if not low <= population.mean() <= high:
                missed += 1
                break
    assert missed <= binom.isf(1e-3, 40, 0.05)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40), st.integers(0, 200))
def test_the_sequence_stays_within_what_is_possible_and_mirrors(values: list[float], unseen: int) -> None:
    x, n = np.array(values), len(values) + unseen
    low, high = betting_interval(x, n)
    mirrored = betting_interval(1.0 - x, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)
    assert low <= x.sum() / n + unseen / n + 1e-3
    if unseen == 0:
        assert low - 2e-3 <= x.mean() <= high + 2e-3
    endless = betting_interval(x, None)
    assert 0.0 <= endless[0] <= endless[1] <= 1.0


def test_anytime_bounds_are_wider_and_bound_the_labels_where_answers_are_known() -> None:
    audit, known, _, truth = simulate(Setting(0.85, audited=2000, known=1000), np.random.default_rng(4))
    certificate = certify(audit, POPULATION, known=known)
    assert certificate.anytime_low is not None
    assert certificate.anytime_high is not None
    assert certificate.anytime_low < truth < certificate.anytime_high
    assert certificate.anytime_low < certificate.low
    alone = certify(audit, POPULATION)
    assert alone.anytime_low is not None
    assert alone.anytime_high is not None
    assert alone.anytime_low < certificate.agreement < alone.anytime_high


def test_slices_with_few_audited_pairs_are_not_audited() -> None:
    rng = np.random.default_rng(0)
    n = 60
    audit = answered(np.ones(n, bool), np.ones(n, int), Setting(0.9), rng, "published")
    kinds = np.where(np.arange(n) < MIN_AUDITED - 1, "few", "many")
    audit = audit.with_columns(kind=pl.Series(kinds))
    found = certify_slices(audit, {"kind": {"few": 1000, "many": 1000, "none": 10}})["kind"]
    assert {name: c.state for name, c in found.items()} == {
        "few": "NOT_AUDITED",
        "many": "AUDITED",
        "none": "NOT_AUDITED",
    }
    assert found["few"].as_dict()["accuracy"] is None
    assert found["few"].audited == MIN_AUDITED - 1
    assert found["many"].accuracy > 0.5
