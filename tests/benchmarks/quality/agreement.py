"""Table 7: error rates without labels, and dependence between voters.

"Rates": 0, 10, 20, 30 and 40% of the human-majority labels are flipped and become the source; no person's answer is
shown. "printed" is the share of runs with an interval, "covers" the share of those that hold the true share of
wrong labels, "width" their mean width. Voters are simulated on the real pairs (their prompts and lengths):
    fixed         accuracy .65, .75, .85, independent
    drawn         three accuracies drawn from [.6, .9], independent
    five          five accuracies drawn from [.6, .9], independent
    difficulty    log-odds of being right times exp(.5 z), z one normal number per pair for all voters
    coin pairs    on 20% of the pairs, the same for all voters, a voter guesses
    one voter, two voters, coin voters   nothing may be printed
or real: people who annotated the set (whose majority is the truth), and language models as judges.

"Dependence", by the fuser `posterior` without a label: honest judges of accuracy .7 to .8 and as many that choose the
longer response with probability .9 to 1; "longer is better": the same where the longer response is the better one in
80%; "near-copies": as many near-copies (95% of votes) of one more honest judge of .7. "majority" is that of all voters.
"Decisions", by fuser and policy: three honest judges of accuracy .7 to .9 and a source with flipped labels.

Run: python -m tests.benchmarks.quality.agreement [--quick] [--seeds 5] [--data DIR] [--cases fixed drawn ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit, logit
from threadpoolctl import threadpool_limits

from tests.benchmarks.quality.fusion import DATA, interval
from tests.benchmarks.quality.real_data import NAMES, fuser_pairs, load
from transforms.fusers.posterior.design import length_feature
from transforms.plugins.registry import find
from transforms.publish.rows import PUBLISHED
from transforms.stats.agreement.learn import learn_agreement, truth_log_odds
from transforms.stats.calibration import expected_calibration_error
from transforms.stats.label_noise import source_noise
from transforms.stats.vote_cells import assign_slots, cells_of, describe_voters, opinionated, valid_votes

Floats = NDArray[np.float64]
RATES = (0.0, 0.1, 0.2, 0.3, 0.4)
INDEPENDENT = ("fixed", "drawn", "five")
UNEQUAL = ("difficulty", "coin pairs")
NONE = ("one voter", "two voters", "coin voters")
REAL = {
    "annotators": ("ukpconvarg1", "pandalm_test", "wmt23_mqm_sxs_ende"),
    "judges": ("llmbar", "pandalm_test"),
    "judges by model": ("llmbar",),
}


@dataclass(frozen=True)
class Set:
    """Pairs with a strict human majority: `pair_id, prompt_id, log_ratio`, the truth (+1 a) and all votes."""

    pairs: pl.DataFrame
    truth: Floats
    votes: pl.DataFrame


@cache
def read(name: str, data_dir: Path) -> Set:
    """One data set."""
    pairs, votes, majority = load(name, data_dir)
    frame = fuser_pairs(pairs).join(majority.filter(pl.col("label").is_in(["a", "b"])), on="pair_id").sort("pair_id")
    return Set(
        frame.select("pair_id", "prompt_id", length_feature().alias("log_ratio")),
        np.where(frame["label"] == "a", 1.0, -1.0),
        votes.join(frame.select("pair_id"), on="pair_id", how="semi"),
    )


def simulated_cells(pairs: pl.DataFrame, votes: dict[str, Floats]) -> pl.DataFrame:
    """Cells of voters given as signs by pair; 0 is no vote."""
    return pl.concat(
        pairs.select("pair_id", pl.lit(name).alias("voter"), pl.Series("opinion", sign)) for name, sign in votes.items()
    ).with_columns(pl.col("voter").alias("slot"), pl.col("voter").alias("group"))


def planted(truth: Floats, rate: float, rng: np.random.Generator) -> Floats:
    """The truth with exactly round(rate n) labels flipped."""
    flipped = rng.permutation(len(truth))[: round(rate * len(truth))]
    label = truth.copy()
    label[flipped] *= -1
    return label


def voters(case: str, truth: Floats, rng: np.random.Generator) -> dict[str, Floats]:
    """Simulated votes of one case."""
    n = len(truth)
    count = {"one voter": 1, "two voters": 2, "five": 5}.get(case, 3)
    accuracy = np.array([0.65, 0.75, 0.85]) if case == "fixed" else rng.uniform(0.6, 0.9, count)
    if case == "coin voters":
        accuracy = np.full(3, 0.5)
    right = np.tile(accuracy[:, None], n)
    if case == "difficulty":
        right = expit(logit(accuracy)[:, None] * np.exp(0.5 * rng.normal(size=n)))
    if case == "coin pairs":
        right = np.where(rng.random(n) < 0.2, 0.5, right)
    return {f"judge {v}": np.where(rng.random(n) < right[v], truth, -truth) for v in range(len(accuracy))}


def real_cells(data: Set, case: str) -> tuple[pl.DataFrame, dict[str, str]]:
    """Cells of the real voters of a set, and their kinds."""
    if case == "annotators":
        people = data.votes.filter(pl.col("kind") == "human").sort("pair_id", "voter", "vote_id")
        place = pl.int_range(pl.len()).over("pair_id")
        if people["voter"].n_unique() > 20:  # a crowd: who answered first, second, ... of the names in order
            people = people.with_columns(("annotator " + place.cast(pl.String)).alias("voter")).filter(place < 5)
        people = people.with_columns(pl.lit("judge").alias("kind"), pl.col("voter").alias("voter_group"))
        votes = valid_votes(people)
    else:
        votes = valid_votes(data.votes.filter((pl.col("kind") == "judge") & (pl.col("sample") == 0)))
        if case == "judges by model":
            votes = votes.filter(pl.col("voter").str.contains("anilla"))
    known = opinionated(assign_slots(votes, describe_voters(votes)))
    return cells_of(votes, known), dict(known.select("voter", "kind").iter_rows())


def rate_run(name: str, data_dir: Path, case: str, rate: float, seed: int) -> dict[str, Any]:
    """One run of the first table."""
    with threadpool_limits(limits=1, user_api="blas"):
        data = read(name, data_dir)
        rng = np.random.default_rng([seed, round(100 * rate), len(data.truth)])
        source = planted(data.truth, rate, rng)
        own = simulated_cells(data.pairs, {"source": source})
        if case in REAL:
            cells, kinds = real_cells(data, case)
        else:
            votes = voters(case, data.truth, rng)
            cells, kinds = simulated_cells(data.pairs, votes), dict.fromkeys(votes, "judge")
        cells = pl.concat([cells.select(own.columns), own])
        model = learn_agreement(cells, data.pairs, kinds | {"source": "source"})
        z = _odds(model, cells, data.pairs)
        found = model.rate
        wrong = float((source != data.truth).mean())
        return {
            "set": name,
            "case": case,
            "rate": rate,
            "seed": seed,
            "printed": found is not None,
            "covers": found is not None and found.low - 1e-9 <= wrong <= found.high + 1e-9,
            "width": found.high - found.low if found else np.nan,
            "estimate": found.rate if found else np.nan,
            "low": found.low if found else np.nan,
            "high": found.high if found else np.nan,
            "ece": expected_calibration_error(expit(z), (data.truth > 0).astype(np.float64)),
            "certainty": float(expit(np.abs(z)).mean()),
            "accuracy": _accuracy(z, data.truth),
            "why": model.unknown,
        }


def _odds(model: Any, cells: pl.DataFrame, pairs: pl.DataFrame) -> Floats:
    z = truth_log_odds(model, cells, pairs)
    return np.asarray(pairs.join(z, on="pair_id", how="left", maintain_order="left")["z"].to_numpy())


def _accuracy(z: Floats, truth: Floats) -> float:
    return float(np.where(z == 0, 0.5, z * truth > 0).mean())


def fused(pairs: pl.DataFrame, votes: dict[str, Floats], kinds: dict[str, str]) -> tuple[Any, pl.DataFrame]:
    """The fuser's model and its verdicts in the order of `pairs`, from votes given as signs by pair (0: a tie)."""
    label = {1.0: "a", -1.0: "b", 0.0: "tie"}
    rows = pl.concat(
        pairs.select(
            "pair_id", pl.lit(name).alias("voter"), pl.lit(kinds.get(name, "judge")).alias("kind")
        ).with_columns(
            pl.Series("label", [label[float(s)] for s in sign]),
            pl.lit(name).alias("voter_group"),
        )
        for name, sign in votes.items()
    )
    unused = {name: pl.lit(None, dtype=pl.Float64) for name in ("p_a", "score_a", "score_b")}
    rows = rows.with_columns(order=pl.lit("none"), sample=pl.lit(0, dtype=pl.Int32), **unused)
    longer = (1000 * pl.col("log_ratio").exp()).cast(pl.Int64)
    frame = pairs.with_columns(kind=pl.lit(None, dtype=pl.String), length_a=longer, length_b=pl.lit(1000))
    fuser = find("fusers", "posterior")
    built = fuser("posterior", fuser.Config(), 0)
    model = built.fit(rows, frame)
    verdicts = built.apply(model, rows, frame)
    return model, pairs.select("pair_id").join(verdicts, on="pair_id", how="left", maintain_order="left")


