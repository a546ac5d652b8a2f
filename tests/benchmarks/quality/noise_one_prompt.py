"""Wrong labels under one prompt (table 6): AUROC against cleanlab, and what 25,000 such pairs cost.

    python -m tests.benchmarks.quality.noise_one_prompt --data ../shared/data --cache CACHE [--quick]

All pairs of ukpconvarg1 are given one prompt; labels are flipped; each method ranks them by suspicion. cleanlab sees
the same features. It has no rule for one prompt, so it gets the folds of rows that it takes by default and ours as well
("parts": connected responses stay together; the 32 stances share none).

Cost: features, labels and responses are drawn, so that only the heads and the posterior of the pairs are measured, not
the embedding of texts; each shape in a process of its own. Exit 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.quality.noise import interval
from tests.benchmarks.quality.noise_data import FolderCache, Pairs, inject, prepare
from tests.benchmarks.quality.noise_methods import (
    cleanlab_default,
    cleanlab_tuned,
    features,
    nested_ridges,
    ours_and_moss,
)
from transforms.scorers.heads.graph import PairGraph
from transforms.scorers.heads.pair_features import Blocks
from transforms.scorers.heads.partition import Partition

METHODS = ("ours", "moss", "cleanlab, rows", "cleanlab tuned, rows", "cleanlab, parts", "cleanlab tuned, parts")
MARGIN = 0.01  # AUROC that ours may be below cleanlab, at 20% flips
CPU_SECONDS, MEGABYTES = 120.0, 3_000.0
N_PAIRS = 25_000
SHAPES = {
    "all pairs of 225 responses": 225,
    "2,000 responses at random": 2_000,
    "5,000 responses at random": 5_000,
    "25,000 responses at random": 25_000,
}


def under_one_prompt(pairs: Pairs) -> Pairs:
    """The same pairs, as answers to one prompt."""
    prompt = ["p"] * len(pairs.y)
    return Pairs(pairs.name, pairs.blocks, pairs.y, prompt, PairGraph(prompt, pairs.graph.first, pairs.graph.second))


def detect(pairs: Pairs, rate: float, seed: int) -> dict[str, float]:
    """AUROC of each method on one drawing of flips."""
    from sklearn.metrics import roc_auc_score

    given, flipped = inject(pairs.y, rate, np.random.default_rng([seed, round(100 * rate)]))
    x = features(pairs)
    by_row = np.random.default_rng([seed, 9]).permutation(len(given)) % 5
    by_part = Partition.of(pairs.groups, pairs.graph, 5, seed).folds(pairs.groups, pairs.graph)[:, 0]
    ours, moss = ours_and_moss(pairs, given, seed)
    suspicion = {"ours": ours, "moss": moss}
    for name, folds in (("rows", by_row), ("parts", by_part)):
        suspicion[f"cleanlab, {name}"] = cleanlab_default(x, given, folds)
        suspicion[f"cleanlab tuned, {name}"] = cleanlab_tuned(x, given, folds, nested_ridges(x, given, folds))
    return {name: float(roc_auc_score(flipped, suspicion[name])) for name in METHODS}


def drawn(n_responses: int, n_pairs: int, seed: int = 0) -> Pairs:
    """Pairs of one prompt whose responses have random embeddings and a reward of which half is in the embedding."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_responses, 384)) / np.sqrt(384)
    reward = 2.0 * vectors @ rng.normal(size=384) + 2.0 * rng.normal(size=n_responses)
    ends = set[tuple[int, int]]()
    while len(ends) < n_pairs:
        both = np.sort(rng.integers(0, n_responses, (n_pairs, 2)), axis=1)
        ends |= {(int(i), int(j)) for i, j in both if i != j}
    a, b = rng.permuted(rng.permutation(sorted(ends))[:n_pairs], axis=1).T
    names = [f"{i:032x}" for i in range(n_responses)]
    graph = PairGraph(["p"] * n_pairs, [names[i] for i in a], [names[j] for j in b])
    difference = vectors[a] - vectors[b]
    blocks = Blocks(difference, 0.3 * difference, rng.normal(size=(n_pairs, 15)))
    y = (rng.random(n_pairs) < 1.0 / (1.0 + np.exp(reward[b] - reward[a]))).astype(np.float64)
    return Pairs("drawn", blocks, y, list(graph.prompts), graph)


