"""The tabular path, ingest -> clean -> fuse -> route -> materialise, against one plain Polars script.

    python -m tests.benchmarks.tabular --pairs 10000 100000 1000000 --folder /tmp/bench

Input: one Parquet file a million rows with a prompt, two responses, a label and ten judges' verdicts per pair. Ours
is one `prefine run` of a recipe. The plain script reads the same file, gives every pair and vote a content-hash id,
drops repeated pairs, weighs every voter by its agreement with the majority, sums log-odds, picks the least certain
pairs for people within the same budget and writes pairs, votes, verdicts, queue and chosen/rejected rows as Parquet.
It has no laws, rejects, resumption or evidence, and splits nothing; `--bands 0` leaves our search for near-duplicate
prompts out too.

CPU seconds count all threads and child processes: other work on the machine changes them little. Peak memory is the
largest resident process.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from tests.benchmarks.publish import WORDS

VOTERS = [f"judge-{i}" for i in range(10)]
ROWS_PER_FILE = 1_000_000
ROWS_PER_BUCKET = 16_000
BUDGET = 1000


def make_input(folder: Path, n: int, seed: int = 0) -> None:
    """Prompts of about 200 characters, responses of about 400; voters right in 60 to 85 % of the pairs."""
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    pool = " ".join(rng.choice(WORDS) for _ in range(2_000_000))
    skill = np.linspace(0.6, 0.85, len(VOTERS))
    folder.mkdir(parents=True)
    for start in range(0, n, ROWS_PER_FILE):
        size = min(ROWS_PER_FILE, n - start)
        at = draw.integers(0, len(pool) - 900, (3, size))
        columns = {
            name: [pool[i : i + length] for i in at[j].tolist()]
            for j, (name, length) in enumerate((("prompt", 200), ("response_a", 400), ("response_b", 380)))
        }
        truth = draw.random(size) < 0.5
        label = np.where(truth ^ (draw.random(size) < 0.2), "a", "b")
        said = np.where(truth[:, None] ^ (draw.random((size, len(VOTERS))) > skill), "a", "b")
        cells = pl.DataFrame(
            {
                "row": np.repeat(np.arange(size), len(VOTERS)),
                "voter": pl.Series(VOTERS * size),
                "label": said.ravel(),
            }
        )
        votes = cells.group_by("row", maintain_order=True).agg(votes=pl.struct("voter", "label"))["votes"]
        frame = pl.DataFrame({**columns, "label": label}).with_columns(votes)
        frame.write_parquet(folder / f"{start:09d}.parquet", row_group_size=10_000)


def recipe(folder: Path, n: int, bands: int | None = None) -> Path:
    """The recipe of our side; `bands` as in the settings of splits."""
    buckets = max(1, round(n / ROWS_PER_BUCKET))
    settings = {
        "name": "bench",
        "buckets": buckets,
        "sources": [
            {
                "name": "bench",
                "kind": "pairs",
                "path": str(folder / "input"),
                "votes": [{"kind": "judge", "column": "votes", "voter": "voter", "label": "label"}],
            }
        ],
        "route": {"queue": {"budget": BUDGET}},
        "materialise": {"splits": {"fractions": {"train": 1.0}} | ({} if bands is None else {"bands": bands})},
        "beam": {"workers": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def plain(folder: Path) -> None:
    """The same arithmetic in one Polars script."""
    out = folder / "plain"
    out.mkdir()
    frame = pl.concat([pl.read_parquet(path) for path in sorted((folder / "input").glob("*.parquet"))])

    def ids(*columns: pl.Series) -> pl.Series:
        rows = zip(*(column.to_list() for column in columns), strict=True)
        return pl.Series([sha256("\x1f".join(row).encode()).hexdigest()[:32] for row in rows])

    prompt, a, b = (ids(frame[c]) for c in ("prompt", "response_a", "response_b"))
    pair_id = ids(
        prompt, pl.select(pl.min_horizontal(a, b)).to_series(), pl.select(pl.max_horizontal(a, b)).to_series()
    )
    pairs = frame.with_columns(pair_id=pair_id, prompt_id=prompt).unique("pair_id", keep="first", maintain_order=True)
    del frame
    pairs.drop("votes").write_parquet(out / "pairs.parquet", compression_level=3)
    votes = pairs.select("pair_id", "votes").explode("votes").unnest("votes")
    votes = votes.with_columns(vote_id=ids(votes["pair_id"], votes["voter"], votes["label"]))
    votes.write_parquet(out / "votes.parquet", compression_level=3)
    sign = pl.when(pl.col("label") == "a").then(1.0).otherwise(-1.0)
    votes = votes.with_columns(sign=sign)
    majority = votes.group_by("pair_id").agg(majority=pl.col("sign").sum().sign())
    agreement = (
        votes.join(majority, on="pair_id").group_by("voter").agg(p=(pl.col("sign") == pl.col("majority")).mean())
    )
    weights = agreement.with_columns(weight=(pl.col("p") / (1 - pl.col("p"))).log()).drop("p")
    verdicts = (
        votes.join(weights, on="voter")
        .with_columns(log_odds=pl.col("sign") * pl.col("weight"))
        .group_by("pair_id")
        .agg(pl.col("log_odds").sum().alias("total"), contributions=pl.struct("voter", "label", "log_odds"))
        .with_columns(p_a=1 / (1 + (-pl.col("total")).exp()))
        .join(pairs.select("pair_id", "prompt_id", source_label="label"), on="pair_id")
        .with_columns(
            label=pl.when(pl.col("p_a") > 0.5).then(pl.lit("a")).otherwise(pl.lit("b")),
            certainty=pl.max_horizontal("p_a", 1 - pl.col("p_a")),
            noise=pl.when(pl.col("source_label") == "a").then(1 - pl.col("p_a")).otherwise("p_a"),
        )
    )
    verdicts.write_parquet(out / "verdicts.parquet", compression_level=3)
    verdicts.select("pair_id", "certainty").sort("certainty").head(BUDGET).write_parquet(out / "queue.parquet")
    first = pl.col("label_right") == "a"
    rows = pairs.join(verdicts.select("pair_id", "label", "p_a", "certainty"), on="pair_id")
    rows.filter(pl.col("certainty") > 0.6).select(
        "pair_id",
        "prompt",
        chosen=pl.when(first).then("response_a").otherwise("response_b"),
        rejected=pl.when(first).then("response_b").otherwise("response_a"),
        p_chosen=pl.max_horizontal("p_a", 1 - pl.col("p_a")),
    ).sort("pair_id").write_parquet(out / "rows.parquet", compression_level=3)


def timed(out: Path, *words: str) -> dict[str, float]:
    """Run a command, its stdout to a file; its wall and CPU seconds and peak memory in GB, children included."""
    measure = (
        "import ctypes,json,os,resource,subprocess,sys,time\n"
        "ctypes.CDLL(None).prctl(36,1)\n"  # PR_SET_CHILD_SUBREAPER: what outlives its parent is counted too
        "start=time.perf_counter()\n"
        "rc=subprocess.run(sys.argv[2:],stdout=open(sys.argv[1],'w')).returncode\n"
        "s=time.perf_counter()-start\n"
        "try:\n"
        "    while os.wait(): pass\n"
        "except ChildProcessError: pass\n"
        "u=resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps({'rc':rc,'s':s,'cpu':u.ru_utime+u.ru_stime,'gb':u.ru_maxrss/2**20}))"
    )
    command = [sys.executable, "-c", measure, str(out), *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if result.pop("rc"):
        raise SystemExit(f"failed: {' '.join(words)}")
    return result


def measure(folder: Path, n: int, bands: int | None, with_plain: bool) -> dict[str, dict[str, float]]:
    """Both sides or ours alone, then our run again with nothing to do; per stage the workers' seconds added up."""
    shutil.rmtree(folder, ignore_errors=True)
    make_input(folder / "input", n)
    out = folder / "out.json"
    run = (sys.executable, "-m", "cli.main", "run", str(recipe(folder, n, bands)), "--workspace", str(folder / "w"))
    plain_run = (sys.executable, "-m", "tests.benchmarks.tabular", "--plain", "--folder", str(folder))
    found = {"plain": timed(out, *plain_run)} if with_plain else {}
    found["ours"] = timed(out, *run, "--quiet", "--json")
    for stage in json.loads(out.read_text().splitlines()[-1])["stages"]:
        found[f"ours: {stage['stage']}"] = {"s": stage["seconds"]}
    found["again"] = timed(out, *run, "--quiet")
    return found


