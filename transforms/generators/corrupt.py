"""A good answer against the same answer with one controlled, located flaw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from schemas.messages import Message, message, text_of
from schemas.tables import Row
from transforms.generators._corruptions import RULES
from transforms.generators._edits import Edit, changed_share, difference
from transforms.generators._flaws import FLAWS
from transforms.generators._sampling import drawer
from transforms.generators._templates import render
from transforms.generators.base import Decoding, Generator, Response, Tally, Yield, written
from transforms.plugins.registry import register
from transforms.text.similarity import normalised

_REWRITE = "corrupt.v1"
_INSTRUCTIONS = {
    "wrong_number": "Change one number so that it is wrong.",
    "wrong_unit": "Change one unit of measurement so that it is wrong.",
    "negation": "Make one statement say the opposite of what it says.",
    "dropped_requirement": "Leave out one thing that the prompt asked for.",
    "unsupported_claim": "Add one claim that sounds plausible and is made up.",
    "off_topic": "Replace one sentence with a remark that has nothing to do with the prompt.",
    "truncation": "Break the answer off in the middle.",
    "verbosity": "Add a few sentences that say nothing new.",
}


@register("corrupt")
class Corrupt(Generator):
    """Prompts to (answer, damaged answer) pairs; the answer is the row's reference, else a sample.

    The flaw is one edit, by rule or by an engine, stored in meta `corruption` as {kind, by, span in the
    damaged text, removed, inserted}: undoing it gives the answer back exactly. The undamaged answer
    carries the source label. A damage that changes nothing, an engine's rewrite that changes more than
    `max_changed` of the words, or one that has not the form of its kind (`_flaws`) is a reject.
    """

    version: ClassVar[int] = 3
    templates = (_REWRITE,)

    class Config(Decoding):
        """Settings of `corrupt`; `engine` is needed if an answer is sampled or `by` is `llm`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine",)
        engine: str | None = None
        kinds: tuple[str, ...] = tuple(RULES)
        by: tuple[Literal["rule", "llm"], ...] = ("rule",)
        k: int = Field(default=1, ge=1)
        max_changed: float = Field(default=0.5, gt=0.0, le=1.0)

        @model_validator(mode="after")
        def _answerable(self) -> Corrupt.Config:
            if "llm" in self.by and self.engine is None:
                raise ValueError("by: llm needs `engine`: the engine that rewrites the answer")
            return self

        @field_validator("kinds")
        @classmethod
        def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
            unknown = sorted(set(kinds) - set(RULES))
            if unknown or not kinds:
                raise ValueError(f"kinds: {unknown or 'none given'}; known: {', '.join(RULES)}")
            return kinds

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        good = await self._good(row, ask, out)
        if good is None:
            return
        at = max((i for i, m in enumerate(good.messages) if m["role"] == "assistant"), default=None)
        if at is None:
            self.reject(
                out, "no_assistant_turn", row["prompt_id"], "the answer has no assistant message", row["prompt"]
            )
            return
        ways = [(kind, by) for kind in self.config.kinds for by in self.config.by]
        draw = drawer(self, row, good.text)
        made = 0
        for kind, by in sorted(ways, key=lambda way: draw(*way)):
            if made < self.config.k:
                made += await self._damage(row, good, at, kind, by, ask, out)
        if not made:
            detail = f"no corruption among {', '.join(self.config.kinds)} applies to the answer"
            self.reject(out, "nothing_to_corrupt", row["prompt_id"], detail, {"text": good.text})

    async def _good(self, row: Row, ask: Tally, out: Yield) -> Response | None:
        """The answer to be damaged."""
        if row.get("reference"):
            return written(str(row["reference"]), "reference", source="reference")
        if self.config.engine is None:
            detail = "the prompt has no reference answer and no engine is named to write one"
            self.reject(out, "no_answer", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
            return None
        draw = (row["prompt_id"], "sample", "0")
        return await self.answer(self.config.engine, row["prompt"], draw, self.config, row, ask, out, source="sample")

    async def _damage(self, row: Row, good: Response, at: int, kind: str, by: str, ask: Tally, out: Yield) -> bool:
        original = good.messages[at]["content"]
        if by == "rule":
            edit = RULES[kind](original, text_of(row["prompt"]), drawer(self, row, good.text, kind))
            if edit is None:
                return False
            model = good.model
        else:
            edit = await self._rewrite(row, original, kind, ask, out)
            if edit is None:
                return False
            model = self.models[str(self.config.engine)]
        damaged = edit.apply(original)
        if normalised(damaged) == normalised(original) or not damaged.strip():
            payload = {"prompt_id": row["prompt_id"], "kind": kind, "by": by, "text": damaged}
            self.reject(out, "corruption_changed_nothing", row["prompt_id"], f"{kind} by {by} left the text", payload)
            return False
        bad = Response(_with(good.messages, at, damaged), model, {"source": "corruption", "kind": kind, "by": by})
        pair = self.pair(
            row,
            out,
            good,
            bad,
            first_label="a",
            tags=["corrupted", kind],
            ref={"kind": kind, "by": by},
            meta={
                "corruption": {
                    "kind": kind,
                    "by": by,
                    "message": at,
                    "span": list(edit.span),
                    "removed": edit.removed,
                    "inserted": edit.inserted,
                }
            },
        )
        return pair is not None

    async def _rewrite(self, row: Row, original: str, kind: str, ask: Tally, out: Yield) -> Edit | None:
        prompt = text_of(row["prompt"])
        by_rule = RULES[kind](original, prompt, drawer(self, row, original, kind, "llm"))
        content = render(_REWRITE, prompt=prompt, answer=original, instruction=_INSTRUCTIONS[kind])
        draw = (row["prompt_id"], "corrupt", kind)
        rewrite = await self.answer(
            str(self.config.engine),
            [message("user", content)],
            draw,
            self.config,
            row,
            ask,
            out,
            assumed="" if by_rule is None else by_rule.apply(original),
            kind=kind,
        )
        if rewrite is None:
            return None
        changed = rewrite.text.strip()
        share = changed_share(original, changed)
        if share > self.config.max_changed:
            detail = f"the rewrite changes {share:.0%} of the words; at most {self.config.max_changed:.0%} is one flaw"
            payload = {"prompt_id": row["prompt_id"], "kind": kind, "answer": original, "text": changed}
            self.reject(out, "corruption_uncontrolled", rewrite.details["request_id"], detail, payload)
            return None
        fault = None if normalised(original) == normalised(changed) else FLAWS[kind](original, changed, prompt)
        if fault is not None:
            payload = {"prompt_id": row["prompt_id"], "kind": kind, "answer": original, "text": changed}
            detail = f"asked for {kind}, but {fault}"
            self.reject(out, "corruption_of_another_kind", rewrite.details["request_id"], detail, payload)
            return None
        return difference(original, changed)


@register("corrupt_pairs")
class CorruptPairs(Corrupt):
    """As `corrupt`, with the preferred response of an existing pair as the answer to be damaged."""

    consumes = "pairs"

    async def _good(self, row: Row, ask: Tally, out: Yield) -> Response | None:
        label = row.get("source_label")
        if label not in ("a", "b"):
            detail = f"the pair's source label is {label!r}: it does not say which response is the good one"
            self.reject(out, "no_preferred_response", row["pair_id"], detail, {"pair_id": row["pair_id"]})
            return None
        return Response(
            tuple(row[f"response_{label}"]),
            row.get(f"model_{label}"),
            {"source": "pair", "pair_id": row["pair_id"], "side": label},
        )


def _with(messages: Sequence[Message], at: int, content: str) -> tuple[Message, ...]:
    """The messages with one content replaced."""
    return tuple({**m, "content": content} if i == at else m for i, m in enumerate(messages))
