"""A change to a text as an edit that can be located and applied."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher


@dataclass(frozen=True)
class Edit:
    """Characters [start, end) of the original, `removed`, become `inserted`; positions count code points."""

    start: int
    end: int
    removed: str
    inserted: str

    def apply(self, original: str) -> str:
        """The changed text."""
        return original[: self.start] + self.inserted + original[self.end :]

    @property
    def span(self) -> tuple[int, int]:
        """Where the inserted text stands in the changed text; empty for a deletion."""
        return self.start, self.start + len(self.inserted)


def replace(original: str, start: int, end: int, inserted: str) -> Edit:
    """The edit that puts `inserted` in place of characters [start, end)."""
    return Edit(start, end, original[start:end], inserted)


def difference(original: str, changed: str) -> Edit:
    """The smallest single edit from one text to the other: what lies between their common ends."""
    limit = min(len(original), len(changed))
    head = 0
    while head < limit and original[head] == changed[head]:
        head += 1
    tail = 0
    while tail < limit - head and original[-1 - tail] == changed[-1 - tail]:
        tail += 1
    return replace(original, head, len(original) - tail, changed[head : len(changed) - tail])


def changed_share(original: str, changed: str) -> float:
    """1 - difflib's ratio over words: 0 for equal texts, 1 for texts without a common word."""
    return 1.0 - SequenceMatcher(None, original.split(), changed.split(), autojunk=False).ratio()
