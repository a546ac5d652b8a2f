"""Cross-fitted Bradley-Terry heads: fitting, scoring, and the ensemble as bytes.

Folds are hashes of a pair's group. For each fold the heads are trained on the other folds alone, ridge and
block weights included, so no pair is scored by a head that saw its group, and a pair outside the training
sample finds its heads by its group's hash.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import orjson
from numpy.typing import NDArray

from schemas.errors import WorkspaceError
from schemas.ids import unit_interval
from transforms.scorers._bradley_terry import Array, Loss, LossName, deviance, fit_head
from transforms.scorers._pair_features import Blocks, Projection
from transforms.scorers._siblings import PairGraph, Siblings, fit_siblings, held_out_margins, predictive

_MAGIC = b"prefine-bt-heads-1\n"
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
# Weights of the (embedding, interaction) blocks against surface features of weight 1.
BLOCK_WEIGHTS = ((0.0, 0.0), (0.1, 0.1), (0.3, 0.1), (0.3, 0.3), (1.0, 0.3))


@dataclass(frozen=True)
class Settings:
    """How the ensemble is built; the plug-in's Config documents each field."""

    n_heads: int = 10
    n_folds: int = 5
    n_embedding: int = 96
    n_interaction: int = 48
    feature_share: float = 0.8
    losses: tuple[LossName, ...] = ("logistic", "gce")
    tune_pairs: int = 4000
    use_siblings: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Fitted heads. `weights` has shape (folds, heads, features) and acts on `projection.apply(blocks)`."""

    projection: Projection
    weights: Array
    siblings: Siblings

    def margins(self, blocks: Blocks, folds: NDArray[np.int64]) -> Array:
        """r(a) - r(b) by each head of the pair's own fold, shape (n, heads), log-odds."""
        x = self.projection.apply(blocks)
        out = np.zeros((len(x), self.weights.shape[1]))
        for fold in range(self.weights.shape[0]):
            rows = folds == fold
            out[rows] = x[rows] @ self.weights[fold].T
        return out

    def to_bytes(self) -> bytes:
        """The ensemble as a JSON header and raw little-endian arrays: equal ensembles give equal bytes."""
        arrays = {f.name: getattr(self.projection, f.name) for f in fields(Projection)} | {"weights": self.weights}
        header = {
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
            "siblings": [self.siblings.scale, self.siblings.spread, self.siblings.flip],
        }
        body = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays.values())
        return _MAGIC + orjson.dumps(header) + b"\n" + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Ensemble:
        """Inverse of `to_bytes`.

        Raises:
            WorkspaceError: the bytes are not an ensemble of this version.
        """
        if not data.startswith(_MAGIC):
            raise WorkspaceError("not a model of bt_heads, or one of another version; run the score stage again")
        header_bytes, _, body = data[len(_MAGIC) :].partition(b"\n")
        header = orjson.loads(header_bytes)
        arrays, start = {}, 0
        for name, shape in header["arrays"].items():
            stop = start + 8 * int(np.prod(shape))
            arrays[name] = np.frombuffer(body[start:stop], dtype="<f8").reshape(shape).astype(np.float64)
            start = stop
        return cls(
            Projection(arrays["embedding"], arrays["interaction"], arrays["scale"]),
            arrays["weights"],
            Siblings(*header["siblings"]),
        )


@dataclass(frozen=True)
class PairScores:
    """An ensemble's view of n pairs: `margins` (n, heads) r(a) - r(b) by each head, `siblings` included; `siblings`
    (n,), the part that the labels of the prompt's other pairs add; `p_a` (n,), the mean P(a better)."""

    margins: Array
    siblings: Array
    p_a: Array


def score_pairs(
    ensemble: Ensemble, blocks: Blocks, folds: NDArray[np.int64], labels: Array, graph: PairGraph
) -> PairScores:
    """Score pairs by the heads of their fold and by the labels of their prompt's other pairs.

    Args:
        labels: soft source labels in [0, 1], NaN where there is none, shape (n,); a pair's own is not used.
    """
    heads = ensemble.margins(blocks, folds)
    average = heads.mean(axis=1)
    mean, variance = held_out_margins(average, labels, graph, ensemble.siblings)
    shift = mean - ensemble.siblings.scale * average
    margins = ensemble.siblings.scale * heads + shift[:, None]
    return PairScores(margins, shift, predictive(margins, variance[:, None]).mean(axis=1))


