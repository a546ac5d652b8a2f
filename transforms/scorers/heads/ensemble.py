"""Cross-fitted Bradley-Terry heads: fitting, scoring, and the ensemble as bytes.

Folds are hashes of a pair's group. For each fold the heads are trained on the other folds alone, the choice of
their priors included, so no pair is scored by a head that saw its group, and a pair outside the training
sample finds its heads by its group's hash. A prompt too large for that is divided by its responses (`Partition`), and
the ensemble remembers how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import orjson
import scipy
from numpy.typing import NDArray

from schemas.errors import WorkspaceError
from transforms.scorers.heads.graph import PairGraph
from transforms.scorers.heads.pair_features import Blocks, Projection
from transforms.scorers.heads.partition import Partition
from transforms.scorers.heads.shrinkage import PRIORS, evidence, in_proportion
from transforms.scorers.heads.siblings import Siblings, fit_siblings, held_out_margins, predictive
from transforms.stats.bradley_terry import Array, Loss, LossName, fit_head
from transforms.stats.noise_rate import FlipRate, estimate_flip_rate

_MAGIC = b"prefine-bt-heads-3\n"


@dataclass(frozen=True)
class Settings:
    """How the ensemble is built; the plug-in's Config documents each field."""

    n_heads: int = 10
    n_folds: int = 5
    n_embedding: int = 96
    n_interaction: int = 48
    feature_share: float = 0.9
    losses: tuple[LossName, ...] = ("logistic", "gce")
    tune_pairs: int = 4000
    use_siblings: bool = True
    whole_groups: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Ensemble:
    """Fitted heads. `weights` has shape (folds, heads, features) and acts on `projection.apply(blocks)`; `noise` is
    how often the training labels are wrong, and what held-out margins are multiplied with to be log-odds."""

    projection: Projection
    weights: Array
    siblings: Siblings
    noise: FlipRate
    partition: Partition

    def margins(self, blocks: Blocks, folds: NDArray[np.int64]) -> Array:
        """r(a) - r(b) by each head, the mean of the pair's two folds (n, 2); shape (n, heads), log-odds."""
        x = self.projection.apply(blocks)
        out = np.zeros((len(x), self.weights.shape[1]))
        for fold in range(self.weights.shape[0]):
            rows = (folds == fold).all(axis=1)
            out[rows] = x[rows] @ self.weights[fold].T
            rows = (folds == fold).any(axis=1) & ~rows
            out[rows] += 0.5 * (x[rows] @ self.weights[fold].T)
        return out

    def to_bytes(self) -> bytes:
        """The ensemble as a JSON header and raw little-endian arrays: equal ensembles give equal bytes."""
        arrays = {f.name: getattr(self.projection, f.name) for f in fields(Projection)} | {"weights": self.weights}
        header = {
            "arrays": {name: list(array.shape) for name, array in arrays.items()},
            "siblings": [self.siblings.scale, self.siblings.spread, self.siblings.flip],
            "noise": [self.noise.flip, self.noise.scale],
            "partition": asdict(self.partition),
        }
        body = b"".join(np.ascontiguousarray(array, dtype="<f8").tobytes() for array in arrays.values())
        return _MAGIC + orjson.dumps(header, option=orjson.OPT_SORT_KEYS) + b"\n" + body

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
            FlipRate(*header["noise"]),
            Partition.from_dict(header["partition"]),
        )


@dataclass(frozen=True)
class PairScores:
    """An ensemble's view of n pairs: `margins` (n, heads) r(a) - r(b) by each head, `siblings` included; `siblings`
    (n,), the part that the labels of the prompt's other pairs add; `p_a` (n,), the mean P(a better)."""

    margins: Array
    siblings: Array
    p_a: Array


def score_pairs(
    ensemble: Ensemble, blocks: Blocks, groups: Sequence[str], labels: Array, graph: PairGraph
) -> PairScores:
    """Score pairs by the heads of their folds and by the labels of their prompt's other pairs.

    Args:
        labels: soft labels in [0, 1], NaN where there is none, shape (n,); a pair's own is not used.
    """
    heads = ensemble.margins(blocks, ensemble.partition.folds(groups, graph))
    average = heads.mean(axis=1)
    mean, variance = held_out_margins(average, labels, graph, ensemble.siblings)
    # Uncertainty shrinks the margins (MacKay's probit approximation) before they are scaled to log-odds.
    scale = ensemble.noise.scale / np.sqrt(1.0 + np.pi * variance / 8.0)
    shift = scale * (mean - ensemble.siblings.scale * average)
    margins = ensemble.siblings.scale * scale[:, None] * heads + shift[:, None]
    return PairScores(margins, shift, scipy.special.expit(margins).mean(axis=1))


