"""How far labels can carry at all: models taught by a few clean labels, beside many of which some are wrong.

    python -m tests.benchmarks.quality.noise_limit --data ../shared/data --cache CACHE --sets hh_harmless_test

A label that is wrong with probability e says as much about a small margin as (1 - 2 e)^2 clean ones (Fisher's
information of the flipped label at margin 0), so n labels with 40% wrong are worth 0.04 n. AUROC (table 1) is that of
bt_heads' margin for the clean labels of pairs whose own label they never saw; accuracy (table 3) that of a fresh head
on clean held-out groups. Mean and 95% interval over seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.benchmarks.quality.noise import interval
from tests.benchmarks.quality.noise_curation import held_out_accuracy_of_few
from tests.benchmarks.quality.noise_data import SETS, Array, FolderCache, Pairs, inject, prepare
from transforms.scorers.heads.ensemble import Settings, fit_ensemble, score_pairs


def auroc(pairs: Pairs, labels: Array, seed: int) -> float:
    """AUROC for the clean labels of bt_heads taught by `labels` (NaN: none), over the unlabelled pairs if there are
    any, else over all, each scored by heads of other groups."""
    from sklearn.metrics import roc_auc_score

    settings = Settings(seed=seed, use_siblings=False)
    ensemble = fit_ensemble(pairs.blocks, labels, np.ones(len(labels)), pairs.groups, pairs.graph, settings)
    margin = score_pairs(ensemble, pairs.blocks, pairs.groups, labels, pairs.graph).margins.mean(axis=1)
    rows = np.isnan(labels) if np.isnan(labels).any() else np.ones(len(labels), dtype=bool)
    return float(roc_auc_score(pairs.y[rows], margin[rows]))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each number of clean labels and one for each share of flips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--cache", type=Path, help="folder for embeddings (default: a temporary one)")
    parser.add_argument("--sets", nargs="+", default=["hh_harmless_test"], choices=SETS)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.3, 0.4], help="shares of labels flipped")
    parser.add_argument("--measures", nargs="+", default=["auroc", "accuracy"], choices=["auroc", "accuracy"])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        cache = FolderCache(options.cache or Path(scratch))
        for name in options.sets:
            pairs = prepare(name, options.data, cache)
            n = len(pairs.y)
            for rate in options.rates:
                few = round((1.0 - 2.0 * rate) ** 2 * n)
                measured: dict[str, list[float]] = {}
                for seed in range(options.seeds) if "auroc" in options.measures else ():
                    rng = np.random.default_rng([seed, round(100 * rate), 7])
                    known = np.isin(np.arange(n), rng.permutation(n)[:few])
                    for what, labels in (
                        (f"{few} clean labels: AUROC", np.where(known, pairs.y, np.nan)),
                        (f"{n} labels, {rate:.0%} flipped: AUROC", inject(pairs.y, rate, rng)[0]),
                    ):
                        measured.setdefault(what, []).append(auroc(pairs, labels, seed))
                if "accuracy" in options.measures:
                    what = f"{(1 - 2 * rate) ** 2:.0%} of the training labels, clean, for {rate:.0%} flips: accuracy"
                    measured[what] = [held_out_accuracy_of_few(pairs, rate, seed) for seed in range(options.seeds)]
                for what, values in measured.items():
                    mean, half = interval(values)
                    print(f"{name}: {what} {mean:.3f} ±{half:.3f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
