"""The cases of table 2: who votes on which pairs, what the truth is, and whose labels are shown.

Voters are real judges; people (one annotator is held out as the truth, the others are voters of kind "judge", so
truth and voters err independently); or simulated on real pairs, their prompts and lengths, with the real majority
as the truth. Large sets are cut to `MAX_PAIRS` pairs, those of the smallest hash.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.ids import hash_fields, unit_interval
from schemas.rows import vote_frame
from tests.benchmarks.quality.real_data import fuser_pairs, load

Floats = NDArray[np.float64]
MAX_PAIRS = 1_500
FOLDS = 5
# A judge that answers by position in this share of its votes, and is else right in this share, agrees with itself in
# the other order with a correlation of (1 - q) / (1 + q) = .51, and is right in 76% of its votes.
BY_POSITION, RIGHT_ELSE = 0.325, 0.885
COPIED = 0.95  # share of votes that a near-copy takes over


class Case:
    """A data set with one choice of voters: judges' votes, humans' labels, and matrices for the simple methods.

    Attributes:
        pairs: `fuser_pairs`; all of them are shown to the fusers, labelled or not.
        judges, human: `votes` of the voters, and those that are shown as labels.
        ids, y, prompts: the pairs with a truth of a or b, whether it is a, and their prompts.
        matrix: (n, w) the vote of each worker (a voter in one order): 1 a, -1 b, 0 tie or none.
    """

    def __init__(self, pairs: pl.DataFrame, truth: pl.DataFrame, human: pl.DataFrame, judges: pl.DataFrame) -> None:
        self.pairs, self.human, self.judges = pairs, human, judges
        self.truth = truth.filter(pl.col("label").is_in(["a", "b"]))
        self.ids = self.truth["pair_id"].to_list()
        self.y = (self.truth["label"] == "a").to_numpy()
        known = self.truth.join(pairs, on="pair_id", how="left", maintain_order="left")
        self.prompts = known["prompt_id"].to_list()
        worker = pl.format("{}|{}", "voter", "order").alias("worker")
        workers = sorted(judges.select(worker)["worker"].unique())
        self.matrix = np.zeros((len(self.ids), len(workers)))
        row_of, col_of = {p: i for i, p in enumerate(self.ids)}, {w: i for i, w in enumerate(workers)}
        sign = {"a": 1.0, "b": -1.0}
        for pair, who, label in judges.select("pair_id", worker, "label").iter_rows():
            if pair in row_of:
                self.matrix[row_of[pair], col_of[who]] = sign.get(label, 0.0)

    def folds(self, seed: int) -> NDArray[np.int64]:
        """Fold of each pair, by a seeded draw per prompt."""
        return np.array([int(unit_interval(str(seed), p) * FOLDS) for p in self.prompts], dtype=np.int64)

    def labelled(self, seed: int, fold: int, train: NDArray[np.int64], budget: int) -> NDArray[np.int64]:
        """`budget` rows of `train`, drawn at random; smaller budgets are subsets of larger ones."""
        return np.random.default_rng([seed, fold]).permutation(train)[:budget]


@cache
def loaded(name: str, data_dir: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """`load` of at most `MAX_PAIRS` pairs, the pairs as a fuser sees them."""
    pairs, votes, majority = load(name, data_dir)
    pairs = pairs.sort("pair_id").head(MAX_PAIRS)
    keep = pairs.select("pair_id")
    return fuser_pairs(pairs), *(
        frame.join(keep, on="pair_id", how="semi", maintain_order="left") for frame in (votes, majority)
    )


def judged(name: str, data_dir: Path, n_workers: int | None, seed: int) -> Case:
    """Real judges: all of them, or `n_workers` drawn from the pairs of a judge and the order that it saw."""
    pairs, votes, majority = loaded(name, data_dir)
    judges = votes.filter((pl.col("kind") == "judge") & (pl.col("sample") == 0))
    worker = pl.format("{}|{}", "voter", "order")
    if n_workers is not None:
        workers = sorted(judges.select(worker.alias("w"))["w"].unique())
        drawn = np.random.default_rng([seed, n_workers]).choice(workers, n_workers, replace=False)
        judges = judges.filter(worker.is_in(list(drawn)))
    return Case(pairs, majority, votes.filter(pl.col("kind") == "human"), judges)


def one_per_family(name: str, data_dir: Path, seed: int) -> Case:
    """One judge of each model family, drawn by seed, in both orders."""
    pairs, votes, majority = loaded(name, data_dir)
    judges = votes.filter((pl.col("kind") == "judge") & (pl.col("sample") == 0))
    rng = np.random.default_rng([seed, 6])
    names = judges.select("voter_group", "voter").unique().sort("voter_group", "voter")
    drawn = [str(rng.choice(group["voter"].to_list())) for group in names.partition_by("voter_group")]
    return Case(pairs, majority, votes.filter(pl.col("kind") == "human"), judges.filter(pl.col("voter").is_in(drawn)))


def annotated(name: str, data_dir: Path, seed: int, *, by_place: bool) -> Case:
    """People as voters, beside the judges if there are any: on each pair one annotator's answer is the truth.

    Args:
        by_place: whether a voter is a place (who answered first, second, ... of at most five, in the order of names)
            instead of a person, because there are too many people for any to be known.
    """
    pairs, votes, _ = loaded(name, data_dir)
    first = votes.filter(pl.col("sample") == 0)
    people = first.filter(pl.col("kind") == "human").sort("pair_id", "voter")
    place, n = pl.int_range(pl.len()).over("pair_id"), pl.len().over("pair_id")
    people = people.with_columns(place.alias("_place"), n.alias("_n")).filter(pl.col("_place") < 5)
    # A set with the same annotators everywhere holds out one of them; elsewhere it is another one on each pair.
    fixed = people["voter"].n_unique() <= 3
    chosen = {
        pair: seed % count if fixed else int(unit_interval(str(seed), "truth", pair) * count)
        for pair, count in people.select("pair_id", pl.min_horizontal("_n", 5)).unique().iter_rows()
    }
    held = pl.col("_place") == pl.col("pair_id").replace_strict(chosen, return_dtype=pl.Int64)
    truth = people.filter(held)
    others = people.filter(~held).with_columns(pl.lit("judge").alias("kind"))
    if by_place:
        others = others.with_columns(pl.format("place {}", pl.int_range(pl.len()).over("pair_id")).alias("voter"))
    others = others.with_columns(pl.col("voter").alias("voter_group"))
    human = truth.with_columns(pl.lit("human").alias("voter"), pl.lit("human").alias("voter_group"))
    columns = votes.columns
    judges = pl.concat([others.select(columns), first.filter(pl.col("kind") == "judge")])
    return Case(pairs, truth.select("pair_id", "label"), human.select(columns), judges)


def simulated(name: str, data_dir: Path, seed: int, draw: Callable[..., dict[str, Floats]]) -> Case:
    """Simulated voters on the pairs of a set with a strict majority.

    Args:
        draw: (truth (n,) of +1 a and -1 b, longer (n,) +1 where a is the longer, rng) to the votes of each voter:
            (n,) signs, from pairs shown in any order; or (n, 2) signs where a was shown first, and where b was;
            or other numbers (n,), the differences of two scores.
    """
    pairs, votes, majority = loaded(name, data_dir)
    known = majority.filter(pl.col("label").is_in(["a", "b"])).sort("pair_id")
    lengths = known.join(pairs, on="pair_id", how="left", maintain_order="left")
    truth = np.where(known["label"] == "a", 1.0, -1.0)
    longer = np.sign((lengths["length_a"].cast(pl.Int64) - lengths["length_b"].cast(pl.Int64)).to_numpy())
    rng = np.random.default_rng([seed, len(truth)])
    frames = []
    for voter, values in draw(truth, longer, rng).items():
        by_order = values[:, None] if values.ndim == 1 else values
        for order, signs in zip(("none",) if values.ndim == 1 else ("ab", "ba"), by_order.T, strict=True):
            is_score = not np.isin(signs, (-1.0, 0.0, 1.0)).all()
            frames.append(
                known.select(
                    pl.Series("vote_id", [hash_fields(p, voter, order) for p in known["pair_id"]]),
                    "pair_id",
                    pl.lit(voter).alias("voter"),
                    pl.lit(voter).alias("voter_group"),
                    pl.lit("judge").alias("kind"),
                    pl.lit(order).alias("order"),
                    pl.Series("label", np.where(signs > 0, "a", np.where(signs < 0, "b", "tie"))),
                    pl.Series("score_a", signs if is_score else [None] * len(signs), dtype=pl.Float64),
                    pl.lit(0.0 if is_score else None, dtype=pl.Float64).alias("score_b"),
                )
            )
    return Case(pairs, known, votes.filter(pl.col("kind") == "human"), vote_frame(pl.concat(frames)))


def _right(truth: Floats, accuracy: float, rng: np.random.Generator) -> Floats:
    return np.where(rng.random(len(truth)) < accuracy, truth, -truth)


def _honest(truth: Floats, rng: np.random.Generator, count: int, low: float, high: float) -> dict[str, Floats]:
    return {f"honest {i}": _right(truth, rng.uniform(low, high), rng) for i in range(count)}


def honest(truth: Floats, longer: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Five independent judges of accuracy .6 to .85."""
    return _honest(truth, rng, 5, 0.6, 0.85)


