"""Rejected from the past, chosen from the future: pairs whose gap does not close as the policy improves.

Temporal self-rewarding (Wang et al. 2025): as chosen and rejected of one policy grow alike the signal
vanishes; so the rejected one is anchored in an older model, and the chosen one is guided by a newer one.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from schemas.tables import Row
from transforms.generators._rating import COMPARE, RATE, RatingConfig, prefer, rate
from transforms.generators._sampling import SamplingConfig, sample
from transforms.generators.base import Decoding, Generator, Response, Tally, Yield
from transforms.plugins.registry import register

Rated = tuple[float, Response]


@register("past_future")
class PastFuture(Generator):
    """Samples of the engines `past`, `current` (default: `future`) and `future`, rated by `rater`.

    Chosen is the current model's best, or the future model's best if that rates higher; rejected is the
    current model's worst, or the past model's worst if that rates lower. The pair is kept only if chosen
    rates higher than rejected and, with `verify`, wins the comparison in both orders.
    """

    templates = (RATE, COMPARE)

    class Config(RatingConfig, Decoding):
        """Settings of `past_future`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("past", "current", "future", "rater")
        past: str
        future: str
        current: str | None = None
        rater: str
        n: int = Field(default=3, ge=2, le=64)
        rating_samples: int = Field(default=1, ge=1)
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)
        verify: bool = True

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        past = await self._rated(self.config.past, row, ask, out)
        future = await self._rated(self.config.future, row, ask, out)
        current = future if self.config.current is None else await self._rated(self.config.current, row, ask, out)
        if not (past and current and future):
            missing = [n for n, r in (("past", past), ("current", current), ("future", future)) if not r]
            detail = f"no rated sample from: {', '.join(missing)}"
            self.reject(out, "no_pair", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
            return
        chosen, rejected = anchored(past, current, future)
        payload = {
            "prompt_id": row["prompt_id"],
            "chosen": chosen[1].text,
            "rejected": rejected[1].text,
            "ratings": [chosen[0], rejected[0]],
        }
        if chosen[0] <= rejected[0]:
            self.reject(out, "not_better", row["prompt_id"], "chosen does not rate higher than rejected", payload)
            return
        p_chosen = None
        if self.config.verify:
            p_chosen = await prefer(
                self, self.config.rater, row["prompt_id"], row["prompt"], chosen[1], rejected[1], ask
            )
            if p_chosen is None or p_chosen <= 0.5:
                detail = ask.why(p_chosen, "compared in both orders, chosen wins with probability {p}")
                self.reject(out, "not_better", row["prompt_id"], detail, payload | {"p_chosen": p_chosen})
                return
        self.pair(
            row,
            out,
            chosen[1],
            rejected[1],
            first_label="a",
            tags=["past_future"],
            meta={"p_chosen": p_chosen},
            sides=({"rating": chosen[0]}, {"rating": rejected[0]}),
        )

    async def _rated(self, engine: str, row: Row, ask: Tally, out: Yield) -> list[Rated]:
        sampling = SamplingConfig(
            engines=(engine,),
            n=self.config.n,
            temperatures=(self.config.temperature,),
            top_p=self.config.top_p,
            max_tokens=self.config.max_tokens,
            near_identical=self.config.near_identical,
        )
        candidates = await sample(self, sampling, row, ask, out)
        ratings = await rate(self, self.config.rater, row, candidates, ask, samples=self.config.rating_samples)
        return [(sum(r) / len(r), c) for c, r in zip(candidates, ratings, strict=True) if r]


def anchored(past: list[Rated], current: list[Rated], future: list[Rated]) -> tuple[Rated, Rated]:
    """(chosen, rejected) by the rule of temporal self-rewarding; on equal ratings the current model's stands."""
    chosen = max(current, key=lambda r: r[0])
    rejected = min(current, key=lambda r: r[0])
    newer = max(future, key=lambda r: r[0])
    older = min(past, key=lambda r: r[0])
    return (newer if newer[0] > chosen[0] else chosen), (older if older[0] < rejected[0] else rejected)
