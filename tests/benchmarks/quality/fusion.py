"""Fusion on real verdicts with human labels: accuracy, calibration, cost and agreement by slice.

Three tables; every figure of table 2 is a mean over seeds with a 95% interval (Student's t over seeds). Each seed deals
the prompts into five folds; a fold is tested with models that saw humans' labels of other prompts only (all
judges' votes are known to every method: they need no human). Accuracy counts an undecided pair as half right
and is over the pairs whose strict human majority is a or b.

Run: python -m tests.benchmarks.quality.fusion [--quick] [--data DIR] [--out FILE] [--tables 2,4,5]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t as student
from threadpoolctl import threadpool_limits

from schemas.ids import hash_fields
from tests.benchmarks.quality.fusion_cases import CASES, FOLDS, Case, judged
from transforms.fusers.posterior.agreement import agreement_of
from transforms.plugins.registry import find
from transforms.stats.agreement.learn import Agreement
from transforms.stats.calibration import expected_calibration_error

Floats = NDArray[np.float64]
Rows = NDArray[np.bool_]
ROOT = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("PREFINE_SHARED_DATA", ROOT.parent / "shared" / "data"))
BUDGETS = (0, 20, 50, 200)
FLOOR_DRAWS = 200
OURS, MEAN, WORST = "ours", "mean over sets", "worst set"


def accuracy(z: Floats, y: Rows) -> float:
    """Share of right signs; a zero is half right."""
    return float(np.where(z == 0, 0.5, (z > 0) == y).mean())


def fused(name: str, case: Case, labelled: NDArray[np.int64]) -> Floats:
    """Log-odds of every pair of `case` by fuser `name`, given the humans' votes on the pairs `labelled`."""
    plugin = find("fusers", name)
    fuser = plugin(name, plugin.Config(), 0)
    shown = pl.DataFrame({"pair_id": [case.ids[i] for i in labelled]}, schema={"pair_id": pl.String})
    votes = pl.concat([case.judges, case.human.join(shown, on="pair_id", how="semi")])
    model = fuser.fit(votes, case.pairs)
    verdicts = fuser.apply(model, case.judges, case.pairs.filter(pl.col("pair_id").is_in(case.ids)))
    z = dict(zip(verdicts["pair_id"], verdicts["margin"], strict=True))
    return np.array([z[p] for p in case.ids])


def single_judge(case: Case, labelled: NDArray[np.int64]) -> Floats:
    """Votes of the judge most often right on the labelled pairs, a missing or tied vote being half right."""
    side = np.where(case.y[labelled], 1.0, -1.0)
    return np.asarray(case.matrix[:, int(np.argmax(case.matrix[labelled].T @ side))])


METHODS: dict[str, Callable[[Case, NDArray[np.int64]], Floats]] = {
    OURS: lambda case, labelled: fused("posterior", case, labelled),
    "best judge": single_judge,
    "majority": lambda case, labelled: fused("majority", case, labelled[:0]),
    "Dawid-Skene": lambda case, labelled: fused("dawid_skene", case, labelled),
    "stack": lambda case, labelled: fused("stack", case, labelled),
}


class Score(NamedTuple):
    """Of the held-out pairs: accuracy, ECE, and the ECE of a perfect forecaster that gives the same probabilities."""

    accuracy: float
    ece: float
    floor: float


Scores = dict[tuple[str, int], Score]  # by method and budget


def perfect_forecaster_error(p_a: Floats, draws: int = FLOOR_DRAWS) -> float:
    """Mean ECE of forecasts (n,) whose outcomes are drawn from themselves: what n pairs show of perfect calibration."""
    rng = np.random.default_rng(0)
    outcomes = (rng.random((draws, len(p_a))) < p_a).astype(np.float64)
    return float(np.mean([expected_calibration_error(p_a, y) for y in outcomes]))


