"""A secret is read from its variable alone, and goes out of whatever a server says."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UsageError
from schemas.secrets import IN_ANSWERS, IN_ERRORS, MASK, Redaction, secret

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


@given(SECRETS)
def test_no_secret_is_left_in_an_error_or_an_answer(value: str) -> None:
    redaction = Redaction([f"Bearer {value}"])
    written = (value, json.dumps(value)[1:-1], json.dumps(value)[1:-1].replace("/", "\\/"), quote(value, safe=""))
    for form in written:
        masked = redaction.error(f"a {form} b"), redaction.body(f"a {form} b".encode(), is_answer=False).decode()
        answer = redaction.body(f"a {form} b".encode(), is_answer=True).decode()
        assert masked == ((f"a {MASK} b",) * 2 if len(value) >= IN_ERRORS else (f"a {form} b",) * 2)
        assert answer == (f"a {MASK} b" if len(value) >= IN_ANSWERS else f"a {form} b")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_without_secrets_nothing_changes(text: str) -> None:
    assert Redaction([]).error(text) == text
    assert Redaction([]).body(text.encode(), is_answer=False) == text.encode()


def test_the_longer_secret_goes_first() -> None:
    assert Redaction(["abcdefgh", "abcdefgh-ijkl"]).error("abcdefgh-ijkl abcdefgh") == f"{MASK} {MASK}"