def _named(model: Any) -> set[str]:
    """Voters that the model warns of."""
    agreement = model["agreement"]
    return {*agreement["shortcuts"], *(name for bloc in agreement["blocs"] for name in bloc)}


def dependence_run(name: str, data_dir: Path, case: str, n_honest: int, seed: int) -> dict[str, Any]:
    """One run of the second table."""
    with threadpool_limits(limits=1, user_api="blas"):
        data = read(name, data_dir)
        rng = np.random.default_rng([seed, n_honest, len(data.truth)])
        ratio = data.pairs["log_ratio"].to_numpy()
        longer = np.where(ratio == 0, rng.choice([-1.0, 1.0], len(ratio)), np.sign(ratio))
        truth = data.truth
        if case == "longer is better":
            truth = np.where(rng.random(len(longer)) < 0.8, longer, -longer)
        n = len(truth)
        accuracy = rng.uniform(0.7, 0.8, n_honest)
        votes = {f"honest {v}": np.where(rng.random(n) < p, truth, -truth) for v, p in enumerate(accuracy)}
        biased = {}
        if case == "near-copies":
            base = np.where(rng.random(n) < 0.7, truth, -truth)
            biased = {f"copy {v}": np.where(rng.random(n) < 0.95, base, -base) for v in range(n_honest)}
        else:
            follow = rng.uniform(0.9, 1.0, n_honest)
            biased = {f"longer {v}": np.where(rng.random(n) < p, longer, -longer) for v, p in enumerate(follow)}
        # An oracle with the true weights: honest votes, and what length says where people prefer the longer.
        best = np.sum([logit(p) * v for p, v in zip(accuracy, votes.values(), strict=True)], axis=0)
        best = best + logit(0.8) * longer if case == "longer is better" else best
        everyone = votes | biased
        if case == "near-copies":
            best = best + logit(0.7) * np.mean(list(biased.values()), axis=0)
        model, verdicts = fused(data.pairs, everyone, {})
        z = verdicts["margin"].to_numpy()
        return {
            "set": name,
            "case": case,
            "honest": n_honest,
            "accuracy": _accuracy(z, truth),
            "mean honest": float(np.mean([_accuracy(v, truth) for v in votes.values()])),
            "majority": _accuracy(np.sum(list(everyone.values()), axis=0), truth),
            "oracle": _accuracy(best, truth),
            "certainty": float(expit(np.abs(z)).mean()),
            "identified": model["calibrated_by"] == "agreement",
            "named": set(biased) <= _named(model),
            "accused": len(set(votes) & _named(model)),
        }


