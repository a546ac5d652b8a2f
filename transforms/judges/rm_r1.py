"""Reasoning against chat, with a rubric the judge writes itself (RM-R1, Chen et al. 2025, arXiv:2505.02387).

The judge first says which kind of question it is. Reasoning (mathematics, code, logic): it solves the question
itself, then compares the responses with its solution. Chat: it writes a weighted rubric, justifies it, and compares
the responses by it with quotes. The verdict stands as `[[A]]`, `[[B]]` or, ours, `[[C]]` for a tie in `<answer>`.
"""

from __future__ import annotations

from typing import Any

from schemas.tables import Row
from transforms.judges._parsing import LABELS, tagged
from transforms.judges._verdicts import tagged_verdict
from transforms.judges.base import JudgeConfig, Opinion, TemplateJudge, invalid
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
        """The verdict in `<answer>`, with the kind of question and the rubric or solution it rests on."""
        return rubric_opinion(reply)


def rubric_opinion(reply: Reply) -> Opinion:
    """Read a reply: exactly one letter may be marked in its `<answer>`."""
    read = tagged_verdict(reply)
    if isinstance(read, str):
        return invalid(read)
    (letter,), text = read, reply.text
    kind = (tagged(text, "type") or "").lower()
    aspects: dict[str, Any] = {"type": kind if kind in _KINDS else "unstated"}
    for tag in ("rubric", "solution"):
        content = tagged(text, tag)
        if content:
            aspects[tag] = content
    return Opinion(LABELS[letter], aspects=aspects, rationale=tagged(text, "eval"))
