"""Keep, flip, drop or soften: what each makes of the same suspects, down to a trained head.

    python -m tests.benchmarks.quality.noise_treatment --data ../shared/data --cache CACHE [--runs FILE]

Groups are split 70/30 and labels of the training part are flipped, as in table 3. Suspects are the labels whose
P(label) is below a bound, by one of two posteriors of the same two voters, the label itself and `bt_heads`:

fuser: the fuser `posterior` as it comes, without people. It knows neither how often labels are wrong nor how good the
    heads are, and stays on the label's side.
bayes: Bayes' rule with the flip rate that `bt_heads` estimates, which is calibrated on flips by chance.

Each treatment is of the suspects alone, every other label is kept: `flip` exchanges them, `drop` leaves them out,
`soften` gives the more probable side the weight 2 P - 1. `policy` drops from 1/3 to 2/3 and flips below 1/3, as
the policy `posterior` does by default. A fresh Bradley-Terry head is trained on each; figures are its accuracy on the
clean labels of the other groups, less that of the head that keeps every label, seed by seed, with 95% t-intervals.
Each head's ridge is the one that predicts the given labels of held-out folds best, those of dropped rows included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.quality.noise import RATES, interval
from tests.benchmarks.quality.noise_curation import Exam, tuned_ridge, verdicts
from tests.benchmarks.quality.noise_data import SETS, Array, FolderCache, Pairs, inject, prepare
from tests.benchmarks.quality.noise_methods import heads_view, posterior_right
from transforms.stats.bradley_terry import fit_head
from transforms.stats.noise_rate import FlipRate

BOUNDS = {"2/3": 2 / 3, "1/2": 1 / 2, "1/3": 1 / 3}
TREATMENTS = ("flip", "drop", "soften")
RIDGES = (0.01, 0.1, 1.0, 10.0)


def treated(given: Array, right: Array, suspect: Array, treatment: str) -> tuple[Array, Array]:
    """Labels and weights (0: left out) of training rows.

    Args:
        given: labels, 1 where a is said to be better, else 0.
        right: P(the given label is right).
        suspect: which rows are treated; the others are kept.
        treatment: `flip`, `drop` or `soften`.
    """
    one = np.ones(len(given))
    if treatment == "drop":
        return given, np.where(suspect, 0.0, one)
    exchanged = suspect if treatment == "flip" else suspect & (right < 0.5)
    weight = np.where(suspect, np.abs(2.0 * right - 1.0), one) if treatment == "soften" else one
    return np.where(exchanged, 1.0 - given, given), weight


def by_policy(given: Array, right: Array) -> tuple[Array, Array]:
    """What the policy `posterior` makes of the labels by default."""
    y, _ = treated(given, right, right <= BOUNDS["1/3"], "flip")
    return y, ((right >= BOUNDS["2/3"]) | (right <= BOUNDS["1/3"])).astype(np.float64)


def lessons(given: Array, right: Array) -> Iterator[tuple[str, Array, Array]]:
    """Every treatment of every set of suspects: its name, labels and weights."""
    for bound, p in BOUNDS.items():
        suspect = right < p
        if suspect.any():
            for treatment in TREATMENTS:
                yield f"{treatment} below {bound}", *treated(given, right, suspect, treatment)
    if (right <= BOUNDS["1/3"]).any():
        yield "policy", *by_policy(given, right)


def run(pairs: Pairs, rate: float, seed: int) -> dict[str, float]:
    """Accuracy of the head that keeps every label (`keep`) and of every treatment, by posterior; and of the suspects,
    their share and how many of their labels are right."""
    exam = Exam.of(pairs, seed)
    train, one = exam.train, np.ones(len(exam.train.y))
    given, flipped = inject(train.y, rate, np.random.default_rng([seed, round(100 * rate), 3]))
    p, _, flip = heads_view(train, given, seed)
    posteriors = {
        "fuser": 1.0 - verdicts(train, given, p)["noise"].to_numpy(),
        "bayes": posterior_right(np.log(p / (1.0 - p)), given, FlipRate(flip, 1.0)),
    }
    figures = {"keep": _accuracy(exam, given, one, given)}
    for name, right in posteriors.items():
        for lesson, y, weight in lessons(given, right):
            figures[f"{name}: {lesson}"] = _accuracy(exam, y, weight, given)
        # Without labels below 1/3 the policy flips none.
        figures.setdefault(f"{name}: policy", figures.get(f"{name}: drop below 2/3", figures["keep"]))
        for bound, limit in BOUNDS.items():
            suspect = right < limit
            figures[f"{name}: share below {bound}"] = float(suspect.mean())
            if suspect.any():
                figures[f"{name}: right below {bound}"] = float(1 - flipped[suspect].mean())
    return figures


def _accuracy(exam: Exam, y: Array, weight: Array, given: Array) -> float:
    w = fit_head(exam.x, y, weight, tuned_ridge(exam.x, y, weight, given, exam.folds, RIDGES))
    return float(((exam.x_test @ w > 0) == (exam.y_test > 0.5)).mean())


def table(runs: Sequence[dict[str, float]], posterior: str) -> Iterator[str]:
    """A line for every bound: the suspects, and each treatment's gain over keeping them."""
    for bound in BOUNDS:
        share = [run[f"{posterior}: share below {bound}"] for run in runs]
        if not max(share):
            continue
        right = [run[key] for run in runs if (key := f"{posterior}: right below {bound}") in run]
        cells = [gain(runs, f"{posterior}: {treatment} below {bound}") for treatment in TREATMENTS]
        cells.append(gain(runs, f"{posterior}: policy") if bound == "2/3" else "")
        yield f"| {posterior} | {bound} | {np.mean(share):.0%} | {np.mean(right):.0%} | {' | '.join(cells)} |"


