"""An ensemble of ready-made reward models: one `reward` vote per pair."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
import scipy
from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.secrets import Address
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers._reward_models import (
    FAMILY,
    Array,
    Conversation,
    EndpointRewardModel,
    Failure,
    LocalRewardModel,
    RewardModel,
    memoised_rewards,
)
from transforms.scorers.base import Opinion, Scorer, ScorerConfig, label_by_difference, vote_frame
from transforms.stats.ensemble import moments
from transforms.text.embedding import VectorCache


class Endpoint(BaseModel):
    """A reward model behind vLLM's pooling endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Address = Field(description="address of the server, e.g. http://127.0.0.1:8000")
    model: str = Field(description="name under which it is served")
    api_key_env: str | None = Field(None, description="environment variable that holds the key")
    concurrency: int = Field(16, ge=1, description="requests at a time")
    timeout_s: float = Field(300.0, gt=0.0, description="seconds one request may take")
    retries: int = Field(4, ge=0, description="further attempts after a failure that may pass")
    outage_s: float = Field(
        120.0, ge=0.0, description="the run stops if the server does not answer for this many seconds"
    )


@register("hf_reward")
class HfReward(Scorer):
    """Sequence-classification reward models, local (transformers) or served (vLLM), as an ensemble.

    Margins r(a) - r(b) are log-odds by the Bradley-Terry training of such models; `p_a` is the mean of their
    sigmoids, `aspects` holds `heads` (each model's margin), `mu`, `sigma` and `sees_label` (false). A pair on which
    one of the models fails is a vote `error` with the reason; `transient` in `aspects` says that asking again may
    cure it.
    """

    class Config(ScorerConfig):
        """Settings of `hf_reward`."""

        unhashed: ClassVar[frozenset[str]] = frozenset({"models", "endpoints", "batch_size", "max_tokens"})

        models: tuple[str, ...] = Field((), description="folders of saved models, or hub ids")
        endpoints: tuple[Endpoint, ...] = Field((), description="served models")
        batch_size: int = Field(16, ge=1, description="conversations per forward pass")
        max_tokens: int = Field(2048, ge=8, description="longer conversations are truncated")
        temperature: float = Field(1.0, gt=0.0, description="margins are divided by this")
        tie_band: float = Field(0.0, ge=0.0, lt=0.5, description="a tie if |p_a - 0.5| is at most this")

        @model_validator(mode="after")
        def _some(self) -> Self:
            if not self.models and not self.endpoints:
                raise ValueError("give at least one reward model in models or endpoints")
            return self

    measures: ClassVar[str] = "P(a better) by reward models trained elsewhere."

    config: Config
    family: ClassVar[str | None] = FAMILY
    version: ClassVar[int] = 2

    @cached_property
    def _models(self) -> list[RewardModel]:
        config = self.config
        return [
            *(LocalRewardModel(model, config.batch_size, config.max_tokens) for model in config.models),
            *(EndpointRewardModel(**e.model_dump(), max_tokens=config.max_tokens) for e in config.endpoints),
        ]

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the votes, the models' weights among it."""
        return {**super().identity, "models": [model.identity for model in self._models]}

    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
        """One vote per pair."""
        rows = list(pairs.iter_rows(named=True))
        group = self.group
        if not rows:
            return vote_frame([], self.name, "reward", group)
        bought = [pair_rewards(m, rows, self._cache) for m in self._models]
        failed: dict[int, Failure] = {}
        for _, failures in bought:
            for i, failure in failures.items():
                failed.setdefault(i, failure)
        rewards = np.stack([rewards_of_one for rewards_of_one, _ in bought])  # (models, n, 2)
        opinions = (
            _failed(row["pair_id"], failed[i]) if i in failed else self._opinion(row["pair_id"], rewards[:, i])
            for i, row in enumerate(rows)
        )
        return vote_frame(opinions, self.name, "reward", group)

    def _opinion(self, pair_id: str, rewards: Array) -> Opinion:
        """The vote of all models on one pair, from their rewards (models, 2)."""
        margins = (rewards[:, 0] - rewards[:, 1]) / self.config.temperature
        mu, sigma = moments(margins[None, :])
        p_a, scores = float(scipy.special.expit(margins).mean()), rewards.mean(axis=0)
        return Opinion(
            pair_id,
            label_by_difference(p_a, 0.5, self.config.tie_band),
            p_a=p_a,
            score_a=float(scores[0]),
            score_b=float(scores[1]),
            aspects={"mu": float(mu[0]), "sigma": float(sigma[0]), "heads": margins.tolist(), "sees_label": False},
        )


def _failed(pair_id: str, failure: Failure) -> Opinion:
    return Opinion(pair_id, "error", aspects={"transient": failure.transient}, detail=failure.reason)


def pair_rewards(model: RewardModel, rows: list[Row], cache: VectorCache) -> tuple[Array, dict[int, Failure]]:
    """Rewards of both responses of each pair, shape (n, 2), NaN where there is none, and why, by row."""
    conversations = [
        Conversation(row["prompt"], row[side], row["context"]) for row in rows for side in ("response_a", "response_b")
    ]
    rewards = memoised_rewards(model, conversations, cache)
    failures: dict[int, Failure] = {}
    for i, reward in enumerate(rewards):
        if isinstance(reward, Failure):
            failures.setdefault(i // 2, reward)
    values = [np.nan if isinstance(reward, Failure) else reward for reward in rewards]
    return np.array(values, dtype=np.float64).reshape(-1, 2), failures
