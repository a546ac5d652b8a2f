"""Publish, compare, verify and export a dataset of a million pairs, against plain Polars writing the same Parquet.

    python -m tests.benchmarks.publish --pairs 1000000 --folder /tmp/bench

Every step runs in a process of its own; its wall time, CPU time (all threads) and peak memory are printed, with the
ratio of CPU times to the plain script: other work on the machine does not change it.
Inputs are one Parquet file per table and bucket, as in a workspace; ten votes a pair.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from schemas.ids import bucket_of
from schemas.messages import message
from schemas.pairs import make_pair
from schemas.tables import Pairs, Verdicts, Votes, polars_schema, rows_frame
from transforms.plugins.registry import find
from transforms.publish.diff import diff
from transforms.publish.files import Bucket
from transforms.publish.read import open_version
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import SPLITS_SCHEMA, SplitsConfig, assign_parts, key_columns, prompt_keys, remembered
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, latest_version, publish
from transforms.report.data import report_data
from transforms.report.render import render
from transforms.storage.workspace import bucket_column

N_BUCKETS = 64
VOTERS = [f"judge-{i}" for i in range(10)]
ACTIONS = np.array(["keep", "flip", "soften", "drop", "route"])
WORDS = [f"{a}{b}{c}" for a in "bdgklmnprst" for b in "aeiou" for c in ("", "n", "r", "st", "ck")]


def make_inputs(folder: Path, n: int, seed: int) -> None:
    """Write the buckets: prompts of about 200 characters, responses of about 400."""
    rng = random.Random(seed)
    pool = " ".join(rng.choice(WORDS) for _ in range(2_000_000))
    held: list[list[dict[str, object]]] = [[] for _ in range(N_BUCKETS)]
    for _ in range(n):
        at = [rng.randrange(len(pool) - 900) for _ in range(3)]
        texts = [pool[i : i + size] for i, size in zip(at, (200, 400, 380), strict=True)]
        row, _ = make_pair(
            [message("user", texts[0])],
            [message("assistant", texts[1])],
            [message("assistant", texts[2])],
            origin="bench",
            first_label="a",
            kind="chat",
        )
        held[bucket_of(str(row["prompt_id"]), N_BUCKETS)].append(row)
    for b, rows in enumerate(held):
        pairs = rows_frame(rows, Pairs).sort("pair_id")
        votes, verdicts = opinions(pairs, np.random.default_rng([seed, b]))
        for name, frame in (("pairs", pairs), ("votes", votes), ("verdicts", verdicts)):
            path = folder / name / f"{b:04d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(path)
        held[b] = []


def opinions(pairs: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ten votes a pair and a verdict that is their sum."""
    n, k = pairs.height, len(VOTERS)
    log_odds = rng.normal(0.2, 0.5, (n, k))
    total = log_odds.sum(axis=1)
    flat = log_odds.ravel()
    ids = np.repeat(np.arange(n), k)
    voters = pl.Series("voter", VOTERS * n)
    label = pl.Series("label", np.where(flat > 0, "a", "b"))
    pair_id = pairs["pair_id"].gather(ids)
    votes = pl.DataFrame({"pair_id": pair_id, "voter": voters, "label": label}).with_columns(
        vote_id=pl.col("pair_id").str.slice(0, 28) + pl.format("{}", pl.Series(np.tile(np.arange(k), n) + 1000)),
        voter_group="voter",
        kind=pl.lit("judge"),
        order=pl.lit("ab"),
        sample=pl.lit(0, pl.Int32),
        p_a=pl.Series(1 / (1 + np.exp(-flat))),
        tokens_in=pl.lit(200, pl.Int64),
        tokens_out=pl.lit(1, pl.Int64),
        ms=pl.lit(1.0),
    )
    votes = votes.select(
        pl.col(c).cast(t) if c in votes.columns else pl.lit(None, t).alias(c) for c, t in polars_schema(Votes).items()
    )
    pieces = (
        pl.DataFrame({"pair_id": pair_id, "voter": voters, "label": label, "log_odds": flat})
        .group_by("pair_id", maintain_order=True)
        .agg(contributions=pl.struct("voter", pl.lit(1, pl.Int32).alias("n_votes"), "label", "log_odds"))
    )
    verdicts = pairs.select("pair_id", "prompt_id").with_columns(
        p_a=pl.Series(1 / (1 + np.exp(-total))),
        p_tie=pl.lit(0.02),
        label=pl.Series(np.where(total > 0, "a", "b")),
        margin=pl.Series(total.clip(-8, 8)),
        certainty=pl.Series(1 / (1 + np.exp(-np.abs(total)))),
        disagreement=pl.lit(0.3),
        noise=pl.Series(rng.random(n)),
        action=pl.Series(rng.choice(ACTIONS, n, p=[0.6, 0.1, 0.1, 0.1, 0.1])),
        reasons=pl.lit(["bench"]),
        n_votes=pl.lit(k, pl.Int32),
        n_human=pl.lit(0, pl.Int32),
        prior=pl.lit(0.0),
        contributions=pieces["contributions"],
    )
    return votes, verdicts.select(pl.col(c).cast(t) for c, t in polars_schema(Verdicts).items())


