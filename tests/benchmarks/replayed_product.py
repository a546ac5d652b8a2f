"""Real humans replayed through the product itself: the `posterior` fuser, and the queue with its audit and overlap.

Where `replayed_humans` compares routers under a model of its own, here nothing is a stand-in but the people. In rounds
the budget grows, `build_queue` says what is asked how often, answers come as annotations, those the audit holds out
(a tenth of the budget) are never fused (`votes_of`), and `posterior` is fitted on the rest. The last point, all
answers, has no audit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from schemas.ids import hash_fields
from schemas.messages import message
from schemas.tables import Annotations, Votes, rows_frame
from tests.transforms.routers.queue.whole import build_queue
from transforms.annotate.votes import votes_of
from transforms.fusers.posterior.fuser import Posterior
from transforms.plugins.registry import find
from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.features import prompt_families, response_features

BUDGET = partial(QueueConfig, control_share=0, overlap_max=3, one_by_one=True)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class Replay:
    """Pairs as the pipeline knows them, what machines and people say of them, and the gold labels."""

    pairs: pl.DataFrame  # columns that fuser and router read
    machine: pl.DataFrame  # `votes`
    people: list[tuple[str, list[tuple[str, str]]]]  # pair_id, (annotator, label) in the file's order
    gold: pl.DataFrame  # `pair_id, gold` where there is a preference

    @property
    def answers(self) -> int:
        """How many answers there are to buy."""
        return sum(len(said) for _, said in self.people)


def load(folder: Path, name: str, limit: int | None) -> Replay:
    """Read a data set."""
    rows = pl.read_parquet(folder / f"{name}.parquet", n_rows=limit)
    few_prompts = rows["prompt"].n_unique() < 64
    pairs = pl.DataFrame(
        [
            {
                "pair_id": hash_fields(row["id"]),
                "prompt_id": hash_fields(row["prompt"]),
                "prompt": [message("user", row["prompt"])],
                "response_a": [message("assistant", row["response_a"])],
                "response_b": [message("assistant", row["response_b"])],
                "length_a": len(row["response_a"]),
                "length_b": len(row["response_b"]),
                "n_chars": len(row["prompt"]) + len(row["response_a"]) + len(row["response_b"]),
                "kind": hash_fields(row["prompt"])[:8] if few_prompts else "all",
                "language": "en",
                "origin": name,
            }
            for row in rows.iter_rows(named=True)
        ]
    )
    pairs = pairs.with_columns(prompt_families(pairs), context_kind=pl.lit(None, dtype=pl.String))
    ids = pairs["pair_id"].to_list()
    votes = [
        _vote(pair_id, said["judge"], said["label"])
        for pair_id, judges in zip(ids, rows["judge_labels"].to_list(), strict=True)
        for said in judges or ()
    ]
    people = [
        (pair_id, list(zip(names, labels, strict=True)))
        for pair_id, names, labels in zip(
            ids, rows["human_annotators"].to_list(), rows["human_labels"].to_list(), strict=True
        )
    ]
    gold = pl.DataFrame({"pair_id": ids, "gold": rows["gold"]}).filter(pl.col("gold").is_in(["a", "b"]))
    return Replay(
        pairs.join(response_features(pairs), on="pair_id", maintain_order="left").drop("response_a", "response_b"),
        rows_frame(votes, Votes),
        people,
        gold,
    )


def curve(data: Replay, router: str, seed: int) -> list[dict[str, float]]:
    """Label accuracy at every share of the answers; the last point, share 1, has every answer fused."""
    rng = np.random.default_rng(seed)
    people = {pair_id: [said[i] for i in rng.permutation(len(said))] for pair_id, said in data.people}
    fuser = Posterior("fuser", Posterior.Config(), seed)
    plugin = find("routers", router)(router, find("routers", router).Config(), seed)
    queue: pl.DataFrame | None = None
    points: list[dict[str, float]] = []
    candidates = pl.DataFrame()
    for share in SHARES:
        wanted = dict.fromkeys(people, 0 if share == 0 else max(map(len, people.values())))
        if share == 1:
            queue = None
        elif share > 0:
            values = plugin.values(plugin.fit(candidates.filter(pl.col("n_human") > 0)), candidates)
            queue = build_queue(candidates, values, BUDGET(budget=round(share * data.answers)), seed, queue)
            wanted = dict(queue.select("pair_id", "overlap").iter_rows())
        annotations = _annotations({pair_id: people[pair_id][:n] for pair_id, n in wanted.items()})
        votes = pl.concat([data.machine, votes_of(annotations, queue)])
        fused = fuser.apply(fuser.fit(votes, data.pairs), votes, data.pairs)
        candidates = _candidates(data.pairs, fused, votes)
        right = (pl.col("p_a") > 0.5) == (pl.col("gold") == "a")
        label = float(data.gold.join(fused, on="pair_id").select(right.mean()).item())
        points.append({"share": share, "answers": annotations.height, "label": label})
    return points


def _candidates(pairs: pl.DataFrame, fused: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Verdicts as stage `route` shows them to routers."""
    humans = votes.filter(pl.col("kind") == "human").group_by("pair_id").agg(pl.col("voter").unique().sort())
    frame = fused.join(pairs.drop("prompt_id", "prompt"), on="pair_id", maintain_order="left")
    frame = frame.join(humans.rename({"voter": "humans"}), on="pair_id", how="left", maintain_order="left")
    return frame.with_columns(pl.col("humans").fill_null([]), pl.col("n_human").alias("answered"))


def _annotations(said: dict[str, list[tuple[str, str]]]) -> pl.DataFrame:
    rows = [
        {
            "annotation_id": hash_fields(pair_id, who),
            "task_id": pair_id,
            "pair_id": pair_id,
            "annotator": who,
            "label": label,
            "control": False,
            "cancelled": False,
            "updated_at": "2026-01-01T00:00:00.000000Z",
        }
        for pair_id, answers in said.items()
        for who, label in answers
    ]
    return rows_frame(rows, Annotations)


def _vote(pair_id: str, judge: str, label: str | None) -> dict[str, Any]:
    return {
        "vote_id": hash_fields(pair_id, judge),
        "pair_id": pair_id,
        "voter": judge,
        "voter_group": judge,
        "kind": "judge",
        "order": "none",
        "sample": 0,
        "label": label if label in ("a", "b", "tie") else "invalid",
        "tokens_in": 0,
        "tokens_out": 0,
        "ms": 0.0,
    }