def main() -> int:
    """Print a row a size and step; fail where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--bands", type=int, help="of the search for near-duplicates; 0: equal prompts only")
    parser.add_argument(
        "--ours", action="store_true", help="without the plain script, which holds everything in memory"
    )
    parser.add_argument("--keep", action="store_true", help="leave the workspaces there")
    options = parser.parse_args()
    if options.plain:
        plain(options.folder)
        return 0
    totals: dict[int, dict[str, float]] = {}
    print("| pairs | step | s | CPU s | peak GB |\n|---|---|---|---|---|", flush=True)
    for n in options.pairs:
        folder = options.folder / str(n)
        found = measure(folder, n, options.bands, not options.ours)
        for step, spent in found.items():
            cells = [
                f"{spent[key]:.{digits}f}" if key in spent else "" for key, digits in (("s", 1), ("cpu", 1), ("gb", 2))
            ]
            print(f"| {n:,} | {step} | {' | '.join(cells)} |", flush=True)
        ours = found["ours"]
        base = found.get("plain", {"s": math.nan, "cpu": math.nan})
        totals[n] = {
            "s": ours["s"],
            "gb": ours["gb"],
            "x wall": ours["s"] / base["s"],
            "x cpu": ours["cpu"] / base["cpu"],
            "again": found["again"]["s"] / ours["s"],
        }
        if not options.keep:
            shutil.rmtree(folder)
    print("\n| pairs | x plain, wall | x plain, CPU | peak GB | run again, share of the run | time for 10x rows |")
    print("|---|---|---|---|---|---|")
    for n, t in totals.items():
        growth = f"{t['s'] / totals[n // 10]['s']:.1f}x" if n // 10 in totals else ""
        cells = (f"{t['x wall']:.2f}", f"{t['x cpu']:.2f}", f"{t['gb']:.2f}", f"{t['again']:.1%}", growth)
        print(f"| {n:,} | {' | '.join(cells)} |")
    largest = totals.get(1_000_000)
    return int(largest is not None and largest["x wall"] > 2)


if __name__ == "__main__":
    raise SystemExit(main())
