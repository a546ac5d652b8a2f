"""Coverage and width of the certificate where annotators are wrong on the same pairs.

    python -m tests.benchmarks.certificate [--audits 50] [--out FILE.json]

Each row: 200 audited pairs with 1 to 3 answers, true accuracies .7, .8, .9, .95 and shared difficulty 1/6, 1/3, 1/2 (12
settings of `--audits` audits each), annotators' error .2 on average. Exits with 1 where, with 40 known answers, fewer
than 94 % of intervals hold the truth or they are wider than .25 on average.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.transforms.stats.shared_difficulty import Setting, measured

ACCURACIES, SHARED = (0.7, 0.8, 0.9, 0.95), (1 / 6, 1 / 3, 1 / 2)
ROWS: Mapping[str, tuple[Mapping[str, Any], bool]] = {  # what differs from the first row, and whether PPI++ is used
    "40 known answers": ({}, False),
    "40 known pairs with 3 answers each": ({"answers_known": 3}, False),
    "no known answers": ({"known": 0}, False),
    "no known answers, 2 answers per pair": ({"known": 0, "answers": (2,)}, False),
    "40 known answers, labels worse on hard pairs": ({"hard_labels": True}, False),
    "40 known answers, sharp probabilities": ({"sharpness": 2.0}, False),
    "the same with PPI++": ({"sharpness": 2.0}, True),
    "40 known answers, sharp probabilities, error .05": ({"sharpness": 2.0, "error": 0.05}, False),
    "the same with PPI++, error .05": ({"sharpness": 2.0, "error": 0.05}, True),
}
COVERED, WIDE = 0.94, 0.25


def row(options: Mapping[str, Any], powered: bool, audits: int, seed: int) -> dict[str, Any]:
    """Coverage and width by true accuracy, and over all settings."""
    cells: dict[float, list[tuple[float, float]]] = {accuracy: [] for accuracy in ACCURACIES}
    for i, (accuracy, shared) in enumerate(itertools.product(ACCURACIES, SHARED)):
        setting = Setting(accuracy, shared=shared, **options)
        covered, width, _ = measured(setting, audits, seed + i, powered)
        cells[accuracy].append((covered, width))
    every = np.array(list(cells.values()))  # (accuracies, shared, 2)
    return {
        "audits": audits * every.shape[0] * every.shape[1],
        "coverage": float(every[..., 0].mean()),
        "width": float(every[..., 1].mean()),
        "by_accuracy": {a: np.array(c).mean(axis=0).tolist() for a, c in cells.items()},
    }


def main() -> int:
    """Print the table; 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audits", type=int, default=50, help="audits per setting, 12 settings a row")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = {}
    for name, (what, powered) in ROWS.items():
        figures[name] = found = row(what, powered, options.audits, options.seed)
        cells = "  ".join(f"{a}: {c:.1%} {w:.3f}" for a, (c, w) in found["by_accuracy"].items())
        print(f"{name}: coverage {found['coverage']:.1%}, width {found['width']:.3f}  ({cells})", flush=True)
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    bar = figures["40 known answers"]
    met = bar["coverage"] >= COVERED and bar["width"] <= WIDE
    print(f"{'met' if met else 'MISSED'}: at least {COVERED:.0%} at a width of at most {WIDE} with 40 known answers")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
