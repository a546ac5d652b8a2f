"""Long-context pairs whose label was found on the short part that matters.

LongRM (Tang et al. 2025): judge where judging is easy, on the critical chunks, by a consistency vote; then
pad with distractors to the target length, so that the label holds for a context too long to judge.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from pydantic import Field

from schemas.messages import message, text_of
from schemas.tables import Row
from transforms.generators._passages import cached_passages, numbered, relevance
from transforms.generators._rating import COMPARE, RatingConfig, prefer
from transforms.generators._sampling import Draw, drawer
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Response, Tally, Yield
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical

_ANSWER = "rag_answer.v1"
_SEPARATOR = "\n\n"


@register("short_to_long")
class ShortToLong(Generator):
    """Prompts with documents to pairs whose context is those documents among distractors.

    The `critical` most relevant documents are the short context. Two samples answer from it; `judge` compares
    them `votes` times in both orders, and unless a share of at least `agreement` says the same the pair is a
    reject (`inconsistent_votes`). Distractors are the row's other documents and the paragraphs of the text file
    `distractors`, shuffled by seed, up to `target_chars` characters in all.
    """

    templates = (_ANSWER, COMPARE)

    class Config(RatingConfig, OneEngine):
        """Settings of `short_to_long`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine", "judge")
        path_fields: ClassVar[tuple[str, ...]] = ("distractors",)
        critical: int = Field(default=1, ge=1)
        target_chars: int = Field(default=16_000, ge=1)
        distractors: str | None = None
        judge: str | None = None
        votes: int = Field(default=3, ge=1, le=64)
        agreement: float = Field(default=1.0, gt=0.5, le=1.0)
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        passages = [p.strip() for p in (row.get("documents") or []) if p and p.strip()]
        if not passages:
            self.reject(out, "no_documents", row["prompt_id"], "the prompt has no documents", {"prompt": row["prompt"]})
            return
        scores = relevance(text_of(row["prompt"]), passages)
        ranked = sorted(range(len(passages)), key=lambda i: (-scores[i], i))
        chosen = set(ranked[: self.config.critical])
        critical = [p for i, p in enumerate(passages) if i in chosen]
        given = cached_passages(self.config.distractors) if self.config.distractors else ()
        others = [p for i, p in enumerate(passages) if i not in chosen] + [p for p in given if p not in critical]
        padded = pad(critical, others, self.config.target_chars, drawer(self, row))
        if padded is None:
            detail = f"the distractors are too short to reach {self.config.target_chars} characters"
            self.reject(out, "too_few_distractors", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
            return
        await self._pair(row, critical, *padded, ask, out)

    async def _pair(
        self, row: Row, critical: list[str], context: str, spans: list[tuple[int, int]], ask: Tally, out: Yield
    ) -> None:
        first, second = await asyncio.gather(*(self._answer(row, critical, i, ask, out) for i in range(2)))
        if first is None or second is None:
            return
        payload = {"prompt_id": row["prompt_id"], "first": first.text, "second": second.text}
        if near_identical(first.text, second.text, self.config.near_identical):
            self.reject(out, "near_identical_candidate", row["prompt_id"], "both samples say the same", payload)
            return
        verdicts = await self._votes(row, first, second, critical, ask)
        label = consistent(verdicts, self.config.agreement)
        if label is None:
            detail = f"P(first) by the short context: {verdicts}"
            self.reject(out, "inconsistent_votes", row["prompt_id"], detail, payload | {"votes": verdicts})
            return
        self.pair(
            row,
            out,
            first,
            second,
            context=context,
            context_kind="documents",
            first_label=label,
            tags=["long_context"],
            ref={"target_chars": self.config.target_chars},
            meta={"critical_spans": [list(s) for s in spans], "context_chars": len(context), "votes": len(verdicts)},
        )

    async def _answer(self, row: Row, critical: list[str], sample: int, ask: Tally, out: Yield) -> Response | None:
        content = render(_ANSWER, documents=numbered(critical), question=text_of(row["prompt"]), task="short")
        draw = (row["prompt_id"], "short", str(sample))
        messages = [message("user", content)]
        return await self.answer(self.config.engine, messages, draw, self.config, row, ask, out, sample=sample)

    async def _votes(
        self, row: Row, first: Response, second: Response, critical: list[str], ask: Tally
    ) -> list[float | None]:
        engine = self.config.judge or self.config.engine
        return list(
            await asyncio.gather(
                *(
                    prefer(
                        self,
                        engine,
                        row["prompt_id"],
                        row["prompt"],
                        first,
                        second,
                        ask,
                        context=numbered(critical),
                        sample=s,
                    )
                    for s in range(self.config.votes)
                )
            )
        )


def consistent(votes: list[float | None], agreement: float) -> str | None:
    """`a` or `b` when at least that share of the votes says so; unreadable and even votes count against both."""
    read = [p for p in votes if p is not None]
    wins = {"a": sum(p > 0.5 for p in read), "b": sum(p < 0.5 for p in read)}
    label = max(sorted(wins), key=lambda side: wins[side])
    return label if wins[label] and wins[label] >= agreement * len(votes) else None


def pad(
    critical: list[str], distractors: list[str], target_chars: int, draw: Draw
) -> tuple[str, list[tuple[int, int]]] | None:
    """A context of at least `target_chars` characters that holds the critical chunks in their order.

    Distractors are taken in a drawn order until the target is reached and no further; the critical chunks
    stand at drawn places among them.

    Returns:
        The context and each critical chunk's span in it; None if all distractors together are too short.
    """
    taken: list[str] = []
    length = len(_SEPARATOR.join(critical))
    for i in sorted(range(len(distractors)), key=lambda i: draw("distractor", str(i))):
        if length >= target_chars:
            break
        taken.append(distractors[i])
        length += len(_SEPARATOR) + len(distractors[i])
    if length < target_chars:
        return None
    places = sorted(int(draw("place", str(i)) * (len(taken) + 1)) for i in range(len(critical)))
    pieces: list[tuple[str, bool]] = [(t, False) for t in taken]
    for place, chunk in reversed(list(zip(places, critical, strict=True))):
        pieces.insert(place, (chunk, True))
    context, spans = "", []
    for piece, is_critical in pieces:
        context += _SEPARATOR if context else ""
        if is_critical:
            spans.append((len(context), len(context) + len(piece)))
        context += piece
    return context, spans
