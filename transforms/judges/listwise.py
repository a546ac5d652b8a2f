"""Principle-conditioned ranking of n responses at once (RewardAnything, Yu et al. 2025, arXiv:2506.03637).

All responses to a prompt under one context are shown together, masked as `model-1`, `model-2`, ..., in a shuffled
order; the judge gives every one a score from 1 to 5 and a ranking from best to worst under the stated principle. A
pair's vote follows the two scores. Every list is asked twice, forwards and backwards, so each pair is seen in
both orders (`orders: both`); `coin` asks the shuffled list once; `ab` sorts it so that every pair's `response_a` stands
before its `response_b`, `ba` the other way round. Asking about n responses costs two requests instead of n (n - 1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import hash_fields
from schemas.messages import messages_id, text_of
from schemas.tables import Row
from transforms.judges._length import shortened
from transforms.judges._parsing import read_answer
from transforms.judges._templates import fence
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, failed, invalid, opinion_by_scores, vote
from transforms.llm.request import Ask, Reply
from transforms.plugins.registry import register


class Ranking(BaseModel):
    """The reply's schema; `scores` has one entry per response shown."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    thoughts: str = ""
    scores: dict[str, float]
    ranking: list[str] = Field([], alias="best-to-worst")


@dataclass(frozen=True)
class Sheet:
    """One list to be judged: responses by id in the order shown, and the pairs it decides."""

    responses: dict[str, str]  # response id -> text
    pairs: tuple[Row, ...]
    shown: Row  # whose prompt and context stand above the list

    def backwards(self) -> Sheet:
        """The same list from its end."""
        return replace(self, responses=dict(reversed(self.responses.items())))

    def sorted(self) -> Sheet:
        """The same list by id: in every pair `response_a` has the smaller one and comes first."""
        return replace(self, responses=dict(sorted(self.responses.items())))

    def windowed(self, share: float) -> Sheet | None:
        """The same list with all texts cut to `share` of their characters; None if nothing is left to cut."""
        prompt, context = self.shown["prompt"], self.shown.get("context")
        texts = [*self.responses.values(), *(m["content"] for m in prompt), *([context] if context else [])]
        cut = shortened(texts, share)
        if cut is None:
            return None
        left = iter(cut)
        responses = {name: next(left) for name in self.responses}
        shown = {**self.shown, "prompt": [{**m, "content": next(left)} for m in prompt]}
        return replace(self, responses=responses, shown={**shown, "context": next(left)} if context else shown)


@register("listwise")
class ListwiseJudge(TemplateJudge):
    """Scores all responses to a prompt in one request."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "listwise.v1"
        principle: str = Field(
            "Helpful, correct and honest; what was asked matters more than style and length.",
            description="what to judge by if the pair has no context of its own",
        )
        max_responses: int = Field(8, ge=2, le=26, description="responses in one list")
        tie_margin: float = Field(0.0, ge=0, description="scores this close tie")
        max_tokens: int = 2048

    config: Config

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """Votes on every pair in the orders wanted, from lists that hold both its responses."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for pair in pairs:
            context = pair.get("context") if self.config.use_context else None
            row = pair if self.config.use_context else {**pair, "context": None}
            groups.setdefault((pair["prompt_id"], context or ""), []).append(row)
        lists = [s for group in groups.values() for s in sheets(group, self.config.max_responses, self.seed)]
        lists = [shown for sheet in lists for shown in self._ordered(sheet)]
        asked = [self._sheet(sheet, sample, ask) for sheet in lists for sample in range(self.config.samples)]
        return [row for rows in await asyncio.gather(*asked) for row in rows]

    def _ordered(self, sheet: Sheet) -> list[Sheet]:
        orders = self.config.orders
        if orders == "both":
            return [sheet, sheet.backwards()]
        if orders == "coin":  # the list is shuffled by the seed
            return [sheet]
        return [sheet.sorted() if orders == "ab" else sheet.sorted().backwards()]

    def sheet_messages(self, sheet: Sheet) -> list[dict[str, str]]:
        """The chat messages about a list."""
        base = self.values(sheet.shown, "ab")
        shown = [
            {"name": f"model-{number}", "text": fence(text, base["nonce"])}
            for number, text in enumerate(sheet.responses.values(), start=1)
        ]
        return self.template.messages({**base, "principle": self.config.principle, "responses": shown})

    async def _sheet(self, sheet: Sheet, sample: int, ask: Ask) -> list[Row]:
        fitting = await self.fitting(sheet, self.sheet_messages, Sheet.windowed, ask)
        replies: list[Reply] = []
        scores: list[float] | Opinion
        if isinstance(fitting, Opinion):
            scores = fitting
        else:
            reply = await ask(self.request(self.body(fitting, sample), sample))
            replies, scores = [reply], failed([reply]) or read_scores(reply, len(sheet.responses))
        places = {response: place for place, response in enumerate(sheet.responses)}
        rows = []
        for pair in sheet.pairs:
            a, b = (places[messages_id(pair[side])] for side in ("response_a", "response_b"))
            order = "ab" if a < b else "ba"
            first, second = min(a, b), max(a, b)
            if isinstance(scores, Opinion):
                opinion = scores
            else:
                aspects = {"listed": len(sheet.responses), "places": [a + 1, b + 1]}
                margin = self.config.tie_margin
                opinion = opinion_by_scores(scores[first], scores[second], margin, aspects=aspects)
            rows.append(vote(pair, self.name, order, opinion, replies, sample=sample))
        return rows


def sheets(pairs: Sequence[Row], max_responses: int, seed: int) -> list[Sheet]:
    """Lists of at most `max_responses` distinct responses such that both responses of every pair share a list.

    Pairs are packed greedily in their given order; the order within a list is a shuffle by seed and content.
    """
    out: list[Sheet] = []
    texts: dict[str, str] = {}
    held: list[Row] = []

    def close() -> None:
        if held:
            names = sorted(texts, key=lambda name: hash_fields(str(seed), held[0]["prompt_id"], name))
            out.append(Sheet({name: texts[name] for name in names}, tuple(held), held[0]))

    for pair in pairs:
        both = {messages_id(pair[side]): text_of(pair[side]) for side in ("response_a", "response_b")}
        if len(texts.keys() | both.keys()) > max_responses:
            close()
            texts, held = {}, []
        texts.update(both)
        held.append(pair)
    close()
    return out


def read_scores(reply: Reply, n_responses: int) -> list[float] | Opinion:
    """The scores in the order shown, each in [1, 5], or why they cannot be read: all or none."""
    ranking = read_answer(reply, Ranking)
    if isinstance(ranking, str):
        return invalid(ranking)
    names = [f"model-{number}" for number in range(1, n_responses + 1)]
    if set(ranking.scores) != set(names):
        return invalid(f"scores are given for {sorted(ranking.scores)}, not for model-1 to model-{n_responses}")
    scores = [ranking.scores[name] for name in names]
    if not all(1.0 <= score <= 5.0 for score in scores):
        return invalid(f"scores lie outside 1 to 5: {scores}")
    if not _agrees(ranking.ranking, ranking.scores):
        return invalid("the ranking contradicts the scores")
    return scores


def _agrees(ranking: Sequence[str], scores: Mapping[str, float]) -> bool:
    """True unless the ranking puts a response before one with a higher score. An absent ranking agrees."""
    ranked = [scores[name] for name in ranking if name in scores]
    return all(before >= after for before, after in pairwise(ranked))
