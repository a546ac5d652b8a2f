"""Memory and time of assigning splits, by the number of prompts and by how alike they are.

    python -m tests.benchmarks.splits --prompts 1000000 4000000

`apart`: no two prompts share a key. `chain`: every prompt shares one with the next, so that all are one cluster, the
worst case. Keys are made as they are asked for, so that memory is that of the assignment. Each case runs in a process
of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from tests.benchmarks.tabular import ROWS_PER_BUCKET, timed
from transforms.publish.assign import assign

KEYS = 22  # of a prompt: its text, its group, 20 bands
CASES = ("apart", "chain")


def parts(n: int, case: str) -> Iterator[pl.DataFrame]:
    """`n` prompts with random keys, a bucket at a time."""
    for start in range(0, n, ROWS_PER_BUCKET):
        ids = np.arange(start, min(start + ROWS_PER_BUCKET, n), dtype=np.uint64)
        keys = np.random.default_rng(start).integers(1 << 40, 1 << 63, (len(ids), KEYS), dtype=np.uint64)
        if case == "chain":
            keys[:, 0], keys[:, 1] = ids, ids + np.uint64(1)
        yield pl.DataFrame({"prompt_id": [f"{i:032x}" for i in ids.tolist()]}).with_columns(
            slice=pl.lit("chat"),
            n_rows=pl.lit(1, pl.Int64),
            keys=pl.Series(keys.ravel()).reshape((-1, KEYS)).arr.to_list(),
            old_split=pl.lit(None, pl.String),
        )


def main() -> int:
    """Print a row for each number of prompts and case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1_000_000, 4_000_000])
    parser.add_argument("--one", choices=CASES, help="only this case, in this process")
    options = parser.parse_args()
    if options.one:
        for n in options.prompts:
            for part in assign(lambda n=n: parts(n, options.one), {"train": 0.9, "test": 0.1}, 0):
                assert part["split"].null_count() == 0
        return 0
    print("| prompts | | s | CPU s | peak GB |\n|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as folder:
        for n in options.prompts:
            for case in CASES:
                words = ("-m", "tests.benchmarks.splits", "--prompts", str(n), "--one", case)
                spent = timed(Path(folder) / "out", sys.executable, *words)
                print(f"| {n:,} | {case} | {spent['s']:.0f} | {spent['cpu']:.0f} | {spent['gb']:.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
