"""Reliability of a chosen side: which response is stored as a changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from transforms.stats.calibration import calibration_error, calibration_report, reliability_bins

PAIRS = st.lists(st.tuples(st.sampled_from([-2.0, -0.4, 0.0, 0.4, 2.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1)


@given(PAIRS)
def test_exchanging_the_responses_changes_no_bin(pairs: list[tuple[float, float]]) -> None:
    z, target = np.array(pairs).T
    bins, mirrored = reliability_bins(expit(z), target), reliability_bins(expit(-z), 1 - target)
    assert [row["n"] for row in bins] == [row["n"] for row in mirrored]
    assert [row["accuracy"] for row in bins] == pytest.approx([row["accuracy"] for row in mirrored])
    assert calibration_error(bins) == pytest.approx(calibration_error(mirrored))


@given(PAIRS)
def test_the_bins_add_up_to_the_report(pairs: list[tuple[float, float]]) -> None:
    z, target = np.array(pairs).T
    report = calibration_report(z, target)
    hits = sum(row["n"] * row["accuracy"] for row in report["bins"])
    assert sum(row["n"] for row in report["bins"]) == report["n"] == len(pairs)
    assert hits / report["n"] == pytest.approx(report["accuracy"])
