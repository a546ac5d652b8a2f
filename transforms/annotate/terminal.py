"""Ten quick labels in a terminal, without any server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.text import Text

from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import Row
from transforms.annotate.display import page_text, shown_text

KEYS = {"a": "a", "b": "b", "t": "tie", "x": "both_bad"}
SKIP, STOP = "s", "q"
_QUESTION = f"[{'/'.join((*KEYS, SKIP, STOP))}] a, b, t tie, x both bad, s skip, q stop: "


def annotate(
    queue: Iterable[tuple[Row, str]],
    annotator: str,
    ask: Callable[[str], str],
    console: Console,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> list[Row]:
    """Show pairs one after another and collect answers.

    Args:
        queue: (`pairs` row, order shown) in the order to ask.
        ask: puts a question and returns what was typed; an `EOFError` stops, and ctrl-C.

    Returns:
        Rows for `transforms.annotate.files`, in terms of the stored a and b.
    """
    rows: list[Row] = []
    for pair, shown in queue:
        _show(pair, shown, console)
        started = time.monotonic()
        key = _key(ask)
        if key == STOP:
            break
        stamp = now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        row: Row = {
            "annotation_id": hash_fields("annotation", "terminal", pair["pair_id"], annotator, stamp),
            "task_id": f"terminal-{pair['pair_id']}",
            "pair_id": pair["pair_id"],
            "annotator": annotator,
            "seconds": round(time.monotonic() - started, 3),
            "cancelled": key == SKIP,
            "updated_at": stamp,
        }
        if key != SKIP:
            row["label"] = KEYS[key] if shown == "ab" else mirrored(KEYS[key])
        rows.append(row)
    return rows


def _key(ask: Callable[[str], str]) -> str:
    while True:
        try:
            key = ask(_QUESTION).strip().lower()
        except (EOFError, KeyboardInterrupt):  # what was answered is kept
            return STOP
        if key in KEYS or key in (SKIP, STOP):
            return key


def _show(pair: Row, shown: str, console: Console) -> None:
    first, second = ("response_a", "response_b") if shown == "ab" else ("response_b", "response_a")
    for message in pair["prompt"]:
        console.print(Panel(_plain(page_text([message])), title=escape(shown_text(message["role"]))))
    if pair.get("context"):
        console.print(Panel(_plain(pair["context"]), title="Judge under this context", border_style="magenta"))
    panels = [Panel(_plain(page_text(pair[f])), title=t) for f, t in ((first, "A"), (second, "B"))]
    console.print(Columns(panels, equal=True, expand=True))


def _plain(text: str) -> Text:
    """Text without markup or control sequences: a response must not command the terminal."""
    return Text(shown_text(text))
