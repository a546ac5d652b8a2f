"""What a notebook shows of an object: the tables of the terminal as HTML."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

_FRAME = '<pre style="line-height: 1.2; font-family: monospace; white-space: pre; overflow-x: auto">{code}</pre>'


def html(renderable: RenderableType, width: int = 140) -> str:
    """A renderable of Rich as HTML that needs no style sheet; text of the data is escaped."""
    from rich.console import Console

    console = Console(
        width=width, force_terminal=False, highlight=False, markup=False, emoji=False, record=True, file=io.StringIO()
    )
    console.print(renderable)
    return console.export_html(inline_styles=True, code_format=_FRAME)
