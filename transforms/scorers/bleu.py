"""Rule voter: the response closer to a reference by BLEU."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

import orjson
from pydantic import Field

from schemas.errors import MissingExtra
from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers.base import Rule, RuleConfig


@register("bleu")
class Bleu(Rule):
    """Smoothed sentence BLEU against the row's reference(s), as in BLEUBERI (Chang et al., 2025).

    There it agrees with humans on 72% (one reference) to 74% (five) of chat pairs, close to an 8B reward
    model. `reference` is a text or the JSON text of a list of texts; no vote if a row has none.
    """

    class Config(RuleConfig):
        """Settings of `bleu`."""

        tie_band: float = Field(0.005, ge=0.0, description="a tie if the scores in [0, 1] differ by at most this")

    measures: ClassVar[str] = "Word overlap with a reference answer (sentence BLEU)."

    def score(self, response: str, row: Row) -> float | None:
        """BLEU in [0, 1]; None without a reference.

        Raises:
            MissingExtra: sacrebleu is not installed.
        """
        references = _references(row["reference"])
        if not references:
            return None
        return float(_metric().sentence_score(response, references).score) / 100.0


@cache
def _metric() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise MissingExtra("bleu needs sacrebleu; install the extra: pip install 'prefine[score]'") from None
    return BLEU(effective_order=True)


def _references(value: str | None) -> list[str]:
    if not value or not value.strip():
        return []
    if value.lstrip().startswith("["):
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            return [value]
        if isinstance(parsed, list) and parsed and all(isinstance(item, str) for item in parsed):
            return [item for item in parsed if item.strip()]
    return [value]