def evaluate(case: Case, seed: int, budgets: tuple[int, ...], methods: tuple[str, ...]) -> Scores:
    """Scores over all folds of one seed; budget -1: every label of the other folds."""
    fold = case.folds(seed)
    held: dict[tuple[str, int], Floats] = defaultdict(lambda: np.zeros(len(case.ids)))
    for f in range(FOLDS):
        test, train = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
        for budget in budgets:
            labelled = case.labelled(seed, f, train, budget if budget >= 0 else len(train))
            for method in methods:
                if method == "best judge" and not len(labelled):
                    continue
                if method != "majority" and len(labelled):
                    held[method, budget][test] = METHODS[method](case, labelled)[test]
                elif f == 0 and (method != "majority" or budget == budgets[0]):
                    held[method, budget] = METHODS[method](case, labelled)  # without labels no fold differs
    scores: Scores = {}
    y = case.y.astype(float)
    for (method, budget), z in held.items():
        p = expit(z)
        floor = perfect_forecaster_error(p) if method == OURS else float("nan")
        scores[method, budget] = Score(accuracy(z, case.y), expected_calibration_error(p, y), floor)
    if "best judge" in methods and 0 in budgets:
        # With nothing to choose by, the judge is any judge.
        any_judge = float(np.mean([accuracy(case.matrix[:, j], case.y) for j in range(case.matrix.shape[1])]))
        scores["best judge", 0] = Score(any_judge, float("nan"), float("nan"))
    if "majority" in methods:
        for budget in budgets:
            scores["majority", budget] = scores["majority", budgets[0]]
    return scores


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of Student's 95% interval over seeds."""
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    reach = float(student.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), reach


@contextmanager
def agreement_learned_once() -> Iterator[None]:
    """The fuser's `agreement_of` without repetition: it sees votes and pairs of a case, never a label."""
    known: list[Agreement] = []

    def once(*args: pl.DataFrame) -> Agreement:
        if not known:
            known.append(agreement_of(*args))
        return known[0]

    with patch("transforms.fusers.posterior.fit.agreement_of", once):
        yield


def _scores(name: str, data_dir: Path, seed: int, cache: Path | None) -> Scores:
    """`evaluate` of one case and seed, with the stack on all labels of the other folds."""
    file = cache / f"{hash_fields(name, str(seed))}.json" if cache else None
    with threadpool_limits(limits=1, user_api="blas"), agreement_learned_once():
        case = CASES[name](data_dir, seed)
        ours = evaluate(case, seed, (*BUDGETS, -1), (OURS,))
        if file and file.exists():
            return ours | {(m, b): Score(*values) for m, b, values in json.loads(file.read_text())}
        others = tuple(method for method in METHODS if method != OURS)
        found = evaluate(case, seed, BUDGETS, others) | evaluate(case, seed, (-1,), ("stack",))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([(m, b, score) for (m, b), score in found.items()]))
    return ours | found


def table_2(
    data_dir: Path, seeds: int, quick: bool = False, workers: int = 1, cache: Path | None = None
) -> dict[str, Any]:
    """Accuracy and ECE by budget of human labels, and the bars."""
    names = ["pandalm_test, 2 judges"] if quick else list(CASES)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        tasks = {name: [pool.submit(_scores, name, data_dir, s, cache) for s in range(seeds)] for name in names}
    found = {name: _by_method([future.result() for future in futures]) for name, futures in tasks.items()}
    rows = [
        {
            "data": name,
            "labels": "80%" if budget < 0 else budget,
            "method": method,
            "accuracy": interval([score.accuracy for score in scores]),
            "ece": interval([score.ece for score in scores]),
            "floor": (float(np.mean([score.floor for score in scores])), float("nan")),
        }
        for name, by_method in found.items()
        for (method, budget), scores in sorted(by_method.items(), key=lambda item: (item[0][1] % 10**6, item[0][0]))
    ]
    return {"title": "2. Fusion against the human majority", "rows": rows, "bars": _bars(found)}


def _by_method(by_seed: list[Scores]) -> dict[tuple[str, int], list[Score]]:
    return {key: [scores[key] for scores in by_seed] for key in by_seed[0]}


