"""Better and worse by opposed instructions, kept only where the better one is judged better.

RLCD (Yang et al. 2023) and T-REG (Zhou et al. 2024) take the label from the instruction; a weak engine
often ignores it, so here the instruction proposes and a judge in both orders decides.
"""

from __future__ import annotations

import asyncio
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

import yaml
from pydantic import Field

from schemas.messages import message
from schemas.tables import Row
from transforms.generators._rating import COMPARE, RatingConfig, prefer
from transforms.generators._sampling import drawer
from transforms.generators.base import Generator, OneEngine, Tally, Yield
from transforms.plugins.registry import register
from transforms.text.similarity import near_identical


@cache
def opposed() -> dict[str, dict[str, str]]:
    """The built-in opposed instructions (opposed.v1.yaml): name to {better, worse}."""
    text = (files("transforms.generators") / "opposed.v1.yaml").read_text(encoding="utf-8")
    pairs: dict[str, dict[str, str]] = yaml.safe_load(text)
    return pairs


@register("contrast_prompt")
class ContrastPrompt(Generator):
    """One response under a good instruction, one under its opposite.

    `verifier` (default: `engine`) compares them in both orders; below P(better one wins) = 0.5 + `margin`
    the pair is a reject (`contrast_not_verified`). The verified winner is the source label; with
    `verify: false` there is no source label and the intended winner stands in meta `expected`.
    """

    templates = (COMPARE,)

    class Config(RatingConfig, OneEngine):
        """Settings of `contrast_prompt`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine", "verifier")
        k: int = Field(default=1, ge=1)
        verify: bool = True
        verifier: str | None = None
        margin: float = Field(default=0.0, ge=0.0, lt=0.5)
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)

    config: Config

    @property
    def identity(self) -> dict[str, Any]:
        """As every generator's, plus the instructions."""
        return {**super().identity, "opposed": opposed()}

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        draw = drawer(self, row)
        for axis in sorted(opposed(), key=draw)[: self.config.k]:
            await self._contrast(row, axis, ask, out)

    async def _contrast(self, row: Row, axis: str, ask: Tally, out: Yield) -> None:
        sides = ("better", "worse")
        better, worse = await asyncio.gather(
            *(
                self.answer(
                    self.config.engine,
                    [message("system", opposed()[axis][side]), *row["prompt"]],
                    (row["prompt_id"], "contrast", axis, side),
                    self.config,
                    row,
                    ask,
                    out,
                    axis=axis,
                    side=side,
                )
                for side in sides
            )
        )
        if better is None or worse is None:
            return
        payload = {"prompt_id": row["prompt_id"], "axis": axis, "better": better.text, "worse": worse.text}
        if near_identical(better.text, worse.text, self.config.near_identical):
            detail = "under opposed instructions the engine answered alike"
            self.reject(out, "near_identical_candidate", row["prompt_id"], detail, payload)
            return
        p_better = None
        if self.config.verify:
            engine = self.config.verifier or self.config.engine
            p_better = await prefer(self, engine, row["prompt_id"], row["prompt"], better, worse, ask)
            if p_better is None or p_better <= 0.5 + self.config.margin:
                detail = ask.why(p_better, "the response meant to be better wins with probability {p}")
                self.reject(out, "contrast_not_verified", row["prompt_id"], detail, payload | {"p_better": p_better})
                return
        self.pair(
            row,
            out,
            better,
            worse,
            first_label="a" if self.config.verify else None,
            expected="a",
            tags=["contrast"],
            ref={"axis": axis},
            meta={"axis": axis, "p_better": p_better},
        )
