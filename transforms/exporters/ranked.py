"""Ranked lists: all responses to one prompt, best first."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import polars as pl

from transforms.exporters._messages import messages
from transforms.exporters.base import PreferenceConfig, PreferenceExporter
from transforms.plugins.registry import register


class RankedConfig(PreferenceConfig):
    """As every preference format, but a doubtful pair counts: its margin moves a response's score little."""

    soft_labels: Literal["filter", "ignore", "duplicate", "margin"] = "ignore"


@register("ranked")
class Ranked(PreferenceExporter):
    """Per prompt and context: `responses` best first with `scores`, for listwise losses and best-of-n training.

    A response's score is the mean signed log-odds over the pairs it took part in (the row-sum score of a paired
    comparison table: David, "The Method of Paired Comparisons", 1988); equal scores keep the order of their text.
    """

    Config: ClassVar[type[PreferenceConfig]] = RankedConfig

    def table(self, rows: pl.LazyFrame, prompt: pl.Expr, parts: Any) -> pl.LazyFrame:
        """Columns prompt, responses, scores, comparisons."""
        sides = [
            rows.select(
                "prompt_id",
                "split",
                _context="context",
                prompt=prompt,
                _response=messages(column, parts),
                _key=pl.struct(text=column).struct.json_encode(),
                _score=sign * pl.col("margin"),
            )
            for column, sign in (("chosen", 1.0), ("rejected", -1.0))
        ]
        responses = (
            pl.concat(sides)
            .group_by("prompt_id", "_context", "_key")
            .agg(pl.col("prompt", "split", "_response").first(), pl.col("_score").mean(), _n=pl.len())
            .sort("prompt_id", "_context", "_score", "_key", descending=[False, False, True, False])
        )
        return (
            responses.group_by("prompt_id", "_context", maintain_order=True)
            .agg(
                pl.col("prompt", "split").first(),
                responses=pl.col("_response"),
                scores=pl.col("_score"),
                comparisons=pl.col("_n"),
            )
            .select("prompt", "responses", "scores", "comparisons", "split")
        )