def _bars(found: dict[str, dict[tuple[str, int], list[Score]]]) -> list[dict[str, Any]]:
    """The acceptance of few labels: of the mean over sets, and of the worst set, whose name is shown."""

    def mean(name: str, method: str, budget: int) -> float:
        return float(np.mean([score.accuracy for score in found[name][method, budget]]))

    def least(what: str, by_set: dict[str, float], over_sets: float | None, on_each: float) -> list[dict[str, Any]]:
        worst = min(by_set, key=lambda name: by_set[name])
        bars = [_bar(f"{WORST} ({worst})", what, (by_set[worst], float("nan")), on_each, above=True)]
        if over_sets is not None:
            average = (float(np.mean(list(by_set.values()))), float("nan"))
            bars.insert(0, _bar(MEAN, what, average, over_sets, above=True))
        return bars

    bars: list[dict[str, Any]] = []
    for budget in BUDGETS:
        others = [m for m in METHODS if m != OURS and (budget or m != "stack")]
        gaps = {name: mean(name, OURS, budget) - max(mean(name, m, budget) for m in others) for name in found}
        bars += least(f"{budget} labels: ours - the best of {', '.join(others)}", gaps, -0.005, -0.02)
        if budget:
            gains = {name: mean(name, OURS, budget) - mean(name, OURS, 0) for name in found}
            bars += least(f"{budget} labels: ours - ours without labels", gains, None, -0.005)
    stacked = {name: mean(name, OURS, 200) - mean(name, "stack", -1) for name in found}
    bars += least("200 labels: ours - stack on 80% of all labels", stacked, -0.005, -0.02)
    over = {name: -float(np.mean([s.ece - s.floor for s in found[name][OURS, 200]])) for name in found}
    return bars + least("200 labels: floor - ECE of ours", over, -0.01, -0.01)


def _bar(data: str, what: str, value: tuple[float, float], limit: float, *, above: bool) -> dict[str, Any]:
    met = value[0] >= limit if above else value[0] <= limit
    return {"data": data, "what": what, "value": value, "limit": limit, "met": bool(met)}


def table_4(quick: bool = False) -> dict[str, Any]:
    """Seconds and peak memory of fusing growing numbers of votes, ours and crowd-kit's Dawid-Skene."""
    from tests.benchmarks.quality import fusion_cost

    sizes = (50_000,) if quick else (500_000, 1_000_000, 5_000_000)
    rows = [fusion_cost.measure(method, n) for n in sizes for method in ("ours", "Dawid-Skene")]
    bars = []
    if not quick:
        # Processor time: other work on the machine stretches seconds by any factor.
        ours = {row["votes"]: row["cpu_seconds"] for row in rows if row["method"] == "ours"}
        theirs = {row["votes"]: row["cpu_seconds"] for row in rows if row["method"] != "ours"}
        growth = ours[5_000_000] / ours[500_000] / 10
        bars.append(
            _bar("synthetic", "processor time a vote, 5M over 0.5M votes", (growth, float("nan")), 1.25, above=False)
        )
        ratio = ours[5_000_000] / theirs[5_000_000]
        bars.append(
            _bar("synthetic", "5M votes: ours / Dawid-Skene, processor time", (ratio, float("nan")), 1.0, above=False)
        )
    return {
        "title": "4. Cost of fusing votes (20 voters, 1% of the pairs with a human label)",
        "rows": rows,
        "bars": bars,
    }


def table_5(data_dir: Path, seeds: int, quick: bool = False) -> dict[str, Any]:
    """Agreement with the human majority by slice: every family of judges, the best judge, and ours with 200 labels.

    A pair's agreement is its mean over seeds; the interval is that of a mean over prompts, because judges do not
    vary with the seed and slices are small.
    """
    rows = []
    for name in ("pandalm_test",) if quick else ("llmbar", "pandalm_test"):
        case = judged(name, data_dir, None, 0)
        hits: dict[str, list[Floats]] = defaultdict(list)
        for seed in range(seeds):
            for method, z in (_held_out(case, seed) | _families(case)).items():
                hits[method].append(np.where(z == 0, 0.5, (z > 0) == case.y))
        for (family, level), inside in _slices(case).items():
            for method, values in hits.items():
                rows.append(
                    {
                        "data": name,
                        "slice": f"{family}: {level}",
                        "pairs": int(inside.sum()),
                        "voter": method,
                        "agreement": _over_prompts(np.mean(values, axis=0)[inside], np.array(case.prompts)[inside]),
                    }
                )
    return {"title": "5. Agreement with humans by slice", "rows": rows, "bars": []}


def _over_prompts(values: Floats, prompts: NDArray[np.str_]) -> tuple[float, float]:
    """Mean, and half width of its normal 95% interval with pairs of one prompt taken together."""
    mean = float(values.mean())
    _, index = np.unique(prompts, return_inverse=True)
    sums = np.bincount(index, values - mean)
    return mean, 1.96 * float(np.sqrt((sums**2).sum())) / len(values)


