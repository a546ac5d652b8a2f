"""Consistency of two reward-model snapshots as a soft label: one `reward` vote per pair."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import orjson
import polars as pl
from pydantic import Field

from schemas.errors import DataError
from schemas.ids import hash_fields
from schemas.messages import messages_id
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers._cream import consistency, soft_label
from transforms.scorers._reward_models import FAMILY, Array, LocalRewardModel
from transforms.scorers.base import Opinion, Scorer, ScorerConfig, label_by_difference, vote_frame
from transforms.scorers.hf_reward import pair_rewards

_COLUMN = "meta:"


@register("cream")
class Cream(Scorer):
    """The current model's ranking, trusted as far as the previous snapshot ranks the prompt's responses alike.

    Both rankings run over all responses of a prompt and context that occur in its pairs; p_a is the consistency C
    if the current model prefers a, 1 - C if it prefers b. `aspects` holds `consistency` and `n_responses`.
    With two responses C is 0 or 1; it says most with four or more.
    """

    class Config(ScorerConfig):
        """Settings of `cream`."""

        unhashed: ClassVar[frozenset[str]] = frozenset({"current", "previous", "batch_size", "max_tokens"})

        current: str = Field(description="reward model (folder or hub id), or meta:KEY: [score_a, score_b] in meta")
        previous: str = Field(description="the earlier snapshot, in the same form")
        batch_size: int = Field(16, ge=1, description="conversations per forward pass")
        max_tokens: int = Field(2048, ge=8, description="longer conversations are truncated")

    measures: ClassVar[str] = "P(a better) by a model's ranking, trusted as far as its earlier snapshot agrees."

    config: Config
    version: ClassVar[int] = 2

    @cached_property
    def _models(self) -> dict[str, LocalRewardModel]:
        config = self.config
        return {
            source: LocalRewardModel(source, config.batch_size, config.max_tokens)
            for source in (config.current, config.previous)
            if not source.startswith(_COLUMN)
        }

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the votes, the snapshots' weights among it."""
        sources = [self.config.current, self.config.previous]
        models = [self._models[s].identity if s in self._models else s for s in sources]
        return {**super().identity, "models": models}

    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
        """One vote per pair that both snapshots score. All pairs of a prompt must come together."""
        rows = list(pairs.iter_rows(named=True))
        current, previous = (self._scores(source, rows) for source in (self.config.current, self.config.previous))
        known = [i for i in range(len(rows)) if not (np.isnan(current[i]).any() or np.isnan(previous[i]).any())]
        rankings: dict[str, tuple[dict[str, float], dict[str, float]]] = defaultdict(lambda: ({}, {}))
        for i in known:
            for ranking, scores in zip(rankings[_question(rows[i])], (current, previous), strict=True):
                ranking[messages_id(rows[i]["response_a"])] = float(scores[i, 0])
                ranking[messages_id(rows[i]["response_b"])] = float(scores[i, 1])
        opinions = []
        for i in known:
            now, before = rankings[_question(rows[i])]
            agreement = consistency(now, before)
            p_a = soft_label(float(current[i, 0]), float(current[i, 1]), agreement)
            opinions.append(
                Opinion(
                    rows[i]["pair_id"],
                    label_by_difference(p_a, 0.5, 0.0),
                    p_a=p_a,
                    score_a=float(current[i, 0]),
                    score_b=float(current[i, 1]),
                    aspects={"consistency": agreement, "n_responses": len(now), "sees_label": False},
                )
            )
        return vote_frame(opinions, self.name, "reward", self.config.group or FAMILY)

    def _scores(self, source: str, rows: list[Row]) -> Array:
        if not rows:
            return np.zeros((0, 2))
        if source in self._models:
            return pair_rewards(self._models[source], rows, self._cache)[0]
        return np.array([_column(row, source.removeprefix(_COLUMN)) for row in rows], dtype=np.float64)


def _question(row: Row) -> str:
    return hash_fields(row["prompt_id"], row["context"] or "")


def _column(row: Row, key: str) -> tuple[float, float]:
    value = orjson.loads(row["meta"]).get(key) if row["meta"] else None
    if value is None:
        return np.nan, np.nan
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(v, (int, float)) for v in value)):
        raise DataError(f"pair {row['pair_id']}: meta field {key!r} is {value!r}, not [score_a, score_b]")
    return float(value[0]), float(value[1])
