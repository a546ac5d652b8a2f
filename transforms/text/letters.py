"""The one letter that an answer says."""

from __future__ import annotations

import re

WRAPPING = " \t\r\n*_`'\"[](){}<>.:!“”‘’"  # what a model may put round a short answer
_NOUN = r"(?:response|answer|assistant|option|output|model|choice|verdict|winner)"
_LETTER = re.compile(
    rf"(?:the\s+)?(?:better\s+)?(?:{_NOUN}\s*(?:is|:)?\s*)?(?:{_NOUN}\s+)?([abc])(?:\s+(?:is\s+better|wins))?",
    re.IGNORECASE,
)
_TIES = frozenset({"tie", "draw"})


def letter(text: str) -> str | None:
    """A, B or C where a text says one and nothing else: `b`, `**B**`, `[[B]]`, `Response B is better`; `tie` is C."""
    bare = text.strip(WRAPPING)
    if bare.lower() in _TIES:
        return "C"
    found = _LETTER.fullmatch(bare)
    return found[1].upper() if found else None