def _held_out(case: Case, seed: int) -> dict[str, Floats]:
    fold = case.folds(seed)
    out: dict[str, Floats] = {
        "ours, 200 labels": np.zeros(len(case.ids)),
        "best judge, 200 labels": np.zeros(len(case.ids)),
    }
    for f in range(FOLDS):
        test, labelled = np.flatnonzero(fold == f), case.labelled(seed, f, np.flatnonzero(fold != f), 200)
        out["ours, 200 labels"][test] = fused("posterior", case, labelled)[test]
        out["best judge, 200 labels"][test] = single_judge(case, labelled)[test]
    return out


def _families(case: Case) -> dict[str, Floats]:
    """Net vote of each model's judges on each pair."""
    sign = (pl.col("label") == "a").cast(pl.Float64) - (pl.col("label") == "b").cast(pl.Float64)
    sums = case.judges.group_by("pair_id", "voter_group").agg(sign.sum().alias("z"))
    out: dict[str, Floats] = {}
    for (group,), rows in sums.sort("voter_group").partition_by("voter_group", as_dict=True).items():
        z = dict(zip(rows["pair_id"], rows["z"], strict=True))
        out[str(group)] = np.array([z.get(p, 0.0) for p in case.ids])
    return out


def _slices(case: Case) -> dict[tuple[str, str], Rows]:
    """Rows of each slice: everything, task kinds of 40 pairs or more, and thirds by difference of length."""
    pairs = case.truth.join(case.pairs, on="pair_id", how="left", maintain_order="left")
    gap = (pairs["length_a"] / pairs["length_b"]).log().abs().to_numpy()
    low, high = np.quantile(gap, [1 / 3, 2 / 3])
    out: dict[tuple[str, str], Rows] = {("all", "all"): np.ones(len(pairs), dtype=bool)}
    for level, n in pairs["kind"].drop_nulls().value_counts().sort("kind").iter_rows():
        if n >= 40:
            out["kind", level] = (pairs["kind"] == level).fill_null(value=False).to_numpy()
    out["length", "alike"] = gap <= low
    out["length", "between"] = (gap > low) & (gap <= high)
    out["length", "apart"] = gap > high
    longer = np.where(pairs["length_a"].to_numpy() > pairs["length_b"].to_numpy(), case.y, ~case.y)
    out["humans prefer", "the longer"] = longer
    out["humans prefer", "the shorter"] = ~longer
    return out


def render(table: dict[str, Any]) -> str:
    """A table and its bars as text."""

    def cell(value: Any) -> str:
        if isinstance(value, tuple):
            return (
                "-" if np.isnan(value[0]) else f"{value[0]:.3f}" + ("" if np.isnan(value[1]) else f" ±{value[1]:.3f}")
            )
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = ["", f"## {table['title']}", ""]
    if table["rows"]:
        names = list(table["rows"][0])
        lines += ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
        lines += ["| " + " | ".join(cell(row[name]) for name in names) + " |" for row in table["rows"]]
    for bar in table["bars"]:
        verdict = "met" if bar["met"] else "MISSED"
        lines.append(f"- {verdict}: {bar['data']}: {bar['what']} = {cell(bar['value'])} (bar {bar['limit']})")
    return "\n".join(lines)


def run(
    data_dir: Path,
    seeds: int,
    quick: bool,
    tables: tuple[int, ...] = (2, 4, 5),
    workers: int = 1,
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """The tables asked for, printed as each is done."""
    makers: dict[int, Callable[[], dict[str, Any]]] = {
        2: lambda: table_2(data_dir, seeds, quick, workers, cache),
        4: lambda: table_4(quick),
        5: lambda: table_5(data_dir, seeds, quick),
    }
    done = []
    for number in tables:
        if number in makers:
            started = time.perf_counter()
            done.append(makers[number]())
            print(render(done[-1]), f"\n({time.perf_counter() - started:.0f} s)", flush=True)
    return done


def main(argv: list[str] | None = None) -> int:
    """Command line; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: pandalm only, two seeds, few votes")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tables", default="2,4,5")
    parser.add_argument("--out", type=Path, help="write the tables as JSON")
    parser.add_argument("--workers", type=int, default=1, help="processes of table 2")
    parser.add_argument(
        "--cache", type=Path, help="keep the comparators' scores of table 2 here; delete if they change"
    )
    args = parser.parse_args(argv)
    numbers = tuple(int(n) for n in args.tables.split(","))
    tables = run(args.data, 2 if args.quick else args.seeds, args.quick, numbers, args.workers, args.cache)
    if args.out:
        args.out.write_text(json.dumps(tables, indent=1))
    return 0 if args.quick or all(bar["met"] for table in tables for bar in table["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