def repeats_run(seed: int, n: int = 600) -> dict[str, Any]:
    """The votes of cases/decisions/contradicting_repeats.py: ten judges, a source 20% wrong and the longer response."""
    rng = np.random.default_rng([seed, 77])
    truth = rng.choice([-1.0, 1.0], n)
    votes = {f"j{k}": np.where(rng.random(n) < p, truth, -truth) for k, p in enumerate(np.linspace(0.6, 0.85, 10))}
    # Twelve rows are there twice and their judges' votes contradict each other: no opinion.
    repeated = np.arange(n) % 50 == 1
    for vote in votes.values():
        vote[repeated] = np.where(rng.random(repeated.sum()) < 0.5, 0.0, vote[repeated])
    source = np.where(rng.random(n) < 0.8, truth, -truth)
    ratio = rng.normal(0.0, 0.7, n)
    ids = [f"{i:016x}" for i in range(n)]
    pairs = pl.DataFrame({"pair_id": ids, "prompt_id": ids, "log_ratio": ratio})
    everyone = votes | {"source": source, "length": np.sign(ratio)}
    _, verdicts = fused(pairs, everyone, {"source": "source", "length": "rule"})
    z = verdicts["margin"].to_numpy()
    return {"right": _accuracy(z, truth), "certainty": float(expit(np.abs(z)).mean())}


