"""What a queue is told: how much may be asked, and what the budget goes to."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from transforms.plugins.base import PluginConfig


class QueueConfig(PluginConfig):
    """How the budget is spent. With neither budget, everything is asked."""

    budget: int | None = Field(default=None, ge=1, description="answers to ask for, in total")
    budget_seconds: float | None = Field(default=None, gt=0, description="annotator seconds to spend, in total")
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
        if self.budget is not None and self.budget_seconds is not None:
            raise ValueError("give budget (answers) or budget_seconds, not both")
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

    @property
    def cheapest(self) -> float:
        """The least that an answer costs, in the budget's unit."""
        return 1.0 if self.budget_seconds is None else self.base_seconds
