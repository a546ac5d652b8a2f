"""Printing: tables for people, one JSON line for programs, both on standard output; data is shown as text."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from transforms.text.plain import escaped

if TYPE_CHECKING:
    from rich.console import Console

_WIDEST = 10_000


def say(text: object, to: TextIO | None = None) -> None:
    """A line for people, on standard output or `to`."""
    print(escaped(str(text)), file=to or sys.stdout, flush=True)


def print_json(value: Any) -> None:
    """One line of JSON with sorted keys."""
    import orjson

    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        text = orjson.dumps(value, option=options, default=str).decode()
    except TypeError:  # integers of more than 64 bits
        text = json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)
    say(text)  # what JSON itself leaves unescaped stands in strings alone, where \u escapes mean the same


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    wide: bool = False,
    wide_only: Collection[str] = (),
) -> None:
    """A table with all columns if `wide`, else as wide as the terminal and without those of `wide_only`."""
    from transforms.text.table import text_table

    console(wide).print(text_table(columns, rows, title=title, wide=wide, wide_only=wide_only))


def console(wide: bool = False) -> Console:
    """Standard output: as wide as the terminal, 80 columns without one, or wide enough for any table."""
    from rich.console import Console

    return Console(width=_WIDEST if wide else None, markup=False, emoji=False, highlight=False)


class PlainFormatter(logging.Formatter):
    """Log lines as text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped."""
        return escaped(super().format(record))
