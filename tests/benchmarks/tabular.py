"""The tabular path, ingest -> clean -> fuse -> route -> materialise, against two plain Polars scripts.

    python -m tests.benchmarks.tabular --pairs 10000 100000 1000000 --folder /tmp/bench

Input: one Parquet file a million rows with a prompt, two responses, a label and ten judges' verdicts per pair. Ours
is one `prefine run` of a recipe.

- `script` does the same arithmetic on the same file in one process that holds everything in memory: the functions of
  transforms/ on whole frames, results written as Parquet. It has no Beam, buckets, checkpoints, resumption, checks of
  laws, evidence, report or manifest. The bar is at most twice its time at a million pairs.
- `majority` is the least that gives preference rows: a content-hash id for every pair and vote, repeated pairs dropped,
  voters weighed by their agreement with the majority, log-odds summed, the least certain pairs picked for people,
  the same tables written. It fits no model, scores no noise and splits nothing; `--bands 0` leaves our search for
  near-duplicate prompts out too.

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
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from pipelines.stages.fuse import FUSED_COLUMNS, fusion_columns
from pipelines.stages.route import candidates_of
from schemas.recipe_file import load_recipe
from tests.benchmarks.publish import WORDS
from tests.transforms.routers.queue.whole import build_queue
from transforms.plugins.build import build
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import SplitsConfig, assign_parts, prompt_keys, remembered
from transforms.routers.queue.config import QueueConfig
from transforms.sources.config import SOURCE_ADAPTER
from transforms.sources.dedupe import dedupe_pairs, dedupe_votes
from transforms.sources.read import read
from transforms.sources.slices import slices
from transforms.stats.label_noise import decision_frame

VOTERS = [f"judge-{i}" for i in range(10)]
ROWS_PER_FILE = 1_000_000
ROWS_PER_BUCKET = 16_000
BUDGET = 1000


def make_input(folder: Path, n: int, seed: int = 0) -> None:
    """Prompts of about 200 characters, responses of about 400; voters right in 60 to 85 % of the pairs."""
    rng, draw = random.Random(seed), np.random.default_rng(seed)
    # Prompts are pieces of one long text: as long as there are more of them, or more of them would be alike.
    pool = " ".join(rng.choice(WORDS) for _ in range(2 * max(n, 1_000_000)))
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


def script(folder: Path) -> None:
    """What a run computes, by the same functions on whole frames."""
    out = folder / "script"
    out.mkdir()
    settings = load_recipe(folder / "recipe.yaml").recipe
    source = SOURCE_ADAPTER.validate_python(settings.sources[0])
    ingested = [read(piece, source) for piece in slices(source, folder)]
    pairs = dedupe_pairs(pl.concat([part.pairs for part in ingested])).rows
    votes = dedupe_votes(pl.concat([part.votes for part in ingested]))
    del ingested
    described = fusion_columns(pairs.select("pair_id", *FUSED_COLUMNS))
    some = described.head(settings.fuse.fit_pairs)  # in the order of a hash: a random sample
    fuser, policy, router = (
        build(kind, use, settings.seed)
        for kind, use in (
            ("fusers", settings.fuse.fuser),
            ("policies", settings.fuse.policy),
            ("routers", settings.route.router),
        )
    )
    model = fuser.fit(votes.join(some.select("pair_id"), on="pair_id", how="semi"), some)
    decisions = decision_frame(fuser.apply(model, votes, described), described, votes)
    verdicts = policy.decide(policy.fit(decisions), decisions)
    del decisions, described
    candidates = candidates_of(pairs, votes, verdicts, router.reads_responses)
    model = router.fit(candidates.filter(pl.col("n_human") > 0))
    config = QueueConfig.model_validate(settings.route.queue)
    queue = build_queue(candidates, router.values(model, candidates), config, settings.seed)
    del candidates
    splits = SplitsConfig.model_validate(settings.materialise.splits)
    prompts = remembered(prompt_keys(pairs, verdicts, splits), None)
    assigned = next(assign_parts(lambda: [prompts], splits, settings.seed))
    rows, rejects = dataset_rows(pairs, verdicts, assigned, RowsConfig.model_validate(settings.materialise.rows))
    tables = {"pairs": pairs, "votes": votes, "verdicts": verdicts, "queue": queue, "rows": rows, "rejects": rejects}
    for name, table in tables.items():
        table.write_parquet(out / f"{name}.parquet", compression_level=3)


def majority(folder: Path) -> None:
    """The least that turns the same file into preference rows."""
    out = folder / "majority"
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


SCRIPTS: dict[str, Callable[[Path], None]] = {"script": script, "majority": majority}


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


def measure(folder: Path, n: int, bands: int | None, alone: bool) -> dict[str, dict[str, float]]:
    """All sides or ours alone, then our run again with nothing to do; per stage the workers' seconds added up."""
    shutil.rmtree(folder, ignore_errors=True)
    make_input(folder / "input", n)
    out = folder / "out.json"
    prefine = (sys.executable, "-m", "prefine.cli.main")
    run = (*prefine, "run", str(recipe(folder, n, bands)), "--workspace", str(folder / "w"))
    found = {}
    for name in () if alone else SCRIPTS:
        words = ("-m", "tests.benchmarks.tabular", "--one", name, "--folder", str(folder))
        found[name] = timed(out, sys.executable, *words)
        shutil.rmtree(folder / name)
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
    parser.add_argument("--one", choices=SCRIPTS, help="only this script, on the input of an earlier run")
    parser.add_argument("--bands", type=int, help="of the search for near-duplicates; 0: equal prompts only")
    parser.add_argument("--ours", action="store_true", help="without the scripts, which hold everything in memory")
    parser.add_argument("--keep", action="store_true", help="leave the workspaces there")
    options = parser.parse_args()
    if options.one:
        SCRIPTS[options.one](options.folder)
        return 0
    totals: dict[int, dict[str, float]] = {}
    print("| pairs | step | s | CPU s | peak GB |\n|---|---|---|---|---|", flush=True)
    for n in options.pairs:
        folder = options.folder / str(n)
        found = measure(folder, n, options.bands, options.ours)
        for step, spent in found.items():
            cells = [
                f"{spent[key]:.{digits}f}" if key in spent else "" for key, digits in (("s", 1), ("cpu", 1), ("gb", 2))
            ]
            print(f"| {n:,} | {step} | {' | '.join(cells)} |", flush=True)
        ours, nothing = found["ours"], {"s": math.nan, "cpu": math.nan}
        totals[n] = {"s": ours["s"], "cpu": ours["cpu"], "gb": ours["gb"], "again": found["again"]["s"] / ours["s"]}
        for name in SCRIPTS:
            base = found.get(name, nothing)
            totals[n] |= {f"{name} s": ours["s"] / base["s"], f"{name} cpu": ours["cpu"] / base["cpu"]}
        if not options.keep:
            shutil.rmtree(folder)
    print("\n| pairs | x script, wall | CPU | x majority, wall | CPU | peak GB | again, share of run | 10x rows, CPU |")
    print("|---|---|---|---|---|---|---|---|")
    for n, t in totals.items():
        growth = f"{t['cpu'] / totals[n // 10]['cpu']:.1f}x" if n // 10 in totals else ""
        ratios = (f"{t[f'{name} {unit}']:.2f}" for name in SCRIPTS for unit in ("s", "cpu"))
        print(f"| {n:,} | {' | '.join(ratios)} | {t['gb']:.2f} | {t['again']:.1%} | {growth} |")
    return int(any(missed(n, totals) for n in totals))


def missed(n: int, totals: dict[int, dict[str, float]]) -> list[str]:
    """The bars that a size misses, said on standard error."""
    t, million = totals[n], 1_000_000
    bars = {
        "at most twice the script": n != million or not t["script s"] > 2,
        "10x rows in at most 11x the processor time": n // 10 not in totals or t["cpu"] <= 11 * totals[n // 10]["cpu"],
        "flat memory beyond a million": n <= million or million not in totals or t["gb"] <= 1.5 * totals[million]["gb"],
        "running again at most 2 % of a run": n < million or t["again"] <= 0.02,
    }
    failed = [bar for bar, holds in bars.items() if not holds]
    for bar in failed:
        print(f"missed at {n:,} pairs: {bar}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
