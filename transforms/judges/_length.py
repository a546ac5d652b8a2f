"""Inputs that may be too long: counted before they are sent, then refused or windowed by policy.

A byte-level tokenizer never makes more tokens than a text has bytes, so most inputs are known to fit without
asking. The others are counted by the server's own tokenizer (`/tokenize` of vLLM and llama.cpp), or, if it
has none, taken as one token per three bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from schemas.tables import Row
from transforms.llm.request import Ask, Request
from transforms.llm.usage import TOKENIZE

PER_MESSAGE = 8  # tokens a chat template adds to a message, at most
BYTES_PER_TOKEN = 3
_SHORTEST = 200  # characters a windowed text keeps at least
_TEXTS = ("response_a", "response_b", "prompt")
Messages = list[dict[str, str]]
T = TypeVar("T")


class LengthPolicy(Protocol):
    """The fields of a judge's configuration that matter here."""

    @property
    def engine(self) -> str: ...
    @property
    def too_long(self) -> str: ...


def upper_bound(messages: Messages) -> int:
    """Tokens the messages have at most."""
    return sum(len(m["content"].encode()) + PER_MESSAGE for m in messages)


async def count(messages: Messages, engine: str, model: str, ask: Ask) -> int:
    """Tokens the messages have, by the server's tokenizer or estimated. Counts are memoised like replies."""
    text = "\n".join(m["content"] for m in messages)
    reply = await ask(Request(engine, model, {"content": text, "prompt": text}, path=TOKENIZE, purpose=TOKENIZE))
    overhead = PER_MESSAGE * len(messages)
    if reply.state == "ok" and reply.text.isdigit():
        return int(reply.text) + overhead
    return len(text.encode()) // BYTES_PER_TOKEN + overhead


async def fit(
    item: T,
    render: Callable[[T], Messages],
    shorten: Callable[[T, float], T | None],
    room: int,
    policy: LengthPolicy,
    models: Mapping[str, str],
    ask: Ask,
) -> tuple[Messages | None, int]:
    """The messages that fit into `room` tokens, or None, and the tokens counted for the whole item.

    Args:
        item: what is asked about.
        render: its messages.
        shorten: the item with its texts cut to a share of their length, or None if nothing is left to cut.
    """
    messages = render(item)
    bound = upper_bound(messages)
    if bound <= room:
        return messages, bound
    model = models[policy.engine]
    whole = tokens = await count(messages, policy.engine, model, ask)
    while tokens > room:
        if policy.too_long == "refuse":
            return None, whole
        shorter = shorten(item, room / tokens * 0.95) if room > 0 else None
        if shorter is None:
            return None, whole
        item = shorter
        messages = render(item)
        bound = upper_bound(messages)
        tokens = bound if bound <= room else await count(messages, policy.engine, model, ask)
    return messages, whole


def windowed(pair: Row, share: float) -> Row | None:
    """The pair with its texts, context and all, cut to `share` of their characters; see `shortened`."""
    context = pair.get("context")
    texts = [m["content"] for name in _TEXTS for m in pair[name]] + ([context] if context else [])
    cut = shortened(texts, share)
    if cut is None:
        return None
    left = iter(cut)
    row = {**pair, **{name: [{**m, "content": next(left)} for m in pair[name]] for name in _TEXTS}}
    return {**row, "context": next(left)} if context else row


def shortened(texts: Sequence[str], share: float) -> list[str] | None:
    """The texts cut to `share` of their characters together: the longest give most, head and tail stay.

    None when nothing is left to cut. All are cut to the same length at most, so that a window favours none.
    """
    lengths = [len(text) for text in texts]
    cap = max(_cap(lengths, int(sum(lengths) * share)), _SHORTEST)
    cut = [head_and_tail(text, cap) for text in texts]
    return None if cut == list(texts) else cut


def _cap(lengths: list[int], budget: int) -> int:
    """The greatest cap such that the lengths, each cut to it, sum to the budget at most."""
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(n, middle) for n in lengths) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def head_and_tail(text: str, length: int) -> str:
    """The text if it has at most `length` characters, else its first two thirds and its end, with a note between."""
    if len(text) <= length:
        return text
    note = f"\n[... {len(text) - length} characters left out ...]\n"
    keep = max(0, length - len(note))
    head = keep * 2 // 3
    tail = keep - head
    return text[:head] + note + (text[-tail:] if tail else "")
