"""Agent and tool-use transcripts to pairs: by outcome, by return, by a recorded defect.

ARMAP (Chen et al. 2025) labels two rollouts of one intent by their reward, ties dropped; UI-Genie (Xiao et
al. 2025) makes negatives from good rollouts: cut short, a segment of another task, needless continuation.

Transcripts come in the prompt row's `meta`:

    {"trajectories": [{"messages": [{"role": "assistant", "content": "", "tool_calls": [...]},
                                    {"role": "tool", "content": "..."}, ...],
                       "outcome": true, "return": 0.7, "model": "agent-1"}, ...]}

`outcome` (success), `return` (a number, larger is better) and `model` are optional. Messages that repeat the
prompt at the start are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from schemas.ids import hash_json
from schemas.messages import Message, MessageError, message, messages_id, to_messages
from schemas.tables import Row
from transforms.generators._sampling import Draw, drawer
from transforms.generators._structured import ask_object, object_schema
from transforms.generators._templates import render
from transforms.generators.base import Decoding, Generator, Response, Tally, Yield, read_meta
from transforms.plugins.registry import register

Defect = Literal["truncated", "foreign", "redundant"]
_INTENT = "intent.v1"
_REPLY = object_schema(intent=600)


@dataclass(frozen=True)
class Rollout:
    """One transcript: the messages after the prompt, and how it ended."""

    messages: tuple[Message, ...]
    outcome: bool | None
    gain: float | None
    model: str | None


@dataclass(frozen=True)
class Splice:
    """Messages [start, end) of a rollout become `inserted`."""

    kind: Defect
    start: int
    end: int
    inserted: tuple[Message, ...]

    def apply(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The rollout with the defect."""
        return (*messages[: self.start], *self.inserted, *messages[self.end :])


