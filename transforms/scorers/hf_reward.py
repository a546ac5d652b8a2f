"""An ensemble of ready-made reward models: one `reward` vote a pair."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit

from transforms.plugins import PluginConfig, Row
from transforms.registry import register
from transforms.scorers._embedding import MemoryCache, VectorCache
from transforms.scorers._moss import moments
from transforms.scorers._reward_models import (
    Array,
    Conversation,
    EndpointRewardModel,
    LocalRewardModel,
    RewardModel,
    memoised_rewards,
)
from transforms.scorers._votes import Opinion, label_by_difference, vote_frame


class Endpoint(BaseModel):
    """A reward model behind vLLM's pooling endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="address of the server, e.g. http://127.0.0.1:8000")
    model: str = Field(description="name under which it is served")
    api_key_env: str | None = Field(None, description="environment variable that holds the key")
    concurrency: int = Field(16, ge=1, description="requests at a time")
    timeout_s: float = Field(300.0, gt=0.0, description="seconds one request may take")


@register("scorers", "hf_reward")
class HfReward:
    """Sequence-classification reward models, local (transformers) or served (vLLM), as an ensemble.

    Margins r(a) - r(b) are log-odds by the Bradley-Terry training of such models; `p_a` is the mean of their
    sigmoids, `aspects` holds `heads` (each model's margin), `mu`, `sigma` and `sees_label` (false).
    """

    class Config(PluginConfig):
        """Settings of `hf_reward`."""

        models: tuple[str, ...] = Field((), description="folders of saved models, or hub ids")
        endpoints: tuple[Endpoint, ...] = Field((), description="served models")
        batch_size: int = Field(16, ge=1, description="conversations per forward pass")
        max_tokens: int = Field(2048, ge=8, description="longer conversations are truncated")
        temperature: float = Field(1.0, gt=0.0, description="margins are divided by this")
        tie_band: float = Field(0.0, ge=0.0, lt=0.5, description="tie where |p_a - 0.5| is at most this")

        @model_validator(mode="after")
        def _some(self) -> Self:
            if not self.models and not self.endpoints:
                raise ValueError("give at least one reward model in models or endpoints")
            return self

    measures: ClassVar[str] = "P(a better) by reward models trained elsewhere."

    def __init__(self, name: str, config: Config, seed: int) -> None:
        self.name = name
        self.config = config
        self._cache: VectorCache = MemoryCache()
        self._models: list[RewardModel] = [
            *(LocalRewardModel(model, config.batch_size, config.max_tokens) for model in config.models),
            *(EndpointRewardModel(**endpoint.model_dump()) for endpoint in config.endpoints),
        ]

    @property
    def identity(self) -> Any:
        """Everything that can change the votes."""
        config = self.config
        return ["hf_reward", 1, self.name, config.temperature, config.tie_band, [m.identity for m in self._models]]

    def use_cache(self, cache: VectorCache) -> None:
        """Keep rewards in `cache` from now on."""
        self._cache = cache

    def fit(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> bytes:
        """Nothing to learn."""
        return b""

    def votes(self, pairs: pl.DataFrame, model: bytes) -> pl.DataFrame:
        """One vote per pair."""
        rows = list(pairs.iter_rows(named=True))
        if not rows:
            return vote_frame([], self.name, "reward")
        rewards = np.stack([pair_rewards(m, rows, self._cache) for m in self._models])  # (models, n, 2)
        margins = (rewards[:, :, 0] - rewards[:, :, 1]).T / self.config.temperature
        mu, sigma = moments(margins)
        p_a, scores = expit(margins).mean(axis=1), rewards.mean(axis=0)
        return vote_frame(
            (
                Opinion(
                    row["pair_id"],
                    label_by_difference(float(p_a[i]), 0.5, self.config.tie_band),
                    p_a=float(p_a[i]),
                    score_a=float(scores[i, 0]),
                    score_b=float(scores[i, 1]),
                    aspects={
                        "mu": float(mu[i]),
                        "sigma": float(sigma[i]),
                        "heads": margins[i].tolist(),
                        "sees_label": False,
                    },
                )
                for i, row in enumerate(rows)
            ),
            self.name,
            "reward",
        )


def pair_rewards(model: RewardModel, rows: list[Row], cache: VectorCache) -> Array:
    """Rewards of both responses of each pair, shape (n, 2)."""
    conversations = [
        Conversation(row["prompt"], row[side], row["context"]) for row in rows for side in ("response_a", "response_b")
    ]
    return memoised_rewards(model, conversations, cache).reshape(-1, 2)
