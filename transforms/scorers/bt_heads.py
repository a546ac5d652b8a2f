"""An ensemble of Bradley-Terry reward heads on frozen embeddings: one `reward` vote a pair.

Each head is a small reward model; their mean margin says which response is better and their spread how
much that depends on the sample (mean mu and standard deviation sigma of "Secrets of RLHF in Large Language
Models Part II", Wang et al. 2024, there with ten full reward models). Unlike the paper's, these heads are
cross-fitted: no pair is scored by a head that saw its prompt, so a wrong label cannot defend itself.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field

from schemas.ids import hash_fields
from schemas.messages import messages_id
from transforms.plugins import PluginConfig
from transforms.registry import register
from transforms.scorers._bradley_terry import LossName
from transforms.scorers._embedding import PACKAGED, Embedder, MemoryCache, VectorCache
from transforms.scorers._ensemble import Ensemble, PairScores, Settings, fit_ensemble, folds_of, score_pairs
from transforms.scorers._pair_features import PairTexts, difference_blocks
from transforms.scorers._siblings import PairGraph
from transforms.scorers._targets import TargetWeights, stratified_prompts, targets
from transforms.scorers._votes import Opinion, label_by_difference, vote_frame

_CODE_VERSION = 1
_SOURCE_VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5}


@register("scorers", "bt_heads")
class BtHeads:
    """Cross-fitted Bradley-Terry heads, with the evidence of the prompt's other pairs.

    The vote's `p_a` is the mean over heads of P(a better); `score_a` - `score_b` is mu, the mean margin
    r(a) - r(b) in log-odds, split evenly about 0 (only differences are identified). `aspects` holds `heads`
    (each head's margin), `mu` and `sigma` (their mean and population standard deviation), `siblings` (the part
    of every margin that comes from the labels of the prompt's other pairs) and `sees_label` (the heads learn
    from source labels, never from those of the pair's own prompt; siblings never from the pair's own).
    """

    class Config(PluginConfig):
        """Settings of `bt_heads`."""

        model: str = Field(PACKAGED, description="packaged default, folder of a sentence-transformers model, or hub id")
        batch_size: int = Field(64, ge=1, description="texts per forward pass")
        heads: int = Field(10, ge=2, description="number of heads M per fold")
        folds: int = Field(5, ge=3, description="cross-fitting folds")
        losses: tuple[LossName, ...] = Field(("logistic", "gce"), min_length=1, description="heads' losses, in turn")
        feature_share: float = Field(0.8, gt=0.0, le=1.0, description="share of features a head sees")
        embedding_directions: int = Field(96, ge=0, description="principal directions of the embedding difference")
        interaction_directions: int = Field(48, ge=0, description="the same for response times prompt")
        siblings: bool = Field(True, description="let the labels of a prompt's other pairs count")
        group_by: Literal["prompt_id", "group_id"] = Field(
            "prompt_id", description="what a fold keeps together; group_id falls back to prompt_id where null"
        )
        max_pairs: int = Field(20_000, ge=100, description="pairs trained on at most")
        source_weight: float = Field(1.0, ge=0.0, description="weight of a source label")
        human_weight: float = Field(3.0, ge=0.0, description="weight of each human vote")
        silver_weight: float = Field(0.5, ge=0.0, description="weight of other voters' mean where nobody else speaks")
        tie_band: float = Field(0.0, ge=0.0, lt=0.5, description="tie where |p_a - 0.5| is at most this")

    measures: ClassVar[str] = "P(a better) by reward heads trained on the labels of other prompts."

    def __init__(self, name: str, config: Config, seed: int) -> None:
        self.name = name
        self.config = config
        self.seed = seed
        self._embedder = Embedder(config.model, config.batch_size)
        self._cache: VectorCache = MemoryCache()

    @property
    def identity(self) -> Any:
        """Everything that can change the votes."""
        return [
            "bt_heads",
            _CODE_VERSION,
            self.name,
            self.seed,
            self.config.model_dump(mode="json", exclude={"model", "batch_size"}),
            self._embedder.identity,
        ]

    def use_cache(self, cache: VectorCache) -> None:
        """Keep embeddings in `cache` from now on."""
        self._cache = cache

    def fit(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> bytes:
        """Train on a stratified sample of `pairs`; b"" if no pair has a label of any kind."""
        sample = stratified_prompts(pairs, self.config.max_pairs, self.seed)
        weights = TargetWeights(self.config.source_weight, self.config.human_weight, self.config.silver_weight)
        target = targets(sample, votes, weights, self.name)
        y, weight = target["y"].to_numpy().astype(np.float64), target["weight"].to_numpy().astype(np.float64)
        if np.isnan(y).all() or weight.sum() <= 0.0:
            return b""
        blocks = difference_blocks(PairTexts.of(sample), self._embedder, self._cache)
        settings = Settings(
            n_heads=self.config.heads,
            n_folds=self.config.folds,
            n_embedding=self.config.embedding_directions,
            n_interaction=self.config.interaction_directions,
            feature_share=self.config.feature_share,
            losses=self.config.losses,
            use_siblings=self.config.siblings,
            seed=self.seed,
        )
        return fit_ensemble(blocks, y, weight, self._groups(sample), _graph(sample), settings).to_bytes()

    def votes(self, pairs: pl.DataFrame, model: bytes) -> pl.DataFrame:
        """One vote per pair; no votes where nothing was learnt. All pairs of a prompt must come together."""
        if not model or pairs.is_empty():
            return vote_frame([], self.name, "reward")
        blocks = difference_blocks(PairTexts.of(pairs), self._embedder, self._cache)
        folds = folds_of(self._groups(pairs), self.config.folds, self.seed)
        labels = pairs["source_label"].replace_strict(_SOURCE_VALUE, default=None, return_dtype=pl.Float64)
        scores = score_pairs(
            Ensemble.from_bytes(model), blocks, folds, labels.to_numpy().astype(np.float64), _graph(pairs)
        )
        return vote_frame(self._opinions(pairs["pair_id"].to_list(), scores), self.name, "reward")

    def _opinions(self, pair_ids: list[str], scores: PairScores) -> list[Opinion]:
        mu, sigma = scores.margins.mean(axis=1), scores.margins.std(axis=1)
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


def _graph(pairs: pl.DataFrame) -> PairGraph:
    # Under another context the better response may be another one, so contexts are prompts of their own.
    return PairGraph(
        [f"{p}{hash_fields(c or '')}" for p, c in pairs.select("prompt_id", "context").iter_rows()],
        [messages_id(m) for m in pairs["response_a"].to_list()],
        [messages_id(m) for m in pairs["response_b"].to_list()],
    )