def decisions_run(name: str, data_dir: Path, rate: float, seed: int) -> dict[str, Any]:
    """Three honest judges and a source with `rate` of its labels flipped: what the policy `posterior` publishes."""
    with threadpool_limits(limits=1, user_api="blas"):
        data = read(name, data_dir)
        rng = np.random.default_rng([seed, round(100 * rate), len(data.truth), 5])
        source = planted(data.truth, rate, rng)
        n = len(source)
        accuracy = rng.uniform(0.7, 0.9, 3)
        judges = {f"judge {v}": np.where(rng.random(n) < p, data.truth, -data.truth) for v, p in enumerate(accuracy)}
        _, verdicts = fused(data.pairs, judges | {"source": source}, {"source": "source"})
        label = pl.DataFrame({"pair_id": data.pairs["pair_id"], "source_label": np.where(source > 0, "a", "b")})
        frame = verdicts.join(label, on="pair_id", how="left", maintain_order="left").with_columns(
            source_noise().alias("noise")
        )
        policy = find("policies", "posterior")
        decided = policy("posterior", policy.Config(), 0).decide({}, frame)
        published = decided["action"].is_in(PUBLISHED).to_numpy()
        chosen = np.where(decided["label"] == "a", 1.0, -1.0)
        wrong = source != data.truth
        return {
            "set": name,
            "rate": rate,
            "published": float(published.mean()),
            "wrong labels published": float((published & wrong & (chosen == source))[wrong].mean())
            if wrong.any()
            else 0.0,
            "before": float(1 - wrong.mean()),
            "after": float((chosen == data.truth)[published].mean()),
            "expected": float((0.5 + np.abs(decided["p_a"].to_numpy()[published] - 0.5)).mean()),
        }


def _decisions(rows: list[dict[str, Any]]) -> list[str]:
    missed = []
    for rate in sorted({row["rate"] for row in rows}):
        runs = [row for row in rows if row["rate"] == rate]
        shown = {name: interval([run[name] for run in runs]) for name in runs[0] if name not in ("set", "rate")}
        print(
            f"{rate:>6.0%} flipped: " + ", ".join(f"{name} {m:.3f} ±{r:.3f}" for name, (m, r) in shown.items()),
            flush=True,
        )
        if rate == 0:
            missed += _bar("clean labels: published", shown["published"][0], 0.9)
        if rate == 0.2:
            missed += _bar("20% flipped: 1 - wrong labels published", 1 - shown["wrong labels published"][0], 0.75)
    return missed