@register("trajectory")
class Trajectory(Generator):
    """Pairs of transcripts.

    `outcome`: success against failure. `return`: the higher against the lower, at least `min_gap` apart.
    `defect`: a good rollout (success, else the highest return, else the first) against itself with one defect
    of `defects`. With `writer`, the pair's prompt is the intent an engine reads off the good transcript.
    """

    templates = (_INTENT,)

    class Config(Decoding):
        """Settings of `trajectory`; no engine is needed without `writer`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("writer",)
        by: tuple[Literal["outcome", "return", "defect"], ...] = ("outcome", "return", "defect")
        defects: tuple[Defect, ...] = ("truncated", "foreign", "redundant")
        k: int = Field(default=4, ge=1)
        min_gap: float = Field(default=0.0, ge=0.0)
        writer: str | None = None

        @model_validator(mode="after")
        def _some(self) -> Trajectory.Config:
            if not self.by or ("defect" in self.by and not self.defects):
                raise ValueError("by and defects must each name at least one way")
            return self

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        rollouts = self._read(row, out)
        if not rollouts:
            return
        made: list[tuple[Rollout, Rollout, dict[str, Any]]] = []
        for first, second in combinations(rollouts, 2):
            for way in self.config.by:
                better = ahead(first, second, way, self.config.min_gap) if way != "defect" else 0
                if better:
                    good, bad = (first, second) if better > 0 else (second, first)
                    made.append((good, bad, {"by": way}))
        draw = drawer(self, row)
        made = sorted(made, key=lambda m: draw(str(m[2]["by"]), _key(m[0]), _key(m[1])))[: self.config.k]
        if "defect" in self.config.by:
            made += self._defective(row, rollouts, out)
        if not made:
            detail = f"{len(rollouts)} transcripts gave no pair by {', '.join(self.config.by)}"
            self.reject(out, "no_pair", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
        for good, bad, facts in made:
            await self._pair(row, good, bad, facts, ask, out)

    def _read(self, row: Row, out: Yield) -> list[Rollout]:
        """The row's readable transcripts; each unreadable one is a reject that says where."""
        items = read_meta(row).get("trajectories")
        if not isinstance(items, list) or not items:
            detail = "meta holds no list `trajectories`"
            self.reject(out, "no_trajectories", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
            return []
        rollouts = []
        for i, item in enumerate(items):
            try:
                rollouts.append(read_rollout(item, row["prompt"]))
            except MessageError as error:
                self.reject(out, "bad_trajectory", row["prompt_id"], f"trajectories[{i}] {error}", item)
        return rollouts

    def _defective(
        self, row: Row, rollouts: list[Rollout], out: Yield
    ) -> list[tuple[Rollout, Rollout, dict[str, Any]]]:
        good = max(rollouts, key=lambda r: (r.outcome is True, r.gain if r.gain is not None else -math.inf))
        others = [r for r in rollouts if r is not good]
        made = []
        for kind in self.config.defects:
            splice = defect(kind, good, others, drawer(self, row, kind))
            if splice is None:
                detail = f"{kind}: the transcript is too short, or there is no other to take a segment from"
                self.reject(out, "no_defect", row["prompt_id"], detail, {"prompt_id": row["prompt_id"], "kind": kind})
                continue
            bad = Rollout(splice.apply(good.messages), None, None, good.model)
            facts = {"kind": kind, "start": splice.start, "end": splice.end, "inserted": len(splice.inserted)}
            made.append((good, bad, {"by": "defect", "defect": facts}))
        return made

    async def _pair(self, row: Row, good: Rollout, bad: Rollout, facts: dict[str, Any], ask: Tally, out: Yield) -> None:
        prompt = None
        if self.config.writer is not None:
            request = self.request(
                self.config.writer,
                [message("user", render(_INTENT, transcript=_transcript(good.messages)))],
                (row["prompt_id"], "intent"),
                temperature=self.config.temperature,
                max_tokens=self.config.max_tokens,
                top_p=self.config.top_p,
                response_format=_REPLY,
            )
            item = await ask_object(self, request, _REPLY, row, ask, out)
            if item is None:
                return
            prompt = [message("user", item["intent"])]
        bare = {key: value for key, value in read_meta(row).items() if key != "trajectories"}
        self.pair(
            {**row, "meta": None},
            out,
            Response(good.messages, good.model, {"outcome": good.outcome, "return": good.gain}),
            Response(bad.messages, bad.model, {"outcome": bad.outcome, "return": bad.gain}),
            prompt=prompt,
            first_label="a",
            tags=["trajectory", str(facts["by"])],
            meta={**bare, **facts},
        )


def read_rollout(item: Any, prompt: Sequence[Message]) -> Rollout:
    """One entry of `trajectories`.

    Raises:
        MessageError: it has no readable messages after the prompt, or `outcome` or `return` are not what they must be.
    """
    if not isinstance(item, dict):
        raise MessageError(f"is {type(item).__name__}, not an object with messages")
    messages = to_messages(item.get("messages"), "assistant")
    if [messages_id([m]) for m in messages[: len(prompt)]] == [messages_id([m]) for m in prompt]:
        messages = messages[len(prompt) :]
    if not any(m["role"] == "assistant" for m in messages):
        raise MessageError("has no assistant message after the prompt")
    outcome, gain = item.get("outcome"), item.get("return")
    if outcome is not None and not isinstance(outcome, bool):
        raise MessageError(f"has outcome {outcome!r}; it must be true, false or absent")
    if gain is not None and (isinstance(gain, bool) or not isinstance(gain, (int, float)) or not math.isfinite(gain)):
        raise MessageError(f"has return {gain!r}; it must be a number or absent")
    return Rollout(tuple(messages), outcome, None if gain is None else float(gain), item.get("model"))


def ahead(first: Rollout, second: Rollout, way: str, min_gap: float) -> int:
    """+1 if `first` is better by `outcome` or `return`, -1 if `second` is, 0 if unknown, equal or too close."""
    if way == "outcome":
        if first.outcome is None or second.outcome is None:
            return 0
        return int(first.outcome) - int(second.outcome)
    if first.gain is None or second.gain is None or first.gain == second.gain:
        return 0
    gap = first.gain - second.gain
    return 0 if abs(gap) < min_gap else (1 if gap > 0 else -1)


def steps(messages: Sequence[Message]) -> list[int]:
    """Where steps begin: at each message that is not a tool's result, so no result loses its call."""
    return [i for i, m in enumerate(messages) if i == 0 or m["role"] != "tool"]


def defect(kind: Defect, good: Rollout, others: Sequence[Rollout], draw: Draw) -> Splice | None:
    """A defect at step boundaries; None if the rollout has too few steps or there is nothing to insert.

    `truncated`: all steps from a drawn one on are missing. `foreign`: a drawn step is replaced by a step of
    another rollout. `redundant`: a drawn step before the last is done once more, right after itself.
    """
    begins = steps(good.messages)
    bounds = [*begins, len(good.messages)]
    if kind == "truncated":
        if len(begins) < 2:
            return None
        start = begins[1 + int(draw("step") * (len(begins) - 1))]
        return Splice(kind, start, len(good.messages), ())
    if kind == "redundant":
        i = int(draw("step") * max(1, len(begins) - 1))
        segment = good.messages[bounds[i] : bounds[i + 1]]
        return Splice(kind, bounds[i + 1], bounds[i + 1], segment)
    own = {hash_json(list(good.messages[s:e])) for s, e in pairwise(bounds)}
    foreign = []
    for other in others:
        edges = [*steps(other.messages), len(other.messages)]
        foreign += [other.messages[s:e] for s, e in pairwise(edges)]
    foreign = [segment for segment in foreign if hash_json(list(segment)) not in own]
    if not foreign:
        return None
    i = int(draw("step") * len(begins))
    return Splice(kind, bounds[i], bounds[i + 1], foreign[int(draw("segment") * len(foreign))])


def _key(rollout: Rollout) -> str:
    return messages_id(rollout.messages)


def _transcript(messages: Sequence[Message]) -> str:
    return "\n\n".join(f"{m['role']}: {m['content'] or m.get('tool_calls') or ''}" for m in messages)
