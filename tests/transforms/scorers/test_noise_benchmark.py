"""The arithmetic of the noise benchmark, and one real data set end to end with a toy embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from schemas.pairs import mirrored
from tests.benchmarks.quality.noise import bars_of, interval, recovered
from tests.benchmarks.quality.noise_curation import split
from tests.benchmarks.quality.noise_data import FolderCache, inject
from tests.benchmarks.quality.noise_methods import cleanlab_tuned, group_folds, nested_ridges, single_head
from tests.benchmarks.quality.real_data import load
from tests.transforms.scorers.pair_rows import LetterEmbedder, no_votes
from transforms.plugins.registry import find

groups = st.lists(st.sampled_from("abcdefghijkl"), min_size=5, max_size=80)


@given(st.integers(1, 200), st.sampled_from([0.1, 0.3, 0.5]), st.integers(0, 99))
def test_exactly_the_stated_share_is_flipped(n: int, rate: float, seed: int) -> None:
    y = np.random.default_rng(seed).integers(0, 2, n).astype(float)
    given_labels, flipped = inject(y, rate, np.random.default_rng(seed))
    assert flipped.sum() == round(rate * n)
    assert ((given_labels != y) == flipped).all()


@given(groups, st.integers(0, 99))
def test_folds_and_splits_keep_groups_whole(names: list[str], seed: int) -> None:
    folds = group_folds(names, seed)
    assert all(len({f for f, n in zip(folds, names, strict=True) if n == name}) == 1 for name in names)
    train, held = split(names, seed)
    assert sorted([*train, *held]) == list(range(len(names)))
    assert not {names[i] for i in train} & {names[i] for i in held}


def test_recovered_share_and_interval() -> None:
    assert recovered([0.6, 0.6], [0.65, 0.69], [0.7, 0.7]) == pytest.approx(0.7)
    assert np.isnan(recovered([0.7], [0.8], [0.7]))
    mean, half = interval([1.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(12.706 * np.sqrt(2) / np.sqrt(2), rel=1e-3)


def test_a_missed_bar_says_which_and_by_how_much() -> None:
    auroc = {"ours": [0.65], "cleanlab": [0.6], "cleanlab tuned": [0.66], "bound": [0.7]}
    row = {"set": "made", "rate": 0.4, "auroc": auroc, "recovered": [0.5, -0.25]}
    bars = bars_of(row)
    assert [met for _, met in bars] == [True, False, False, False]
    assert "made, 40% flips" in bars[1][0]
    assert "0.6500" in bars[1][0]
    assert "50%" in bars[2][0]
    assert bars_of({**row, "rate": 0.2}) == [(what.replace("40%", "20%"), met) for what, met in bars[:2]]
    accuracy = {"raw": [0.5], "curated": [0.57], "relabelled": [0.5], "clean": [0.6]}
    assert bars_of({"set": "made", "rate": 0.3, "accuracy": accuracy, "recovered": [0.7]}) == [
        ("made, 30% flips: curated 0.5700, 80% of what noise took back is 0.5800", False)
    ]


@given(st.integers(0, 50))
@settings(max_examples=3, deadline=None)
def test_cleanlab_tuned_ranks_as_the_single_head_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 3))
    labels = (x[:, 0] + rng.normal(size=200) > 0).astype(float)
    folds = np.arange(200) % 5
    ridges = nested_ridges(x, labels, folds)
    # scikit-learn's head has an intercept; otherwise the two are one model.
    one, two = single_head(x, labels, labels, folds, ridges), cleanlab_tuned(x, labels, folds, ridges)
    assert np.corrcoef(one.argsort().argsort(), two.argsort().argsort())[0, 1] > 0.9


def test_embeddings_survive_in_the_folder(tmp_path: Path) -> None:
    FolderCache(tmp_path).put(["x", "y"], np.eye(2, dtype=np.float32))
    assert FolderCache(tmp_path).get(["y", "z"])["y"].tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_flips_among_real_labels_are_found_by_siblings(shared_data: Path) -> None:
    pairs, _, majority = load("wmt23_mqm_sxs_ende", shared_data)
    clean = pairs.join(majority.select("pair_id", "label"), on="pair_id").filter(pl.col("label").is_in(["a", "b"]))
    flipped = np.random.default_rng(0).random(len(clean)) < 0.2
    labels = [mirrored(label) if f else label for label, f in zip(clean["label"], flipped, strict=True)]
    noisy = clean.drop("label").with_columns(source_label=pl.Series(labels))
    cls = find("scorers", "bt_heads")
    auc = {}
    for siblings in (True, False):
        plugin = cls("bt", cls.Config(heads=2, siblings=siblings), 0)
        plugin._embedder = LetterEmbedder()
        votes = plugin.votes(noisy, plugin.fit(noisy, no_votes()))
        p_a = noisy.select("pair_id").join(votes, on="pair_id", how="left", maintain_order="left")["p_a"].to_numpy()
        auc[siblings] = roc_auc_score(flipped, np.where(np.array(labels) == "a", 1 - p_a, p_a))
    assert auc[True] > 0.8
    assert auc[True] > auc[False] + 0.05
