"""How many answers an accuracy costs, and whether it is reached, with real judges and real people.

    python -m tests.benchmarks.accuracy_target [--seeds 20]

Each run: the fuser `posterior` has the judges' votes alone; an audit is drawn and answered by two people; the threshold
of `transforms.stats.pac_labels` says which labels people give. Every pair keeps its most probable side (`doubtful:
flip`). "wrong" is the share of wrong labels in the end, those of people taken as right, and "kept" the share of runs in
which that is at most what the accuracy tolerates. The two columns after it count people's errors too, one answer per
pair that is asked: as the product has it, where an answer is a vote and all are fused again, and where the answer
would be the label. The truth is the people's majority (LLMBar: the authors' label).
"truth known" is how many would have to be asked, least certain first, by somebody who knows which labels are wrong.

    llmbar         20 of 123 judges, drawn per run; people are simulated, wrong in 0 % or 10 % of answers
    pandalm_test   two judges; two of the three people who annotated a pair answer
    ukpconvarg1    the first two people who annotated a pair are its judges, two others answer (3,000 pairs per run)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from schemas.tables import Votes, conform
from tests.benchmarks.quality.fusion import DATA
from tests.benchmarks.quality.fusion_cases import judged
from tests.benchmarks.quality.real_data import fuser_pairs, load
from transforms.plugins.registry import find
from transforms.routers.queue.config import QueueConfig
from transforms.stats.pac_labels import ASK_ALL, audited_labels, choose_threshold, count_labels

ACCURACIES = (0.8, 0.9, 0.95)


class Replay(NamedTuple):
    """Pairs with the fuser's labels, the truth, and people's answers to any of them.

    Attributes:
        votes: of the judges.
        pairs: as fusers take them.
        labels: `pair_id, label, certainty`.
        truth: `pair_id, truth`.
        answer: two people's answers to the pairs of given ids: `pair_id, answer, at`.
    """

    votes: pl.DataFrame
    pairs: pl.DataFrame
    labels: pl.DataFrame
    truth: pl.DataFrame
    answer: Callable[[pl.Series], pl.DataFrame]


def fused(votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """Labels by judges alone."""
    cls = find("fusers", "posterior")
    fuser = cls("posterior", cls.Config(), 0)
    verdicts = fuser.apply(fuser.fit(votes, pairs), votes, pairs)
    return verdicts.select(
        "pair_id", "certainty", pl.when(pl.col("p_a") >= 0.5).then(pl.lit("a")).otherwise(pl.lit("b")).alias("label")
    )


def llmbar(seed: int, error: float) -> Replay:
    """Recorded judges, simulated people."""
    case, rng = judged("llmbar", DATA, 20, seed), np.random.default_rng([seed, 9])
    truth = case.truth.select("pair_id", truth="label")

    def answer(ids: pl.Series) -> pl.DataFrame:
        shown = pl.concat([truth.filter(pl.col("pair_id").is_in(ids.implode()))] * 2).sort("pair_id")
        wrong = pl.Series(rng.random(len(shown)) < error)
        other = pl.when(pl.col("truth") == "a").then(pl.lit("b")).otherwise(pl.lit("a"))
        said = shown.with_columns(answer=pl.when(wrong).then(other).otherwise("truth"))
        return said.select("pair_id", "answer", at=pl.int_range(pl.len()).cast(pl.String))

    labels = fused(case.judges, case.pairs).join(truth.select("pair_id"), on="pair_id")
    return Replay(case.judges, case.pairs, labels, truth, answer)


@cache
def _people(name: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    pairs, votes, majority = load(name, DATA)
    human = votes.filter(pl.col("kind") == "human").sort("pair_id", "voter", "vote_id")
    return (
        fuser_pairs(pairs),
        votes,
        human.with_columns(_place=pl.int_range(pl.len()).over("pair_id")).join(
            majority.filter(pl.col("label").is_in(["a", "b"])).select("pair_id", truth="label"), on="pair_id"
        ),
    )


def people(name: str, seed: int, judging: int, n: int | None) -> Replay:
    """Recorded people: the first `judging` of a pair are judges, if any; two of the others answer."""
    pairs, votes, human = _people(name)
    rng = np.random.default_rng([seed, judging])
    ids = human["pair_id"].unique().sort()
    some = ids if n is None else ids.gather(np.sort(rng.permutation(len(ids))[:n]))
    human, pairs = (
        human.filter(pl.col("pair_id").is_in(some.implode())),
        pairs.filter(pl.col("pair_id").is_in(some.implode())),
    )
    truth = human.select("pair_id", "truth").unique("pair_id").sort("pair_id")
    if judging:
        votes = human.filter(pl.col("_place") < judging).with_columns(
            kind=pl.lit("judge"), voter=pl.format("person {}", "_place"), voter_group=pl.format("person {}", "_place")
        )
    else:
        votes = votes.filter((pl.col("kind") == "judge") & (pl.col("sample") == 0))
        votes = votes.join(truth, on="pair_id", how="semi")

    def answer(ids: pl.Series) -> pl.DataFrame:
        rest = human.filter(pl.col("pair_id").is_in(ids.implode()) & (pl.col("_place") >= judging))
        rest = rest.with_columns(at=pl.Series([f"{u:.9f}" for u in rng.random(len(rest))]))
        return rest.sort("at").group_by("pair_id").head(2).select("pair_id", "at", answer="label")

    votes = votes.drop("truth", "_place", strict=False)
    return Replay(votes, pairs, fused(votes, pairs), truth, answer)


CASES: dict[str, Callable[[int], Replay]] = {
    "llmbar, people always right": lambda seed: llmbar(seed, 0.0),
    "llmbar, 10 % of answers wrong": lambda seed: llmbar(seed, 0.1),
    "pandalm_test": lambda seed: people("pandalm_test", seed, 0, None),
    "ukpconvarg1": lambda seed: people("ukpconvarg1", seed, 2, 3_000),
}


def run(replay: Replay, accuracy: float, seed: int) -> dict[str, Any]:
    """One audit, one threshold, and what became of the labels."""
    config = QueueConfig(accuracy=accuracy).sized(len(replay.labels))
    rng = np.random.default_rng([seed, round(1000 * accuracy)])
    labels = replay.labels.sort("pair_id").with_columns(stays=pl.lit(True), always=pl.lit(False))
    drawn: NDArray[np.int64] = rng.permutation(len(labels))[: config.audit_pairs]
    answers = replay.answer(labels["pair_id"].gather(np.sort(drawn)))
    audit = audited_labels(labels, answers)
    chosen = choose_threshold(audit, count_labels(labels, audit), 1 - accuracy)
    stays = (pl.col("certainty") >= chosen.certainty) if chosen.certainty < ASK_ALL else pl.lit(False)
    wrong = labels.filter(stays).join(replay.truth, on="pair_id").filter(pl.col("label") != pl.col("truth")).height
    asked = replay.answer(labels.filter(~stays)["pair_id"]).sort("pair_id", "at").unique("pair_id", keep="first")
    mistaken = asked.join(replay.truth, on="pair_id").filter(pl.col("answer") != pl.col("truth")).height
    again = fused(pl.concat([conform(replay.votes, Votes), human_votes(asked)]), replay.pairs)
    outvoted = again.join(replay.truth, on="pair_id").filter(pl.col("label") != pl.col("truth")).height
    return {
        "before": labels.join(replay.truth, on="pair_id").select((pl.col("label") != pl.col("truth")).mean()).item(),
        "wrong": wrong / len(labels),
        "fused": outvoted / len(labels),
        "final": (wrong + mistaken) / len(labels),
        "kept": wrong <= (1 - accuracy) * len(labels),
        "asked": chosen.asked / len(labels),
        "pairs": len(labels),
        "audited": config.audit_pairs,
        "ideal": 1 - _can_stay(labels.join(replay.truth, on="pair_id"), 1 - accuracy) / len(labels),
    }


def human_votes(answers: pl.DataFrame) -> pl.DataFrame:
    """One person's votes."""
    constant = {"voter": "human:p", "voter_group": "human", "kind": "human", "order": "none"}
    numbers = {"sample": 0, "tokens_in": 0, "tokens_out": 0, "ms": 0.0}
    columns = [pl.lit(value).alias(name) for name, value in {**constant, **numbers}.items()]
    return conform(answers.select("pair_id", vote_id="pair_id", label="answer").with_columns(columns), Votes)


