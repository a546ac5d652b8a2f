"""Down the line: what a fresh head learns from raw, curated and clean labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from schemas.ids import hash_fields
from schemas.tables import Votes, rows_frame
from tests.benchmarks.quality.noise_data import Array, Pairs, inject
from tests.benchmarks.quality.noise_methods import RIDGES, group_folds, heads_view, out_of_fold, posterior_right
from transforms.plugins.registry import find
from transforms.scorers.base import Opinion, vote_frame
from transforms.scorers.heads.ensemble import Settings
from transforms.scorers.heads.pair_features import Projection
from transforms.stats.bradley_terry import deviance, fit_head
from transforms.stats.label_noise import decision_frame
from transforms.stats.noise_rate import FlipRate

TRAINED_ON = ("raw", "curated", "published", "relabelled", "distilled", "clean")
HELD_OUT = 0.3
MORE_RIDGES = (10.0, 30.0)  # for labels of which 40% are wrong


@dataclass(frozen=True)
class Exam:
    """Pairs to learn from and clean pairs of other groups to be right about, with the features of both."""

    train: Pairs
    x: Array
    folds: NDArray[np.int64]
    x_test: Array
    y_test: Array

    @classmethod
    def of(cls, pairs: Pairs, seed: int) -> Exam:
        """Split the pairs' groups; the features' projection is learnt on the training part."""
        train_rows, test_rows = split(pairs.groups, seed)
        train, test = pairs.take(train_rows), pairs.take(test_rows)
        settings = Settings()
        projection = Projection.fit(train.blocks, settings.n_embedding, settings.n_interaction)
        x, x_test = projection.apply(train.blocks), projection.apply(test.blocks)
        return cls(train, x, group_folds(train.groups, seed), x_test, test.y)

    def accuracy(self, y: Array, weight: Array, given: Array) -> float:
        """Of a head taught by labels `y`, each counted by its `weight`, with the ridge of `tuned_ridge`."""
        used = weight > 0
        x, y, weight = self.x[used], y[used], weight[used]
        w = fit_head(x, y, weight, tuned_ridge(x, y, weight, given[used], self.folds[used]))
        return float(((self.x_test @ w > 0) == (self.y_test > 0.5)).mean())


def held_out_accuracy(pairs: Pairs, rate: float, seed: int) -> dict[str, float]:
    """Accuracy on clean held-out groups of heads trained on each kind of label of the others; each head's ridge is
    chosen by `tuned_ridge` against the labels that its user was given."""
    exam = Exam.of(pairs, seed)
    train, one = exam.train, np.ones(len(exam.train.y))
    noisy, _ = inject(train.y, rate, np.random.default_rng([seed, round(100 * rate), 3]))
    labels = {"raw": noisy, **curate(train, noisy, seed), "clean": train.y}
    lessons = {name: (y, one) for name, y in labels.items()}
    lessons["published"] = publish(train, noisy, labels["relabelled"])
    return {name: exam.accuracy(*lessons[name], train.y if name == "clean" else noisy) for name in TRAINED_ON}


def held_out_accuracy_of_few(pairs: Pairs, rate: float, seed: int) -> float:
    """The same of a head trained on as many clean labels as all labels are worth when `rate` of them are flipped."""
    exam = Exam.of(pairs, seed)
    y = exam.train.y
    few = np.random.default_rng([seed, 17]).permutation(len(y))[: round((1 - 2 * rate) ** 2 * len(y))]
    return exam.accuracy(y, np.isin(np.arange(len(y)), few).astype(np.float64), y)


def tuned_ridge(
    x: Array,
    y: Array,
    weight: Array,
    given: Array,
    folds: NDArray[np.int64],
    ridges: Sequence[float] = (*RIDGES, *MORE_RIDGES),
) -> float:
    """The ridge whose heads, trained on `y`, predict the *given* labels of held-out folds best.

    Curated labels of a held-out fold hold what models learnt from the training folds, so they would favour whoever
    repeats it: far too small a ridge. Given labels are wrong by chance, which favours nobody. Soft labels teach
    smaller margins than given ones; a head is judged by its deviance after the one factor that suits it best.
    """
    one = np.ones(len(y))

    def score(ridge: float) -> float:
        z = out_of_fold(x, y, folds, ridge, weight)
        factor = max(float(fit_head(z[:, None], given, one, 1e-9)[0]), 0.0)
        return deviance(factor * z, given, one)

    return min(ridges, key=score)


def split(groups: list[str], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of training and held-out groups; groups are drawn until 30% of the pairs are held out."""
    names, counts = np.unique(groups, return_counts=True)
    order = np.random.default_rng([seed, 11]).permutation(len(names))
    before = np.cumsum(counts[order]) - counts[order]
    held = set(names[order[before < HELD_OUT * len(groups)]])
    is_held = np.array([group in held for group in groups])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def curate(pairs: Pairs, noisy: Array, seed: int) -> dict[str, Array]:
    """Soft labels P(a better).

    curated: by the noisy label and bt_heads, by Bayes' rule with the estimated flip rate. relabelled: by bt_heads
    alone, which looks at the labels of the prompt's other pairs but not at the pair's own. distilled: by the heads'
    mean margin alone (Fisch et al. 2024, arXiv:2405.19316), which looks at no label of the pair's group.
    """
    p, heads, flip = heads_view(pairs, noisy, seed)
    right = posterior_right(np.log(p / (1.0 - p)), noisy, FlipRate(flip, 1.0))
    return {"curated": np.where(noisy > 0.5, right, 1.0 - right), "relabelled": p, "distilled": expit(heads)}


