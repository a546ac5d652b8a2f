from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.scorers.checks.vocabulary import CheckError, check, final_answer, final_number, parse_checks

CASES: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "max_words", "n": 3}, "one two three", "one two three four"),
    ({"type": "min_words", "n": 3}, "one two three", "one two"),
    ({"type": "max_chars", "n": 3}, "äöü", "four"),
    ({"type": "min_chars", "n": 3}, "abc", "ab"),
    ({"type": "n_words", "n": 2}, "two words", "three words here"),
    ({"type": "n_words", "n": 2, "relation": "at_least"}, "now three words", "one"),
    ({"type": "n_sentences", "n": 2}, "One. Two!", "One. Two! Three?"),
    ({"type": "n_sentences", "n": 1, "relation": "at_most"}, "Only one", "One. Two."),
    ({"type": "n_paragraphs", "n": 2}, "first\n\nsecond", "first\nsame"),
    ({"type": "n_bullets", "n": 3}, "- a\n* b\n1. c", "- a\n- b"),
    ({"type": "contains", "text": "cat"}, "A CAT sat", "a dog sat"),
    ({"type": "contains", "text": "cat", "ignore_case": False}, "a cat", "a CAT"),
    ({"type": "contains", "text": "a", "min_count": 2}, "a and a", "a only one b"),
    ({"type": "not_contains", "text": "sorry"}, "Fine.", "I am Sorry."),
    ({"type": "starts_with", "text": "Dear"}, "  dear Sir", "Oh dear"),
    ({"type": "ends_with", "text": "Yours."}, "Bye. Yours.\n", "Yours. Bye"),
    ({"type": "regex", "pattern": r"^\d{4}$"}, "year\n1984\nend", "19845"),
    ({"type": "json"}, '{"a": 1}', "{a: 1}"),
    ({"type": "json"}, "Here:\n```json\n[1, 2]\n```", "```json\n[1,\n```"),
    ({"type": "json", "keys": ["a", "b"]}, '{"a": 1, "b": 2}', '{"a": 1}'),
    ({"type": "all_lowercase"}, "no capitals, 123", "One capital"),
    ({"type": "all_uppercase"}, "LOUD 1", "LOUd"),
    ({"type": "no_commas"}, "none here", "one, here"),
    ({"type": "answer_number", "value": 1234.5}, "Sum: 7. The answer is $1,234.50.", "The answer is 7, not 1234.5"),
    ({"type": "answer_number", "value": -3}, "so x = -3", "so x = 3"),
    ({"type": "answer_number", "value": 42}, "no 17 then #### 42", "#### 17"),
    ({"type": "answer_number", "value": 3.14, "tolerance": 0.01}, "\\boxed{3.1416}", "\\boxed{3.2}"),
    ({"type": "answer_exact", "value": "Paris"}, "It is far. The answer is: Paris.", "The answer is London."),
    ({"type": "answer_exact", "value": "\\frac{1}{2}"}, "thus \\boxed{\\frac{1}{2}}", "thus \\boxed{2}"),
    ({"type": "answer_exact", "value": "yes"}, " Yes. ", "yes and no"),
]


@pytest.mark.parametrize(("spec", "good", "bad"), CASES, ids=lambda value: str(value)[:40])
def test_each_check_tells_good_from_bad(spec: dict[str, Any], good: str, bad: str) -> None:
    assert check(spec, good)
    assert not check(spec, bad)


def test_language() -> None:
    pytest.importorskip("py3langid")
    spec = {"type": "language", "code": "de"}
    assert check(spec, "Die Polizei nimmt nach den Protesten fünfzehn Personen fest, sagte ein Sprecher.")
    assert not check(spec, "The police arrested fifteen people after the protests, a spokesman said.")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"type": "python_tests", "code": "assert True"}, "executes no generated code"),
        ({"type": "max_wrds", "n": 3}, "max_wrds"),
        ({"type": "max_words"}, "n"),
        ({"type": "max_words", "n": -1}, "greater than or equal to 0"),
        ({"type": "max_words", "n": 3, "m": 4}, "m"),
        ({"type": "regex", "pattern": "("}, "not a regular expression"),
        ({"type": "regex", "pattern": "(?=a)b"}, "look-around"),
        ({"n": 3}, "type"),
        ("max_words", "max_words"),
    ],
)
def test_wrong_checks_are_named(spec: Any, says: str) -> None:
    with pytest.raises(CheckError, match=says):
        check(spec, "text")


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "not JSON"), ('{"type": "json"}', "not a list"), ('[{"type": "json"}, {"type": "x"}]', "check 1")],
)
def test_wrong_columns_are_named(text: str, says: str) -> None:
    with pytest.raises(CheckError, match=says):
        parse_checks(text)


@given(st.text(max_size=200))
def test_no_text_breaks_a_check(text: str) -> None:
    for spec, _, _ in CASES:
        assert check(spec, text) in (True, False)
    final_answer(text)
    final_number(text)


def test_vocabulary_survives_the_column() -> None:
    specs = [spec for spec, _, _ in CASES]
    assert [c.type for c in parse_checks(json.dumps(specs))] == [spec["type"] for spec in specs]


@pytest.mark.parametrize("pattern", [r"(a+)+$", r"(a|a)*$", r"(.*)*x", r"(?:a?){200}a{200}"])
def test_no_pattern_takes_long(pattern: str) -> None:
    started = time.process_time()
    check({"type": "regex", "pattern": pattern}, "a" * 100_000 + "!")
    assert time.process_time() - started < 10
