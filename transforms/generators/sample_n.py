"""Pairs among n samples of one prompt: the plain way to on-policy preference data."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from schemas.tables import Row
from transforms.generators._rating import RATE, RatingConfig, rate
from transforms.generators._sampling import RANKED, Policy, SamplingConfig, drawer, pairings, sample
from transforms.generators.base import Generator, Tally, Yield
from transforms.plugins.registry import register


@register("sample_n")
class SampleN(Generator):
    """n candidates over engines and temperatures; which meet in a pair is the policy's choice.

    `policy`: `all`, `adjacent`, `random` (`k` pairs), or, by the rating of engine `rater`, `best_worst` and
    `random_of_top` (the best against `k` of the top half). Ratings choose pairs; they never label them.
    """

    templates = (RATE,)

    class Config(RatingConfig, SamplingConfig):
        """Settings of `sample_n`."""

        engine_fields: ClassVar[tuple[str, ...]] = ("engines", "rater")
        policy: Policy = "random"
        k: int = Field(default=2, ge=1)
        rater: str | None = None
        rating_samples: int = Field(default=1, ge=1)

        @model_validator(mode="after")
        def _ranked_needs_a_rater(self) -> SampleN.Config:
            if self.policy in RANKED and self.rater is None:
                raise ValueError(f"policy {self.policy!r} needs `rater`: the name of the engine that rates candidates")
            return self

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        candidates = await sample(self, self.config, row, ask, out)
        scores: list[float] | None = None
        if self.config.rater is not None and self.config.policy in RANKED:
            ratings = await rate(self, self.config.rater, row, candidates, ask, samples=self.config.rating_samples)
            for candidate, values in zip(candidates, ratings, strict=True):
                if not values:
                    payload = {"prompt_id": row["prompt_id"], "text": candidate.text, **candidate.details}
                    record = str(candidate.details["request_id"])
                    detail = f"no readable rating from the rater: {ask.unread}"
                    self.reject(out, "unrated", record, detail, payload)
            rated = [(c, sum(v) / len(v)) for c, v in zip(candidates, ratings, strict=True) if v]
            candidates, scores = [c for c, _ in rated], [s for _, s in rated]
        chosen = pairings(len(candidates), self.config.policy, self.config.k, drawer(self, row), scores)
        for i, j in chosen:
            sides = (scores[i], scores[j]) if scores else None
            self.pair(row, out, candidates[i], candidates[j], sides=sides, ref={"policy": self.config.policy})
        if not chosen:
            detail = f"{len(candidates)} usable, distinct candidates gave no pair under policy {self.config.policy!r}"
            self.reject(out, "no_pair", row["prompt_id"], detail, {"prompt_id": row["prompt_id"]})
