"""Names: the rule for those that become files or folders, and what was meant by one that is not known."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

RULE = "letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100 characters"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'prompt'?` for the known name nearest to this one; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def is_file_name(name: str) -> bool:
    """Whether the name keeps to `RULE`: as a path it then stays in its folder on every system."""
    return _NAME.fullmatch(name) is not None


def file_name(name: str) -> str:
    """The name.

    Raises:
        ValueError: it breaks `RULE`.
    """
    if not is_file_name(name):
        raise ValueError(f"{name!r} is not allowed as a name: use {RULE}")
    return name


FileName = Annotated[str, AfterValidator(file_name)]
