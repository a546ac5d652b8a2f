"""Answers from documents, good and bad in the four ways that matter: hops, citations, abstention, conflict.

Scenarios after RAG-RewardBench (Jin et al. 2024), whose final labels are those four judges agree on:
`verifiers` does the same with any number of engines.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.messages import message, text_of
from schemas.tables import Row
from transforms.generators._corruptions import negation, sentences, wrong_number
from transforms.generators._edits import Edit, replace
from transforms.generators._passages import numbered, relevance
from transforms.generators._rating import COMPARE, RatingConfig, prefer
from transforms.generators._sampling import Draw, drawer
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Response, Tally, Yield, written
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical, words

Scenario = Literal["multi_hop", "citation", "abstain", "conflict"]
_ANSWER = "rag_answer.v1"
_CITATION = re.compile(r"\[(\d+)\]")
_NOT = r"(?:do(?:es)? not|don['’]t|doesn['’]t|did not|didn['’]t|cannot|can['’]t|could not|couldn['’]t)"
_ABSTENTION = re.compile(
    rf"\b(?:documents?|passages?|texts?|contexts?|sources?)\b[^.!?\n]{{0,40}}\b{_NOT}\b"
    r"|\bnone of (?:them|these|the (?:documents|passages|sources))\b"
    rf"|\bI {_NOT} (?:\w+ ){{0,3}}(?:know|answer|find|tell|say|determine)\b"
    r"|\b(?:cannot|can['’]t|could not|couldn['’]t) be (?:answered|determined|found)\b"
    r"|\bnot (?:mentioned|stated|given|found|contained|included|specified) in (?:the|these|any)\b"
    r"|\bno (?:information|mention)\b",
    re.IGNORECASE,
)
_ABSTENTIONS = (
    "The documents given do not say this, so I cannot answer the question from them.",
    "I do not find the answer in these documents; they do not contain the information that is asked for.",
    "This cannot be answered from the documents at hand: none of them mentions it.",
)


@dataclass(frozen=True)
class Case:
    """Two answers, the good one first, the passages the reader sees, and the facts by which the pair can be checked."""

    good: Response
    bad: Response
    shown: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


@register("rag")
class Rag(Generator):
    """Pairs under `documents` contexts; the row's prompt is the question, its `documents` the passages.

    `multi_hop`: an answer from the most relevant passages against one that saw a single one of them.
    `citation`: an answer whose citations are right against the same with one moved to another passage.
    `abstain`: the passage that answers is withheld; saying so against answering all the same.
    `conflict`: a passage and a contradicting copy are shown; pointing it out against following the copy.
    The good side carries the source label. A scenario the documents do not allow is a reject.
    """

    templates = (_ANSWER, COMPARE)

    class Config(RatingConfig, OneEngine):
        """Settings of `rag`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine", "verifiers")
        scenarios: tuple[Scenario, ...] = ("multi_hop", "citation", "abstain", "conflict")
        hops: int = Field(default=2, ge=2, le=8)
        verifiers: tuple[str, ...] = ()
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        passages = [p for p in (row.get("documents") or []) if p and p.strip()]
        if not passages:
            self.reject(out, "no_documents", row["prompt_id"], "the prompt has no documents", {"prompt": row["prompt"]})
            return
        makers = {
            "multi_hop": self._multi_hop,
            "citation": self._citation,
            "abstain": self._abstain,
            "conflict": self._conflict,
        }
        cases = await asyncio.gather(*(makers[s](row, passages, ask, out) for s in self.config.scenarios))
        for scenario, case in zip(self.config.scenarios, cases, strict=True):
            if case is not None:
                await self._keep(row, scenario, case, ask, out)

    async def _keep(self, row: Row, scenario: Scenario, case: Case, ask: Tally, out: Yield) -> None:
        payload = {"prompt_id": row["prompt_id"], "scenario": scenario, "good": case.good.text, "bad": case.bad.text}
        if scenario != "citation" and near_identical(case.good.text, case.bad.text, self.config.near_identical):
            self.reject(out, "near_identical_candidate", row["prompt_id"], "both answers say the same", payload)
            return
        context = numbered(case.shown)
        judged = await asyncio.gather(
            *(
                prefer(self, v, row["prompt_id"], row["prompt"], case.good, case.bad, ask, context=context)
                for v in self.config.verifiers
            )
        )
        if not all(p is not None and p > 0.5 for p in judged):
            detail = f"not every verifier prefers the good answer: {judged}"
            self.reject(out, "verifiers_disagree", row["prompt_id"], detail, payload | {"judged": judged})
            return
        self.pair(
            row,
            out,
            case.good,
            case.bad,
            context=context,
            context_kind="documents",
            first_label="a",
            tags=["rag", scenario],
            ref={"scenario": scenario},
            meta={"scenario": scenario, **case.facts},
        )

    async def _multi_hop(self, row: Row, passages: list[str], ask: Tally, out: Yield) -> Case | None:
        if len(passages) < self.config.hops:
            return self._impossible(row, "multi_hop", f"{len(passages)} documents; {self.config.hops} are needed", out)
        ranked = _by_relevance(row, passages)[: self.config.hops]
        alone = ranked[int(drawer(self, row, "hop")("which") * len(ranked))]
        full, partial = await asyncio.gather(
            self._answer(row, [passages[i] for i in sorted(ranked)], "full", ask, out),
            self._answer(row, [passages[alone]], "partial", ask, out),
        )
        if full is None or partial is None:
            return None
        return Case(full, partial, tuple(passages), {"hops": [i + 1 for i in sorted(ranked)], "seen_by_bad": alone + 1})

    async def _citation(self, row: Row, passages: list[str], ask: Tally, out: Yield) -> Case | None:
        if len(passages) < 2:
            return self._impossible(row, "citation", "a citation can be wrong only among two documents or more", out)
        answer = await self._answer(row, passages, "full", ask, out)
        if answer is None:
            return None
        text, cited_by = answer.text, "llm"
        numbers = [int(n) for n in _CITATION.findall(text)]
        if not numbers or not all(1 <= n <= len(passages) for n in numbers):
            text, cited_by = cite(_CITATION.sub("", text), passages), "rule"
        edit = misplaced_citation(text, len(passages), drawer(self, row, "citation"))
        if edit is None:
            return self._impossible(row, "citation", "no sentence of the answer draws on a document", out)
        good = written(text, answer.model, **answer.details, cited_by=cited_by)
        bad = written(edit.apply(text), answer.model, **answer.details, cited_by=cited_by)
        facts = {"span": list(edit.span), "removed": edit.removed, "inserted": edit.inserted, "cited_by": cited_by}
        return Case(good, bad, tuple(passages), {"citation": facts})

    async def _abstain(self, row: Row, passages: list[str], ask: Tally, out: Yield) -> Case | None:
        if len(passages) < 2:
            return self._impossible(row, "abstain", "one document: withholding it leaves nothing to show", out)
        withheld = _by_relevance(row, passages)[0]
        shown = [p for i, p in enumerate(passages) if i != withheld]
        good, bad = await asyncio.gather(
            self._answer(row, shown, "abstain", ask, out), self._answer(row, [passages[withheld]], "partial", ask, out)
        )
        if good is None or bad is None:
            return None
        if abstains(bad.text):
            return self._impossible(row, "abstain", "the answer meant to be unfounded abstains", out)
        if not abstains(good.text):
            draw = drawer(self, row, "abstention")
            good = written(_ABSTENTIONS[int(draw("text") * len(_ABSTENTIONS))], None, written_by="rule")
        return Case(good, bad, tuple(shown), {"withheld": passages[withheld]})

    async def _conflict(self, row: Row, passages: list[str], ask: Tally, out: Yield) -> Case | None:
        best = _by_relevance(row, passages)[0]
        draw = drawer(self, row, "conflict")
        question = text_of(row["prompt"])
        edit = wrong_number(passages[best], question, draw) or negation(passages[best], question, draw)
        if edit is None:
            return self._impossible(row, "conflict", "nothing in the most relevant document can be contradicted", out)
        altered = edit.apply(passages[best])
        shown = [*passages[: best + 1], altered, *passages[best + 1 :]]
        good, bad = await asyncio.gather(
            self._answer(row, shown, "conflict", ask, out), self._answer(row, [altered], "partial", ask, out)
        )
        if good is None or bad is None:
            return None
        facts = {
            "documents": [best + 1, best + 2],
            "span": list(edit.span),
            "removed": edit.removed,
            "inserted": edit.inserted,
        }
        return Case(good, bad, tuple(shown), {"conflict": facts})

    async def _answer(self, row: Row, passages: Sequence[str], task: str, ask: Tally, out: Yield) -> Response | None:
        content = render(_ANSWER, documents=numbered(passages), question=text_of(row["prompt"]), task=task)
        draw = (row["prompt_id"], "rag", task)
        messages = [message("user", content)]
        assumed = f"{passages[0]} [1]" if task == "full" else ""
        return await self.answer(
            self.config.engine, messages, draw, self.config, row, ask, out, assumed=assumed, task=task
        )

    def _impossible(self, row: Row, scenario: Scenario, why: str, out: Yield) -> Case | None:
        payload = {"prompt_id": row["prompt_id"], "scenario": scenario}
        self.reject(out, "scenario_impossible", row["prompt_id"], f"{scenario}: {why}", payload)
        return None


