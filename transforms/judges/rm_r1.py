"""Reasoning against chat, with a rubric the judge writes itself (RM-R1, Chen et al. 2025, arXiv:2505.02387).

The judge first says which kind of question it is. Reasoning (mathematics, code, logic): it solves the question
itself, then compares the responses with its solution. Chat: it writes a weighted rubric, justifies it, and compares
the responses by it with quotes. The verdict stands as `[[A]]`, `[[B]]` or, ours, `[[C]]` for a tie in `<answer>`.
"""

from __future__ import annotations

from typing import Any

from schemas.tables import Row
from transforms.judges._parsing import LABELS, bracketed_letter, spoken, tagged
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, invalid
from transforms.judges.json_verdict import cut_off
from transforms.llm.request import Reply
from transforms.plugins.registry import register

_KINDS = ("reasoning", "chat")


@register("rm_r1")
class RubricJudge(TemplateJudge):
    """Solve-then-compare for reasoning, rubric for chat."""

    class Config(JudgeConfig):
        """Settings of the judge."""

        template: str = "rm_r1.v1"
        max_tokens: int = 4096

    def read(self, reply: Reply, pair: Row, order: str) -> Opinion:
        """The verdict of the last `<answer>`, with the kind of question and the rubric or solution it rests on."""
        return rubric_opinion(reply)


def rubric_opinion(reply: Reply) -> Opinion:
    """Read a reply: exactly one letter may be marked in its last `<answer>`."""
    text = spoken(reply.text)
    answer = tagged(text, "answer")
    if answer is None:
        return invalid(cut_off(reply) or "no <answer> in the reply")
    letter = bracketed_letter(answer)
    if letter is None:
        return invalid("<answer> does not mark exactly one of [[A]], [[B]], [[C]]")
    kind = (tagged(text, "type") or "").lower()
    aspects: dict[str, Any] = {"type": kind if kind in _KINDS else "unstated"}
    for tag in ("rubric", "solution"):
        content = tagged(text, tag)
        if content:
            aspects[tag] = content
    return Opinion(LABELS[letter], aspects=aspects, rationale=tagged(text, "eval"))
