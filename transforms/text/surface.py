"""Surface features of a response: what can be said of a text without a model.

Every feature is a property of one response (given its prompt and context), so the difference between
two responses changes sign when they are exchanged.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+", re.UNICODE)
_SENTENCE_END = re.compile(r"[.!?…。！？]+(?:[\"')\]]*)(?:\s|$)")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+", re.MULTILINE)
_APOLOGY = re.compile(r"\b(?:sorry|apolog\w+|can(?:'|’)?t|cannot|unable|won(?:'|’)?t|not able)\b", re.IGNORECASE)
_FIRST_PERSON = re.compile(r"\b(?:i|me|my|we|our)\b", re.IGNORECASE)
_SECOND_PERSON = re.compile(r"\b(?:you|your|yours)\b", re.IGNORECASE)
_CONNECTIVE = re.compile(
    r"\b(?:because|therefore|however|although|thus|since|but|also|first|second|finally|example|instead)\b",
    re.IGNORECASE,
)

SURFACE_NAMES = (
    "log_chars",
    "log_words",
    "word_length",
    "type_token_ratio",
    "distinct_trigrams",
    "log_sentences",
    "words_per_sentence",
    "punctuation",
    "uppercase",
    "starts_uppercase",
    "ends_finished",
    "digits",
    "log_lines",
    "bullets",
    "questions",
    "exclamations",
    "apology",
    "first_person",
    "second_person",
    "connectives",
    "words_from_prompt",
    "prompt_covered",
    "length_over_prompt",
    "words_from_context",
    "bigrams_from_context",
    "novel_numbers",
)


def words(text: str) -> list[str]:
    """Lower-cased words of a text: runs of Unicode letters, digits and underscores."""
    return _WORD.findall(text.lower())


def count_sentences(text: str) -> int:
    """Number of sentences: ends of sentences, plus one for an unfinished last one; 0 for blank text."""
    stripped = text.strip()
    if not stripped:
        return 0
    ends = list(_SENTENCE_END.finditer(stripped))
    unfinished = not ends or ends[-1].end() < len(stripped)
    return len(ends) + int(unfinished)


def distinct_ngram_ratio(tokens: Sequence[str], n: int = 3) -> float:
    """Distinct n-grams over all n-grams, in (0, 1]; 1 for a text shorter than n words (nothing repeats)."""
    total = len(tokens) - n + 1
    if total <= 0:
        return 1.0
    return len({tuple(tokens[i : i + n]) for i in range(total)}) / total


def surface(response: str, prompt: str, context: str) -> NDArray[np.float64]:
    """The features named in `SURFACE_NAMES` of one response; shape (len(SURFACE_NAMES),), all finite."""
    tokens = words(response)
    n_words, n_chars = max(1, len(tokens)), max(1, len(response))
    prompt_words, _ = _reference(prompt)
    context_words, context_bigrams = _reference(context)
    distinct = set(tokens)
    sentences = max(1, count_sentences(response))
    bigrams = set(itertools.pairwise(tokens))
    numbers = {token for token in distinct if token.isdigit()}
    stripped = response.strip()
    return np.array(
        [
            np.log1p(len(response)),
            np.log1p(len(tokens)),
            sum(map(len, tokens)) / n_words,
            len(distinct) / n_words,
            distinct_ngram_ratio(tokens),
            np.log1p(sentences),
            np.log1p(n_words / sentences),
            sum(not (c.isalnum() or c.isspace()) for c in response) / n_chars,
            sum(c.isupper() for c in response) / n_chars,
            float(stripped[:1].isupper()),
            float(stripped[-1:] in {".", "!", "?", '"', "”", ")"}),
            sum(c.isdigit() for c in response) / n_chars,
            np.log1p(response.count("\n")),
            np.log1p(len(_BULLET.findall(response))),
            np.log1p(response.count("?")),
            np.log1p(response.count("!")),
            np.log1p(len(_APOLOGY.findall(response))),
            len(_FIRST_PERSON.findall(response)) / n_words,
            len(_SECOND_PERSON.findall(response)) / n_words,
            np.log1p(len(_CONNECTIVE.findall(response))),
            len(distinct & prompt_words) / max(1, len(distinct)),
            len(distinct & prompt_words) / max(1, len(prompt_words)),
            abs(np.log1p(len(response)) - np.log1p(len(prompt))),
            len(distinct & context_words) / max(1, len(distinct)),
            len(bigrams & context_bigrams) / max(1, len(bigrams)),
            np.log1p(len(numbers - context_words - prompt_words)),
        ]
    )


@lru_cache(maxsize=4096)
def _reference(text: str) -> tuple[frozenset[str], frozenset[tuple[str, str]]]:
    """Words and bigrams of a prompt or context, kept because its responses come one after another."""
    tokens = words(text)
    return frozenset(tokens), frozenset(itertools.pairwise(tokens))
