"""A fresh answer challenges a pair that has become stale or easy.

SELM (Zhang et al. 2024): in each round rank {fresh sample, old chosen, old rejected} and train on best
against worst. Its optimism is a term of the training loss; as a rule of selection it becomes, here, an
upper confidence bound on the rating: this form is ours.
"""

from __future__ import annotations

from statistics import fmean, pstdev
from typing import ClassVar

from pydantic import Field

from schemas.tables import Row
from transforms.generators._rating import RATE, RatingConfig, rate
from transforms.generators._sampling import SamplingConfig, sample
from transforms.generators.base import Decoding, Generator, Response, Tally, Yield
from transforms.plugins.registry import register


@register("refresh")
class Refresh(Generator):
    """Existing pairs to new ones of best against worst among {fresh samples, both old responses}.

    A pair is renewed if it is stale (neither response is by the engine's present model) or easy (ratings at
    least `easy_gap` apart); others are rejects (`still_useful`). Best is the highest mean rating plus
    `optimism` standard deviations over `rating_samples`, worst the lowest mean. Where best and worst are
    the old responses the new pair would be the old one: a reject (`unchanged`).
    """

    consumes = "pairs"
    templates = (RATE,)

    class Config(RatingConfig, Decoding):
        """Settings of `refresh`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engine", "rater")
        engine: str
        rater: str
        n: int = Field(default=2, ge=1, le=64)
        near_identical: float = Field(default=0.9, gt=0.0, le=1.0)
        rating_samples: int = Field(default=3, ge=1)
        optimism: float = Field(default=0.5, ge=0.0)
        easy_gap: float = Field(default=3.0, ge=0.0)

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        old = [
            Response(tuple(row[f"response_{s}"]), row.get(f"model_{s}"), {"old": s, "pair_id": row["pair_id"]})
            for s in ("a", "b")
        ]
        old_ratings = await self._rate(row, old, ask, (8, 2))
        if not all(old_ratings):
            detail = f"no readable rating of the old responses: {ask.unread}"
            self.reject(out, "unrated", row["pair_id"], detail, {"pair_id": row["pair_id"]})
            return
        gap = abs(fmean(old_ratings[0]) - fmean(old_ratings[1]))
        stale = self.models[self.config.engine] not in (row.get("model_a"), row.get("model_b"))
        if not stale and gap < self.config.easy_gap:
            detail = f"by the present model, and rated only {gap:.2f} apart"
            self.reject(out, "still_useful", row["pair_id"], detail, {"pair_id": row["pair_id"], "gap": gap})
            return
        fresh = await sample(self, self._sampling(), row, ask, out)
        pool = [
            *zip(old, old_ratings, strict=True),
            *zip(fresh, await self._rate(row, fresh, ask, (9,) * len(fresh)), strict=True),
        ]
        best, worst = extremes([ratings for _, ratings in pool], self.config.optimism)
        payload = {"pair_id": row["pair_id"], "ratings": [r for _, r in pool]}
        if best == worst or {best, worst} == {0, 1}:
            self.reject(out, "unchanged", row["pair_id"], "no fresh answer is best or worst", payload)
            return
        self.pair(
            row,
            out,
            pool[best][0],
            pool[worst][0],
            tags=["refreshed"],
            ref={"pair_id": row["pair_id"], "why": "stale" if stale else "easy"},
            meta={"old_gap": gap},
            sides=({"ratings": pool[best][1]}, {"ratings": pool[worst][1]}),
        )

    def _sampling(self) -> SamplingConfig:
        return SamplingConfig(
            engines=(self.config.engine,),
            n=self.config.n,
            temperatures=(self.config.temperature,),
            top_p=self.config.top_p,
            max_tokens=self.config.max_tokens,
            near_identical=self.config.near_identical,
        )

    async def _rate(
        self, row: Row, responses: list[Response], ask: Tally, assumed: tuple[int, ...]
    ) -> list[list[float]]:
        return await rate(
            self,
            self.config.rater,
            row,
            responses,
            ask,
            samples=self.config.rating_samples,
            context=row.get("context"),
            assumed=assumed,
        )


def extremes(ratings: list[list[float]], optimism: float) -> tuple[int, int]:
    """Indices of best (mean + optimism x standard deviation) and worst (mean); the unrated take no part."""
    rated = [i for i, values in enumerate(ratings) if values]
    best = max(rated, key=lambda i: (fmean(ratings[i]) + optimism * pstdev(ratings[i]), -i))
    worst = min(rated, key=lambda i: (fmean(ratings[i]), i))
    return best, worst
