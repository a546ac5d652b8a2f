"""The texts of a version's pairs: those of published pairs lie in data/, those of the others in the rejects."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import polars as pl

from schemas.messages import Message
from transforms.publish.read import Version
from transforms.publish.rows import STAGE

Texts = tuple[Sequence[Message], Sequence[Message], Sequence[Message]]  # prompt, response a, response b
_PARTS = ("prompt", "response_a", "response_b")


def texts_of(version: Version, pair_ids: Sequence[str]) -> dict[str, Texts]:
    """The texts of the pairs that the version knows, by pair."""
    ids = pl.LazyFrame({"pair_id": pair_ids}, schema={"pair_id": pl.String})
    rows = version.scan("rows").join(ids, on="pair_id", how="semi")
    a = pl.col("chosen_is") == "a"
    published = rows.select(
        "pair_id",
        "prompt",
        response_a=pl.when(a).then("chosen").otherwise("rejected"),
        response_b=pl.when(a).then("rejected").otherwise("chosen"),
    ).collect()
    texts: dict[str, Texts] = {pair: (prompt, a, b) for pair, prompt, a, b in published.iter_rows()}
    left_out = version.scan("rejects").filter(pl.col("stage") == STAGE).select(pair_id="record_id", payload="payload")
    for pair, payload in left_out.join(ids, on="pair_id", how="semi").collect().iter_rows():
        record = orjson.loads(payload)
        prompt, first, second = (record[part] for part in _PARTS)
        texts.setdefault(pair, (prompt, first, second))
    return texts
