"""Seconds and peak memory of fusing synthetic votes, each measurement in a process of its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from schemas.ids import hash_fields
from schemas.tables import Votes, conform
from transforms.plugins.registry import find

VOTERS = 20
BUCKET = 10_000  # pairs
ROOT = Path(__file__).resolve().parents[3]


def synthetic_votes(n_votes: int, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """`n_votes` votes of `VOTERS` voters in four groups, right 55% to 90% of the time, and a human on 1% of pairs.

    Returns:
        votes: the `Votes` columns the fusers read (others null: making five million hashes is not fusion).
        pairs: what a fuser sees of the pairs.
    """
    rng = np.random.default_rng(seed)
    n = n_votes // VOTERS
    truth = rng.random(n) < 0.5
    ids = pl.Series("pair_id", [hash_fields(str(seed), str(i)) for i in range(n)])
    frames = []
    for v in range(VOTERS):
        says_a = truth == (rng.random(n) < 0.55 + 0.35 * v / (VOTERS - 1))
        frames.append(_frame(ids, says_a, f"v{v:02d}", f"g{v % 4}", "judge", "ab" if v % 2 else "ba"))
    labelled = max(n // 100, 20)
    frames.append(_frame(ids.head(labelled), truth[:labelled], "human:h", "human:h", "human", "none"))
    pairs = pl.DataFrame({"pair_id": ids, "prompt_id": ids}).with_columns(
        pl.lit(None, dtype=pl.String).alias("source_label"),
        pl.lit(None, dtype=pl.String).alias("kind"),
        pl.lit("en").alias("language"),
        pl.lit("synthetic").alias("origin"),
        pl.lit(100).alias("length_a"),
        pl.lit(100).alias("length_b"),
    )
    return pl.concat(frames), pairs


def _frame(ids: pl.Series, says_a: Any, voter: str, group: str, kind: str, order: str) -> pl.DataFrame:
    frame = pl.DataFrame({"pair_id": ids, "_a": says_a}).select(
        "pair_id",
        pl.lit(voter).alias("voter"),
        pl.lit(group).alias("voter_group"),
        pl.lit(kind).alias("kind"),
        pl.lit(order).alias("order"),
        pl.lit(0).alias("sample"),
        pl.when(pl.col("_a")).then(pl.lit("a")).otherwise(pl.lit("b")).alias("label"),
    )
    return conform(frame, Votes)


def _buckets(votes: pl.DataFrame, pairs: pl.DataFrame) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    parts = [pairs[start : start + BUCKET] for start in range(0, len(pairs), BUCKET)]
    bucket = pl.concat([p.select("pair_id", pl.lit(i).alias("_bucket")) for i, p in enumerate(parts)])
    split = votes.join(bucket, on="pair_id").partition_by("_bucket", as_dict=True, include_key=False)
    return [(split[i,], part) for i, part in enumerate(parts)]


def measure(method: str, n_votes: int) -> dict[str, Any]:
    """Run one method in a fresh process: seconds of fitting and applying, and peak memory over that of the input."""
    command = [sys.executable, "-m", "tests.benchmarks.quality.fusion_cost", method, str(n_votes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return {"method": method, "votes": n_votes, **json.loads(done.stdout.splitlines()[-1])}


def _run(method: str, n_votes: int) -> dict[str, float]:
    votes, pairs = synthetic_votes(n_votes)
    if method == "ours":
        plugin = find("fusers", "posterior")
        fuser = plugin("posterior", plugin.Config(), 0)
        buckets = _buckets(votes, pairs)  # as a workspace holds them
        before, started, cpu = _peak_mb(), time.perf_counter(), time.process_time()
        model = fuser.fit(votes, pairs)
        n = sum(len(fuser.apply(model, *bucket)) for bucket in buckets)
    else:
        from crowdkit.aggregation import DawidSkene

        frame = votes.select(pl.col("pair_id").alias("task"), pl.col("voter").alias("worker"), "label").to_pandas()
        before, started, cpu = _peak_mb(), time.perf_counter(), time.process_time()
        n = len(DawidSkene(n_iter=20).fit_predict_proba(frame))
    return {
        "pairs": n,
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mb": round(_peak_mb()),
        "of_which_input_mb": round(before),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("method")
    arguments.add_argument("votes", type=int)
    parsed = arguments.parse_args()
    print(json.dumps(_run(parsed.method, parsed.votes)))