def plain(folder: Path, out: Path) -> None:
    """The same arithmetic and the same files in one Polars script: no laws, no hashes, no splits by similarity."""
    pairs, verdicts = (pl.scan_parquet(folder / t / "*.parquet") for t in ("pairs", "verdicts"))
    a = pl.col("label") == "a"
    joined = pairs.join(verdicts.drop("prompt_id"), on="pair_id").with_columns(
        chosen=pl.when(a).then("response_a").otherwise("response_b"),
        rejected=pl.when(a).then("response_b").otherwise("response_a"),
        p_chosen=pl.when(a).then("p_a").otherwise(1 - pl.col("p_a")),
        margin=pl.col("margin").abs(),
        split=pl.when(pl.col("prompt_id").str.slice(0, 2) < "e6").then(pl.lit("train")).otherwise(pl.lit("test")),
    )
    (out / "data").mkdir(parents=True)
    published = pl.col("action").is_in(["keep", "flip", "soften"])
    texts = ["response_a", "response_b"]
    for split in ("train", "test"):
        rows = joined.filter(published & (pl.col("split") == split)).drop(*texts, "contributions")
        rows.sink_parquet(out / "data" / f"{split}.parquet", compression_level=3)
    joined.filter(~published).drop("chosen", "rejected").sink_parquet(out / "rejects.parquet", compression_level=3)
    pairs.drop("prompt", *texts).sink_parquet(out / "pairs.parquet", compression_level=3)
    verdicts.sink_parquet(out / "verdicts.parquet", compression_level=3)
    votes = pl.scan_parquet(folder / "votes" / "*.parquet").drop("raw", "ms")
    votes.sink_parquet(out / "votes.parquet", compression_level=3)


