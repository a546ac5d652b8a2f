"""Surface similarity of texts: normalisation, shingles, Jaccard."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")


def normalised(text: str) -> str:
    """NFKC, case-folded, every run of white space one blank: what "the same text" means here."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Case-folded runs of letters, digits and underscores."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def shingles(text: str, size: int = 3) -> frozenset[tuple[str, ...]]:
    """Set of `size`-word sequences; a shorter text is one shingle of all its words."""
    tokens = words(text)
    if len(tokens) <= size:
        return frozenset([tuple(tokens)]) if tokens else frozenset()
    return frozenset(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))


def jaccard(first: frozenset[tuple[str, ...]], second: frozenset[tuple[str, ...]]) -> float:
    """|intersection| / |union| in [0, 1]; two empty sets are equal, hence 1."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


def near_identical(first: str, second: str, threshold: float, size: int = 3) -> bool:
    """Whether two texts are equal after normalisation or share `threshold` of their shingles."""
    if normalised(first) == normalised(second):
        return True
    return jaccard(shingles(first, size), shingles(second, size)) >= threshold
