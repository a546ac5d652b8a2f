"""Embeddings through the score stage on Beam, against `model.encode` of the same texts in one plain script.

    python -m tests.benchmarks.embeddings --folder /tmp/bench

Both are whole processes that load the packaged MiniLM and embed every distinct prompt and response once. Ours runs
scorer `relevance`: it reads pairs, embeds into the workspace's memo, and writes votes and checkpoints. The third line
is the same scorer with another setting afterwards, which finds the vectors in the memo.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks.tabular import make_input, timed
from transforms.text.embedding import Embedder


def plain(folder: Path) -> None:
    """Embed every distinct text and keep the vectors."""
    frame = pl.concat([pl.read_parquet(path) for path in sorted((folder / "input").glob("*.parquet"))])
    texts = pl.concat([frame[c].rename("text") for c in ("prompt", "response_a", "response_b")]).unique(
        maintain_order=True
    )
    np.save(folder / "vectors.npy", Embedder().embed(texts.to_list()))


def recipe(folder: Path, tie_band: float) -> Path:
    """Pairs scored by the similarity of question and answer."""
    path = folder / "recipe.yaml"
    source = {"name": "bench", "kind": "pairs", "path": str(folder / "input")}
    settings = {
        "name": "bench",
        "buckets": 4,
        "sources": [source],
        "score": {"scorers": [{"plugin": "relevance", "method": "embedding", "tie_band": tie_band}]},
        "beam": {"workers": 1},
    }
    path.write_text(json.dumps(settings))  # JSON is YAML
    return path


def main() -> int:
    """Print a row a side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    folder: Path = options.folder
    if options.plain:
        plain(folder)
        return 0
    print("| round | step | s | CPU s | of plain, wall | of plain, CPU |\n|---|---|---|---|---|---|", flush=True)
    for number in range(options.rounds):
        shutil.rmtree(folder, ignore_errors=True)
        make_input(folder / "input", options.pairs)
        out, workspace = folder / "out.txt", ("--workspace", str(folder / "w"), "--quiet")
        prefine = (sys.executable, "-m", "prefine.cli.main")
        base = timed(out, sys.executable, "-m", "tests.benchmarks.embeddings", "--plain", "--folder", str(folder))
        found = {"model.encode": base}
        timed(out, *prefine, "run", str(recipe(folder, 0.02)), *workspace, "--until", "clean")
        for step, tie_band in (("score", 0.02), ("score by other settings, vectors known", 0.03)):
            found[step] = timed(out, *prefine, "stage", "score", str(recipe(folder, tie_band)), *workspace)
        for step, spent in found.items():
            ratios = f"{spent['s'] / base['s']:.2f} | {spent['cpu'] / base['cpu']:.2f}"
            print(f"| {number} | {step} | {spent['s']:.1f} | {spent['cpu']:.1f} | {ratios} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