def _can_stay(labels: pl.DataFrame, max_error: float) -> int:
    """How many labels, most certain first, could stay if the truth were known."""
    ranked = labels.sort("certainty", "pair_id", descending=[True, False])
    wrong = ranked.select((pl.col("label") != pl.col("truth")).cum_sum()).to_series()
    return int((wrong <= max_error * len(labels)).sum())


def main() -> int:
    """Print the table; 1 if an accuracy is missed in more than a tenth of a row's runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    missed = False
    names = (
        "data",
        "pairs",
        "wrong before",
        "accuracy",
        "audited pairs",
        "asked",
        "asked, truth known",
        "wrong",
        "kept",
        "wrong, answers are votes",
        "wrong, answers are labels",
    )
    print("|", " | ".join(names), "|")
    print("|---" * len(names) + "|")
    for name, make in CASES.items():
        with threadpool_limits(limits=1, user_api="blas"):
            replays = [make(seed) for seed in range(seeds)]
        for accuracy in ACCURACIES:
            runs = [run(replay, accuracy, seed) for seed, replay in enumerate(replays)]
            mean = {key: float(np.mean([r[key] for r in runs])) for key in runs[0]}
            missed |= mean["kept"] < 0.9
            cells = (name, f"{mean['pairs']:,.0f}", f"{mean['before']:.1%}", f"{accuracy}", f"{mean['audited']:.0f}")
            print("|", " | ".join(cells), end=" | ")
            print(f"{mean['asked']:.0%} | {mean['ideal']:.0%} | {mean['wrong']:.1%}", end=" | ")
            print(f"{mean['kept']:.0%} | {mean['fused']:.1%} | {mean['final']:.1%} |", flush=True)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
