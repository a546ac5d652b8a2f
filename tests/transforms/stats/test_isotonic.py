"""The isotonic map: monotone, odd, calibrated, and log-odds that still add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from tests.transforms.fusers.vote_makers import mirrored_pairs, mirrored_votes, simulated
from transforms.plugins.registry import find
from transforms.stats.calibration import calibration_report
from transforms.stats.isotonic import MIN_LABELS, fit_isotonic, isotonic, out_of_fold_isotonic


def drawn(n: int, seed: int, stretch: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Log-odds that are `stretch` times what they should be above 1, and labels."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 2, n)
    y = (rng.random(n) < expit(honest)).astype(float)
    size = np.abs(honest)
    return np.sign(honest) * np.where(size > 1, 1 + stretch * (size - 1), size), y


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.floats(0.2, 5.0))
def test_the_map_is_monotone_odd_and_never_certain(seed: int, n: int, stretch: float) -> None:
    z, y = drawn(n, seed, stretch)
    knots = fit_isotonic(z, y)
    grid = np.linspace(-20, 20, 401)
    mapped = isotonic(grid, knots)
    assert np.all(np.diff(mapped) >= -1e-12)
    assert np.array_equal(mapped, -isotonic(-grid, knots))
    assert fit_isotonic(-z, 1 - y) == knots
    assert bool(knots["size"]) == (n >= MIN_LABELS)
    assert np.all(np.abs(isotonic(z, knots)) <= max(6.0, float(np.abs(z).max()) if not knots["size"] else 0.0))


@pytest.mark.parametrize("stretch", [0.2, 4.0])
def test_it_mends_what_no_temperature_can(stretch: float) -> None:
    z, y = drawn(4000, 1, stretch)
    fresh, truth = drawn(20_000, 2, stretch)
    before = calibration_report(fresh, truth)
    after = calibration_report(isotonic(fresh, fit_isotonic(z, y)), truth)
    assert after["ece"] < before["ece"] / 2
    assert after["log_loss"] < before["log_loss"]
    honest = out_of_fold_isotonic(z, y, np.arange(len(z)) % 5)
    assert calibration_report(honest, y)["ece"] == pytest.approx(after["ece"], abs=0.02)


def test_a_verdict_by_steps_mirrors_and_adds_up() -> None:
    plugin = find("fusers", "posterior")
    fuser = plugin("posterior", plugin.Config(calibration="isotonic"), 0)
    votes, pairs, _ = simulated(400, {f"v{i}": 0.55 + 0.07 * i for i in range(5)}, seed=3, humans=300)
    model = fuser.fit(votes, pairs)
    assert model["isotonic"]["size"]
    straight = fuser.apply(model, votes, pairs)
    mirror = fuser.apply(model, mirrored_votes(votes), mirrored_pairs(pairs))
    assert np.allclose(straight["margin"], -mirror["margin"].to_numpy(), atol=1e-9)
    parts = np.array([sum(c["log_odds"] for c in row) for row in straight["contributions"].to_list()])
    assert np.allclose(straight["margin"], straight["prior"].to_numpy() + parts, atol=1e-9)
    machine = votes.filter(kind="judge")
    by_temperature = fuser.apply(model | {"isotonic": None}, machine, pairs)["margin"].to_numpy()
    by_steps = fuser.apply(model, machine, pairs)["margin"].to_numpy()
    assert np.allclose(by_steps, isotonic(by_temperature, model["isotonic"]), atol=1e-9)
    assert not np.allclose(by_steps, by_temperature, atol=0.01)
    assert model["calibration"]["n"] == 300
