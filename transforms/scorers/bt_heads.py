"""An ensemble of Bradley-Terry reward heads on frozen embeddings: one `reward` vote per pair.

Each head is a small reward model; their mean margin says which response is better and their spread how
much that depends on the sample (mean mu and standard deviation sigma of "Secrets of RLHF in Large Language
Models Part II", Wang et al. 2024, there with ten full reward models). Unlike the paper's, these heads are
cross-fitted: no pair is scored by a head that saw its prompt, so a wrong label cannot defend itself.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from transforms.plugins.registry import register
from transforms.scorers.heads.base import HeadConfig, HeadScorer, Sample
from transforms.scorers.heads.ensemble import Ensemble, Settings, fit_ensemble
from transforms.stats.bradley_terry import LossName


@register("bt_heads")
class BtHeads(HeadScorer):
    """Cross-fitted Bradley-Terry heads, with the evidence of the prompt's other pairs."""

    class Config(HeadConfig):
        """Settings of `bt_heads`."""

        heads: int = Field(10, ge=2, description="number of heads M per fold")
        losses: tuple[LossName, ...] = Field(("logistic", "gce"), min_length=1, description="heads' losses, in turn")
        feature_share: float = Field(0.9, gt=0.0, le=1.0, description="share of features a head sees")
        siblings: bool = Field(True, description="let the labels of a prompt's other pairs count")

    measures: ClassVar[str] = "P(a better) by reward heads trained on the labels of other prompts."
    version: ClassVar[int] = 6
    config: Config

    def train(self, sample: Sample) -> Ensemble:
        """Heads on bootstraps, feature subsets and several losses in every fold."""
        settings = Settings(
            n_heads=self.config.heads,
            n_folds=self.config.folds,
            n_embedding=self.config.embedding_directions,
            n_interaction=self.config.interaction_directions,
            feature_share=self.config.feature_share,
            losses=self.config.losses,
            use_siblings=self.config.siblings,
            whole_groups=self.keeps_groups_whole,
            seed=self.seed,
        )
        return fit_ensemble(sample.blocks, sample.y, sample.weight, sample.groups, sample.graph, settings, sample.drawn)