def gain(runs: Sequence[dict[str, float]], lesson: str) -> str:
    """Accuracy over `keep`, mean and interval over the runs that had suspects."""
    gains = [run[lesson] - run["keep"] for run in runs if lesson in run]
    if not gains:
        return ""
    mean, half = interval(gains)
    return f"{mean:+.3f} ±{half:.3f}"


def contrasts(runs: Sequence[dict[str, float]], posterior: str) -> Iterator[str]:
    """A line for every bound: what dropping gains over keeping, and flipping and softening over dropping; and what the
    policy gains over dropping all it drops or flips."""
    for bound in BOUNDS:
        accuracy = {name: [run.get(f"{posterior}: {name} below {bound}") for run in runs] for name in TREATMENTS}
        accuracy |= {"keep": [run["keep"] for run in runs], "policy": [run[f"{posterior}: policy"] for run in runs]}
        pairs = [
            ("drop", "keep"),
            ("flip", "drop"),
            ("soften", "drop"),
            *([("policy", "drop")] if bound == "2/3" else []),
        ]
        cells = []
        for better, worse in pairs:
            both = zip(accuracy[better], accuracy[worse], strict=True)
            gains = [one - other for one, other in both if one is not None and other is not None]
            if gains:
                mean, half = interval(gains)
                cells.append(f"{better} - {worse} {mean:+.4f} ±{half:.4f}")
        if cells:
            yield f"{posterior}, below {bound}: {', '.join(cells)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of all sets and rates, then the means over sets; `--runs` keeps every run in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--cache", type=Path, help="folder for embeddings (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--rates", nargs="+", type=float, default=list(RATES), help="shares of labels flipped")
    parser.add_argument("--runs", type=Path, help="a file of runs, one JSON a line; those it holds are not made again")
    options = parser.parse_args(argv)
    known = _known(options.runs)
    with tempfile.TemporaryDirectory() as scratch:
        cache = FolderCache(options.cache or Path(scratch))
        for name in options.sets:
            keys = [(name, rate, seed) for seed in range(options.seeds) for rate in options.rates]
            missing = [key for key in keys if key not in known]
            pairs = prepare(name, options.data, cache) if missing else None
            for key in missing:
                assert pairs is not None
                known[key] = run(pairs, *key[1:])
                if options.runs:
                    with options.runs.open("a") as file:
                        file.write(json.dumps([key, known[key]]) + "\n")
    print("| data | flips | keep | posterior | P(label) below | suspects | right | flip | drop | soften | policy |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for rate in options.rates:
        for name in options.sets:
            _print(name, f"{rate:.0%}", [known[name, rate, seed] for seed in range(options.seeds)])
    # A seed's mean over sets is one observation: sets differ in size and level, seeds are drawn anew.
    for rate in options.rates:
        per_seed = [[known[name, rate, seed] for name in options.sets] for seed in range(options.seeds)]
        _print("mean of the sets", f"{rate:.0%}", [_mean(runs) for runs in per_seed])
    for chosen in [[name] for name in options.sets] + [options.sets]:
        per_seed = [
            [known[name, rate, seed] for name in chosen for rate in options.rates] for seed in range(options.seeds)
        ]
        means = [_mean(runs) for runs in per_seed]
        _print(" ".join(chosen), "mean", means)
        for posterior in ("fuser", "bayes"):
            print("\n".join(contrasts(means, posterior)))
    return 0


def _print(name: str, rate: str, runs: Sequence[dict[str, float]]) -> None:
    keep = np.mean([run["keep"] for run in runs])
    for posterior in ("fuser", "bayes"):
        for line in table(runs, posterior):
            print(f"| {name} | {rate} | {keep:.3f} {line}", flush=True)


def _mean(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """Figures of several sets as one. A set without suspects keeps every label, whatever the treatment."""
    means = {}
    for name in sorted({name for run in runs for name in run}):
        is_accuracy = ": right" not in name  # of the suspects: only where there are any
        values = [run.get(name, run["keep"]) for run in runs if is_accuracy or name in run]
        means[name] = float(np.mean(values))
    return means


def _known(path: Path | None) -> dict[Any, dict[str, float]]:
    if path is None or not path.exists():
        return {}
    return {tuple(key): figures for key, figures in map(json.loads, path.read_text().splitlines())}


if __name__ == "__main__":
    sys.exit(main())
