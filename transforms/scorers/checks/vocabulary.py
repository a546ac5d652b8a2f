"""Checkable constraints and answers: the vocabulary of the `checks` column.

`checks` is a JSON list of objects with a `type`; each is a yes-or-no question about a response that code can
answer. The constraints follow IFEval (Zhou et al., "Instruction-Following Evaluation for Large Language
Models", 2023).

| type | fields | holds when |
| --- | --- | --- |
| max_words, min_words | n | the response has at most / at least n words |
| max_chars, min_chars | n | ... characters |
| n_words, n_sentences, n_paragraphs, n_bullets | n, relation (exactly, at_least, at_most) | the count relates so to n |
| contains | text, min_count, ignore_case | the text occurs at least min_count times |
| not_contains | text, ignore_case | the text does not occur |
| starts_with, ends_with | text, ignore_case | the stripped response starts / ends with the text |
| regex | pattern | the pattern (Rust syntax, multi-line) is found |
| json | keys | the response (or its only fenced block) is JSON; an object with all `keys` if given |
| all_lowercase, all_uppercase | | no letter is in the other case, and there are letters |
| no_commas | | there is no comma |
| language | code | the language identifier says so (needs the extra `hygiene`) |
| answer_number | value, tolerance | the final number equals value up to relative tolerance |
| answer_exact | value, ignore_case | the final answer equals value up to space and final punctuation |

The final answer is what follows the last `####`, stands in the last `\\boxed{}`, or follows the last "answer
is" or "answer:"; failing these the last number (answer_number) or the whole response (answer_exact).
`python_tests` is known and refused: prefine executes no generated code.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import orjson
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from transforms.text.language import identify
from transforms.text.surface import count_sentences

Relation = Literal["exactly", "at_least", "at_most"]
_BULLET = re.compile(r"^\s*(?:[-*•+]|\d+[.)])\s+\S", re.MULTILINE)
_FENCE = re.compile(r"```[\w+-]*\n(.*?)```", re.DOTALL)
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_MARKED = re.compile(r"####\s*(.+)|\banswer\s*(?:is\b|:)[\s:*]*(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


class CheckError(ValueError):
    """A check is not one of the vocabulary; the text says which field is wrong and how."""


class _Check(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def holds(self, text: str) -> bool:
        raise NotImplementedError


class Limit(_Check):
    """max_words, min_words, max_chars, min_chars."""

    type: Literal["max_words", "min_words", "max_chars", "min_chars"]
    n: int = Field(ge=0)

    def holds(self, text: str) -> bool:
        """Whether the length is within the limit."""
        length = len(text.split()) if self.type.endswith("words") else len(text)
        return length <= self.n if self.type.startswith("max") else length >= self.n


class Count(_Check):
    """n_words, n_sentences, n_paragraphs, n_bullets."""

    type: Literal["n_words", "n_sentences", "n_paragraphs", "n_bullets"]
    n: int = Field(ge=0)
    relation: Relation = "exactly"

    def holds(self, text: str) -> bool:
        """Whether the count relates to n as asked."""
        count = {
            "n_words": lambda: len(text.split()),
            "n_sentences": lambda: count_sentences(text),
            "n_paragraphs": lambda: sum(bool(part.strip()) for part in re.split(r"\n\s*\n", text)),
            "n_bullets": lambda: len(_BULLET.findall(text)),
        }[self.type]()
        return {"exactly": count == self.n, "at_least": count >= self.n, "at_most": count <= self.n}[self.relation]


class Contains(_Check):
    """contains: a text occurs often enough."""

    type: Literal["contains"]
    text: str = Field(min_length=1)
    min_count: int = Field(1, ge=1)
    ignore_case: bool = True

    def holds(self, text: str) -> bool:
        """Whether it occurs at least `min_count` times."""
        return _fold(text, self.ignore_case).count(_fold(self.text, self.ignore_case)) >= self.min_count


class Affix(_Check):
    """not_contains, starts_with, ends_with."""

    type: Literal["not_contains", "starts_with", "ends_with"]
    text: str = Field(min_length=1)
    ignore_case: bool = True

    def holds(self, text: str) -> bool:
        """Whether the response lacks, starts with or ends with the text."""
        response, wanted = _fold(text, self.ignore_case).strip(), _fold(self.text, self.ignore_case)
        if self.type == "not_contains":
            return wanted not in response
        return (
            response.startswith(wanted.lstrip()) if self.type == "starts_with" else response.endswith(wanted.rstrip())
        )


class Regex(_Check):
    """regex: a pattern is found.

    Patterns come with the data, so they are matched by Rust's engine, whose time is linear in the text whatever the
    pattern; it knows neither look-around nor back-references.
    """

    type: Literal["regex"]
    pattern: str = Field(min_length=1)

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            _matches(pattern, "")
        except pl.exceptions.PolarsError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ValueError(f"not a regular expression without look-around and back-references: {reason}") from None
        return pattern

    def holds(self, text: str) -> bool:
        """Whether the pattern is found anywhere."""
        return _matches(self.pattern, text)


class Json(_Check):
    """json: the response is JSON."""

    type: Literal["json"]
    keys: tuple[str, ...] = ()

    def holds(self, text: str) -> bool:
        """Whether it parses, and is an object with all `keys` if any are given."""
        fenced = _FENCE.findall(text)
        try:
            value = orjson.loads(fenced[0] if len(fenced) == 1 else text.strip())
        except orjson.JSONDecodeError:
            return False
        return not self.keys or (isinstance(value, dict) and set(self.keys) <= value.keys())


class Letters(_Check):
    """all_lowercase, all_uppercase, no_commas."""

    type: Literal["all_lowercase", "all_uppercase", "no_commas"]

    def holds(self, text: str) -> bool:
        """Whether the letters are all of one case, or no comma stands in the text."""
        if self.type == "no_commas":
            return "," not in text
        return text.islower() if self.type == "all_lowercase" else text.isupper()


class Language(_Check):
    """language: ISO 639-1 code."""

    type: Literal["language"]
    code: str = Field(pattern="^[a-z]{2}$")

    def holds(self, text: str) -> bool:
        """Whether the likeliest language is the wanted one."""
        return identify(text)[0] == self.code


class AnswerNumber(_Check):
    """answer_number: the final number."""

    type: Literal["answer_number"]
    value: float
    tolerance: float = Field(1e-6, ge=0.0)

    def holds(self, text: str) -> bool:
        """Whether the final number is the value, up to relative tolerance."""
        number = final_number(text)
        return number is not None and abs(number - self.value) <= self.tolerance * max(1.0, abs(self.value))


class AnswerExact(_Check):
    """answer_exact: the final answer as text."""

    type: Literal["answer_exact"]
    value: str = Field(min_length=1)
    ignore_case: bool = True

    def holds(self, text: str) -> bool:
        """Whether the final answer is the value, up to white space and final punctuation."""
        return _plain(final_answer(text) or text, self.ignore_case) == _plain(self.value, self.ignore_case)


Check = Limit | Count | Contains | Affix | Regex | Json | Letters | Language | AnswerNumber | AnswerExact
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Annotated[Check, Field(discriminator="type")])


def parse_check(spec: Any) -> Check:
    """One check of the vocabulary.

    Raises:
        CheckError: unknown type, missing, unknown or wrong field, or a type that would execute code.
    """
    if isinstance(spec, dict) and spec.get("type") == "python_tests":
        raise CheckError("python_tests is refused: prefine executes no generated code; run it outside and import votes")
    try:
        check: Check = _ADAPTER.validate_python(spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "check"
        raise CheckError(f"{where}: {first['msg']} (got {first.get('input')!r})") from None
    return check


def parse_checks(text: str) -> list[Check]:
    """The checks of a row's JSON text.

    Raises:
        CheckError: not a JSON list, or a check is wrong (its number in the list is named).
    """
    try:
        specs = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise CheckError(f"checks is not JSON: {error}") from None
    if not isinstance(specs, list):
        raise CheckError(f"checks is {type(specs).__name__}, not a list of objects with a type")
    checks = []
    for index, spec in enumerate(specs):
        try:
            checks.append(parse_check(spec))
        except CheckError as error:
            raise CheckError(f"check {index}: {error}") from None
    return checks


def check(spec: dict[str, Any], text: str) -> bool:
    """Whether `text` meets the check `spec`.

    Raises:
        CheckError: the spec is not of the vocabulary.
    """
    return parse_check(spec).holds(text)


def final_answer(text: str) -> str | None:
    """The marked final answer: the last `\\boxed{}`, `#### ...` or "answer is ..."; None without any."""
    answers = [(m.start(), m.group(1)) for m in _BOXED.finditer(text)]
    answers += [(m.start(), m.group(1) or m.group(2)) for m in _MARKED.finditer(text)]
    if not answers:
        return None
    answer = max(answers)[1]
    boxed = _BOXED.search(answer)
    return (boxed.group(1) if boxed else answer).strip()


def final_number(text: str) -> float | None:
    """The number of the final answer (its first if marked), else the last number of the text; None without any."""
    marked = final_answer(text)
    numbers = _NUMBER.findall(marked) if marked else []
    if numbers:
        return _number(numbers[0])
    everywhere = _NUMBER.findall(text)
    return _number(everywhere[-1]) if everywhere else None


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _matches(pattern: str, text: str) -> bool:
    return bool(pl.Series([text]).str.contains(f"(?m){pattern}", strict=True).item())


def _fold(text: str, ignore_case: bool) -> str:
    return text.casefold() if ignore_case else text


def _plain(text: str, ignore_case: bool) -> str:
    return " ".join(_fold(text, ignore_case).split()).strip(" .!?\"'`*$")
