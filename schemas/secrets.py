"""Secrets come from environment variables: here they are read, and taken out of what a server says."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from urllib.parse import quote

from schemas.errors import UsageError

MASK = "[redacted]"
IN_ERRORS = 4  # characters from which a value is taken out of an error, where a wrong hit spoils nothing
IN_ANSWERS = 16  # and out of an answer, where "EMPTY" or "lm-studio" may be a word of the text
_SCHEME = re.compile(r"^(?:bearer|token|basic)\s+", re.IGNORECASE)


def secret(variable: str) -> str:
    """The value of an environment variable, without the white space that a file or a copied line leaves around it.

    Raises:
        UsageError: it is not set or holds what no HTTP header can; the text names the variable, never its value.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UsageError(f"environment variable {variable} is {'empty' if variable in os.environ else 'not set'}")
    if not (value.isascii() and value.isprintable()):
        raise UsageError(
            f"environment variable {variable} holds a line break or a character outside ASCII, which no HTTP header "
            "can; set it to the secret alone, as it was given"
        )
    return value


class Redaction:
    """Replaces secrets by `MASK`, as they are and as JSON or a URL writes them.

    Args:
        values: header values; of "Bearer …" the credential counts.
    """

    def __init__(self, values: Iterable[str]) -> None:
        secrets = {_SCHEME.sub("", value.strip()) for value in values} - {""}
        written = {(form, len(value)) for value in secrets for form in _forms(value)}
        # The longest first: a secret may begin with another one.
        self._forms = sorted(written, key=lambda pair: (-len(pair[0]), pair))

    def error(self, text: str) -> str:
        """An error without any secret of `IN_ERRORS` characters or more."""
        for form, length in self._forms:
            if length >= IN_ERRORS:
                text = text.replace(form, MASK)
        return text

    def body(self, data: bytes, is_answer: bool) -> bytes:
        """The body of a reply without any secret of `IN_ERRORS` (an answer: `IN_ANSWERS`) characters or more."""
        least = IN_ANSWERS if is_answer else IN_ERRORS
        for form, length in self._forms:
            if length >= least:
                data = data.replace(form.encode(), MASK.encode())
        return data


def _forms(value: str) -> set[str]:
    escaped = json.dumps(value)[1:-1]
    return {value, escaped, escaped.replace("/", r"\/"), quote(value, safe="")}
