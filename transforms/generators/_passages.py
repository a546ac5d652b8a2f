"""Passages: which bear on a question, how they are shown, and where they stand in a long context."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from schemas.errors import DataError
from transforms.text.similarity import words


def relevance(question: str, passages: Sequence[str]) -> list[float]:
    """BM25 score (k1 = 1.2, b = 0.75; Robertson and Zaragoza 2009) of each passage among these, at least 0."""
    bags = [Counter(words(p)) for p in passages]
    mean = sum(map(len, map(words, passages))) / max(1, len(passages)) or 1.0
    scores = []
    for bag in bags:
        length, score = sum(bag.values()), 0.0
        for term in set(words(question)):
            holding = sum(term in b for b in bags)
            idf = math.log(1.0 + (len(bags) - holding + 0.5) / (holding + 0.5))
            score += idf * bag[term] * 2.2 / (bag[term] + 1.2 * (0.25 + 0.75 * length / mean))
        scores.append(score)
    return scores


def numbered(passages: Sequence[str]) -> str:
    """The passages as one text, each under its number in brackets, which is what a citation refers to."""
    return "\n\n".join(f"[{n}] {p.strip()}" for n, p in enumerate(passages, start=1))


def read_passages(path: str) -> list[str]:
    """Passages of a text file: paragraphs separated by blank lines.

    Raises:
        DataError: the file cannot be read or holds none.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"distractors: cannot read {path}: {error}") from error
    passages = [part.strip() for part in text.split("\n\n") if part.strip()]
    if not passages:
        raise DataError(f"distractors: {path} holds no passage; write paragraphs separated by blank lines")
    return passages


@cache
def cached_passages(path: str) -> tuple[str, ...]:
    """`read_passages`, once a process."""
    return tuple(read_passages(path))