def table(folder: Path, name: str, b: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """A bucket of a table of the inputs."""
    return pl.read_parquet(folder / name / f"{b:04d}.parquet", columns=list(columns) if columns else None)


def split_step(folder: Path, out: Path) -> None:
    """Similarity keys of every bucket and the assignment, as stage materialise does it."""
    config = SplitsConfig()
    parent = latest_version(out / "datasets", "bench")
    held: list[list[pl.DataFrame]] = [[pl.DataFrame(schema=SPLITS_SCHEMA)] for _ in range(N_BUCKETS)]
    for file in parent.files("splits") if parent else ():
        dealt = parent.read(file).with_columns(bucket=bucket_column("prompt_id", N_BUCKETS))
        for (b,), own in dealt.partition_by("bucket", as_dict=True, include_key=False).items():
            held[b].append(own)
    for b in range(N_BUCKETS):
        pairs = table(folder, "pairs", b, key_columns(config))
        keys = prompt_keys(pairs, table(folder, "verdicts", b, ["pair_id", "action"]), config)
        remembered(keys, pl.concat(held[b])).write_parquet(folder / f"nodes-{b:04d}.parquet")
        held[b].clear()
    nodes = [folder / f"nodes-{b:04d}.parquet" for b in range(N_BUCKETS)]
    for b, part in enumerate(assign_parts(lambda: map(pl.read_parquet, nodes), config, 0)):
        part.write_parquet(folder / f"splits-{b:04d}.parquet")


def publish_step(folder: Path, out: Path) -> None:
    """Rows, rejects, evidence, hashes and manifest."""
    splits = (pl.read_parquet(folder / f"splits-{b:04d}.parquet") for b in range(N_BUCKETS))

    def buckets() -> Iterator[Bucket]:
        for b in range(N_BUCKETS):
            pairs, votes, verdicts = (table(folder, name, b) for name in ("pairs", "votes", "verdicts"))
            own = pl.read_parquet(folder / f"splits-{b:04d}.parquet")
            yield Bucket(*dataset_rows(pairs, verdicts, own, RowsConfig()), pairs, votes, verdicts)

    parent = latest_version(out / "datasets", "bench")
    number = parent.manifest.version if parent else None
    provenance = Provenance(recipe="", recipe_hash="0" * 32, code_version="bench")
    publish(out / "datasets", "bench", buckets(), splits, provenance, parent=number)


def change_inputs(folder: Path) -> None:
    """What a second run changes: a tenth of the verdicts, with one vote each."""
    for b in range(N_BUCKETS):
        for table, column in (("verdicts", "margin"), ("votes", "p_a")):
            path = folder / table / f"{b:04d}.parquet"
            hit = pl.col("pair_id").str.slice(0, 1).is_in(["0", "1"])
            if table == "votes":
                hit &= pl.col("voter") == VOTERS[0]
            frame = pl.read_parquet(path)
            frame.with_columns(pl.when(hit).then(pl.col(column) * 0.9).otherwise(column).alias(column)).write_parquet(
                path
            )


def diff_step(folder: Path, out: Path) -> None:
    """Row-level difference with reasons."""
    found = diff(open_version(out / "datasets", "bench@1"), open_version(out / "datasets", "bench@2"))
    print(found.summary(), file=sys.stderr)


def plain_diff(folder: Path, out: Path) -> None:
    """One join of the two versions' rows in Polars, no reasons."""
    old, new = (
        pl.scan_parquet(out / "datasets" / "bench" / v / "data" / "*.parquet").select(
            "pair_id", "chosen_is", "split", "margin"
        )
        for v in ("v0001", "v0002")
    )
    joined = old.join(new, on="pair_id", how="full", suffix="_new")
    changed = joined.filter(
        pl.any_horizontal(pl.col(c).ne_missing(pl.col(f"{c}_new")) for c in ("chosen_is", "split", "margin"))
    )
    print(changed.collect(engine="streaming").height, file=sys.stderr)


def export_step(folder: Path, out: Path) -> None:
    """trl-dpo of the first version."""
    shutil.rmtree(out / "trl", ignore_errors=True)
    cls = find("exporters", "trl-dpo")
    cls("trl-dpo", cls.Config(), 0).export(open_version(out / "datasets", "bench@1").scan("rows"), out / "trl")


def plain_export(folder: Path, out: Path) -> None:
    """The same columns sunk by Polars, no checks."""
    (out / "plain-trl").mkdir(exist_ok=True)
    field = pl.element().struct.field
    columns = [
        pl.col(c).list.eval(pl.struct(field("role"), field("content"))) for c in ("prompt", "chosen", "rejected")
    ]
    for split in ("train", "validation", "test"):
        rows = pl.scan_parquet(out / "datasets" / "bench" / "v0001" / "data" / f"{split}-*.parquet")
        rows.select(columns).sink_parquet(out / "plain-trl" / f"{split}.parquet", mkdir=True)


def verify_step(folder: Path, out: Path) -> None:
    """Every check of `prefine verify`."""
    version = open_version(out / "datasets", "bench@1")
    bad = [c for c in verify(Datasets(out / "datasets"), version) if not c.ok]
    if bad:
        raise SystemExit(f"verify: {bad}")


def report_step(folder: Path, out: Path) -> None:
    """Aggregates and page."""
    (out / "report.html").write_text(render(report_data(open_version(out / "datasets", "bench@1"))))


STEPS: dict[str, Callable[[Path, Path], None]] = {
    "plain": lambda folder, out: plain(folder, out / "plain"),
    "splits": split_step,
    "publish": publish_step,
    "splits again": split_step,
    "publish again": publish_step,
    "plain diff": plain_diff,
    "diff": diff_step,
    "plain export": plain_export,
    "export": export_step,
    "verify": verify_step,
    "report": report_step,
}
COMPARED_WITH = {"publish": "plain", "diff": "plain diff", "export": "plain export"}


def peak_memory() -> float:
    """Largest resident size of this process in GB. Not `ru_maxrss`: that counts the parent's size at the fork too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024**2


def main() -> None:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--step", choices=STEPS)
    options = parser.parse_args()
    inputs, out = options.folder / f"inputs-{options.pairs}", options.folder / "out"
    if options.step:
        start, cpu = time.perf_counter(), time.process_time()
        STEPS[options.step](inputs, out)
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        spent = {"seconds": seconds, "cpu": used, "peak_gb": peak_memory()}
        print(json.dumps(spent))
        return
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(inputs, ignore_errors=True)
    make_inputs(inputs, options.pairs, seed=0)
    cpu_of: dict[str, float] = {}
    print(f"{options.pairs:,} pairs\n\n| step | s | CPU s | peak GB | x plain (CPU) |\n|---|---|---|---|---|")
    for step in STEPS:
        if step == "splits again":
            change_inputs(inputs)
        command = [sys.executable, "-m", "tests.benchmarks.publish", "--pairs", str(options.pairs)]
        done = subprocess.run(
            [*command, "--folder", str(options.folder), "--step", step], check=True, stdout=subprocess.PIPE, text=True
        )
        result = json.loads(done.stdout.splitlines()[-1])
        cpu_of[step] = result["cpu"]
        base = COMPARED_WITH.get(step)
        ratio = f"{cpu_of[step] / cpu_of[base]:.2f}" if base else ""
        times = f"{result['seconds']:.1f} | {result['cpu']:.1f}"
        print(f"| {step} | {times} | {result['peak_gb']:.2f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
