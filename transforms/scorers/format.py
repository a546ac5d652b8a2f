"""Rule voter: the response with fewer marks of broken formatting."""

from __future__ import annotations

import re
from typing import ClassVar

from schemas.tables import Row
from transforms.plugins.registry import register
from transforms.scorers.base import Opinion, Rule

_TEMPLATE_TOKEN = re.compile(r"<\|[\w-]+\|>|\[/?INST\]|</?s>|<<SYS>>|<(?:start|end)_of_turn>")
_ROLE_PREFIX = re.compile(r"^(?:human|user|assistant|system)\s*:", re.IGNORECASE | re.MULTILINE)
_CODE = re.compile(r"```.*?```", re.DOTALL)
_FINISHED = re.compile(r"[.!?…。！？:;)\]}\"'”’`*_|>\d]\s*$")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def defects(text: str) -> list[str]:
    """Names of the formatting defects of a response, sorted: empty, brackets, fence, role, template, unfinished.

    empty: nothing but white space. fence: an opened code block is never closed. brackets: outside code,
    brackets do not match. role: a line starts with a speaker's name ("Human:"), so a turn was run over.
    template: a chat-template token was left in. unfinished: twenty words or more end without a final mark.
    """
    if not text.strip():
        return ["empty"]
    prose = _CODE.sub("", text)
    presence = {
        "fence": text.count("```") % 2 == 1,
        "brackets": not _balanced(prose),
        "role": _ROLE_PREFIX.search(text) is not None,
        "template": _TEMPLATE_TOKEN.search(text) is not None,
        "unfinished": len(prose.split()) >= 20 and _FINISHED.search(prose) is None,
    }
    return sorted(name for name, present in presence.items() if present)


@register("format")
class Format(Rule):
    """Minus the number of formatting defects (`defects`); no vote where neither response has one."""

    measures: ClassVar[str] = "Freedom from broken formatting: open code blocks, stray template tokens, cut ends."

    def score(self, response: str, row: Row) -> float | None:
        """Minus the number of defects; an empty response counts as having all of them."""
        names = defects(response)
        return -5.0 if names == ["empty"] else -float(len(names))

    def opinion(self, row: Row) -> Opinion | None:
        """The vote, or None if both are clean."""
        opinion = super().opinion(row)
        return None if opinion is None or opinion.score_a == opinion.score_b == 0.0 else opinion


def _balanced(text: str) -> bool:
    """Whether round, square and curly brackets match; list markers such as "1)" do not count."""
    stack: list[str] = []
    for character in re.sub(r"(?m)^\s*\w{1,3}\)", "", text):
        if character in _BRACKETS:
            stack.append(_BRACKETS[character])
        elif character in _BRACKETS.values() and (not stack or stack.pop() != character):
            return False
    return not stack
