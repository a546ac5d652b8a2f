"""Near-duplicate prompts: transforms/hygiene/duplicates.py against datasketch, same data, same threshold.

    python -m tests.benchmarks.near_duplicates [--n 100000,1000000]

A fifth of the prompts are copies of others with a few words changed. Both sides are told the same Jaccard
threshold over word trigrams and use the same number of permutations. Time is processor time of the side's
process and its threads, which another job on the machine does not stretch; wall time and peak memory stand
beside it. Each side runs in a process of its own, one after the other. Recall is against the copies whose true
Jaccard similarity reaches the threshold; a wrong drop is a prompt whose true similarity to the one it is
dropped for is below threshold - 0.15.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
THRESHOLD = 0.8
SHARD = 50_000
SIDES = ("prefine", "datasketch")


def corpus(n: int) -> tuple[list[str], list[int]]:
    """Texts, and for each the index of the text it was copied from, or -1."""
    rng = random.Random(5)
    vocabulary = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("a", "en", "io", "ur", "est", "al", "ing", "on")]
    vocabulary = [x + y for x in vocabulary for y in vocabulary]
    texts: list[str] = []
    sources: list[int] = []
    for i in range(n):
        if i and rng.random() < 0.2:
            j = rng.randrange(i)
            tokens = texts[j].split()
            for _ in range(rng.randrange(0, 4)):
                tokens[rng.randrange(len(tokens))] = rng.choice(vocabulary)
            texts.append(" ".join(tokens))
            sources.append(j)
        else:
            texts.append(" ".join(rng.choices(vocabulary, k=rng.randrange(15, 60))))
            sources.append(-1)
    return texts, sources


def ours(texts: list[str]) -> dict[int, int]:
    """Dropped index -> kept index."""
    import polars as pl

    from transforms.hygiene.duplicates import prompt_keys, resolve

    keys = []
    for start in range(0, len(texts), SHARD):
        part = texts[start : start + SHARD]
        messages = pl.Series([[{"content": text}] for text in part])
        ids = [f"{i:032x}" for i in range(start, start + len(part))]
        frame = pl.DataFrame({"prompt_id": ids, "prompt": messages})
        keys.append(prompt_keys(frame.with_columns(documents=pl.lit(None, pl.List(pl.String)))))
    drops = resolve(pl.concat(keys), THRESHOLD)
    return {int(i, 16): int(k, 16) for i, k in drops.select("id", "kept_id").iter_rows()}


def datasketch(texts: list[str]) -> dict[int, int]:
    """The usual recipe: one MinHash a text, insert into MinHashLSH, drop what finds an earlier one."""
    from datasketch import MinHash, MinHashLSH

    from transforms.hygiene.signatures import PERMUTATIONS

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    signatures: dict[int, Any] = {}
    dropped = {}
    for i, text in enumerate(texts):
        words = text.split()
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch([" ".join(words[j : j + 3]).encode() for j in range(len(words) - 2)])
        near = [j for j in lsh.query(signature) if signature.jaccard(signatures[j]) >= THRESHOLD]
        if near:
            dropped[i] = min(near)
        else:
            lsh.insert(i, signature)
            signatures[i] = signature
    return dropped


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def true_jaccard(first: str, second: str) -> float:
    one, two = trigrams(first), trigrams(second)
    return len(one & two) / len(one | two)


def measure(side: str, n: int) -> dict[str, Any]:
    texts, sources = corpus(n)
    before, wall = time.process_time(), time.perf_counter()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    dropped = {"prefine": ours, "datasketch": datasketch}[side](texts)
    cpu, wall = time.process_time() - before, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    close = [i for i, j in enumerate(sources) if j >= 0 and true_jaccard(texts[i], texts[j]) >= THRESHOLD]
    # A copy counts as found if it or the text it was copied from is gone.
    found = sum(i in dropped or sources[i] in dropped for i in close)
    wrong = sum(true_jaccard(texts[i], texts[k]) < THRESHOLD - 0.15 for i, k in dropped.items())
    return {
        "side": side,
        "prompts": n,
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "cpu_us_per_prompt": round(1e6 * cpu / n, 1),
        "peak_gb": round(peak / 2**20, 2),
        "peak_above_texts_gb": round((peak - base) / 2**20, 2),
        "dropped": len(dropped),
        "recall": round(found / max(1, len(close)), 4),
        "wrong_drops": wrong,
    }


def main() -> None:
    """Print both sides' figures at every size, and how many times as much datasketch takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", default="100000,1000000")
    parser.add_argument("--side", choices=SIDES)
    options = parser.parse_args()
    sizes = [int(n) for n in options.n.split(",")]
    if options.side:
        print(json.dumps(measure(options.side, sizes[0])))
        return
    print(json.dumps({"cores": os.cpu_count(), "load_average": os.getloadavg()}), flush=True)
    for n in sizes:
        figures = {side: isolated(side, n) for side in SIDES}
        mine, theirs = (figures[side] for side in SIDES)
        ratios = {key: round(theirs[key] / mine[key], 2) for key in ("cpu_s", "wall_s", "peak_gb")}
        print(json.dumps({"prompts": n, "datasketch_over_prefine": ratios}), flush=True)


def isolated(side: str, n: int) -> dict[str, Any]:
    """The side's figures from a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--n", str(n)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(printed, flush=True)
    figures: dict[str, Any] = json.loads(printed)
    return figures


if __name__ == "__main__":
    main()
