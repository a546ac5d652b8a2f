"""Support of nuggets: which facts an answer should hold does each response support (after Search-Gen-V).

A nugget is one atomic fact that a good answer states. Nuggets come with the pair (`meta` holds a JSON object with a
list `nuggets` of strings or {text, weight}), or are drawn once per prompt by the same engine from the pair's
`reference`, or from its context if that is documents. Each response is then read by itself, in batches of ten
nuggets, as `support` (1), `partial` (1/2) or `not_support` (0), from the response alone. A response's score is the
weighted mean over the nuggets. A pair without a source of nuggets gets no vote from this judge. Of texts too long for
the engine, prompt and response (or source) are windowed; nuggets stay whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import orjson
from pydantic import BaseModel, Field, model_validator

from schemas.messages import text_of
from schemas.tables import Row
from transforms.judges._length import Messages, shortened
from transforms.judges._parsing import LENIENT, openai_schema, read_answer
from transforms.judges._templates import JudgeTemplate, fence, harmless
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, failed, invalid, opinion_by_scores, vote
from transforms.llm.request import Ask, Reply
from transforms.plugins.registry import register

CREDIT: Mapping[str, float] = {"support": 1.0, "partial": 0.5, "not_support": 0.0}
Support = Literal["support", "partial", "not_support"]


class Drawn(BaseModel):
    """Nuggets drawn from a reference."""

    model_config = LENIENT

    nuggets: list[str] = Field(min_length=1, max_length=50)


class Labels(BaseModel):
    """One label per nugget of a batch, in order."""

    model_config = LENIENT

    labels: list[Support]


@register("nuggets")
class NuggetJudge(TemplateJudge):
    """Pointwise support of nuggets; sees one response at a time, so there is no order."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "nuggets.v1"
        draw_template: str = "nuggets_draw.v1"
        batch: int = Field(10, ge=1, le=50, description="nuggets in one request")
        max_nuggets: int = Field(20, ge=1, le=50, description="nuggets of one pair")
        tie_margin: float = Field(0.0, ge=0, lt=1, description="scores this close tie; scores lie in [0, 1]")
        max_tokens: int = Field(1024, ge=1)

        @model_validator(mode="after")
        def _one_response_at_a_time(self) -> Self:
            if self.orders != "both":
                raise ValueError("orders: this judge reads one response at a time, so there is no order; leave it out")
            if self.samples != 1:
                raise ValueError("samples: this judge labels facts and draws no samples; leave it out")
            if self.exemplars:
                raise ValueError("exemplars: this judge labels facts of one response and shows no pairs; leave it out")
            return self

    config: Config

    @cached_property
    def draw_template(self) -> JudgeTemplate:
        """The template nuggets are drawn with."""
        return JudgeTemplate(self.config.draw_template)

    @property
    def identity(self) -> dict[str, Any]:
        """Adds the template nuggets are drawn with."""
        return {**super().identity, "draw_template": self.draw_template.hash}

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """At most one vote per pair; equal requests about a shared response or reference are asked once."""
        rows = await asyncio.gather(*(self._pair(pair, ask) for pair in pairs))
        return [row for row in rows if row is not None]

    async def _pair(self, pair: Row, ask: Ask) -> Row | None:
        given = given_nuggets(pair)
        replies: list[Reply] = []
        if given is None:
            source = reference_of(pair)
            if source is None:
                return None
            drawn, replies = await self._draw(pair, source, ask)
            if isinstance(drawn, Opinion):
                return vote(pair, self.name, "none", drawn, replies)
            given = drawn
        given = given[: self.config.max_nuggets]
        nuggets = [text for text, _ in given]
        sides = await asyncio.gather(
            *(self._support(pair, side, nuggets, ask) for side in ("response_a", "response_b"))
        )
        for _, asked in sides:
            replies += asked
        labels_a, labels_b = sides[0][0], sides[1][0]
        problem = next((labels for labels in (labels_a, labels_b) if isinstance(labels, Opinion)), None)
        if problem is not None or isinstance(labels_a, Opinion) or isinstance(labels_b, Opinion):
            return vote(pair, self.name, "none", problem or invalid("no labels"), replies)
        weights = [weight for _, weight in given]
        aspects = {"nuggets": len(given), "a": list(labels_a), "b": list(labels_b)}
        scores = credit(labels_a, weights), credit(labels_b, weights)
        opinion = opinion_by_scores(*scores, self.config.tie_margin, aspects=aspects)
        return vote(pair, self.name, "none", opinion, replies)

    async def _draw(self, pair: Row, source: str, ask: Ask) -> tuple[list[tuple[str, float]] | Opinion, list[Reply]]:
        nonce = pair["prompt_id"][:8]

        def render(texts: Sequence[str]) -> Messages:
            prompt, shown = (fence(text, nonce) for text in texts)
            values = {"prompt": prompt, "source": shown, "max_nuggets": self.config.max_nuggets}
            return self.draw_template.messages(values)

        messages = await self.fitting([text_of(pair["prompt"]), source], render, shortened, ask)
        if isinstance(messages, Opinion):
            return messages, []
        body = {**self.body(messages, 0), "response_format": openai_schema("nuggets", Drawn)}
        reply = await ask(self.request(body))
        problem = failed([reply])
        if problem is not None:
            return problem, [reply]
        drawn = read_answer(reply, Drawn)
        if isinstance(drawn, str):
            return invalid(f"nuggets cannot be read: {drawn}"), [reply]
        return [(text, 1.0) for text in dict.fromkeys(drawn.nuggets)], [reply]

    async def _support(
        self, pair: Row, side: str, nuggets: Sequence[str], ask: Ask
    ) -> tuple[list[Support] | Opinion, list[Reply]]:
        size = self.config.batch
        batches = [nuggets[start : start + size] for start in range(0, len(nuggets), size)]
        asked = await asyncio.gather(*(self._read(pair, side, batch, ask) for batch in batches))
        replies = [reply for reply in asked if isinstance(reply, Reply)]
        too_long = next((reply for reply in asked if isinstance(reply, Opinion)), None)
        if too_long is not None:
            return too_long, replies
        labels: list[Support] = []
        for batch, reply in zip(batches, replies, strict=True):
            problem = failed([reply])
            if problem is not None:
                return problem, replies
            labelled = read_answer(reply, Labels)
            if isinstance(labelled, str):
                return invalid(labelled), replies
            if len(labelled.labels) != len(batch):
                return invalid(f"{len(labelled.labels)} labels for {len(batch)} nuggets"), replies
            labels += labelled.labels
        return labels, replies

    async def _read(self, pair: Row, side: str, batch: Sequence[str], ask: Ask) -> Reply | Opinion:
        nonce = pair["prompt_id"][:8]
        nuggets = [harmless(nugget) for nugget in batch]

        def render(texts: Sequence[str]) -> Messages:
            prompt, response = (fence(text, nonce) for text in texts)
            return self.template.messages({"prompt": prompt, "response": response, "nuggets": nuggets})

        messages = await self.fitting([text_of(pair["prompt"]), text_of(pair[side])], render, shortened, ask)
        if isinstance(messages, Opinion):
            return messages
        return await ask(self.request({**self.body(messages, 0), "response_format": openai_schema("labels", Labels)}))


