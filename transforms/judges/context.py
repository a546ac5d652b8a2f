"""Judging under a context, with and without it (RPR, Pitis et al. 2024, arXiv:2407.14916).

In RPR every context has a twin that reverses the preference, so a judge that ignores contexts is right half the time
by construction. This judge asks about a pair with its context and again without. Its vote is the answer under the
context; the answer without it is kept in the aspects (`label_without`, `p_a_without`, `shift` = change of
log-odds towards a), from which the report computes what the context was worth. Pairs without a context get no vote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson
import scipy

from schemas.tables import Row
from transforms.judges.base import STATES
from transforms.judges.logprob import LogprobJudge
from transforms.llm.request import Ask
from transforms.plugins.registry import register

_LIMIT = 1e-6  # probabilities are kept this far from 0 and 1 before logarithms


@register("context")
class ContextJudge(LogprobJudge):
    """First-token verdicts under the pair's context, with the context-free verdict beside each."""

    version: ClassVar[int] = 4

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """One vote per pair with a context and order."""
        asked = [
            self._both(pair, order, sample, ask)
            for pair in pairs
            if pair.get("context")
            for order in self.orders(pair)
            for sample in range(self.config.samples)
        ]
        return list(await asyncio.gather(*asked))

    async def _both(self, pair: Row, order: str, sample: int, ask: Ask) -> Row:
        bare = {**pair, "context": None, "context_kind": None}
        under, without = await asyncio.gather(
            self._vote(pair, order, sample, ask), self._vote(bare, order, sample, ask)
        )
        return with_baseline(under, without)


def with_baseline(under: Row, without: Row) -> Row:
    """The vote under the context with the context-free vote in its aspects; costs are added."""
    aspects: dict[str, Any] = orjson.loads(under["aspects"]) if under["aspects"] else {}
    aspects["label_without"] = without["label"]
    if without["label"] not in STATES and without["p_a"] is not None:
        aspects["p_a_without"] = without["p_a"]
        if under["p_a"] is not None:
            aspects["shift"] = _log_odds(under["p_a"]) - _log_odds(without["p_a"])
    costs = {name: under[name] + without[name] for name in ("tokens_in", "tokens_out", "ms")}
    return {**under, **costs, "aspects": orjson.dumps(aspects).decode()}


def _log_odds(p: float) -> float:
    return float(scipy.special.logit(min(1 - _LIMIT, max(_LIMIT, p))))
