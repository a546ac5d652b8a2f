"""Controlled damage to a good answer, by rule: each rule gives one edit, or None if it has nothing to act on."""

from __future__ import annotations

import re
from collections.abc import Callable

from transforms.generators._edits import Edit, replace
from transforms.text.similarity import words

Draw = Callable[..., float]
Rule = Callable[[str, str, Draw], Edit | None]

_SENTENCE = re.compile(r"[^\s.!?][^.!?\n]*(?:\.(?=\d)[^.!?\n]*)*[.!?]*", re.UNICODE)
_NUMBER = re.compile(r"\d+")
UNITS = {
    "km": "miles", "kilometres": "miles", "kilometers": "miles", "miles": "kilometres", "metres": "feet",
    "meters": "feet", "feet": "metres", "cm": "inches", "inches": "cm", "kg": "pounds", "kilograms": "pounds",
    "pounds": "kilograms", "grams": "ounces", "g": "mg", "mg": "g", "litres": "gallons", "liters": "gallons",
    "ml": "litres", "seconds": "minutes", "minutes": "hours", "hours": "days", "days": "weeks", "weeks": "months",
    "months": "years", "years": "decades", "percent": "per mille", "million": "billion", "billion": "million",
    "thousand": "million", "°C": "°F", "°F": "°C", "degrees": "radians", "dollars": "cents", "euros": "cents",
    "watts": "kilowatts", "kilowatts": "watts", "MB": "GB", "GB": "MB", "ms": "s",
}  # fmt: skip
_UNIT = re.compile(r"(?<=\d)(\s?)(" + "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True)) + r")(?!\w)")
_VERB = re.compile(r"\b(is|are|was|were|can|will|should|must|does|do|has|have|would|could)\b(?!\s+not\b|n['’]t)(?=\s)")
_NOT = re.compile(r"\s+not\b")
_CLAIMS = (
    "A survey of 412 households in 1987 settled this beyond doubt for {topic}.",
    "More than nine in ten specialists privately reject everything else that is said about {topic}.",
    "The recently opened archives in Lisbon prove that {topic} was first described by a monk in 1204.",
    "It is a law in most countries that {topic} must be registered with the authorities.",
    "Laboratory tests have shown that {topic} doubles every 17 days when nobody is watching.",
)
_OFF_TOPIC = (
    "By the way, the best time to prune an apple tree is late winter, before the buds open.",
    "My neighbour's new bicycle has a bell that plays three different tunes.",
    "A good tomato soup needs a pinch of sugar and a slow fire.",
    "The old lighthouse on the cape was painted again last summer, this time in red.",
    "Chess tournaments usually begin with a round of handshakes.",
)
_FILLER = (
    "It is worth pausing here to appreciate just how very important it is to think about all of this with care.",
    "To put it in other words, and to say the same thing once more, what has been said above holds as it was said.",
    "Before going on, let us remember that there are many things that could be said, and that this is one of them.",
    "As we have seen, and as we shall see again, the point that matters is the point that has just been made.",
    "Needless to say, all of the above should be read in the light of everything that goes before and after it.",
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans [start, end) of the text's sentences, in order; white space between them belongs to none."""
    return [(m.start(), m.start() + len(m.group().rstrip())) for m in _SENTENCE.finditer(text)]


def _pick(n: int, draw: Draw, *names: str) -> int:
    return int(draw(*names) * n)


def wrong_number(text: str, prompt: str, draw: Draw) -> Edit | None:
    """One digit of one number becomes another; the number keeps its length and differs in value."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    number = numbers[_pick(len(numbers), draw, "which")]
    at = number.start() + _pick(len(number.group()), draw, "digit")
    lowest = 1 if at == number.start() and len(number.group()) > 1 else 0
    choices = [str(d) for d in range(lowest, 10) if str(d) != text[at]]
    digit = choices[_pick(len(choices), draw, "value")]
    changed = text[number.start() : at] + digit + text[at + 1 : number.end()]
    return replace(text, number.start(), number.end(), changed)


def wrong_unit(text: str, prompt: str, draw: Draw) -> Edit | None:
    """One unit after a number becomes another of its kind; the number stays."""
    units = list(_UNIT.finditer(text))
    if not units:
        return None
    unit = units[_pick(len(units), draw, "which")]
    return replace(text, unit.start(2), unit.end(2), UNITS[unit.group(2)])


def negation(text: str, prompt: str, draw: Draw) -> Edit | None:
    """One "not" goes, or one comes after a verb: the sentence says the opposite."""
    removals = [(m.start(), m.end(), "") for m in _NOT.finditer(text)]
    edits = removals + [(m.end(), m.end(), " not") for m in _VERB.finditer(text)]
    return replace(text, *edits[_pick(len(edits), draw, "which")]) if edits else None


def dropped_requirement(text: str, prompt: str, draw: Draw) -> Edit | None:
    """The sentence that shares most words with the prompt goes, and with it what it answered."""
    spans = sentences(text)
    if len(spans) < 2:
        return None
    asked = {w for w in words(prompt) if len(w) > 3}
    shared = [len(asked & set(words(text[s:e]))) for s, e in spans]
    ranked = sorted(range(len(spans)), key=lambda i: (-shared[i], draw("which", str(i))))
    start, end = spans[ranked[0]]
    following = spans[ranked[0] + 1][0] if ranked[0] + 1 < len(spans) else end
    return replace(text, start, following, "")


def unsupported_claim(text: str, prompt: str, draw: Draw) -> Edit | None:
    """A made-up claim about the subject is put after one of the sentences."""
    topics = sorted({w for w in words(prompt) if len(w) > 4}, key=lambda w: (-len(w), w))
    claim = _CLAIMS[_pick(len(_CLAIMS), draw, "claim")].format(topic=topics[0] if topics else "this subject")
    return _insert(text, claim, draw)


def off_topic(text: str, prompt: str, draw: Draw) -> Edit | None:
    """One sentence is replaced by one that has nothing to do with the prompt."""
    spans = sentences(text)
    if not spans:
        return None
    start, end = spans[_pick(len(spans), draw, "where")]
    return replace(text, start, end, _OFF_TOPIC[_pick(len(_OFF_TOPIC), draw, "text")])


def truncation(text: str, prompt: str, draw: Draw) -> Edit | None:
    """The answer breaks off inside a sentence, between 30% and 70% of its words."""
    words = list(re.finditer(r"\S+", text))
    if len(words) < 8:
        return None
    keep = max(1, round(len(words) * (0.3 + 0.4 * draw("where"))))
    end = words[keep - 1].end()
    while end > 1 and text[end - 1] in ".!?,;:":
        end -= 1
    return replace(text, end, len(text), "")


def verbosity(text: str, prompt: str, draw: Draw) -> Edit | None:
    """Two to four sentences without content are put after one of the sentences."""
    order = sorted(_FILLER, key=lambda f: draw("filler", f))
    return _insert(text, " ".join(order[: 2 + _pick(3, draw, "count")]), draw)


def _insert(text: str, addition: str, draw: Draw) -> Edit | None:
    spans = sentences(text)
    if not spans:
        return None
    at = spans[_pick(len(spans), draw, "where")][1]
    return replace(text, at, at, f" {addition}")


RULES: dict[str, Rule] = {
    "wrong_number": wrong_number,
    "wrong_unit": wrong_unit,
    "negation": negation,
    "dropped_requirement": dropped_requirement,
    "unsupported_claim": unsupported_claim,
    "off_topic": off_topic,
    "truncation": truncation,
    "verbosity": verbosity,
}
