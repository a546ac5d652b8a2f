"""Simulated audits by annotators who are wrong on the same pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from transforms.stats.certificate import Certificate, certify
from transforms.stats.prediction_powered import Predictions

POPULATION = 20_000


@dataclass(frozen=True)
class Setting:
    """Labels right with probability `accuracy`; a pair's answers are wrong with a probability drawn from a beta
    distribution of mean `error` and correlation `shared`; `sharpness` is how far the published probabilities tell
    right labels from wrong ones (0: not at all). `hard_labels`: of two pairs the harder one has the wrong label."""

    accuracy: float
    error: float = 0.2
    shared: float = 1 / 3
    audited: int = 200
    answers: tuple[int, ...] = (1, 2, 3)
    known: int = 40
    answers_known: int = 1
    sharpness: float = 0.0
    hard_labels: bool = False

    def error_rates(self, n: int, rng: np.random.Generator) -> np.ndarray:
        strength = (1 - self.shared) / self.shared
        return rng.beta(self.error * strength, (1 - self.error) * strength, n)


def simulate(setting: Setting, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame, Predictions, float]:
    """Audit, answers to known pairs, predictions of all rows, and the true share of right labels."""
    # Published probabilities are calibrated: a label of probability p is right with probability p.
    center = np.log(setting.accuracy / (1 - setting.accuracy))
    p = 1 / (1 + np.exp(-rng.normal(center, setting.sharpness, POPULATION)))
    p = np.clip(p * setting.accuracy / p.mean(), 0.01, 0.99)
    right = rng.random(POPULATION) < p
    seen = rng.permutation(POPULATION)[: setting.audited]
    audit = answered(right[seen], rng.choice(setting.answers, len(seen)), setting, rng, "published")
    audit = audit.with_columns(p_chosen=pl.Series(p[seen][audit["row"].to_numpy()]))
    known = answered(np.ones(setting.known, bool), np.full(setting.known, setting.answers_known), setting, rng, "known")
    return audit, known, Predictions.of(p), float(right.mean())


def answered(
    right: np.ndarray, answers: np.ndarray, setting: Setting, rng: np.random.Generator, column: str
) -> pl.DataFrame:
    """One row per answer to pairs whose label, always a, is right or wrong."""
    row = np.repeat(np.arange(len(right)), answers)
    rates = setting.error_rates(len(right), rng)
    if setting.hard_labels and not right.all():
        # Of each wrong label's error rate and that of a random right one, the wrong label gets the larger.
        wrong_labels = np.flatnonzero(~right)
        others = rng.choice(np.flatnonzero(right), len(wrong_labels), replace=False)
        both = np.sort(np.stack([rates[wrong_labels], rates[others]]), axis=0)
        rates[others], rates[wrong_labels] = both
    wrong = rng.random(len(row)) < rates[row]
    agrees = wrong ^ right[row]
    return pl.DataFrame(
        {
            "row": row,
            "pair_id": [f"{column}{i:06}" for i in row],
            column: ["a"] * len(row),
            "answer": np.where(agrees, "a", "b"),
            "at": [f"{i:06}" for i in rng.permutation(len(row))],
        }
    )


def measured(setting: Setting, audits: int, seed: int, powered: bool = False) -> tuple[float, float, list[Certificate]]:
    """Share of simulated audits whose interval holds the truth, the mean width, and the certificates."""
    rng = np.random.default_rng(seed)
    covered, found = 0, list[Certificate]()
    for _ in range(audits):
        audit, known, predictions, truth = simulate(setting, rng)
        given = known if setting.known else None
        certificate = certify(audit, POPULATION, known=given, predictions=predictions if powered else None)
        covered += certificate.low <= truth <= certificate.high
        found.append(certificate)
    return covered / audits, float(np.mean([c.high - c.low for c in found])), found
