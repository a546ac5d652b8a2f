"""Pairs shown in full: their texts, votes and arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
import polars as pl

from schemas.messages import text_of
from schemas.tables import ACTIONS
from transforms.publish.explain import Explanation, explain
from transforms.publish.read import Version
from transforms.publish.rows import PUBLISHED

LIMIT = 1200


@dataclass(frozen=True)
class Example:
    """A pair with its explanation; texts are cut at `LIMIT` characters."""

    action: str
    prompt: str
    context: str | None
    response_a: str
    response_b: str
    explanation: Explanation


def examples(version: Version, sample: pl.DataFrame, votes: pl.DataFrame, per_action: int) -> list[Example]:
    """The pairs of lowest id of every action: a random choice, since ids are hashes."""
    chosen = sample.sort("pair_id").group_by("action", maintain_order=True).head(per_action).select("pair_id", "action")
    ids = chosen["pair_id"].to_list()
    texts = _texts(version, ids)
    pairs, cast = sample.filter(pl.col("pair_id").is_in(ids)), votes.filter(pl.col("pair_id").is_in(ids))
    rows = sample.lazy().filter(pl.col("action").is_in(PUBLISHED))
    rank = {action: i for i, action in enumerate(ACTIONS)}
    return [
        Example(action=action, explanation=explain(pair_id, pairs, cast, pairs, published=[rows]), **texts[pair_id])
        for pair_id, action in sorted(chosen.rows(), key=lambda r: (rank[r[1]], r[0]))
        if pair_id in texts
    ]


def _texts(version: Version, ids: list[str]) -> dict[str, dict[str, Any]]:
    """Texts of published pairs from data, of the others from the payload of their reject."""
    texts: dict[str, dict[str, Any]] = {}
    for row in version.scan("rows").filter(pl.col("pair_id").is_in(ids)).collect().iter_rows(named=True):
        sides = (row["chosen"], row["rejected"])
        a, b = sides if row["chosen_is"] == "a" else sides[::-1]
        texts[row["pair_id"]] = _cut(row["prompt"], row["context"], a, b)
    lost = version.scan("rejects").filter(pl.col("record_id").is_in(ids) & (pl.col("stage") == "materialise"))
    for record, payload in lost.select("record_id", "payload").collect().iter_rows():
        try:
            pair = orjson.loads(payload)
        except orjson.JSONDecodeError:  # a version made when payloads were cut
            texts[record] = {"prompt": payload[:LIMIT], "context": None, "response_a": "…", "response_b": "…"}
            continue
        texts[record] = _cut(pair["prompt"], pair["context"], pair["response_a"], pair["response_b"])
    return texts


def _cut(prompt: Any, context: str | None, a: Any, b: Any) -> dict[str, Any]:
    texts = {"prompt": text_of(prompt), "context": context, "response_a": text_of(a), "response_b": text_of(b)}
    return {k: v if v is None or len(v) <= LIMIT else v[:LIMIT] + " …" for k, v in texts.items()}
