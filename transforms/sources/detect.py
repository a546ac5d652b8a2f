"""Which format a source's columns make, and which column holds which field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.errors import DataError
from schemas.names import did_you_mean
from transforms.sources.config import HumanVotes, PairsSource, PromptsSource

FORMATS: dict[str, tuple[str, ...]] = {
    "chosen_rejected": ("prompt", "chosen", "rejected"),
    "labelled": ("prompt", "response_a", "response_b"),
    "rated": ("prompt", "responses", "scores"),
    "conversations": ("chosen", "rejected"),
}
_ONLY_IN: dict[str, tuple[str, ...]] = {
    "chosen_rejected": ("chosen", "rejected", "model_chosen", "model_rejected"),
    "conversations": ("chosen", "rejected", "model_chosen", "model_rejected"),
    "labelled": ("response_a", "response_b", "model_a", "model_b", "label"),
    "rated": ("responses", "scores", "models"),
}


@dataclass(frozen=True)
class Layout:
    """A format; per field the source column that holds it; and all columns that are read (the rest is `meta`)."""

    format: str
    columns: dict[str, str]
    taken: frozenset[str]


def detect(config: PromptsSource | PairsSource, present: Sequence[str], where: str, every_row: bool = True) -> Layout:
    """Say what format the columns `present` make under `config`.

    Args:
        where: the file, for messages.
        every_row: whether all rows have these columns and no others; not so for JSON.

    Raises:
        DataError: a column that is needed or named in the recipe is not there, or two formats fit.
    """
    for field, column in config.columns.items():
        if column is not None and column not in present:
            raise DataError(_missing(config.name, where, field, column, present))
    columns_wanted = {f: config.columns.get(f, f) for f in config.fields if f not in config.constants}
    columns = {f: c for f, c in columns_wanted.items() if c is not None and c in present}
    optional = {} if every_row else {f: c for f, c in columns_wanted.items() if c is not None}
    if isinstance(config, PromptsSource):
        if "prompt" not in columns:
            raise DataError(_missing(config.name, where, "prompt", columns_wanted.get("prompt") or "prompt", present))
        return _layout("prompts", {**optional, **columns}, set())

    form = config.format or _format(config, columns, present, where)
    for field in FORMATS[form]:
        if field not in columns:
            raise DataError(_missing(config.name, where, field, columns_wanted.get(field) or field, present))
    if form == "labelled" and "label" not in columns and not config.votes and "label" not in config.columns:
        raise DataError(
            _missing(config.name, where, "label", "label", present)
            + " Or set `columns: {label: null}` if these pairs have no label yet."
        )
    if form == "rated" and config.votes:
        raise DataError(f"{where}: source {config.name!r}: `votes` need one pair per row, but rated rows give several")
    used: set[str] = set()
    for votes in config.votes:
        wanted = [votes.labels, votes.voters] if isinstance(votes, HumanVotes) else [votes.column]
        for name in (n for n in wanted if n is not None):
            if name not in present:
                raise DataError(
                    f"{where}: source {config.name!r}: votes of kind {votes.kind}: {_near(name, present)}. Columns "
                    f"there: {', '.join(present)}. Name the right one in `votes`."
                )
            used.add(name)
    foreign = {f for fields in _ONLY_IN.values() for f in fields} - set(_ONLY_IN[form])
    foreign |= {"prompt"} if form == "conversations" else set()
    return _layout(form, {f: c for f, c in {**optional, **columns}.items() if f not in foreign}, used)


def _layout(form: str, columns: dict[str, str], used: set[str]) -> Layout:
    return Layout(form, columns, frozenset(c for f, c in columns.items() if f != "id") | used)


def _format(config: PairsSource, columns: dict[str, str], present: Sequence[str], where: str) -> str:
    fitting = [form for form, fields in FORMATS.items() if all(f in columns for f in fields)]
    if "chosen_rejected" in fitting:
        fitting.remove("conversations")
    if len(fitting) > 1:
        named = [form for form in fitting if any(f in config.columns for f in FORMATS[form] if f != "prompt")]
        fitting = named or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"{where}: source {config.name!r} fits several formats ({', '.join(fitting)}); say which with `format`"
        )
    best = max(FORMATS, key=lambda form: (sum(f in columns for f in FORMATS[form]), form != "conversations"))
    missing = [f for f in FORMATS[best] if f not in columns]
    shown = "; ".join(_near(config.columns.get(f) or f, present) for f in missing)
    raise DataError(
        f"{where}: source {config.name!r} has no pairs that can be recognised. Nearest format: {best} "
        f"({', '.join(FORMATS[best])}), where {shown}. Columns there: {', '.join(present)}. "
        f"Name the right ones with `columns: {{{missing[0]}: <column>}}`."
    )


def _near(column: str, present: Sequence[str]) -> str:
    near = did_you_mean(column, present).removeprefix("; ")
    return f"column {column!r} is missing" + (f" ({near})" if near else "")


def _missing(source: str, where: str, field: str, column: str, present: Sequence[str]) -> str:
    return (
        f"{where}: source {source!r} needs {field}: {_near(column, present)}. Columns there: {', '.join(present)}. "
        f"Say which column it is with `columns: {{{field}: <column>}}`."
    )