def biased(truth: Floats, longer: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Three of them, and three that choose the longer response in 80 to 95%."""
    side = np.where(longer == 0, truth, longer)
    return _honest(truth, rng, 3, 0.6, 0.85) | {
        f"longer {i}": _right(side, rng.uniform(0.8, 0.95), rng) for i in range(3)
    }


def by_position(truth: Floats, longer: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """A judge that is right in 76% although its order consistency is .51, and three steady ones of .58 to .7."""
    content = _right(truth, RIGHT_ELSE, rng)
    first = np.array([1.0, -1.0])  # what "the first response" means where a was shown first, and where b was
    both = np.where(rng.random((len(truth), 2)) < BY_POSITION, first, content[:, None])
    steady = {name: np.stack([v, v], axis=1) for name, v in _honest(truth, rng, 3, 0.58, 0.7).items()}
    return {"by position": both} | steady


def near_copies(truth: Floats, longer: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Three honest judges, and four near-copies of one more of accuracy .65, each with a name of its own."""
    copied = _right(truth, 0.65, rng)
    copies = {
        f"copy {i}": np.where(rng.random(len(truth)) < COPIED, copied, rng.choice([-1.0, 1.0], len(truth)))
        for i in range(4)
    }
    return _honest(truth, rng, 3, 0.65, 0.8) | copies


def scores(truth: Floats, longer: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Three judges that give scores, right in .6 to .8 and surer where they are right, and one that says a side."""
    spread = rng.uniform(0.25, 0.85, 3)
    scored = {f"score {i}": truth * d + rng.normal(size=len(truth)) for i, d in enumerate(spread)}
    return scored | _honest(truth, rng, 1, 0.6, 0.75)


CASES: dict[str, Callable[[Path, int], Case]] = {
    "llmbar, 123 voters": lambda folder, seed: judged("llmbar", folder, None, seed),
    "llmbar, 20 voters": lambda folder, seed: judged("llmbar", folder, 20, seed),
    "llmbar, 5 voters": lambda folder, seed: judged("llmbar", folder, 5, seed),
    "llmbar, one judge per family": lambda folder, seed: one_per_family("llmbar", folder, seed),
    "pandalm_test, 2 judges": lambda folder, seed: judged("pandalm_test", folder, None, seed),
    "pandalm_test, 2 people and 2 judges": lambda folder, seed: annotated("pandalm_test", folder, seed, by_place=False),
    "ukpconvarg1, 4 places of people": lambda folder, seed: annotated("ukpconvarg1", folder, seed, by_place=True),
    "wmt23_mqm_sxs_ende, 2 of 10 people": lambda folder, seed: annotated(
        "wmt23_mqm_sxs_ende", folder, seed, by_place=False
    ),
    "simulated: honest": lambda folder, seed: simulated("hh_harmless_test", folder, seed, honest),
    "simulated: length": lambda folder, seed: simulated("hh_harmless_test", folder, seed, biased),
    "simulated: position": lambda folder, seed: simulated("finegrained_qa_dev", folder, seed, by_position),
    "simulated: near-copies": lambda folder, seed: simulated("tarm_webgpt_hh", folder, seed, near_copies),
    "simulated: scores": lambda folder, seed: simulated("finegrained_qa_dev", folder, seed, scores),
}
