"""What a policy must have, and what ours share: what happens to a label in doubt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field

from schemas.tables import Row
from transforms.plugins.base import Plugin, PluginConfig

Doubtful = Literal["drop", "flip", "soften", "ask"]
ROUNDING = 1e-9  # of a probability that was computed as 1 - p


class Policy(Plugin):
    """Posterior to action."""

    kind: ClassVar[str] = "policies"

    @abstractmethod
    def fit(self, verdicts: pl.DataFrame) -> Row:
        """Whatever the policy needs of the whole (percentiles), and `predicted`, the share of each action."""

    @abstractmethod
    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """The same rows with `action` and `reasons` filled."""

    def because(self, model: Row, verdict: Mapping[str, Any]) -> str | None:
        """The comparison with a threshold that decided a verdict, in words; None if the policy cannot say."""
        return None

    @property
    def asks_only_routed(self) -> bool:
        """Whether people are asked about pairs of action `route` alone (beside audit and controls), or about any."""
        return False


class DoubtConfig(PluginConfig):
    """What happens to a pair whose label is in doubt.

    `drop` leaves it out. `flip` publishes the more probable side as if it were certain. `soften` publishes that side
    with `p_chosen` as soft label and the weight 2 p_chosen - 1. `ask` leaves it out until people have answered, and
    asks them about such pairs alone.
    """

    doubtful: Doubtful = "drop"


class DoubtPolicy(Policy):
    """A policy with labels in doubt."""

    config: DoubtConfig

    @property
    def asks_only_routed(self) -> bool:
        """With `doubtful: ask`."""
        return self.config.doubtful == "ask"


class CertaintyConfig(DoubtConfig):
    """From which probability on a label is beyond doubt; that neither response is better counts against it."""

    certainty: float = Field(2 / 3, gt=0.5, le=1.0)


def doubtful_action(doubtful: Doubtful) -> pl.Expr:
    """The action of a pair in doubt with `label`, the most probable outcome, and `source_label`.

    At even odds no side is more probable: there is nothing to publish, so `flip` and `soften` leave the pair out.
    """
    sided = pl.col("label") != "tie"
    agrees = (pl.col("source_label") == pl.col("label")) | pl.col("source_label").is_null()
    published = {
        "flip": pl.when(agrees).then(pl.lit("keep")).otherwise(pl.lit("flip")),
        "soften": pl.lit("soften"),
    }
    if doubtful in published:
        return pl.when(sided).then(published[doubtful]).otherwise(pl.lit("drop"))
    return pl.lit("route" if doubtful == "ask" else "drop")


def is_certain(certainty: float) -> pl.Expr:
    """Whether the most probable label has at least this probability."""
    return pl.col("certainty") >= certainty - ROUNDING
