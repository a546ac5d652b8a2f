"""Tables for a terminal, all in one form: no frame, numbers to the right, narrow or with all columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from transforms.text.plain import cell

if TYPE_CHECKING:
    from rich.table import Table

SHORT_ID = 12  # hex digits by which people know a pair: among a million pairs two share them once in 500 workspaces
TEXT = "text"  # a column of this name is cut, line by line, to the width that the others leave


def text_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str = "",
    wide: bool = True,
    wide_only: Collection[str] = (),
) -> Table:
    """A table for Rich; numbers are right-aligned, and no cell is longer than its column but in a wide table.

    Args:
        wide: with all columns.
        wide_only: the columns that a table which is not wide leaves out.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=cell(title) if title else None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        highlight=False,
    )
    kept = [index for index, column in enumerate(columns) if wide or column not in wide_only]
    for index in kept:
        values = [row[index] for row in rows]
        numeric = bool(rows) and all(value is None or isinstance(value, int | float) for value in values)
        table.add_column(cell(columns[index]), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        cells = [cell(_shown(row[index])) for index in kept]
        for text in (text for text, index in zip(cells, kept, strict=True) if columns[index] == TEXT):
            # Of the cell, not of the column: Rich makes columns that do not wrap narrow last of all.
            text.no_wrap, text.overflow = True, "ellipsis"
        table.add_row(*cells)
    return table


def short(identifier: str, wide: bool) -> str:
    """An id as a table shows it."""
    return identifier if wide else identifier[:SHORT_ID]


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