def abstains(text: str) -> bool:
    """Whether a text says that the documents do not answer (English)."""
    return bool(_ABSTENTION.search(text))


def cite(text: str, passages: Sequence[str]) -> str:
    """The text with, after each sentence that shares words with a passage, the number of the one sharing most."""
    bags = [{w for w in words(p) if len(w) > 3} for p in passages]
    out, last = [], 0
    for start, end in sentences(text):
        shared = [len(bag & set(words(text[start:end]))) for bag in bags]
        best = max(range(len(bags)), key=lambda i: (shared[i], -i))
        stop = start + len(text[start:end].rstrip(".!?"))
        out.append(text[last:stop] + (f" [{best + 1}]" if shared[best] else "") + text[stop:end])
        last = end
    return "".join([*out, text[last:]])


def misplaced_citation(text: str, n_passages: int, draw: Draw) -> Edit | None:
    """One citation's number becomes that of another passage; None if nothing is cited."""
    citations = list(_CITATION.finditer(text))
    if not citations or n_passages < 2:
        return None
    one = citations[int(draw("which") * len(citations))]
    others = [n for n in range(1, n_passages + 1) if n != int(one.group(1))]
    return replace(text, one.start(1), one.end(1), str(others[int(draw("other") * len(others))]))


def _by_relevance(row: Row, passages: Sequence[str]) -> list[int]:
    scores = relevance(text_of(row["prompt"]), passages)
    return sorted(range(len(passages)), key=lambda i: (-scores[i], i))
