"""The tabular path against the nearest pipelines of datatrove, data-juicer and distilabel, over the same files.

    python -m tests.benchmarks.peers --python PEERS_PYTHON --folder /tmp/peers [--pairs 10000 100000]

PEERS_PYTHON is the Python of an environment that has the peers (docs/scale.md says how it is made).

Input: that of `tabular.py`, in two files, as datatrove divides work by files. A peer reads it, gives every pair a
content id, drops repeated pairs, takes the majority of each pair's ten votes, drops ties and writes chosen and rejected
as Parquet, with two processes (distilabel: one a step). What a peer has of this is used; the rest is
`peers_rows.decided`, called through its API for custom steps; `peers_*.py` say which is which. The rows that come out
are checked to be the same from every peer.

Ours does the whole of `prefine run`, once with and once without its search for near-duplicate prompts, and the plain
script what `tabular.py` says. Left out by all peers' pipelines: that search, rejects with reasons, laws checked, votes
and verdicts kept as tables, voters weighed by their agreement, noise scores, a queue for people, splits, a manifest.
datatrove and distilabel can resume (tasks, steps), data-juicer has checkpoints and a cache; here everybody starts from
nothing.

CPU seconds count all threads and child processes; peak memory is the largest process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl

from tests.benchmarks.peers_rows import decided
from tests.benchmarks.tabular import make_input, recipe, timed

PEERS = {"datatrove": "datatrove", "juicer": "py-data-juicer", "distilabel": "distilabel"}
FILES = 2


def make_files(folder: Path, n: int) -> None:
    """The input of `tabular.py` in as many files as there are processes."""
    (folder / "input").mkdir(parents=True)
    for number in range(FILES):
        part = folder / f"part-{number}"
        make_input(part, n // FILES, seed=number)
        next(part.iterdir()).rename(folder / "input" / f"{number}.parquet")
        part.rmdir()


def expected(source: Path) -> pl.DataFrame:
    """A row a pair that is no tie: its id and the majority's response."""
    rows = (decided(row) for path in sorted(source.iterdir()) for row in pl.read_parquet(path).iter_rows(named=True))
    kept = {row["pair_id"]: row["chosen"] for row in rows if row["winner"] != "tie"}
    return pl.DataFrame({"pair_id": [*kept], "chosen": [*kept.values()]}).sort("pair_id")


def written(out: Path) -> pl.DataFrame:
    """The same of what a peer wrote; `chosen` may be a text or messages that end with it."""
    rows = pl.read_parquet(out / "*.parquet", columns=["pair_id", "chosen"])
    if rows.schema["chosen"] != pl.String:
        rows = rows.with_columns(chosen=pl.col("chosen").list.last().struct.field("content"))
    return rows.sort("pair_id")


def measure(folder: Path, n: int, python: str, peers: list[str]) -> dict[str, dict[str, float]]:
    """Seconds, CPU seconds and memory of everybody at one size."""
    shutil.rmtree(folder, ignore_errors=True)
    make_files(folder, n)
    rows = expected(folder / "input")
    plain = (sys.executable, "-m", "tests.benchmarks.tabular", "--one", "majority", "--folder", str(folder))
    found = {"plain Polars": timed(folder / "plain.log", *plain)}
    for name, bands in (("ours", None), ("ours, no near-duplicates", 0)):
        run = (sys.executable, "-m", "prefine.cli.main", "run", str(recipe(folder, n, bands)), "--quiet")
        found[name] = timed(folder / "ours.log", *run, "--workspace", str(folder / f"w-{bands}"))
    os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(folder / "hf"), DISTILABEL_LOG_LEVEL="ERROR")
    for peer in peers:
        out, scratch = folder / peer / "out", folder / peer / "scratch"
        out.mkdir(parents=True)
        scratch.mkdir()
        words = (python, "-m", f"tests.benchmarks.peers_{peer}", str(folder / "input"), str(out), str(scratch))
        found[peer] = timed(folder / f"{peer}.log", "sh", "-c", 'exec "$@" 2>&1', "sh", *words)
        if not written(out).equals(rows):
            raise SystemExit(f"{peer}: other rows than expected, see {out} and {folder / peer}.log")
    return found


def main() -> None:
    """Print the versions and a row a size and contender."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    options = parser.parse_args()
    names = [PEERS[peer] for peer in options.peers]
    ask = "import sys,importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    print(subprocess.check_output([options.python, "-c", ask, *names], text=True))
    print("| pairs | | s | CPU s | peak GB | CPU, of ours | wall, of ours |\n|---|---|---|---|---|---|---|", flush=True)
    for n in options.pairs:
        found = measure(options.folder / str(n), n, options.python, options.peers)
        ours = found["ours"]
        for who, spent in found.items():
            cells = f"{spent['s']:.1f} | {spent['cpu']:.1f} | {spent['gb']:.2f}"
            ratios = f"{spent['cpu'] / ours['cpu']:.2f} | {spent['s'] / ours['s']:.2f}"
            print(f"| {n:,} | {PEERS.get(who, who)} | {cells} | {ratios} |", flush=True)
        shutil.rmtree(options.folder / str(n))
    print(f"\nload average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
