"""Whether a rewrite has the form of the flaw that was asked for: what can be told without understanding it.

Each check takes the answer, the rewrite and the prompt, and gives None or what speaks against it. They look at
words; a change of layout or case alone is no flaw. A kind has a form, not a meaning: that a claim is unsupported
or a sentence says nothing new is for the judges.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import SequenceMatcher

from transforms.generators._corruptions import UNITS

Check = Callable[[str, str, str], str | None]

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|°\w|%|[^\W\d]+(?:['’][^\W\d]+)*", re.UNICODE)
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nothing|nobody|nowhere|neither|nor|without|cannot|hardly|\w+n['’]t)\b", re.IGNORECASE
)
_UNIT_NAMES = frozenset(name.lower() for pair in UNITS.items() for name in pair)
_SENTENCE = 3  # words from which an addition can be a sentence
_CONTENT = 4  # letters from which a word carries meaning
Change = tuple[list[str], list[str]]  # removed and inserted words


def changes(original: str, changed: str) -> list[Change]:
    """The runs of words in which the texts differ, lower-cased, in order."""
    before, after = (_TOKEN.findall(text.lower()) for text in (original, changed))
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return [(before[i:k], after[j:n]) for tag, i, k, j, n in matcher.get_opcodes() if tag != "equal"]


def wrong_number(original: str, changed: str, prompt: str) -> str | None:
    """One number, and nothing else, has another value."""
    edits = changes(original, changed)
    if len(edits) != 1 or len(edits[0][0]) != 1 or len(edits[0][1]) != 1:
        return "more or less than one word is changed"
    before, after = edits[0][0][0], edits[0][1][0]
    if not (before[0].isdigit() and after[0].isdigit()):
        return f"{before!r} became {after!r}: not a number for a number"
    return "the number has the same value" if _digits(before) == _digits(after) else None


def wrong_unit(original: str, changed: str, prompt: str) -> str | None:
    """One unit of measurement, and nothing else, is another."""
    edits = changes(original, changed)
    if len(edits) != 1 or not edits[0][0] or not edits[0][1]:
        return "more or less than one unit is changed"
    before, after = (" ".join(words) for words in edits[0])
    if before not in _UNIT_NAMES:
        return f"{before!r} is no unit that is known"
    return f"{after!r} is no unit" if len(edits[0][1]) > 2 or any(c.isdigit() for c in after) else None


def negation(original: str, changed: str, prompt: str) -> str | None:
    """One word of negation more or less."""
    before, after = (len(_NEGATION.findall(text)) for text in (original, changed))
    return None if abs(before - after) == 1 else f"{before} words of negation became {after}"


def dropped_requirement(original: str, changed: str, prompt: str) -> str | None:
    """A run of words is missing, and none is new."""
    edits = changes(original, changed)
    return None if len(edits) == 1 and not edits[0][1] else "it is not the answer with something left out"


def unsupported_claim(original: str, changed: str, prompt: str) -> str | None:
    """A sentence is added that says something the answer and the prompt do not."""
    added = _addition(original, changed)
    if isinstance(added, str):
        return added
    known = set(_TOKEN.findall(f"{original} {prompt}".lower()))
    return None if _content(added) - known else "what is added makes no claim of its own"


def off_topic(original: str, changed: str, prompt: str) -> str | None:
    """Words are replaced by a remark that shares none that matters with the prompt."""
    edits = changes(original, changed)
    removed, inserted = ([w for change in edits for w in change[side]] for side in (0, 1))
    if not removed or len(inserted) < _SENTENCE:
        return "no sentence is replaced by another"
    shared = _content(inserted) & _content(_TOKEN.findall(prompt.lower()))
    return f"the remark speaks of {sorted(shared)[0]!r}, as the prompt does" if shared else None


def truncation(original: str, changed: str, prompt: str) -> str | None:
    """The rewrite is a beginning of the answer."""
    before, after = (_TOKEN.findall(text.lower()) for text in (original, changed))
    is_beginning = 0 < len(after) < len(before) and before[: len(after) - 1] == after[:-1]
    # The break may fall inside a word.
    return None if is_beginning and before[len(after) - 1].startswith(after[-1]) else "it is no beginning of the answer"


def verbosity(original: str, changed: str, prompt: str) -> str | None:
    """A sentence or more is added."""
    added = _addition(original, changed)
    return added if isinstance(added, str) else None


def _addition(original: str, changed: str) -> list[str] | str:
    """The words added in one place, all others kept; or why that is not what happened."""
    edits = changes(original, changed)
    if any(removed for removed, _ in edits):
        return "words of the answer are missing"
    added = [word for _, inserted in edits for word in inserted]
    return added if len(added) >= _SENTENCE else "no sentence is added"


def _digits(number: str) -> str:
    return re.sub(r"[.,]", "", number).lstrip("0")


def _content(words: list[str]) -> set[str]:
    return {word for word in words if len(word) >= _CONTENT}


FLAWS: dict[str, Check] = {
    "wrong_number": wrong_number,
    "wrong_unit": wrong_unit,
    "negation": negation,
    "dropped_requirement": dropped_requirement,
    "unsupported_claim": unsupported_claim,
    "off_topic": off_topic,
    "truncation": truncation,
    "verbosity": verbosity,
}