def publish(pairs: Pairs, noisy: Array, p: Array) -> tuple[Array, Array]:
    """What a recipe without people publishes: labels and weights by row, weight 0 for what is left out.

    The `verdicts` are decided by the policy `posterior` as it comes; rows of action `soften` have the weight
    2 P(label) - 1, as published rows have.
    """
    policy = find("policies", "posterior")
    decided = policy("policy", policy.Config(), 0).decide({}, verdicts(pairs, noisy, p))
    sure = 2 * pl.max_horizontal("p_a", 1 - pl.col("p_a")) - 1
    weight = pl.when(pl.col("action") == "soften").then(sure)
    weight = weight.when(pl.col("action").is_in(["keep", "flip"])).then(1.0).otherwise(0.0)
    found = decided.select(y=(pl.col("label") == "a").cast(pl.Float64), weight=weight)
    return found["y"].to_numpy(), found["weight"].to_numpy()


def verdicts(pairs: Pairs, noisy: Array, p: Array) -> pl.DataFrame:
    """What the fuser `posterior`, as it comes, makes of the source's label and `bt_heads`' vote `p`: a `decision_frame`
    in the pairs' order."""
    ids = [hash_fields("row", str(i)) for i in range(len(noisy))]
    source = ["a" if y > 0.5 else "b" for y in noisy]
    frame = pl.DataFrame(
        {"pair_id": ids, "prompt_id": [hash_fields(group) for group in pairs.groups], "source_label": source}
    )
    cast = [
        {"pair_id": i, "label": label, "kind": "source", "voter": "source"}
        for i, label in zip(ids, source, strict=True)
    ]
    shared = {"voter_group": "source", "order": "none", "sample": 0, "tokens_in": 0, "tokens_out": 0, "ms": 0.0}
    own = rows_frame([row | shared | {"vote_id": hash_fields("source", row["pair_id"])} for row in cast], Votes)
    opinions = (Opinion(i, "a" if q > 0.5 else "b", p_a=float(q)) for i, q in zip(ids, p, strict=True))
    votes = pl.concat([own, vote_frame(opinions, "bt_heads", "reward", "reward_heads")])
    cls = find("fusers", "posterior")
    fuser = cls("fuser", cls.Config(), 0)
    frame = frame.with_columns(length_a=pl.lit(100), length_b=pl.lit(100))
    return decision_frame(fuser.apply(fuser.fit(votes, frame), votes, frame), frame, votes)