def credit(labels: Sequence[Support], weights: Sequence[float]) -> float:
    """Weighted mean credit in [0, 1].

    Args:
        labels: one per nugget, not empty.
        weights: positive, as many.
    """
    return sum(CREDIT[label] * w for label, w in zip(labels, weights, strict=True)) / sum(weights)


def given_nuggets(pair: Row) -> list[tuple[str, float]] | None:
    """The nuggets a pair carries as (text, weight), or None. Entries without text or positive weight are left out."""
    try:
        meta = orjson.loads(pair.get("meta") or "{}")
    except orjson.JSONDecodeError:
        return None
    entries = meta.get("nuggets") if isinstance(meta, dict) else None
    if not isinstance(entries, list):
        return None
    nuggets: list[tuple[str, float]] = []
    for entry in entries:
        text = entry.get("text") if isinstance(entry, dict) else entry
        weight = entry.get("weight", 1.0) if isinstance(entry, dict) else 1.0
        if isinstance(text, str) and text.strip() and isinstance(weight, int | float) and weight > 0:
            nuggets.append((text, float(weight)))
    return nuggets or None


def reference_of(pair: Row) -> str | None:
    """What nuggets may be drawn from: the reference answer, else documents given as context."""
    if pair.get("reference"):
        return str(pair["reference"])
    if pair.get("context") and pair.get("context_kind") == "documents":
        return str(pair["context"])
    return None
