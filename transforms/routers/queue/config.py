"""What a queue is told: how much may be asked, and what the budget goes to."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from transforms.plugins.base import PluginConfig

EXPECTED_ERRORS = 10


class QueueConfig(PluginConfig):
    """How the budget is spent. With neither a budget nor an accuracy, everything is asked."""

    budget: int | None = Field(default=None, ge=1, description="answers to ask for, in total")
    budget_seconds: float | None = Field(default=None, gt=0, description="annotator seconds to spend, in total")
    accuracy: float | None = Field(
        default=None, gt=0.5, lt=1, description="share of right labels to ask for, in place of a budget"
    )
    audit_pairs: int | None = Field(
        default=None,
        ge=50,
        description="with accuracy: pairs of the random audit; by default by how many pairs there are",
    )
    audit_share: float = Field(default=0.1, ge=0, le=1, description="share of the budget spent on the random audit")
    audit_overlap: int = Field(default=2, ge=1, description="answers per audited pair; 2 or more show annotator error")
    control_share: float = Field(default=0.05, ge=0, le=1, description="share of the budget spent on known answers")
    control_overlap: int = Field(default=3, ge=1, description="answers per control")
    overlap_min: int = Field(default=1, ge=1, description="answers for the easiest pair")
    overlap_max: int = Field(default=1, ge=1, description="answers for the hardest pair")
    one_by_one: bool = Field(
        default=False,
        description="ask overlap_min people first, then up to overlap_max, one at a time, while an answer is worth it",
    )
    slice: Literal["kind", "language", "origin", "context_kind"] | None = None
    slice_minimum: int = Field(default=0, ge=0, description="pairs every slice gets before values compete")
    same_prompt_decay: float = Field(
        default=0.9, ge=0, le=1, description="discount per better pair of that prompt or one nearly like it"
    )
    base_seconds: float = Field(default=15.0, gt=0, description="seconds to answer, without reading")
    chars_per_second: float = Field(default=24.0, gt=0, description="reading speed; 238 words/min, Brysbaert 2019")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in ("budget", "budget_seconds", "accuracy") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of budget (answers), budget_seconds and accuracy, not {' and '.join(given)}")
        if self.audit_pairs is not None and self.accuracy is None:
            raise ValueError("audit_pairs goes with accuracy; a budget's audit is its audit_share")
        if self.accuracy is not None and self.audit_share == 0:
            raise ValueError("accuracy is measured on the random audit: audit_share must be above 0")
        if self.overlap_max < self.overlap_min:
            raise ValueError("overlap_max is smaller than overlap_min")
        if self.audit_share + self.control_share > 1:
            raise ValueError("audit_share + control_share exceed the whole budget")
        if self.slice_minimum and self.slice is None:
            raise ValueError("slice_minimum needs slice: which column's values are the slices")
        return self

    @property
    def total(self) -> float:
        """The budget in its own unit; infinite if none is given."""
        return float(self.budget or self.budget_seconds or math.inf)

    def sized(self, n_pairs: int) -> QueueConfig:
        """With `audit_pairs`, if an accuracy is asked for and it is not given.

        They are to hold `EXPECTED_ERRORS` wrong labels, and grow with the pairs: of n audited ones the bound on the
        share of wrong labels is too large by about n ** -1/2, which is paid for with as large a share of all pairs, so
        that n_pairs ** 2/3 cost least.
        """
        if self.accuracy is None or self.audit_pairs is not None:
            return self
        fewest = math.ceil(round(EXPECTED_ERRORS / (1 - self.accuracy), 6))
        return self.model_copy(update={"audit_pairs": max(fewest, math.ceil(round(n_pairs ** (2 / 3), 6)))})

    @property
    def control_pairs(self) -> int | None:
        """Controls if an accuracy is asked for: in answers, they are to the audit as their shares are."""
        if self.audit_pairs is None:
            return None
        answers = self.audit_pairs * self.audit_overlap * self.control_share / self.audit_share
        return math.ceil(answers / self.control_overlap)

    @property
    def cheapest(self) -> float:
        """The least that an answer costs, in the budget's unit."""
        return 1.0 if self.budget_seconds is None else self.base_seconds