def summary(rows: Sequence[dict[str, Any]], keys: tuple[str, ...]) -> None:
    """Print runs by `keys`: shares over runs, and means with their 95% interval over runs."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    for key, runs in groups.items():
        printed = [run for run in runs if run["printed"]]
        covers = np.mean([run["covers"] for run in printed]) if printed else np.nan
        low, high = _wilson(sum(run["covers"] for run in printed), len(printed))
        width = np.mean([run["width"] for run in printed]) if printed else np.nan
        name = ", ".join(f"{part:.0%}" if isinstance(part, float) else str(part) for part in key)
        ece, reach = interval([run["ece"] for run in runs])
        gap = np.mean([run["certainty"] - run["accuracy"] for run in runs])
        print(
            f"{name:>40}: {len(runs):>4} runs, printed {len(printed) / len(runs):>4.0%}, covers {covers:>4.0%} "
            f"({low:.0%}-{high:.0%}), width {width:.3f}; ECE {ece:.3f} ±{reach:.3f}, certainty - accuracy {gap:+.3f}",
            flush=True,
        )


def _wilson(k: int, n: int) -> tuple[float, float]:
    if not n:
        return np.nan, np.nan
    p, z2 = k / n, 1.96**2
    reach = np.sqrt(z2 * (p * (1 - p) / n + z2 / 4 / n**2))
    return (p + z2 / 2 / n - reach) / (1 + z2 / n), (p + z2 / 2 / n + reach) / (1 + z2 / n)


def _gather(pool: ProcessPoolExecutor, run: Callable[..., dict[str, Any]], tasks: list[tuple[Any, ...]]) -> list[Any]:
    return [future.result() for future in [pool.submit(run, *task) for task in tasks]]


def main(argv: list[str] | None = None) -> int:
    """Command line; exit 1 when a bar is missed."""
    cases = (*INDEPENDENT, *UNEQUAL, *NONE, *REAL, "dependence", "repeats", "decisions")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small sets and two seeds")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(cases), choices=cases)
    parser.add_argument("--sets", nargs="+", default=list(NAMES))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every run as JSON lines")
    args = parser.parse_args(argv)
    sets, seeds = (["pandalm_test", "tarm_webgpt_hh"], 2) if args.quick else (args.sets, args.seeds)
    missed, everything = [], []
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        print("\nTable 7: error rates of the source from agreement alone")
        for case in [c for c in args.cases if c not in ("dependence", "repeats", "decisions")]:
            started = time.perf_counter()
            used = [s for s in REAL.get(case, sets) if s in sets]
            tasks = [(s, args.data, case, rate, seed) for s in used for rate in RATES for seed in range(seeds)]
            rows = _gather(pool, rate_run, tasks)
            everything += rows
            summary(rows, ("case",))
            summary(rows, ("case", "rate"))
            summary(rows, ("case", "set"))
            reasons = pl.Series([row["why"] for row in rows if not row["printed"]], dtype=pl.String).value_counts()
            print(*(f"{'':>8}not printed, {n}: {why}" for why, n in reasons.iter_rows()), sep="\n")
            print(f"{'':>8}{time.perf_counter() - started:.0f} s", flush=True)
            printed = [row for row in rows if row["printed"]]
            if case in INDEPENDENT:
                missed += _bar(f"{case}: printed", len(printed) / len(rows), 0.8)
                missed += _bar(f"{case}: covers", float(np.mean([r["covers"] for r in printed])), 0.9)
            elif case in NONE:
                missed += _bar(f"{case}: none printed", 1 - len(printed) / max(len(rows), 1), 1.0)
        if "dependence" in args.cases:
            print("\nDependence: accuracy without labels")
            for case in ("longer judges", "longer is better", "near-copies"):
                counts = (3, 5)
                tasks = [(s, args.data, case, n, seed) for s in sets for n in counts for seed in range(seeds)]
                rows = _gather(pool, dependence_run, tasks)
                everything += rows
                missed += _dependence(case, rows)
        if "decisions" in args.cases:
            print("\nDecisions: three honest judges, no people")
            tasks = [(s, args.data, rate, seed) for s in sets for rate in RATES for seed in range(seeds)]
            missed += _decisions(_gather(pool, decisions_run, tasks))
        if "repeats" in args.cases:
            rows = _gather(pool, repeats_run, [(seed,) for seed in range(seeds)])
            right, reach = interval([row["right"] for row in rows])
            print(f"\nContradicting repeats: right {right:.3f} ±{reach:.3f}, certainty {rows[0]['certainty']:.3f}")
            missed += _bar("contradicting repeats: right", right, 0.95)
    if args.out:
        pl.DataFrame(everything, infer_schema_length=None).write_ndjson(args.out)
    return 0 if args.quick or not missed else 1


def _dependence(case: str, rows: list[dict[str, Any]]) -> list[str]:
    for key in sorted({(row["set"], row["honest"]) for row in rows}):
        runs = [row for row in rows if (row["set"], row["honest"]) == key]
        cells = [
            f"{name} {interval([r[name] for r in runs])[0]:.3f} ±{interval([r[name] for r in runs])[1]:.3f}"
            for name in ("accuracy", "mean honest", "majority", "oracle", "certainty")
        ]
        named = np.mean([r["named"] for r in runs])
        print(
            f"{case:>18} {key[0]:>20} x{key[1]}: {', '.join(cells)}, named {named:.0%}, "
            f"identified {np.mean([r['identified'] for r in runs]):.0%}, "
            f"honest accused {np.mean([r['accused'] for r in runs]):.1f}",
            flush=True,
        )
    if case == "longer is better":
        loss = float(np.mean([r["accuracy"] - r["majority"] for r in rows]))
        return _bar(f"{case}: mean accuracy less that of the majority", loss, -0.01)
    kept = [
        r["accuracy"] >= r["mean honest"] - 0.02 or (r["named"] and r["certainty"] <= r["accuracy"] + 0.05)
        for r in rows
    ]
    return _bar(f"{case}: as good as the mean honest judge, or named", float(np.mean(kept)), 1.0)


def _bar(what: str, value: float, limit: float) -> list[str]:
    met = value >= limit
    print(f"- {'met' if met else 'MISSED'}: {what} = {value:.3f} (bar {limit})", flush=True)
    return [] if met else [what]


if __name__ == "__main__":
    sys.exit(main())
