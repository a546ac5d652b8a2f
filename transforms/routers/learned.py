"""Ask where people have been turning labels over: the gain of a human, learned from those already asked."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl
import scipy
from pydantic import Field

from schemas.tables import Row
from transforms.plugins.base import PluginConfig
from transforms.plugins.registry import register
from transforms.routers.base import Router
from transforms.stats.logistic import fit_logistic
from transforms.stats.value_of_answers import Floats, gain_of_answers, loss, outcomes, without_humans

_CATEGORIES = ("kind", "language", "origin", "context_kind")
_OPTIONAL = ("similarity", "length_difference")


@register("learned")
class LearnedRouter(Router):
    """P(humans turn the label over), by logistic regression on features of the pair.

    After Hybrid Preferences (Miranda et al., 2024), which predicts the gain of routing a pair to people from
    its features, and found a quadratic model best. Ours predicts, per pair, whether people changed what the
    machine votes said (not the authors' benchmark gain, which needs a model trained per candidate set), from
    the posterior (margin, entropy, disagreement, ties), the length, `similarity` and `length_difference` of
    the responses, their squares, and kind, language, origin, context kind.
    With fewer than `minimum` answered pairs there is nothing to learn from: the value is the posterior's own
    expected gain, as in router `value`.
    """

    class Config(PluginConfig):
        """Options of the learned router."""

        minimum: int = Field(default=40, ge=1, description="answered pairs from which to learn")
        penalty: float = Field(default=3.0, gt=0, description="ridge penalty on standardised features")
        reliability: float = Field(default=0.9, gt=1 / 3, lt=1, description="P(one annotator is right)")

    version: ClassVar[int] = 3
    reads_responses: ClassVar[bool] = True

    config: Config

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Coefficients with the means and scales they belong to; {} with too few answers or no flip."""
        if labelled.height < self.config.minimum:
            return {}
        before = without_humans(labelled)
        y = before["flipped"].cast(pl.Float64).to_numpy()
        if not 0 < y.sum() < len(y):
            return {}
        margin = before["margin_machine"].to_numpy()
        numbers, names = _numbers(labelled, scipy.special.expit(margin))
        levels = {c: sorted(labelled[c].drop_nulls().unique()) for c in _CATEGORIES if c in labelled.columns}
        mean, scale = numbers.mean(axis=0), np.maximum(numbers.std(axis=0), 1e-9)
        x = _design((numbers - mean) / scale, labelled, levels)
        variance = np.full(x.shape[1], 1.0 / self.config.penalty)
        variance[0] = 1e6  # the intercept is not penalised
        weights = fit_logistic(x, y, np.ones(len(y)), np.zeros(len(variance)), variance).weights
        return {
            "numbers": names,
            "mean": mean.tolist(),
            "scale": scale.tolist(),
            "levels": levels,
            "weights": weights.tolist(),
            "answered": labelled.height,
            "flipped": int(y.sum()),
        }

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """P(an answer turns the label over), in [0, 1]; the expected gain if nothing was learned."""
        p = outcomes(candidates)
        if not model:
            return pl.Series("value", gain_of_answers(p, self.config.reliability, "zero_one"))
        numbers, _ = _numbers(candidates, candidates["p_a"].cast(pl.Float64).to_numpy(), model["numbers"])
        standard = (numbers - np.array(model["mean"])) / np.array(model["scale"])
        return pl.Series(
            "value", scipy.special.expit(_design(standard, candidates, model["levels"]) @ np.array(model["weights"]))
        )


def _numbers(rows: pl.DataFrame, p_a: Floats, names: list[str] | None = None) -> tuple[Floats, list[str]]:
    """Numeric features: what was believed, and the pair's size."""
    p_tie = rows["p_tie"].cast(pl.Float64).to_numpy()
    believed = np.stack([p_a * (1 - p_tie), (1 - p_a) * (1 - p_tie), p_tie], axis=1)
    known: dict[str, Any] = {
        "doubt": 1 - 2 * np.abs(p_a - 0.5),
        "entropy": loss(believed, "log"),
        "p_tie": p_tie,
        "disagreement": rows["disagreement"].cast(pl.Float64).to_numpy(),
        "log_chars": np.log1p(rows["n_chars"].cast(pl.Float64).to_numpy()),
    }
    known |= {c: rows[c].cast(pl.Float64).fill_null(0.0).to_numpy() for c in _OPTIONAL if c in rows.columns}
    names = names or sorted(known)
    zeros = np.zeros(rows.height)
    return np.column_stack([known.get(name, zeros) for name in names]), names


def _design(standard: Floats, rows: pl.DataFrame, levels: dict[str, list[str]]) -> Floats:
    """Intercept, features, their squares, and one column per known level of each category."""
    dummies = [(rows[c] == level).fill_null(False).to_numpy() for c, names in levels.items() for level in names[1:]]
    columns = [np.ones(rows.height), *standard.T, *(np.clip(standard.T, -3, 3) ** 2), *dummies]
    return np.column_stack(columns).astype(np.float64)
