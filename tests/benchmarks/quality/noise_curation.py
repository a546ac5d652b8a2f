"""Down the line: what a fresh head learns from raw, curated and clean labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.quality.noise_data import Array, Pairs, inject
from tests.benchmarks.quality.noise_methods import best_ridge, group_folds
from transforms.scorers._bradley_terry import fit_head
from transforms.scorers._ensemble import Settings, fit_ensemble, folds_of, score_pairs
from transforms.scorers._noise_rate import FlipRate, posterior_right
from transforms.scorers._pair_features import Projection

TRAINED_ON = ("raw", "curated", "relabelled", "clean")
HELD_OUT = 0.3


def held_out_accuracy(pairs: Pairs, rate: float, seed: int) -> dict[str, float]:
    """Accuracy on clean held-out groups of heads trained on each kind of label of the others; each
    head's ridge is chosen by grouped cross-validation on its own labels, as a careful user would."""
    train_rows, test_rows = split(pairs.groups, seed)
    train, test = pairs.take(train_rows), pairs.take(test_rows)
    noisy, _ = inject(train.y, rate, np.random.default_rng([seed, round(100 * rate), 3]))
    settings = Settings()
    projection = Projection.fit(train.blocks, settings.n_embedding, settings.n_interaction)
    x, x_test = projection.apply(train.blocks), projection.apply(test.blocks)
    folds = group_folds(train.groups, seed)
    accuracy = {}
    curated, relabelled = curate(train, noisy, seed)
    for name, y in zip(TRAINED_ON, (noisy, curated, relabelled, train.y), strict=True):
        w = fit_head(x, y, np.ones(len(y)), best_ridge(x, y, folds))
        accuracy[name] = float(((x_test @ w > 0) == (test.y > 0.5)).mean())
    return accuracy


def split(groups: list[str], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of training and held-out groups; groups are drawn until 30% of the pairs are held out."""
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng([seed, 11]).permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]
    held = set(names[order[before < HELD_OUT * len(groups)]])
    is_held = np.array([group in held for group in groups])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def curate(pairs: Pairs, noisy: Array, seed: int) -> tuple[Array, Array]:
    """Soft labels P(a better): by the noisy label and bt_heads (Bayes' rule with the estimated flip rate), and by
    bt_heads alone, which does not look at the pair's own label."""
    settings = Settings(seed=seed)
    ensemble = fit_ensemble(pairs.blocks, noisy, np.ones(len(noisy)), pairs.groups, pairs.graph, settings)
    folds = folds_of(pairs.groups, settings.n_folds, seed)
    p = np.clip(score_pairs(ensemble, pairs.blocks, folds, noisy, pairs.graph).p_a, 1e-9, 1.0 - 1e-9)
    right = posterior_right(np.log(p / (1.0 - p)), noisy, FlipRate(ensemble.noise.flip, 1.0))
    return np.where(noisy > 0.5, right, 1.0 - right), p
