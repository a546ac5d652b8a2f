"""Sequential panel on LLMBar's real verdicts: accuracy against share of calls.

    python -m tests.benchmarks.panel [--data DIR] [--out FILE.json]

734 pairs, up to 123 recorded verdicts each (6 LLMs, many prompts, both orders), gold labels agreed by the authors.
Five folds by prompt: order, weights and stopping are learned on four, replayed on the fifth.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from schemas.ids import hash_fields
from transforms.judges.panel.sequential import PanelModel, fit_panel

Floats = NDArray[np.float64]
FOLDS = 5
CERTAINTIES = (0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
CHANGES = (0.1, 0.05, 0.03, 0.02, 0.01, 0.005, 0.002)


@dataclass(frozen=True)
class Replay:
    """What a sequential panel would have said and cost on votes that are already there."""

    log_odds: Floats  # (n,) when it stopped
    calls: NDArray[np.int64]  # (n,) votes it would have bought
    available: NDArray[np.int64]  # (n,) votes there are


def replay(model: PanelModel, words: Floats, stop_certainty: float, min_change: float) -> Replay:
    """Run the stopping rule over recorded words (n, k) in the model's order; absent votes cost nothing."""
    z = model.log_odds(words)
    spoken = ~np.isnan(words)
    n, k = words.shape
    stopped, at = np.zeros(n, dtype=bool), np.full(n, k)
    for asked in range(1, k + 1):
        # A judge that has nothing recorded on a pair brought no news: the pair is looked at after its next vote.
        now = spoken[:, asked - 1] & ~stopped & model.done(z[:, asked - 1], asked, stop_certainty, min_change)
        at[now] = asked
        stopped |= now
    calls = (spoken & (np.arange(k)[None, :] < at[:, None])).sum(axis=1)
    return Replay(z[np.arange(n), at - 1], calls, spoken.sum(axis=1))


@dataclass(frozen=True)
class Verdicts:
    """Recorded verdicts: words (n, k) in {-1, 0, 1, NaN}, gold (n,), prompts (n,), judges (k,)."""

    words: NDArray[np.float64]
    gold: NDArray[np.float64]
    prompts: list[str]
    judges: list[str]


def load(data: Path) -> Verdicts:
    """LLMBar's verdicts as words."""
    frame = pl.read_parquet(data / "llmbar.parquet")
    judges = sorted(frame.explode("judge_labels").unnest("judge_labels")["judge"].unique().to_list())
    place = {judge: column for column, judge in enumerate(judges)}
    words = np.full((frame.height, len(judges)), np.nan)
    for row, verdicts in enumerate(frame["judge_labels"].to_list()):
        for verdict in verdicts:
            words[row, place[verdict["judge"]]] = {"a": 1.0, "b": -1.0, "tie": 0.0}[verdict["label"]]
    return Verdicts(words, (frame["gold"] == "a").to_numpy().astype(float), frame["prompt"].to_list(), judges)


def folds(verdicts: Verdicts) -> tuple[NDArray[np.int64], list[PanelModel]]:
    """Fold of every pair, and the panel learned without that fold."""
    fold = np.array([int(hash_fields("panel benchmark", prompt)[:8], 16) % FOLDS for prompt in verdicts.prompts])
    models = []
    for number in range(FOLDS):
        train = np.flatnonzero(fold != number)
        groups = [verdicts.prompts[i] for i in train]
        models.append(fit_panel(verdicts.words[train], verdicts.gold[train], groups, verdicts.judges))
    return fold, models


def measure(
    verdicts: Verdicts, fold: NDArray[np.int64], models: list[PanelModel], stop_certainty: float, min_change: float
) -> dict[str, float]:
    """Accuracy and calls over all held-out pairs; a certainty above 1 and a change below 0 ask the whole panel."""
    right = calls = available = 0
    for number, model in enumerate(models):
        test = fold == number
        columns = [verdicts.judges.index(judge) for judge in model.judges]
        out = replay(model, verdicts.words[np.ix_(test, columns)], stop_certainty, min_change)
        right += int(((out.log_odds > 0) == (verdicts.gold[test] > 0.5)).sum())
        calls += int(out.calls.sum())
        available += int(out.available.sum())
    return {"accuracy": right / len(fold), "share_of_calls": calls / available, "calls_per_pair": calls / len(fold)}


def curve(data: Path) -> list[dict[str, Any]]:
    """The full panel, then both stopping rules at several levels."""
    verdicts = load(data)
    fold, models = folds(verdicts)
    rules = [("full panel", 2.0, -1.0)]
    rules += [(f"stop_certainty {level}", level, -1.0) for level in CERTAINTIES]
    rules += [(f"min_change {level}", 2.0, level) for level in CHANGES]
    return [{"rule": name, **measure(verdicts, fold, models, tau, eps)} for name, tau, eps in rules]


def main() -> None:
    """Print the curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = curve(arguments.data)
    print("| rule | accuracy | share of calls | calls per pair |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['rule']} | {row['accuracy']:.4f} | {row['share_of_calls']:.3f} | {row['calls_per_pair']:.1f} |")
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
