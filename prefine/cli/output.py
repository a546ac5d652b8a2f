"""Printing: tables for people, one JSON line for programs, both on standard output; data is shown as text."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import orjson
from rich.console import Console
from rich.table import Table

from transforms.text.plain import cell, escaped

_WIDTH = 180


def say(text: object, to: TextIO | None = None) -> None:
    """A line for people, on standard output or `to`."""
    print(escaped(str(text)), file=to or sys.stdout, flush=True)


def print_json(value: Any) -> None:
    """One line of JSON with sorted keys."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    try:
        text = orjson.dumps(value, option=options, default=str).decode()
    except TypeError:  # integers of more than 64 bits
        text = json.dumps(value, default=str, ensure_ascii=False, sort_keys=True)
    say(text)  # what JSON itself leaves unescaped stands in strings alone, where \u escapes mean the same


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table; numbers right-aligned."""
    table = Table(title=cell(title) if title else None, title_justify="left", highlight=False)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(cell(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell(_shown(value)) for value in row))
    console().print(table)


def console() -> Console:
    """Standard output: as wide as the terminal, or wide enough for any table if there is none."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH, markup=False, emoji=False, highlight=False)


class PlainFormatter(logging.Formatter):
    """Log lines as text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with control characters escaped."""
        return escaped(super().format(record))


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)
