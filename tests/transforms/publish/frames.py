"""Small workspaces made by hand and by hypothesis, for the tests of versions, exports and reports."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from schemas.ids import hash_fields
from schemas.messages import message
from schemas.pairs import make_pair
from schemas.tables import Pairs, Rejects, Verdicts, Votes, rows_frame
from transforms.publish.explain import Explanation, render
from transforms.publish.files import Bucket
from transforms.publish.rows import RowsConfig, dataset_rows
from transforms.publish.splits import SplitsConfig, assign_parts, prompt_keys, remembered
from transforms.publish.version import latest_version

ACTIONS = ("keep", "keep", "keep", "flip", "soften", "drop", "tie", "route")
VERBS = ("Explain", "Summarise", "Criticise", "Translate", "Praise", "Compare", "Describe", "Derive")


def pair(prompt: str, first: str, second: str, **fields: Any) -> dict[str, Any]:
    """A pair with plain texts."""
    row, _ = make_pair(
        [message("user", prompt)],
        [message("assistant", first)],
        [message("assistant", second)],
        **{"origin": "test", **fields},
    )
    return row


def vote(pair_id: str, voter: str, label: str, **fields: Any) -> dict[str, Any]:
    """A vote of a judge."""
    return {
        "vote_id": hash_fields(pair_id, voter, fields.get("order", "none"), str(fields.get("sample", 0))),
        "pair_id": pair_id,
        "voter": voter,
        "voter_group": voter,
        "kind": "judge",
        "order": "none",
        "sample": 0,
        "label": label,
        "tokens_in": 10,
        "tokens_out": 1,
        "ms": 1.5,
        **fields,
    }


def verdict(row: dict[str, Any], action: str, contributions: dict[str, float], prior: float = 0.0) -> dict[str, Any]:
    """A verdict whose posterior is the logistic function of its sum."""
    log_odds = prior + math.fsum(contributions.values())
    p_a = 1 / (1 + math.exp(-log_odds))
    label = "tie" if action == "tie" else ("a" if p_a >= 0.5 else "b")
    return {
        "pair_id": row["pair_id"],
        "prompt_id": row["prompt_id"],
        "p_a": p_a,
        "p_tie": 0.6 if action == "tie" else 0.05,
        "label": label,
        "margin": max(-8.0, min(8.0, log_odds)),
        "certainty": max(p_a, 1 - p_a),
        "disagreement": 0.1,
        "noise": 0.2,
        "action": action,
        "reasons": [f"rule_{action}"],
        "n_votes": len(contributions),
        "n_human": 0,
        "prior": prior,
        "contributions": [
            {"voter": v, "n_votes": 1, "label": "a" if x > 0 else "b", "log_odds": x} for v, x in contributions.items()
        ],
    }


def workspace(n: int, seed: int = 0, offset: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """`n` prompts with one to three pairs each: pairs, votes and verdicts of every action."""
    rng = random.Random(seed)
    pairs, votes, verdicts = [], [], []
    for i in range(offset, offset + n):
        rng.seed(f"{seed}/{i}")
        words = " ".join(f"{rng.choice(VERBS)} item{rng.randrange(10**9)}" for _ in range(6))
        for j in range(rng.randrange(1, 4)):
            row = pair(
                f"{words}, please ({i}).",
                f"answer {i} {j} good " * rng.randrange(1, 9),
                f"answer {i} {j} bad",
                kind=("chat", "code", "maths")[i % 3],
                language="en",
                source_label=rng.choice(["a", "b"]),
                first_label=None,
                model_first="m1",
                model_second="m2",
            )
            row["source_label"] = rng.choice(["a", "b"])
            pairs.append(row)
            said = {v: rng.choice([-1, 1]) * rng.uniform(0.1, 2) for v in ("judge-1", "judge-2", "rm")}
            for v, x in said.items():
                votes.append(vote(row["pair_id"], v, "a" if x > 0 else "b", p_a=1 / (1 + math.exp(-x)), raw="long"))
            verdicts.append(verdict(row, rng.choice(ACTIONS), said, prior=0.1))
    return rows_frame(pairs, Pairs), rows_frame(votes, Votes), rows_frame(verdicts, Verdicts)


def assign_splits(
    keys: pl.DataFrame, config: SplitsConfig, seed: int, memory: pl.DataFrame | None = None
) -> pl.DataFrame:
    """`assign_parts` of all prompts in one part."""
    return next(assign_parts(lambda: [remembered(keys, memory)], config, seed))


def plain_text(explanation: Explanation, width: int = 110) -> str:
    """What `prefine explain` prints, without colour."""
    console = Console(width=width, no_color=True, highlight=False, markup=False, emoji=False)
    with console.capture() as printed:
        console.print(render(explanation))
    return printed.get()


def buckets(
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    verdicts: pl.DataFrame,
    n_buckets: int = 3,
    memory: pl.DataFrame | None = None,
    seed: int = 0,
) -> tuple[list[Bucket], list[pl.DataFrame]]:
    """The content of a version and its splits in one part, as the materialise stage makes them."""
    config = SplitsConfig()
    splits = assign_splits(prompt_keys(pairs, verdicts, config), config, seed, memory)
    which = (pl.col("prompt_id").str.slice(0, 8).str.to_integer(base=16) % n_buckets).alias("_bucket")
    out = []
    for b in range(n_buckets):
        p = pairs.filter(which == b)
        v = verdicts.filter(which == b)
        rows, rejects = dataset_rows(p, v, splits, RowsConfig())
        out.append(Bucket(rows, rejects, p, votes.filter(pl.col("pair_id").is_in(p["pair_id"].to_list())), v))
    return out, [splits]


def split_memory(datasets: str | Path, name: str) -> tuple[int | None, pl.DataFrame | None]:
    """The latest version and the memory of its splits; (None, None) before the first version."""
    latest = latest_version(datasets, name)
    return (None, None) if latest is None else (latest.manifest.version, latest.scan("splits").collect())


EMPTY_REJECTS = rows_frame([], Rejects)
