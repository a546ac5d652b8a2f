"""What an annotator sees of a stored text, and where in the stored text a marked span lies.

Control characters break pages and databases, so they are left out on the page. The stored text is never changed:
offsets of the page are mapped back to code points of the stored text.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.messages import Message, text_of
from transforms.text.plain import HIDDEN, beginning


def shown_text(text: str) -> str:
    """The text without control characters other than tab, line feed and carriage return."""
    return HIDDEN.sub("", text)


def stored_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Where characters [start, end) of `shown_text(text)` lie in `text`; hidden characters inside are included.

    Raises:
        ValueError: the span is empty or reaches beyond the shown text.
    """
    hidden = [match.start() for match in HIDDEN.finditer(text)]
    if not 0 <= start < end <= len(text) - len(hidden):
        raise ValueError(f"span {start}:{end} of a shown text of {len(text) - len(hidden)} characters")
    return _stored(hidden, start), _stored(hidden, end - 1) + 1


def _stored(hidden: Sequence[int], position: int) -> int:
    """The stored position of a shown character; `hidden` are stored positions, ascending."""
    low, high = 0, len(hidden)
    while low < high:
        middle = (low + high) // 2
        if hidden[middle] - middle <= position:
            low = middle + 1
        else:
            high = middle
    return position + low


def page_text(messages: Sequence[Message]) -> str:
    """A response as one text: what spans of an answer refer to before control characters are left out.

    Tool calls and attachments follow the text, one a line, attachments by their address.
    """
    parts = [text_of(messages)]
    for message in messages:
        if message.get("tool_calls"):
            parts.append(f"[tool calls] {message['tool_calls']}")
        parts += [f"[{media['kind']}] {media['uri']}" for media in message.get("media") or ()]
    return "\n".join(part for part in parts if part)


def images(messages: Sequence[Message]) -> list[str]:
    """Addresses of the attached images that a page can show: http and https only."""
    media = [item for message in messages for item in message.get("media") or ()]
    return [m["uri"] for m in media if m["kind"] == "image" and m["uri"].lower().startswith(("http://", "https://"))]


def dialogue(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A prompt as the turns of a dialogue on the page."""
    return [{"role": m["role"], "content": shown_text(page_text([m]))} for m in messages]


def beginnings(prompt: Sequence[Message], a: Sequence[Message], b: Sequence[Message]) -> tuple[str, str, str]:
    """A line each of the prompt's last turn and of both responses: what people know a pair by."""
    return beginning(page_text(prompt[-1:])), f"a: {beginning(page_text(a))}", f"b: {beginning(page_text(b))}"
