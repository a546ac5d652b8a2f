"""`posterior`: a label is published if it is certain enough, as the source gave it or exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import polars as pl
from pydantic import model_validator

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.policies.base import ROUNDING, CertaintyConfig, DoubtPolicy, doubtful_action, is_certain
from transforms.stats.label_noise import action_shares, with_actions

_FORMER = ("keep_noise", "flip_noise", "keep_certainty", "soften_certainty", "below")


@register("posterior")
class PosteriorPolicy(DoubtPolicy):
    """Publish the most probable label if it is certain.

    The three outcomes (a is better, b is, neither is) have the probabilities p_a (1 - p_tie), (1 - p_a) (1 - p_tie) and
    p_tie; the largest is the label's `certainty`. With the default `certainty` of 2/3:

    - the source's label is kept where its probability is at least 2/3, and exchanged (`flip`) where the other
      response's is, so that the source's is at most 1/3;
    - without a source label the most probable label is kept where it is that certain;
    - where "neither is better" is the most probable, the pair is a tie and is left out;
    - every other pair is in doubt: `doubtful` says what happens to it, and by default it is left out.

    A pair that nobody voted on has no label: it is left out, or waits for people with `doubtful: ask`.

    Reasons: `source_agrees`, `source_contradicted`, `doubtful`, `no_source_label`, `tie_most_probable`,
    `human_decided`, `no_votes`, `voters_disagree`.
    """

    class Config(CertaintyConfig):
        """Options of the policy."""

        @model_validator(mode="before")
        @classmethod
        def _replaced(cls, given: Any) -> Any:
            former = [name for name in _FORMER if isinstance(given, dict) and name in given]
            if former:
                raise ValueError(
                    f"{', '.join(former)}: replaced by certainty (at least so probable a label is published) and "
                    "doubtful (drop, flip, soften or ask: what happens to the others)"
                )
            return given

    config: Config
    version: ClassVar[int] = 2

    def fit(self, verdicts: pl.DataFrame) -> Row:
        """`predicted`: share of each action on these verdicts."""
        return {"predicted": action_shares(self.decide({}, verdicts))} if len(verdicts) else {"predicted": {}}

    def because(self, model: Row, verdict: Mapping[str, Any]) -> str:
        """The comparison that decided a verdict: `certainty`, `n_votes`, `label` and `action` are read."""
        c, certainty = self.config, verdict["certainty"]
        if not verdict["n_votes"]:
            return "nobody voted"
        if verdict["action"] == "tie":
            return f"P(neither is better) = {certainty:.3f} is the largest and at least 1/3"
        if verdict["label"] == "tie":
            return f"a and b are equally probable, so `doubtful: {c.doubtful}` decides"
        chance = f"P({verdict['label']} is better) = {certainty:.3f}"
        if certainty >= c.certainty - ROUNDING:
            return f"{chance} >= certainty {c.certainty:.3g}"
        return f"{chance} < certainty {c.certainty:.3g}, so `doubtful: {c.doubtful}` decides"

    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """Action and reasons by row; `verdicts` is a `decision_frame`."""
        source, label = pl.col("source_label"), pl.col("label")
        no_votes = pl.col("n_votes") == 0
        # At even odds of a and b the label is "tie" for symmetry's sake, though a tie may be improbable.
        is_tie = (label == "tie") & ~no_votes & (pl.col("certainty") >= 1 / 3)
        certain = is_certain(self.config.certainty) & (label != "tie") & ~no_votes
        agrees = certain & (source == label).fill_null(value=False)
        contradicted = certain & (source != label).fill_null(value=False)
        doubt = ~is_tie & ~certain & ~no_votes
        action = (
            pl.when(is_tie)
            .then(pl.lit("tie"))
            .when(contradicted)
            .then(pl.lit("flip"))
            .when(certain)
            .then(pl.lit("keep"))
            .when(no_votes)
            .then(pl.lit("route" if self.config.doubtful == "ask" else "drop"))
            .otherwise(doubtful_action(self.config.doubtful))
        )
        return with_actions(
            verdicts,
            action,
            [
                ("tie_most_probable", is_tie),
                ("no_votes", no_votes),
                ("doubtful", doubt),
                ("source_contradicted", contradicted),
                ("source_agrees", agrees),
                ("no_source_label", source.is_null()),
                ("human_decided", pl.col("n_human") > 0),
                ("voters_disagree", doubt & (pl.col("disagreement") > 0.5)),
            ],
        )
