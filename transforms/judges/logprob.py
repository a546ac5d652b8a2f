"""Verdict by the log-probabilities of the first token: cheap (one token), graded, calibratable.

The judge is asked for one letter: A, B, or C for a tie. The probabilities of all tokens that spell a letter
(`A`, ` A`, `a`) are summed per letter. p_first = P(A) / (P(A) + P(B)); the label is the most probable letter.
When the letters together have less than `min_mass`, the model was about to say something else: `invalid`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from schemas.tables import Row
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, invalid
from transforms.llm.request import Reply
from transforms.plugins.registry import register

_LETTERS = {"a": "a", "b": "b", "c": "tie"}
_SPACE = " \t\n\r▁Ġ*\"'(`"  # blanks as tokenizers spell them, and what a model may put round a letter
_END = ".):,;*\"'`"


@register("logprob")
class LogprobJudge(TemplateJudge):
    """One-token verdicts with their probabilities; needs an engine that returns log-probabilities."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "logprob.v1"
        max_tokens: int = Field(1, ge=1)
        ties: bool = Field(True, description="offer C for a tie")
        min_mass: float = Field(0.2, ge=0, le=1, description="least probability of all letters together")
        top_logprobs: int = Field(20, ge=2, description="alternatives asked for; OpenAI's limit is 20")

    config: Config

    def values(self, pair: Row, order: str) -> dict[str, Any]:
        """Adds whether a tie may be answered."""
        return {**super().values(pair, order), "ties": self.config.ties}

    def body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        """One token with its alternatives."""
        body = super().body(messages, sample)
        return {**body, "logprobs": True, "top_logprobs": self.config.top_logprobs}

    def read(self, reply: Reply, pair: Row, order: str) -> Opinion:
        """The opinion in the first token's alternatives."""
        if reply.reasoning:
            return invalid(
                "the reply begins with a thought, so its first token is no verdict; turn thinking off with extra_body "
                "(chat_template_kwargs: {enable_thinking: false}), or take json_verdict"
            )
        if not reply.logprobs:
            return invalid("the reply has no log-probabilities; this judge needs an engine that returns them")
        return first_token_opinion(reply.logprobs[0], self.config.ties, self.config.min_mass)


def first_token_opinion(alternatives: Mapping[str, float], ties: bool, min_mass: float) -> Opinion:
    """Read {token: log-probability} of the first token.

    Args:
        alternatives: natural logarithms, at most 0.
        ties: whether C counts.
        min_mass: least sum of the letters' probabilities in [0, 1].
    """
    mass = letter_mass(alternatives)
    if not ties:
        mass["tie"] = 0.0
    total = sum(mass.values())
    if total < min_mass or mass["a"] + mass["b"] + mass["tie"] == 0.0:
        likely = max(alternatives, key=alternatives.__getitem__, default="")
        return invalid(f"the letters have probability {total:.3f}; the likeliest token is {likely!r}")
    strict = mass["a"] + mass["b"]
    p_first = mass["a"] / strict if strict > 0 else 0.5
    ranked = sorted(mass, key=mass.__getitem__, reverse=True)
    label = "tie" if mass[ranked[0]] == mass[ranked[1]] else ranked[0]
    shares = {"p_tie": mass["tie"] / total, "mass": min(1.0, total)}
    return Opinion(label, p_first=p_first, aspects=shares)


def letter_mass(alternatives: Mapping[str, float]) -> dict[str, float]:
    """Probability of each verdict, summed over the tokens that spell it."""
    mass = {"a": 0.0, "b": 0.0, "tie": 0.0}
    for token, logprob in alternatives.items():
        letter = token.lstrip(_SPACE).rstrip(_END + _SPACE).lower()
        if letter in _LETTERS:
            mass[_LETTERS[letter]] += math.exp(min(0.0, logprob))
    return mass
