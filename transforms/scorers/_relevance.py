"""Lexical relevance of an answer to a query."""

from __future__ import annotations

import math
from collections import Counter

from transforms.text.surface import words

# Function words say nothing of the topic; English only, other languages are compared with all their words.
_STOP = frozenset(
    """
    a about an and are as at be been but by can could did do does for from had has have he her his how i if
    in is it its me my no not of on or our she should so than that the their them then there these they this
    those to us was we were what when where which who why will with would you your
    """.split()  # noqa: SIM905
)


def lexical_relevance(query: str, answer: str) -> float:
    """Cosine of the two texts' word counts without English function words, in [0, 1]; 0 if one has none left."""
    q, a = (Counter(w for w in words(text) if w not in _STOP) for text in (query, answer))
    norm = math.sqrt(sum(n * n for n in q.values()) * sum(n * n for n in a.values()))
    return sum(n * a[w] for w, n in q.items()) / norm if norm else 0.0
