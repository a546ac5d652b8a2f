"""Collaborative reward modelling as a scorer: two heads per fold that teach each other on low-loss pairs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from transforms.plugins.registry import register
from transforms.scorers._crm import peer_review
from transforms.scorers.heads.base import HeadConfig, HeadScorer, Sample
from transforms.scorers.heads.ensemble import Design, Ensemble, Settings, random_part
from transforms.scorers.heads.partition import Partition, hashed_folds
from transforms.scorers.heads.siblings import Siblings
from transforms.stats.noise_rate import FlipRate, estimate_flip_rate


@register("crm")
class Crm(HeadScorer):
    """Two cross-fitted Bradley-Terry heads per fold, trained by peer review with an estimated noise rate.

    The prior of a fold's heads is the one with most evidence in its training folds.
    """

    class Config(HeadConfig):
        """Settings of `crm`."""

        epochs: int = Field(5, ge=1, description="rounds of selection, easy to hard")
        flip: float | None = Field(None, ge=0.0, lt=0.5, description="noise rate; null: estimated")

    measures: ClassVar[str] = "P(a better) by two reward heads that select clean training pairs for each other."
    version: ClassVar[int] = 6
    config: Config

    def train(self, sample: Sample) -> Ensemble:
        """Peer review in every fold; margins are scaled to log-odds of the true label."""
        settings = Settings(
            n_folds=self.config.folds,
            n_embedding=self.config.embedding_directions,
            n_interaction=self.config.interaction_directions,
            seed=self.seed,
        )
        partition = Partition.of(sample.groups, sample.graph, settings.n_folds, self.seed, self.keeps_groups_whole)
        folds = partition.folds(sample.groups, sample.graph)
        design = Design.of(sample.blocks, sample.y, sample.weight, folds, settings)
        halves = hashed_folds(partition.units(sample.groups, sample.graph), 2, self.seed + 1)
        weights = np.zeros((settings.n_folds, 2, design.x.shape[1]))
        for fold in range(settings.n_folds):
            rows = design.training(fold)
            scale = design.scales(fold, 1)[0]
            ridge = 1.0 / max(float(sample.weight[rows].sum()), 1.0)
            peers = peer_review(
                design.x[rows] * scale,
                sample.y[rows],
                sample.weight[rows],
                halves[rows],
                ridge,
                self.config.epochs,
                self.config.flip,
            )
            weights[fold] = peers.weights * scale
        heads = Ensemble(design.projection, weights, Siblings(), FlipRate(), partition)
        mean = heads.margins(sample.blocks, design.folds).mean(axis=1)
        rows = random_part(design.known, sample.drawn)
        rate = estimate_flip_rate(mean[rows], sample.y[rows], sample.weight[rows])
        return Ensemble(design.projection, weights, Siblings(), rate, partition)
