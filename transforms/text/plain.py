"""Data shown as text: it can neither command a terminal nor turn round what it says.

Control characters move the cursor, colour or clear the screen; bidirectional controls show text reversed
(CVE-2021-42574, "Trojan Source").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

# All of C0 and C1 but tab, line feed and carriage return; the bidirectional controls; the byte order mark.
HIDDEN = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_FOR_TERMINALS = re.compile(rf"\r(?!\n)|{HIDDEN.pattern}")  # a carriage return by itself writes over its line


def escaped(text: str) -> str:
    r"""The text with each such character as JSON would write it: ``\u001b`` for an escape."""
    return _FOR_TERMINALS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def cell(text: str) -> Text:
    """The text for Rich, which takes square brackets in a plain string for its own marks."""
    from rich.text import Text

    return Text(escaped(text))


def beginning(text: str, most: int = 200) -> str:
    """The first `most` characters of a text on one line, control characters escaped: enough to know it by."""
    line = escaped(" ".join(text[: 4 * most].split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"
