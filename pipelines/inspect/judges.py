"""What a workspace's answers cost, by stage, engine and who asked; and what is known of its judges."""

from __future__ import annotations

from typing import Any

import orjson
import polars as pl

from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES
from pipelines.runtime.summary import CACHES, FIT_USAGE, summarise
from transforms.stats.judge_quality import judge_table, response_lengths
from transforms.storage.workspace import Workspace

STAGES = ("evolve", "generate", "judge")


def stage_usage(workspace: Workspace, stage: str) -> dict[str, dict[str, float]]:
    """A stage's usage by `engine/who`: its buckets' and what fitting a panel asked before them."""
    usage = summarise(stage, list(workspace.checkpoints(stage).values())).usage
    fit: dict[str, dict[str, float]] = orjson.loads(workspace.read_artefact(stage, FIT_USAGE) or b"{}")
    return usage | {f"{who}, to fit the panel": numbers for who, numbers in fit.items()}


def requests(workspace: Workspace, stage: str) -> list[dict[str, Any]]:
    """One row per engine and who asked it.

    Columns: engine, who; calls, from_memo (known or joined), failed (errors and refusals), retries; tokens_in,
    cached (share of tokens_in that the server took from its prefix cache), tokens_out; ms_per_call (waits
    included); calls_per_s and tokens_per_s (in and out) of the time in which the engine worked for this account.
    """
    return [_request_row(who, numbers) for who, numbers in sorted(stage_usage(workspace, stage).items())]


def _request_row(key: str, numbers: dict[str, float]) -> dict[str, Any]:
    engine, _, who = key.rpartition("/")
    calls, busy = numbers.get("calls", 0), numbers.get("busy_s", 0.0)
    tokens = numbers.get("tokens_in", 0) + numbers.get("tokens_out", 0)
    return {
        "engine": engine,
        "who": who,
        "calls": int(calls),
        "from_memo": int(numbers.get("memo_hits", 0) + numbers.get("joined", 0)),
        "failed": int(numbers.get("errors", 0) + numbers.get("refused", 0)),
        "retries": int(numbers.get("retries", 0)),
        "tokens_in": int(numbers.get("tokens_in", 0)),
        "cached": _ratio(numbers.get("tokens_cached", 0), numbers.get("tokens_in", 0)),
        "tokens_out": int(numbers.get("tokens_out", 0)),
        "ms_per_call": _ratio(numbers.get("ms", 0.0), calls),
        "calls_per_s": _ratio(calls, busy),
        "tokens_per_s": _ratio(tokens, busy),
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def prefix_caches(workspace: Workspace, stage: str) -> dict[str, float]:
    """Engine -> share of prompt tokens its servers say they took from the prefix cache in the stage's last run."""
    caches = orjson.loads(workspace.read_artefact(stage, CACHES) or b"{}")
    return {name: n["hits"] / n["queries"] for name, n in sorted(caches.items()) if n["queries"]}


def judges(root: str) -> list[dict[str, Any]]:
    """Per judge: its statistics and what its context is worth, if it has one (`judge_table`)."""
    workspace = Workspace.open(root)
    texts = ("response_a", "response_b")
    votes, pairs = [], []
    for bucket in workspace.buckets:
        votes.append(workspace.read("votes", bucket, VOTE_STAGES).drop("raw", "rationale"))
        pairs.append(response_lengths(workspace.read("pairs", bucket, PAIR_STAGES, texts)))
    return judge_table(pl.concat(votes), pl.concat(pairs)).to_dicts()
