"""A secret is read from its variable alone, and goes out of whatever a server says."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UsageError
from schemas.secrets import IN_ANSWERS, IN_ERRORS, MASK, Redaction, secret

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(SECRETS, st.sampled_from(["", "\n", " ", "\r\n", "\t"]), st.sampled_from(["", " ", "\n"]))
def test_white_space_around_a_secret_is_none_of_it(value: str, after: str, before: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFINE_TEST_SECRET", before + value + after)
        assert secret("PREFINE_TEST_SECRET") == value


@pytest.mark.parametrize(("value", "says"), [(None, "is not set"), ("", "is empty"), (" \n", "is empty")])
def test_no_secret_is_an_error_that_names_the_variable(
    value: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFINE_TEST_SECRET", raising=False)
    if value is not None:
        monkeypatch.setenv("PREFINE_TEST_SECRET", value)
    with pytest.raises(UsageError, match=f"PREFINE_TEST_SECRET {says}"):
        secret("PREFINE_TEST_SECRET")


@given(SECRETS, st.sampled_from(["", "Bearer ", "Token ", "ApiKey  "]))
def test_no_secret_is_left_in_an_error_or_an_answer(value: str, scheme: str) -> None:
    redaction = Redaction([f"{scheme}{value}"])
    codes = "".join(c if c.isalnum() or c in " ._-" else f"\\u{ord(c):04x}" for c in value)
    escaped = json.dumps(value)[1:-1]
    for form in (value, escaped, escaped.replace("/", "\\/"), quote(value, safe=""), codes):
        if len(value) >= IN_ERRORS:
            assert form not in redaction.error(f"a {form} b")
        if len(value) >= IN_ANSWERS:
            assert form not in redaction.answer(f"a {form} b")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=7), TEXT)
def test_a_short_value_leaves_answers_alone(value: str, text: str) -> None:
    assert Redaction([value]).answer(f"{text}{value}") == f"{text}{value}"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Token token=sk-live-4242", "sk-live-4242"),
        ("AWS4 Credential=AKIA42424242, Signature=f00dfeed4242", "f00dfeed4242"),
        ("ApiKey sk-live-4242", "sk-live-4242"),
        ("key-a-42424242;key-b-42424242", "key-b-42424242"),
    ],
)
def test_a_part_of_a_header_is_a_secret_too(header: str, said: str) -> None:
    assert Redaction([header]).error(f"no such key: {said}.") == f"no such key: {MASK}."


@given(TEXT)
def test_without_secrets_nothing_changes(text: str) -> None:
    assert Redaction([]).error(text) == text
    assert Redaction([]).answer(text) == text


@pytest.mark.parametrize("name", ["sk-live-4242", "42", "a b", ""])
def test_what_is_no_variable_is_not_repeated(name: str) -> None:
    with pytest.raises(UsageError, match="this is not the name of an environment variable") as error:
        secret(name)
    assert not name or name not in str(error.value)


def test_the_longer_secret_goes_first() -> None:
    assert Redaction(["abcdefgh", "abcdefgh-ijkl"]).error("abcdefgh-ijkl abcdefgh") == f"{MASK} {MASK}"
