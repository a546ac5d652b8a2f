"""Personas with views and few-shot preferences, and pairs that they decide.

After FSPO (Singh et al. 2025): responses are conditioned on a view and on its opposite so that they differ,
and if a persona's views do not decide, the choice is drawn and appended to the persona, so that its
labels follow from what is said about it.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from schemas.messages import message
from schemas.tables import Row
from transforms.generators._rating import COMPARE, RatingConfig, prefer
from transforms.generators._sampling import drawer
from transforms.generators._structured import ask_object, object_schema
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Response, Tally, Yield
from transforms.generators.preferences.contrasts import contrast_of, contrasts
from transforms.generators.preferences.views import Persona, exemplar, favours_first, label_entropy, library_id, persona
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical

_CONTEXT, _ANSWER, _PROFILE = "persona_context.v1", "persona_answer.v1", "persona_profile.v1"
_PROSE = object_schema(profile=1200)


@register("persona")
class PersonaPairs(Generator):
    """Pairs under a persona (context kind `persona`, `user_id` the persona's id).

    `population` personas exist under a seed; each prompt meets `personas_per_prompt` of them, so a persona
    recurs across prompts. The weightiest view whose measure tells the two responses apart decides; else the
    choice is drawn by seed and stated in the context. With `judge`, `coherence_samples` verdicts are asked
    for and a pair whose verdicts' entropy exceeds `max_entropy` nats is a reject (`incoherent`).
    """

    templates = (_CONTEXT, _ANSWER, _PROFILE, COMPARE)

    class Config(RatingConfig, OneEngine):
        """Settings of `persona`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine", "writer", "judge")
        population: int = Field(default=100, ge=1)
        personas_per_prompt: int = Field(default=2, ge=1)
        views: int = Field(default=3, ge=1, le=12)
        few_shot: int = Field(default=2, ge=0, le=12)
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)
        writer: str | None = None
        judge: str | None = None
        coherence_samples: int = Field(default=3, ge=2)
        max_entropy: float = Field(default=0.5, ge=0.0)

    config: Config

    @property
    def identity(self) -> dict[str, Any]:
        """As every generator's, plus the list of contrasts and what personas are made of."""
        return {**super().identity, "contrasts": [asdict(c) for c in contrasts()], "personas": library_id()}

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        draw = drawer(self, row)
        met = sorted(range(self.config.population), key=lambda i: draw("meets", str(i)))
        for index in met[: self.config.personas_per_prompt]:
            await self._under(row, persona(self.seed, index, self.config.views), ask, out)

    async def _under(self, row: Row, who: Persona, ask: Tally, out: Yield) -> None:
        draw = drawer(self, row, who.persona_id)
        name, side = who.views[int(draw("conditioned") * len(who.views))]
        fitting, opposed = await self._responses(row, name, side, ask, out)
        if fitting is None or opposed is None:
            return
        if near_identical(fitting.text, opposed.text, self.config.near_identical):
            payload = {"prompt_id": row["prompt_id"], "text": fitting.text, "view": [name, side]}
            detail = f"asked for {name!r} and for its opposite, the engine answered alike"
            self.reject(out, "near_identical_candidate", row["prompt_id"], detail, payload)
            return
        sign, decided_by = favours_first(who.views, fitting.text, opposed.text)
        stated = None
        if not sign:
            sign = 1 if draw("coin") < 0.5 else -1
            stated = fitting.text if sign > 0 else opposed.text
        profile = await self._profile(row, who, ask, out)
        if profile is None:
            return
        context = render(_CONTEXT, profile=profile, views=_view_texts(who), shots=self._shots(who), stated=stated)
        entropy = None
        if self.config.judge is not None:
            entropy = await self._entropy(row, fitting, opposed, context, ask)
            if entropy is None or entropy > self.config.max_entropy:
                detail = f"label entropy {entropy} nats over {self.config.coherence_samples} verdicts"
                payload = {"prompt_id": row["prompt_id"], "persona": who.persona_id, "entropy": entropy}
                self.reject(out, "incoherent", row["prompt_id"], detail, payload)
                return
        self.pair(
            row,
            out,
            fitting,
            opposed,
            context=context,
            context_kind="persona",
            user_id=who.persona_id,
            first_label="a" if sign > 0 else "b",
            expected="a" if sign > 0 else "b",
            tags=["persona"],
            ref={"persona": who.persona_id},
            meta={
                "attributes": dict(who.attributes),
                "views": [list(view) for view in who.views],
                "conditioned_on": [name, side],
                "decided_by": decided_by or "stated",
                "label_entropy": entropy,
            },
        )

    async def _responses(
        self, row: Row, name: str, side: str, ask: Tally, out: Yield
    ) -> tuple[Response | None, Response | None]:
        """A response made to fit the view and one made to fit its opposite."""
        contrast = contrast_of(name)
        order = ("more", "less") if side == "more" else ("less", "more")
        first, second = await asyncio.gather(
            *(
                self.answer(
                    self.config.engine,
                    [message("system", render(_ANSWER, criterion=getattr(contrast, which))), *row["prompt"]],
                    (row["prompt_id"], "persona", name, which),
                    self.config,
                    row,
                    ask,
                    out,
                    view=[name, which],
                )
                for which in order
            )
        )
        return first, second

    async def _profile(self, row: Row, who: Persona, ask: Tally, out: Yield) -> str | None:
        facts = ", ".join(f"{axis}: {value}" for axis, value in who.attributes)
        if self.config.writer is None:
            return facts
        request = self.request(
            self.config.writer,
            [message("user", render(_PROFILE, facts=facts, views=_view_texts(who)))],
            (who.persona_id, "profile"),
            temperature=self.config.temperature,
            max_tokens=400,
            response_format=_PROSE,
        )
        item = await ask_object(self, request, _PROSE, row, ask, out)
        return None if item is None else f"{facts}\n{item['profile']}"

    def _shots(self, who: Persona) -> list[dict[str, str]]:
        shots = []
        for name, side in who.views[: self.config.few_shot]:
            example = exemplar(name)
            liked, other = (example.more, example.less) if side == "more" else (example.less, example.more)
            shots.append({"prompt": example.prompt, "liked": liked, "other": other})
        return shots

    async def _entropy(self, row: Row, first: Response, second: Response, context: str, ask: Tally) -> float | None:
        """Entropy of the judge's verdicts under the persona; None if none can be read."""
        assert self.config.judge is not None
        verdicts = await asyncio.gather(
            *(
                prefer(
                    self,
                    self.config.judge,
                    row["prompt_id"],
                    row["prompt"],
                    first,
                    second,
                    ask,
                    context=context,
                    sample=s + 1,
                )
                for s in range(self.config.coherence_samples)
            )
        )
        labels = ["tie" if p == 0.5 else "a" if p > 0.5 else "b" for p in verdicts if p is not None]
        return label_entropy(labels) if labels else None


def _view_texts(who: Persona) -> list[str]:
    return [str(getattr(contrast_of(name), side)) for name, side in who.views]
