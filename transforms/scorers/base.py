"""A scorer's numbers as rows of the `votes` table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import polars as pl
from pydantic import Field

from schemas.ids import hash_fields
from schemas.tables import Votes, rows_frame
from transforms.plugins.kinds import PluginConfig


class ScorerConfig(PluginConfig):
    """What every scorer takes."""

    group: str | None = Field(
        None, min_length=1, description="voters of one group share a weight; default: the family of the plug-in"
    )


@dataclass(frozen=True)
class Opinion:
    """What a scorer says of one pair; `label` is a, b, tie or a state."""

    pair_id: str
    label: str
    p_a: float | None = None
    score_a: float | None = None
    score_b: float | None = None
    aspects: dict[str, Any] = field(default_factory=dict)
    detail: str | None = None


def label_by_difference(score_a: float, score_b: float, tie_band: float) -> str:
    """`tie` where the scores differ by at most `tie_band`, else the side with the higher score."""
    difference = score_a - score_b
    if abs(difference) <= tie_band:
        return "tie"
    return "a" if difference > 0 else "b"


def vote_frame(opinions: Iterable[Opinion], voter: str, kind: Literal["reward", "rule"], group: str) -> pl.DataFrame:
    """Rows of `votes`, one per opinion. A voter has one vote a pair, so the id hashes voter and pair.

    `group` names voters that err together: the fuser shares one weight among those present.
    """
    rows = [
        {
            "vote_id": hash_fields("score", voter, opinion.pair_id),
            "pair_id": opinion.pair_id,
            "voter": voter,
            "voter_group": group,
            "kind": kind,
            "order": "none",
            "sample": 0,
            "label": opinion.label,
            "p_a": opinion.p_a,
            "score_a": opinion.score_a,
            "score_b": opinion.score_b,
            "aspects": orjson.dumps(opinion.aspects, option=orjson.OPT_SORT_KEYS).decode() if opinion.aspects else None,
            "detail": opinion.detail,
            "tokens_in": 0,
            "tokens_out": 0,
            "ms": 0.0,
        }
        for opinion in opinions
    ]
    return rows_frame(rows, Votes)