def fit_ensemble(
    blocks: Blocks,
    y: Array,
    weight: Array,
    groups: Sequence[str],
    graph: PairGraph,
    settings: Settings,
    drawn: NDArray[np.bool_] | None = None,
) -> Ensemble:
    """Fit all heads of all folds.

    Args:
        blocks: difference features of n pairs.
        y: soft labels in [0, 1], 1 where a is better, NaN where the pair has no label; shape (n,).
        weight: non-negative weights of the labels, shape (n,).
        groups: what must not be split between training and scoring, length n.
        graph: prompts and responses of the pairs, for the evidence of sibling pairs.
        drawn: rows that are a random sample, on which it is estimated how often labels are wrong; None: all.
    """
    partition = Partition.of(groups, graph, settings.n_folds, settings.seed, settings.whole_groups)
    units = partition.units(groups, graph)
    design = Design.of(blocks, y, weight, partition.folds(groups, graph), settings)
    x, known = design.x, design.known
    weights = np.zeros((settings.n_folds, settings.n_heads, x.shape[1]))
    for fold in range(settings.n_folds):
        rows = design.training(fold)
        names = [unit for unit, used in zip(units, rows, strict=True) if used]
        rng = np.random.default_rng([settings.seed, fold])
        draws = _bootstrap(names, settings.n_heads, rng)
        for head, deviations in enumerate(design.scales(fold, settings.n_heads)):
            scale = deviations * (rng.random(x.shape[1]) < settings.feature_share)
            resampled = weight[rows] * draws[head]
            loss = Loss(settings.losses[head % len(settings.losses)])
            # A weight in units of its prior standard deviation has the prior N(0, 1): a ridge of one label.
            ridge = 1.0 / max(float(resampled.sum()), 1.0)
            used = np.flatnonzero(scale)
            head_weights = fit_head(x[np.ix_(rows, used)] * scale[used], y[rows], resampled, ridge, loss)
            weights[fold, head, used] = scale[used] * head_weights
    heads = Ensemble(design.projection, weights, Siblings(), FlipRate(), partition)
    mean = heads.margins(blocks, design.folds).mean(axis=1)
    labels = np.where(known, y, np.nan)
    siblings = fit_siblings(mean, labels, graph)
    if not settings.use_siblings:
        siblings = Siblings(siblings.scale, 0.0, siblings.flip)
    log_odds = scipy.special.logit(predictive(*held_out_margins(mean, labels, graph, siblings)))
    noise = estimate_flip_rate(*(column[random_part(known, drawn)] for column in (log_odds, y, weight)))
    return Ensemble(design.projection, weights, siblings, noise, partition)


def random_part(known: NDArray[np.bool_], drawn: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """The labelled rows that were drawn at random; all labelled ones if there are none."""
    both = known if drawn is None else known & drawn
    return both if both.any() else known


@dataclass(frozen=True)
class Design:
    """A training sample ready for heads: features x (n, d), folds (n, 2), which rows are labelled, the prior standard
    deviation of each weight under each prior (priors, d), and the evidence for it (priors, folds) in the labels
    outside the fold."""

    projection: Projection
    x: Array
    folds: NDArray[np.int64]
    known: NDArray[np.bool_]
    deviations: Array
    evidence: Array

    @classmethod
    def of(cls, blocks: Blocks, y: Array, weight: Array, folds: NDArray[np.int64], settings: Settings) -> Design:
        """Project the features and weigh the priors, each on at most `tune_pairs` labels."""
        projection = Projection.fit(blocks, settings.n_embedding, settings.n_interaction)
        x = projection.apply(blocks)
        known = ~np.isnan(y) & (weight > 0.0)
        ends = np.cumsum([projection.embedding.shape[1], projection.interaction.shape[1]])
        embedding, interaction, surface = np.split((x**2).mean(axis=0) if len(x) else np.zeros(x.shape[1]), ends)
        deviations = np.stack([prior.deviations((embedding, interaction, surface)) for prior in PRIORS])
        table = np.zeros((len(PRIORS), settings.n_folds))
        for fold in range(settings.n_folds):
            rows = _drawn(np.flatnonzero(known & (folds != fold).all(axis=1)), settings, fold)
            table[:, fold] = [evidence(x[rows], y[rows], weight[rows], d) for d in deviations]
        return cls(projection, x, folds, known, deviations, table)

    def training(self, fold: int) -> NDArray[np.bool_]:
        """The labelled rows no part of which lies in the fold."""
        return np.asarray(self.known & (self.folds != fold).all(axis=1))

    def scales(self, fold: int, n_heads: int) -> list[Array]:
        """Prior standard deviations of the weights of each of a fold's heads, priors in proportion to evidence."""
        return [self.deviations[i] for i in in_proportion(self.evidence[:, fold], n_heads)]


def _drawn(rows: NDArray[np.int64], settings: Settings, fold: int) -> NDArray[np.int64]:
    if len(rows) <= settings.tune_pairs:
        return rows
    return np.sort(np.random.default_rng([settings.seed, fold, 77]).permutation(rows)[: settings.tune_pairs])


def _bootstrap(groups: Sequence[str], n_heads: int, rng: np.random.Generator) -> Array:
    """Weights (heads, n) of a Bayesian bootstrap by group (Rubin 1981): exponential, the same for a group's pairs.

    Balanced (Davison, Hinkley & Schechtman 1986): a group's weights average to 1 over the heads, so that the mean over
    heads is that of the labels and not of the draw.
    """
    names, index = np.unique(groups, return_inverse=True)
    drawn = rng.exponential(size=(n_heads, len(names)))
    return np.asarray((drawn / drawn.mean(axis=0))[:, index]) if len(names) else np.zeros((n_heads, 0))
