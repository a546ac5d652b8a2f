"""Rule voter: how many of the row's checkable constraints and answers a response meets."""

from __future__ import annotations

from typing import ClassVar

from schemas.messages import text_of
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers.base import Opinion, Rule, label_by_difference
from transforms.scorers.checks.vocabulary import CheckError, parse_checks


@register("checks")
class Checks(Rule):
    """Share of the row's `checks` that hold (see `vocabulary`); no vote if a row has none.

    `aspects` lists each check's outcome for both responses. A row whose checks are wrong gets the state
    `invalid` with the reason.
    """

    version: ClassVar[int] = 2
    measures: ClassVar[str] = "Share of the prompt's checkable constraints and answers that the response meets."

    def score(self, response: str, row: Row) -> float | None:
        """Share of checks met in [0, 1]; None without checks."""
        checks = parse_checks(row["checks"]) if row["checks"] else []
        return sum(check.holds(response) for check in checks) / len(checks) if checks else None

    def opinion(self, row: Row) -> Opinion | None:
        """The vote with the outcome of every check."""
        try:
            checks = parse_checks(row["checks"]) if row["checks"] else []
        except CheckError as error:
            return Opinion(row["pair_id"], "invalid", detail=str(error))
        if not checks:
            return None
        a, b = ([check.holds(text_of(row[side])) for check in checks] for side in ("response_a", "response_b"))
        score_a, score_b = sum(a) / len(checks), sum(b) / len(checks)
        outcomes = {"checks": [check.type for check in checks], "a": a, "b": b}
        return Opinion(
            row["pair_id"],
            label_by_difference(score_a, score_b, self.config.tie_band),
            score_a=score_a,
            score_b=score_b,
            aspects=outcomes,
        )