def folds_of(groups: Sequence[str], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold in [0, n_folds) of each group: a hash, so the same in every sample and every bucket."""
    cached = {group: int(unit_interval(str(seed), "fold", group) * n_folds) for group in set(groups)}
    return np.array([cached[group] for group in groups], dtype=np.int64)


def fit_ensemble(
    blocks: Blocks, y: Array, weight: Array, groups: Sequence[str], graph: PairGraph, settings: Settings
) -> Ensemble:
    """Fit all heads of all folds.

    Args:
        blocks: difference features of n pairs.
        y: soft labels in [0, 1], 1 where a is better, NaN where the pair has no label; shape (n,).
        weight: non-negative weights of the labels, shape (n,).
        groups: what must not be split between training and scoring, length n.
        graph: prompts and responses of the pairs, for the evidence of sibling pairs.
    """
    design = Design.of(blocks, y, weight, groups, settings)
    x, known = design.x, design.known
    weights = np.zeros((settings.n_folds, settings.n_heads, x.shape[1]))
    for fold in range(settings.n_folds):
        rows = known & (design.folds != fold)
        names = [group for group, used in zip(groups, rows, strict=True) if used]
        for head, (block_scale, ridge) in enumerate(design.choices(fold, settings.n_heads)):
            rng = np.random.default_rng([settings.seed, fold, head])
            scale = block_scale * (rng.random(x.shape[1]) < settings.feature_share)
            resampled = weight[rows] * _bootstrap(names, rng)
            loss = Loss(settings.losses[head % len(settings.losses)])
            weights[fold, head] = scale * fit_head(x[rows] * scale, y[rows], resampled, ridge, loss)
    heads = Ensemble(design.projection, weights, Siblings())
    mean = heads.margins(blocks, design.folds).mean(axis=1)
    siblings = fit_siblings(mean, np.where(known, y, np.nan), graph)
    if not settings.use_siblings:
        siblings = Siblings(siblings.scale, 0.0, siblings.flip)
    return Ensemble(design.projection, weights, siblings)


Choice = tuple[tuple[float, float], float]


@dataclass(frozen=True)
class Design:
    """A training sample ready for heads: features x (n, d), folds (n,), which rows are labelled, and per choice of
    block weights and ridge its deviance within each fold's training folds."""

    projection: Projection
    x: Array
    folds: NDArray[np.int64]
    known: NDArray[np.bool_]
    tuning: dict[Choice, Array]

    @classmethod
    def of(cls, blocks: Blocks, y: Array, weight: Array, groups: Sequence[str], settings: Settings) -> Design:
        """Project the features, assign folds and measure every choice."""
        projection = Projection.fit(blocks, settings.n_embedding, settings.n_interaction)
        x = projection.apply(blocks)
        folds = folds_of(groups, settings.n_folds, settings.seed)
        known = ~np.isnan(y) & (weight > 0.0)
        tuning = _tuning_table(x[known], y[known], weight[known], folds[known], projection, settings)
        return cls(projection, x, folds, known, tuning)

    def choices(self, fold: int, n_heads: int) -> list[tuple[Array, float]]:
        """Feature scales and ridge of each of a fold's heads: as many heads per choice as exp(-deviance) says, so
        that where the labels cannot tell choices apart (much noise) the ensemble averages over them."""
        ranked = sorted(self.tuning, key=lambda choice: (self.tuning[choice][fold], choice))
        losses = np.array([self.tuning[choice][fold] for choice in ranked])
        shares = np.exp(losses[0] - losses)
        ends = np.cumsum(shares / shares.sum())
        quantiles = (np.arange(n_heads) + 0.5) / n_heads
        chosen = [ranked[int(i)] for i in np.minimum(np.searchsorted(ends, quantiles), len(ranked) - 1)]
        return [(_block_scale(block, self.projection), ridge) for block, ridge in chosen]


def _tuning_table(
    x: Array, y: Array, weight: Array, folds: NDArray[np.int64], projection: Projection, settings: Settings
) -> dict[Choice, Array]:
    """Per choice of block weights and ridge: for fold f, summed deviance on the other folds, neither f nor the
    fold measured having been trained on; shape (folds,)."""
    if len(x) > settings.tune_pairs:
        chosen = np.sort(np.random.default_rng([settings.seed, 77]).permutation(len(x))[: settings.tune_pairs])
        x, y, weight, folds = x[chosen], y[chosen], weight[chosen], folds[chosen]
    table: dict[Choice, Array] = {}
    for block in BLOCK_WEIGHTS:
        scaled = x * _block_scale(block, projection)
        active = np.flatnonzero(np.abs(scaled).sum(axis=0))
        scaled = scaled[:, active]
        starts: dict[tuple[int, int], Array] = {}
        for ridge in sorted(RIDGES, reverse=True):
            losses = np.zeros(settings.n_folds)
            for f, g in itertools.combinations(range(settings.n_folds), 2):
                rows = (folds != f) & (folds != g)
                w = fit_head(scaled[rows], y[rows], weight[rows], ridge, start=starts.get((f, g)), tolerance=1e-5)
                starts[f, g] = w
                for held, other in ((f, g), (g, f)):
                    part = folds == held
                    if weight[part].sum() > 0.0:
                        losses[other] += deviance(scaled[part] @ w, y[part], weight[part]) * float(part.sum())
            table[block, ridge] = losses
    return table


def _block_scale(block: tuple[float, float], projection: Projection) -> Array:
    n_embedding, n_interaction = projection.embedding.shape[1], projection.interaction.shape[1]
    n_surface = len(projection.scale) - n_embedding - n_interaction
    return np.concatenate([np.full(n_embedding, block[0]), np.full(n_interaction, block[1]), np.ones(n_surface)])


def _bootstrap(groups: Sequence[str], rng: np.random.Generator) -> Array:
    """Bayesian bootstrap by group (Rubin 1981): one exponential weight per group, the same for its pairs."""
    names = sorted(set(groups))
    drawn = dict(zip(names, rng.exponential(size=len(names)), strict=True))
    return np.array([drawn[group] for group in groups])