def cost(n_responses: int, n_pairs: int) -> dict[str, float]:
    """CPU seconds of fitting and scoring, and the process's peak memory in MB."""
    from threadpoolctl import threadpool_limits

    pairs = drawn(n_responses, n_pairs)
    given, _ = inject(pairs.y, 0.2, np.random.default_rng(0))
    start, cpu = time.perf_counter(), time.process_time()
    with threadpool_limits(limits=1, user_api="blas"):
        ours_and_moss(pairs, given, 0)
    spent = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    return {**spent, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def costs(n_pairs: int) -> list[dict[str, Any]]:
    """The cost of every shape, each in a process of its own."""
    rows = []
    for shape, n_responses in SHAPES.items():
        # Fewer pairs have fewer responses, so that a quick run keeps the shape; complete ones need sqrt(2 n).
        scaled = (
            n_responses if n_pairs == N_PAIRS else max(n_responses * n_pairs // N_PAIRS, int((2 * n_pairs) ** 0.5) + 2)
        )
        call = f"import json; from {__spec__.name} import cost; print(json.dumps(cost({scaled}, {n_pairs})))"
        done = subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True)
        rows.append({"shape": shape, **json.loads(done.stdout.splitlines()[-1])})
        print(f"{shape}: " + ", ".join(f"{k} {v:,.1f}" for k, v in rows[-1].items() if k != "shape"), flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, the costs and the bars; exit 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the real data")
    parser.add_argument("--cache", type=Path, help="folder for embeddings (default: a temporary one)")
    parser.add_argument("--rates", nargs="+", type=float, default=[0.1, 0.2, 0.3, 0.4], help="shares of labels flipped")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="two seeds, 20%% flips, a tenth of the pairs")
    options = parser.parse_args(argv)
    seeds, rates = (range(2), [0.2]) if options.quick else (range(options.seeds), options.rates)
    with tempfile.TemporaryDirectory() as scratch:
        pairs = under_one_prompt(prepare("ukpconvarg1", options.data, FolderCache(options.cache or Path(scratch))))
    print(
        f"\nTable 6: {pairs.name} under one prompt, {len(pairs.y)} pairs, AUROC, 95% interval over {len(seeds)} seeds"
    )
    print(f"{'flips':>5} " + " ".join(f"{name:>21}" for name in METHODS))
    bars = []
    for rate in rates:
        runs = [detect(pairs, rate, seed) for seed in seeds]
        cells = {name: interval([run[name] for run in runs]) for name in METHODS}
        print(f"{rate:>5.0%} " + " ".join(f"{m:>14.3f} ±{h:.3f}" for m, h in cells.values()), flush=True)
        best = max(METHODS[2:], key=lambda name: cells[name][0])
        what = f"one prompt, {rate:.0%} flips: AUROC of ours {cells['ours'][0]:.4f}, {best} {cells[best][0]:.4f}"
        bars.append((what, cells["ours"][0] >= cells[best][0] - MARGIN))
    print(f"\nCost of {N_PAIRS // (10 if options.quick else 1):,} pairs of one prompt")
    for row in costs(N_PAIRS // (10 if options.quick else 1)):
        what = f"{row['shape']}: {row['cpu_seconds']:.0f} CPU s, {row['peak_mb']:,.0f} MB"
        bars.append((what, row["cpu_seconds"] <= CPU_SECONDS and row["peak_mb"] <= MEGABYTES))
    print("\n" + "\n".join(f"- {'met' if met else 'MISSED'}: {what}" for what, met in bars))
    return 0 if options.quick or all(met for _, met in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
