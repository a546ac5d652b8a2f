"""What scorers with cross-fitted heads share: settings, training sample, votes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from threadpoolctl import threadpool_limits

from schemas.ids import hash_fields
from schemas.messages import messages_id
from schemas.tables import Votes, polars_schema
from transforms.plugins.base import PluginConfig
from transforms.scorers.base import Opinion, Scorer, ScorerConfig, label_by_difference, vote_frame
from transforms.scorers.heads.ensemble import Ensemble, PairScores, score_pairs
from transforms.scorers.heads.graph import PairGraph
from transforms.scorers.heads.pair_features import Blocks, PairTexts, difference_blocks
from transforms.scorers.heads.targets import TargetWeights, answered, stratified_prompts, targets
from transforms.stats.ensemble import moments
from transforms.text.embedding import PACKAGED, Embedder

_NO_VOTES = pl.DataFrame(schema=polars_schema(Votes))


class HeadConfig(ScorerConfig):
    """Settings of every scorer with cross-fitted heads."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"model", "batch_size"})  # the embedder's identity counts

    model: str = Field(PACKAGED, description="packaged default, folder of a sentence-transformers model, or hub id")
    batch_size: int = Field(64, ge=1, description="texts per forward pass")
    folds: int = Field(5, ge=3, description="cross-fitting folds")
    embedding_directions: int = Field(96, ge=0, description="principal directions of the embedding difference")
    interaction_directions: int = Field(48, ge=0, description="the same for response times prompt")
    group_by: Literal["prompt_id", "group_id"] = Field(
        "prompt_id",
        description="what a fold keeps together; group_id falls back to prompt_id where null. A prompt too large for "
        "one fold is divided by its responses; with group_id nothing is",
    )
    max_pairs: int = Field(20_000, ge=100, description="pairs trained on at most")
    source_weight: float = Field(1.0, ge=0.0, description="weight of a source label")
    human_weight: float = Field(3.0, ge=0.0, description="weight of each human vote")
    silver_weight: float = Field(
        0.5, ge=0.0, description="weight of other voters' mean if neither source nor people gave a label"
    )
    tie_band: float = Field(0.0, ge=0.0, lt=0.5, description="a tie if |p_a - 0.5| is at most this")


@dataclass(frozen=True)
class Sample:
    """What heads are trained on: n pairs' difference features, soft labels y (NaN: none), weights, groups, graph, and
    which of them were drawn at random, not kept for their labels."""

    blocks: Blocks
    y: NDArray[np.float64]
    weight: NDArray[np.float64]
    groups: list[str]
    graph: PairGraph
    drawn: NDArray[np.bool_]


class HeadScorer(Scorer):
    """Trains heads on a stratified sample and casts one `reward` vote per pair.

    The vote's `p_a` is the mean over heads of P(a better); `score_a` - `score_b` is mu, the mean margin
    r(a) - r(b) in log-odds, split evenly about 0 (only differences are identified). `aspects` holds `heads`
    (each head's margin), `mu` and `sigma` (their mean and population standard deviation), `siblings` (the part
    of every margin that comes from the labels of the prompt's other pairs) and `sees_label` (the heads learn
    from labels, never from those of the pair's own prompt; siblings never from the pair's own). Labels are those of
    source, people and, where neither speaks, judges and rules: see `targets`.
    """

    Config: ClassVar[type[PluginConfig]] = HeadConfig
    config: HeadConfig
    family: ClassVar[str | None] = "reward_heads"  # heads on the same embeddings and labels err together
    reads_votes: ClassVar[bool] = True

    @cached_property
    def _embedder(self) -> Embedder:
        return Embedder(self.config.model, self.config.batch_size)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change the votes, the embeddings' weights among it."""
        return {**super().identity, "seed": self.seed, "embedder": self._embedder.identity}

    @property
    def keeps_groups_whole(self) -> bool:
        """Whether no group is divided among folds, however large it is: groups of `group_id` are the user's own."""
        return self.config.group_by == "group_id"

    @abstractmethod
    def train(self, sample: Sample) -> Ensemble:
        """Fit the heads of every fold."""

    def fit(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> bytes:
        """Train on a sample of `pairs`: those that people answered, and whole prompts of every stratum.

        b"" if no pair has a label of any kind.
        """
        sample = stratified_prompts(pairs, self.config.max_pairs, answered(votes))
        y, weight = self._targets(sample, votes)
        if np.isnan(y).all() or weight.sum() <= 0.0:
            return b""
        blocks = difference_blocks(PairTexts.of(sample), self._embedder, self._cache)
        # The matrices are small: on a busy machine BLAS threads that wait for each other cost 10x.
        with threadpool_limits(limits=1, user_api="blas"):
            drawn = sample["drawn"].to_numpy()
            return self.train(Sample(blocks, y, weight, self._groups(sample), pair_graph(sample), drawn)).to_bytes()

    def votes(self, pairs: pl.DataFrame, model: bytes, answers: pl.DataFrame | None = None) -> pl.DataFrame:
        """One vote per pair; none if nothing was learnt. All pairs of a prompt must come together.

        Args:
            pairs: rows of `pairs`.
            model: what `fit` returned.
            answers: the votes of others on these pairs; without them only source labels speak for sibling pairs.
        """
        if not model or pairs.is_empty():
            return vote_frame([], self.name, "reward", self.group)
        blocks = difference_blocks(PairTexts.of(pairs), self._embedder, self._cache)
        labels, _ = self._targets(pairs, _NO_VOTES if answers is None else answers)
        scores = score_pairs(Ensemble.from_bytes(model), blocks, self._groups(pairs), labels, pair_graph(pairs))
        return vote_frame(self._opinions(pairs["pair_id"].to_list(), scores), self.name, "reward", self.group)

    def _targets(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        weights = TargetWeights(self.config.source_weight, self.config.human_weight, self.config.silver_weight)
        frame = targets(pairs, votes, weights, self.name).select(pl.all().cast(pl.Float64))
        return frame["y"].to_numpy(), frame["weight"].to_numpy()

    def _opinions(self, pair_ids: list[str], scores: PairScores) -> list[Opinion]:
        mu, sigma = moments(scores.margins)
        return [
            Opinion(
                pair_id,
                label=label_by_difference(float(scores.p_a[i]), 0.5, self.config.tie_band),
                p_a=float(scores.p_a[i]),
                score_a=float(mu[i]) / 2.0,
                score_b=-float(mu[i]) / 2.0,
                aspects={
                    "mu": float(mu[i]),
                    "sigma": float(sigma[i]),
                    "heads": [round(float(value), 6) for value in scores.margins[i]],
                    "siblings": float(scores.siblings[i]),
                    "sees_label": True,
                },
            )
            for i, pair_id in enumerate(pair_ids)
        ]

    def _groups(self, pairs: pl.DataFrame) -> list[str]:
        if self.config.group_by == "group_id":
            return pairs.select(pl.coalesce("group_id", "prompt_id")).to_series().to_list()
        return pairs["prompt_id"].to_list()


def pair_graph(pairs: pl.DataFrame) -> PairGraph:
    """Which responses meet in which pairs. Under another context the better response may be another one, so a prompt
    with a context is a prompt of its own."""
    return PairGraph(
        [hash_fields(p, c or "") for p, c in pairs.select("prompt_id", "context").iter_rows()],
        [messages_id(m) for m in pairs["response_a"].to_list()],
        [messages_id(m) for m in pairs["response_b"].to_list()],
    )
