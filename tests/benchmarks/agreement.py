"""Krippendorff's alpha of a million answers against crowd-kit in the same run, and coverage of the certificate.

python -m tests.benchmarks.agreement [--answers 1000000] [--audits 1000] [--out FILE.json]

Exits with 1 where alpha is not ten times faster or not equal to 1e-9, or the certificate's interval does not cover
the truth 95 +- 1 % of the time over all settings together; every bar missed is printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
from crowdkit.metrics.data import alpha_krippendorff

from transforms.stats.alpha import krippendorff_alpha
from transforms.stats.certificate import certify

FASTER, EQUAL = 10.0, 1e-9
SETTINGS = (((1,), 0.0), ((2,), 0.05), ((2,), 0.1), ((2,), 0.2), ((3,), 0.1), ((3,), 0.2), ((1, 2, 3), 0.1))


def simulated_answers(n: int, seed: int = 0) -> pl.DataFrame:
    """About n answers a, b, tie on n / 4 items by 1000 workers, right three times in four."""
    rng = np.random.default_rng(seed)
    item, worker = rng.integers(0, n // 4, n), rng.integers(0, 1000, n)
    truth = rng.integers(0, 3, n // 4)
    label = np.where(rng.random(n) < 0.75, truth[item], rng.integers(0, 3, n))
    frame = pl.DataFrame({"task": item, "worker": worker, "label": np.array(["a", "b", "tie"])[label]})
    frame = frame.unique(["task", "worker"], keep="first", maintain_order=True)
    return frame.with_columns(pl.format("item-{}", "task").alias("task"), pl.format("w{}", "worker").alias("worker"))


def timed(work: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    """The result and the median seconds."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)


def alpha_figures(n: int) -> dict[str, Any]:
    """Both libraries on the same answers."""
    frame = simulated_answers(n)
    theirs_frame: pd.DataFrame = frame.to_pandas()
    ours, our_seconds = timed(lambda: krippendorff_alpha(frame["task"], frame["label"], replicates=0), 5)
    with_interval, interval_seconds = timed(lambda: krippendorff_alpha(frame["task"], frame["label"]), 3)
    theirs, their_seconds = timed(lambda: alpha_krippendorff(theirs_frame), 3)
    return {
        "answers": frame.height,
        "alpha": ours.alpha,
        "interval": [with_interval.low, with_interval.high],
        "difference": abs(ours.alpha - theirs),
        "seconds": our_seconds,
        "seconds_with_1000_bootstrap_replicates": interval_seconds,
        "crowd_kit_seconds": their_seconds,
        "times_faster": their_seconds / our_seconds,
        "times_faster_with_interval": their_seconds / interval_seconds,
    }


def coverage(audits: int, overlap: tuple[int, ...], error: float, seed: int) -> dict[str, Any]:
    """Simulated audits: how often the interval holds the true share of right labels, and how wide it is."""
    rng = np.random.default_rng(seed)
    covered, widths = 0, []
    for _ in range(audits):
        population, n = int(rng.integers(800, 200_000)), int(rng.integers(50, 600))
        right = int(rng.binomial(population, rng.uniform(0.55, 0.98)))
        drawn = int(rng.hypergeometric(right, population - right, n))
        answers = rng.choice(overlap, n)
        agrees = (rng.random(answers.sum()) < error) ^ np.repeat(np.arange(n) < drawn, answers)
        audit = pl.DataFrame(
            {
                "pair_id": np.repeat(np.arange(n).astype(str), answers),
                "published": ["a"] * len(agrees),
                "answer": np.where(agrees, "a", "b"),
            }
        )
        found = certify(audit, population)
        covered += found.low <= right / population <= found.high
        widths.append(found.high - found.low)
    return {
        "audits": audits,
        "overlap": overlap,
        "error": error,
        "coverage": covered / audits,
        "width": float(np.mean(widths)),
    }


def misses(figures: dict[str, Any]) -> list[str]:
    """The bars that the figures miss."""
    alpha, audits = figures["alpha"], figures["certificate"]
    covered = float(np.mean([found["coverage"] for found in audits]))
    total = sum(found["audits"] for found in audits)
    chance = 3 * (0.95 * 0.05 / total) ** 0.5  # what so many audits can be off by luck alone
    bars = [
        (alpha["times_faster"] >= FASTER, f"alpha {alpha['times_faster']:.1f} times faster, not {FASTER}"),
        (alpha["difference"] <= EQUAL, f"alpha differs by {alpha['difference']:.1e}, more than {EQUAL}"),
        (abs(covered - 0.95) <= max(0.01, chance), f"{covered:.1%} of {total} intervals hold the truth, not 95 +- 1 %"),
    ]
    return [missed for met, missed in bars if not met]


def main() -> int:
    """Print the figures as JSON; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--audits", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = {
        "alpha": alpha_figures(options.answers),
        "certificate": [coverage(options.audits, overlap, error, options.seed) for overlap, error in SETTINGS],
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    missed = misses(figures)
    for bar in missed:
        print(f"MISSED: {bar}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
