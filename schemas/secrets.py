"""Secrets come from environment variables: here they are read, and taken out of what a server says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Annotated
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator

from schemas.errors import UsageError

MASK = "[redacted]"
IN_ERRORS = 4  # characters from which a value is taken out of an error, where a wrong hit spoils nothing
IN_ANSWERS = 16  # and out of an answer, where "EMPTY" or "lm-studio" may be a word of the text
_PART = 8  # characters from which a part of a value counts by itself
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BETWEEN_PARTS = re.compile(r"[\s,;=]+")


def secret(variable: str) -> str:
    """The value of an environment variable, without the white space that a file or a copied line leaves around it.

    Raises:
        UsageError: it is not set or holds what no HTTP header can; the text names the variable, never its value.
    """
    if not _VARIABLE.fullmatch(variable):  # perhaps the secret itself: it is not repeated
        raise UsageError(
            "this is not the name of an environment variable (letters, digits and '_'); name the one that "
            "holds the secret, do not write the secret here"
        )
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UsageError(f"environment variable {variable} is {'empty' if variable in os.environ else 'not set'}")
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"environment variable {variable} holds a line break or a character outside ASCII, which no HTTP header "
            "can; set it to the secret alone, as it was given"
        )
    return value


def without_credentials(url: str) -> str:
    """The address.

    Raises:
        ValueError: it holds a name or password: recipes are published, and addresses stand in errors.
    """
    if "@" in urlsplit(url).netloc:
        raise ValueError("an address with a name or password in it; name the variable that holds the secret instead")
    return url


Address = Annotated[str, AfterValidator(without_credentials)]


class Redaction:
    """Replaces secrets by `MASK`, as they are and as JSON or a URL writes them.

    Args:
        values: header values. Their longer parts count by themselves, too: a server may repeat one of them alone.
    """

    def __init__(self, values: Iterable[str]) -> None:
        secrets: set[str] = set()
        for value in (value.strip() for value in values):
            scheme, _, rest = value.partition(" ")
            credential = rest.strip() if rest and scheme.isalpha() else value
            parts = (part for part in _BETWEEN_PARTS.split(credential) if len(part) >= _PART)
            secrets |= {credential, *parts}
        written = {(form, len(value)) for value in secrets - {""} for form in _forms(value)}
        # The longest first: a secret may begin with another one.
        self._forms = sorted(written, key=lambda pair: (-len(pair[0]), pair))

    def error(self, text: str) -> str:
        """An error without any secret of `IN_ERRORS` characters or more."""
        return self._masked(text, IN_ERRORS)

    def answer(self, text: str) -> str:
        """An answer without any secret of `IN_ANSWERS` characters or more."""
        return self._masked(text, IN_ANSWERS)

    def _masked(self, text: str, least: int) -> str:
        for form, length in self._forms:
            if length >= least:
                text = text.replace(form, MASK)
        return text


def _forms(value: str) -> set[str]:
    """How a secret may stand in a text: as it is, in JSON (some writers escape more than they must), in a URL."""
    escaped = json.dumps(value)[1:-1]
    codes = re.sub(r"[^A-Za-z0-9 ._-]", lambda match: f"\\u{ord(match[0]):04x}", value)
    return {value, escaped, escaped.replace("/", r"\/"), quote(value, safe=""), codes}
