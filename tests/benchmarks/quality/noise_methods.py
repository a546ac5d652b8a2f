"""Ways to rank labels by how likely they are wrong. All but ours are baselines.

Every method sees the same difference features and the same groups, and scores a pair by models that did not
see its group. A method returns suspicion, higher where the label is more likely wrong.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from tests.benchmarks.quality.noise_data import Array, Pairs
from transforms.scorers.heads.ensemble import Settings, fit_ensemble, score_pairs
from transforms.scorers.heads.pair_features import Projection
from transforms.stats.bradley_terry import deviance, fit_head
from transforms.stats.noise_rate import FlipRate

RIDGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
N_FOLDS = 5
TUNING_ROWS = 3000


def features(pairs: Pairs) -> Array:
    """The projected features of the ensemble's heads; the projection is learnt without labels."""
    settings = Settings()
    projection = Projection.fit(pairs.blocks, settings.n_embedding, settings.n_interaction)
    return projection.apply(pairs.blocks)


def group_folds(groups: list[str], seed: int, n_folds: int = N_FOLDS) -> NDArray[np.int64]:
    """Folds of about equal size that keep groups whole: largest group first into the emptiest fold, ties by chance."""
    names, counts = np.unique(groups, return_counts=True)
    chance = np.random.default_rng([seed, 5]).random(len(names))
    order = np.lexsort((chance, -counts))
    filled, fold_of = np.zeros(n_folds), {}
    for i in order:
        fold = int(filled.argmin())
        fold_of[names[i]] = fold
        filled[fold] += counts[i]
    return np.array([fold_of[group] for group in groups])


def best_ridge(x: Array, y: Array, folds: NDArray[np.int64]) -> float:
    """The ridge with the smallest deviance on held-out folds, measured on at most `TUNING_ROWS` rows."""
    if len(y) > TUNING_ROWS:
        rows = np.random.default_rng(0).permutation(len(y))[:TUNING_ROWS]
        x, y, folds = x[rows], y[rows], folds[rows]
    return min(RIDGES, key=lambda ridge: deviance(out_of_fold(x, y, folds, ridge), y, np.ones(len(y))))


def nested_ridges(x: Array, y: Array, folds: NDArray[np.int64]) -> dict[int, float]:
    """Per fold the best ridge within the other folds."""
    return {int(f): best_ridge(x[folds != f], y[folds != f], folds[folds != f]) for f in np.unique(folds)}


def out_of_fold(x: Array, y: Array, folds: NDArray[np.int64], ridge: float, weight: Array | None = None) -> Array:
    """Margins of one Bradley-Terry head per fold, each trained on the other folds."""
    z, weight = np.zeros(len(y)), np.ones(len(y)) if weight is None else weight
    for fold in np.unique(folds):
        rows = folds != fold
        z[~rows] = x[~rows] @ fit_head(x[rows], y[rows], weight[rows], ridge)
    return z


def single_head(x: Array, given: Array, train: Array, folds: NDArray[np.int64], ridges: dict[int, float]) -> Array:
    """Minus the margin of the given label by one head per fold, trained on `train`, with its fold's ridge.

    With train = given this is self-confidence; with the clean labels it is the bound.
    """
    z = np.zeros(len(given))
    for fold in np.unique(folds):
        rows = folds != fold
        w = fit_head(x[rows], train[rows], np.ones(int(rows.sum())), ridges[int(fold)])
        z[~rows] = x[~rows] @ w
    return -toward_label(z, given)


def cleanlab_default(x: Array, given: Array, folds: NDArray[np.int64]) -> Array:
    """cleanlab's ranking with its default classifier (scikit-learn's LogisticRegression, C = 1) on grouped folds."""
    from sklearn.linear_model import LogisticRegression

    p = np.zeros(len(given))
    for fold in np.unique(folds):
        rows = folds != fold
        p[~rows] = LogisticRegression(max_iter=1000).fit(x[rows], given[rows]).predict_proba(x[~rows])[:, 1]
    return _cleanlab_rank(p, given)


def cleanlab_tuned(x: Array, given: Array, folds: NDArray[np.int64], ridges: dict[int, float]) -> Array:
    """The same with C chosen by grouped cross-validation on the training folds: cleanlab at its best here."""
    from sklearn.linear_model import LogisticRegression

    p = np.zeros(len(given))
    for fold in np.unique(folds):
        rows = folds != fold
        c = 1.0 / (ridges[int(fold)] * rows.sum())
        p[~rows] = LogisticRegression(C=c, max_iter=1000).fit(x[rows], given[rows]).predict_proba(x[~rows])[:, 1]
    return _cleanlab_rank(p, given)


def heads_view(pairs: Pairs, given: Array, seed: int) -> tuple[Array, Array, float]:
    """What bt_heads taught by `given` say: P(a better), the heads' mean margin alone, and how often labels are wrong.

    P(a better) looks at the labels of the prompt's other pairs too; neither looks at a pair's own.
    """
    settings = Settings(seed=seed)
    ensemble = fit_ensemble(pairs.blocks, given, np.ones(len(given)), pairs.groups, pairs.graph, settings)
    scores = score_pairs(ensemble, pairs.blocks, pairs.groups, given, pairs.graph)
    mu = (scores.margins - scores.siblings[:, None]).mean(axis=1)
    return np.clip(scores.p_a, 1e-9, 1.0 - 1e-9), mu, ensemble.noise.flip


def ours_and_moss(pairs: Pairs, given: Array, seed: int) -> tuple[Array, Array]:
    """bt_heads (P(given label is wrong)) and rank-percentile moss (rank of the heads' mean margin alone)."""
    p, mu, _ = heads_view(pairs, given, seed)
    suspicion = -toward_label(np.log(p / (1.0 - p)), given)
    return suspicion, 1.0 - percentiles(toward_label(mu, given))


def _cleanlab_rank(p: Array, given: Array) -> Array:
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(given.astype(int), np.stack([1.0 - p, p], axis=1), method="self_confidence")
    return -np.asarray(quality, dtype=np.float64)


def toward_label(margin: Array, labels: Array) -> Array:
    """Margins r(a) - r(b) as margins of the labelled response: unchanged where y > 0.5, negated where y < 0.5, 0
    for ties (y = 0.5)."""
    return np.asarray(margin * np.sign(labels - 0.5))


def percentiles(values: Array) -> Array:
    """Share of the values that lie below each value, equal values counting half; in (0, 1), shape (n,)."""
    if not len(values):
        return np.zeros(0)
    return np.asarray((pl.Series(values).rank("average").to_numpy() - 0.5) / len(values))


def posterior_right(margins: Array, labels: Array, rate: FlipRate) -> Array:
    """P(label is right) of hard labels given margins and the flip rate, shape (n,)."""
    p = expit(rate.scale * margins * np.sign(labels - 0.5))
    right = p * (1.0 - rate.flip)
    return np.asarray(right / (right + (1.0 - p) * rate.flip))
