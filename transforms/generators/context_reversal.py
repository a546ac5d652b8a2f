"""Context-conditioned twins: the same two responses under a criterion and under its opposite.

RPR (Pitis et al., "Improving Context-Aware Preference Modeling for Language Models", 2024): every
context has a twin that reverses the preference, so whoever ignores the context is right half of the
time by construction. The contrasts are our own, or written by an engine, as criteria, as scenarios or as
profiles of the reader.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Literal

import orjson
from pydantic import Field, model_validator

from schemas.messages import message, text_of
from schemas.tables import Row
from transforms.generators._rating import COMPARE, RatingConfig, prefer
from transforms.generators._sampling import Policy, SamplingConfig, drawer, pairings, sample
from transforms.generators._structured import ask_object, object_schema
from transforms.generators._templates import render
from transforms.generators.base import Generator, Response, Tally, Yield
from transforms.generators.preferences.contrasts import Contrast, contrasts
from transforms.plugins.registry import register

_WRITE = "contrast.v1"
_WRITTEN = object_schema(name=60, criterion=300, opposite=300)
Form = Literal["criterion", "scenario", "profile"]


@register("context_reversal")
class ContextReversal(Generator):
    """For pairs among a prompt's candidates, two pairs each: one under a criterion, one under its twin.

    With the settings of a `sample_n` use, the candidates are the same and come from the memo. Contrasts are
    drawn by seed; if the responses can be told apart by a measure, contrasts whose measure decides come
    first, and the expected winner is recorded (meta `expected`) and, with `label`, becomes the source label.
    Written contrasts take the `forms` in turn. `verifier` (default: the first engine) judges both twins in both
    orders, and they are kept only if the preference reverses (else `no_reversal`); `verify: false` trusts them.
    """

    version: ClassVar[int] = 3
    templates = (_WRITE, COMPARE)

    class Config(RatingConfig, SamplingConfig):
        """Settings of `context_reversal`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engines", "writer", "verifier")
        policy: Policy = "random"
        k: int = Field(default=2, ge=1)
        contrasts_per_pair: int = Field(default=1, ge=1)
        source: Literal["builtin", "written"] = "builtin"
        forms: tuple[Form, ...] = Field(default=("criterion",), min_length=1)
        only: tuple[str, ...] = ()
        prefer_measurable: bool = True
        label: bool = True
        writer: str | None = None
        verify: bool = True
        verifier: str | None = None

        @model_validator(mode="after")
        def _complete(self) -> ContextReversal.Config:
            if self.source == "written" and self.writer is None:
                raise ValueError("source: written needs `writer`: the engine that writes the criteria")
            if self.policy not in ("all", "adjacent", "random"):
                raise ValueError(f"policy {self.policy!r} is for sample_n; here: all, adjacent, random")
            unknown = set(self.only) - {c.name for c in contrasts()}
            if unknown:
                known = ", ".join(c.name for c in contrasts())
                raise ValueError(f"only: no contrast named {sorted(unknown)[0]!r}; known: {known}")
            return self

    config: Config

    @property
    def identity(self) -> dict[str, Any]:
        """As every generator's, plus the list of contrasts."""
        return {**super().identity, "contrasts": [asdict(c) for c in contrasts()]}

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        candidates = await sample(self, self.config, row, ask, out)
        chosen = pairings(len(candidates), self.config.policy, self.config.k, drawer(self, row))
        for i, j in chosen:
            for contrast in await self._contrasts(row, candidates[i], candidates[j], f"{i}-{j}", ask, out):
                await self._twins(row, candidates[i], candidates[j], contrast, ask, out)
        if not chosen:
            detail = f"{len(candidates)} usable, distinct candidates: two are needed"
            self.reject(out, "no_pair", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})

    async def _contrasts(
        self, row: Row, first: Response, second: Response, which: str, ask: Tally, out: Yield
    ) -> list[Contrast]:
        if self.config.source == "builtin":
            draw = drawer(self, row, "contrast", which)
            known = [c for c in contrasts() if not self.config.only or c.name in self.config.only]
            ranked = sorted(known, key=lambda c: (self._undecided(c, first, second), draw(c.name)))
            return ranked[: self.config.contrasts_per_pair]
        assert self.config.writer is not None  # the configuration's validator requires it
        written = []
        for n in range(self.config.contrasts_per_pair):
            form = self.config.forms[n % len(self.config.forms)]
            asked = render(_WRITE, prompt=text_of(row["prompt"]), a=first.text, b=second.text, form=form)
            request = self.request(
                self.config.writer,
                [message("user", asked)],
                (row["prompt_id"], "contrast", which, str(n)),
                temperature=1.0,
                max_tokens=300,
                response_format=_WRITTEN,
            )
            item = await ask_object(self, request, _WRITTEN, row, ask, out)
            if item is not None:
                kind = "persona" if form == "profile" else "criterion"
                written.append(Contrast(item["name"], more=item["criterion"], less=item["opposite"], kind=kind))
        return written

    def _undecided(self, contrast: Contrast, first: Response, second: Response) -> bool:
        return self.config.prefer_measurable and not contrast.favours_more(first.text, second.text)

    async def _twins(
        self, row: Row, first: Response, second: Response, contrast: Contrast, ask: Tally, out: Yield
    ) -> None:
        if contrast.more.strip() == contrast.less.strip():
            payload = {"prompt_id": row["prompt_id"], "contrast": orjson.dumps(vars(contrast)).decode()}
            self.reject(out, "twin_same_context", row["prompt_id"], "the criterion and its twin are one text", payload)
            return
        sign = contrast.favours_more(first.text, second.text)
        judged: dict[str, float | None] = {}
        verifier = self.config.verifier or self.config.engines[0]
        if self.config.verify:
            for side, context in (("more", contrast.more), ("less", contrast.less)):
                judged[side] = await prefer(
                    self,
                    verifier,
                    row["prompt_id"],
                    row["prompt"],
                    first,
                    second,
                    ask,
                    context=context,
                    assumed="first" if (side == "more") == (sign >= 0) else "second",
                )
            if not reverses(judged["more"], judged["less"], sign):
                detail = f"judged under {contrast.name!r} and its twin, the preference does not reverse"
                detail += f" as its measure says: {judged}" if sign else f": {judged}"
                payload = {"prompt_id": row["prompt_id"], "contrast": contrast.name, "judged": judged}
                self.reject(out, "no_reversal", row["prompt_id"], detail, payload)
                return
        for side, context, wins in (("more", contrast.more, sign), ("less", contrast.less, -sign)):
            expected = {1: "a", -1: "b", 0: None}[wins]
            self.pair(
                row,
                out,
                first,
                second,
                context=context,
                context_kind=contrast.kind,
                first_label=expected if self.config.label else None,
                expected=expected,
                tags=["twin"],
                ref={"contrast": contrast.name, "source": self.config.source},
                meta={
                    "contrast": contrast.name,
                    "side": side,
                    "measure": contrast.measure,
                    "judged_p_first": judged.get(side),
                },
            )


def reverses(under: float | None, under_twin: float | None, sign: int = 0) -> bool:
    """Whether P(first better) lies strictly on opposite sides of a half under a context and its twin.

    Args:
        sign: +1 where the first must win under the context, -1 where the second must, 0 where either may.
    """
    if under is None or under_twin is None:
        return False
    return (under - 0.5) * (under_twin - 0.5) < 0 and (under - 0.5) * sign >= 0
