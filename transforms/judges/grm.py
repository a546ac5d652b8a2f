"""Principles, then critique, then 1-10 per response; k samples summed.

DeepSeek-GRM (Liu et al. 2025, arXiv:2504.02495).

Each sample writes its own weighted principles, criticises both responses by them and scores each from 1 to 10. The
vote of an order is the sum over its samples. In the paper, sampling at temperature 0.5 raised accuracy from 69.9 to
71.0 with k = 32. p_first is the share of samples that prefer the first response, with Jeffreys' prior: (wins + 1/2 ties
+ 1/2) / (k + 1). A sample that cannot be read is left out of both sums; fewer than half readable is `invalid`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from schemas.tables import Row
from transforms.judges._parsing import LENIENT, REASONING_LIMIT, openai_schema, read_answer
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, failed, invalid, opinion_by_scores, vote
from transforms.llm.request import Ask, Reply
from transforms.plugins.registry import register

Score = Literal[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]


class Principle(BaseModel):
    """A principle with its weight in percent."""

    model_config = LENIENT

    name: str
    weight: int = Field(ge=0, le=100)


class Critique(BaseModel):
    """The schema of one sample."""

    model_config = LENIENT

    principles: list[Principle] = Field(min_length=1, max_length=12)
    critique: str
    score_A: Score  # noqa: N815 the reply's own field names
    score_B: Score  # noqa: N815


@register("grm")
class PrincipleJudge(TemplateJudge):
    """Pointwise scores by principles the judge writes itself."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "grm.v1"
        temperature: float = Field(0.5, ge=0)
        samples: int = Field(4, ge=1, description="k: replies summed per order")
        max_tokens: int = Field(2048, ge=1)
        structured: bool = Field(True, description="enforce the form with json_schema")

    config: Config

    def body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        """Adds the form the reply must have."""
        body = super().body(messages, sample)
        return {**body, "response_format": openai_schema("critique", Critique)} if self.config.structured else body

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """One vote per pair and order, each the sum of k samples."""
        return list(await asyncio.gather(*(self._sum(p, order, ask) for p in pairs for order in self.orders(p))))

    async def _sum(self, pair: Row, order: str, ask: Ask) -> Row:
        asked = await asyncio.gather(*(self.reply(pair, order, k, ask) for k in range(self.config.samples)))
        replies = [reply for reply, _ in asked if reply is not None]
        refused = next((problem for _, problem in asked if problem is not None), None)
        return vote(pair, self.name, order, refused or summed_opinion(replies), replies)


def summed_opinion(replies: Sequence[Reply]) -> Opinion:
    """The sum of the readable samples; a state if fewer than half can be read."""
    critiques: list[Critique] = []
    problems: list[str] = []
    for reply in replies:
        critique = read_answer(reply, Critique) if reply.state == "ok" else (reply.error or reply.state)
        if isinstance(critique, str):
            problems.append(critique)
        else:
            critiques.append(critique)
    if len(critiques) < math.ceil(len(replies) / 2) or not critiques:
        if not critiques and (state := failed(replies)) is not None:
            return state
        return invalid(f"{len(problems)} of {len(replies)} samples cannot be read; first: {problems[0]}")
    first, second = [c.score_A for c in critiques], [c.score_B for c in critiques]
    wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(first, second, strict=True))
    return opinion_by_scores(
        float(sum(first)),
        float(sum(second)),
        p_first=(wins + 0.5) / (len(critiques) + 1),
        aspects={"samples": len(critiques), "unreadable": len(problems), "shown_A": first, "shown_B": second},
        rationale=critiques[0].critique[:REASONING_LIMIT],
    )
