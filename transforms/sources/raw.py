"""A slice's rows as they stand in the file: readable rows, and the unreadable ones with the reason.

Files are parsed by Polars; JSON lines one by one (orjson), because one bad line must cost one row and
because Polars turns a number among texts into text, which would hide that a prompt is not text.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from schemas.errors import DataError
from transforms.sources.files import BOM, csv_rows, json_records
from transforms.sources.slices import Slice

_NUMBER = "\x00number"  # no CSV header can hold it unquoted


@dataclass(frozen=True)
class Unreadable:
    """A row that is no record: reason code, one sentence, and what can be shown of it."""

    row: int
    reason: str
    detail: str
    payload: str


@dataclass
class Raw:
    """Rows by column (`frame`) or as dicts (`rows`), numbered by `numbers`; one of the two is given."""

    numbers: list[int]
    frame: pl.DataFrame | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


def read_raw(piece: Slice) -> Raw:
    """Read a slice.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    try:
        if piece.format == "jsonl":
            return _jsonl(piece)
        if piece.format == "json":
            return _json(piece)
        if piece.format == "csv":
            return _csv(piece)
        if piece.format == "csv-rows":
            return _csv_by_row(piece)
        return _parquet(piece)
    except (OSError, csv.Error, pl.exceptions.PolarsError) as error:
        raise DataError(f"{piece.path}: cannot be read as {piece.format}: {error}") from error


def _numbers(piece: Slice, n: int) -> list[int]:
    return list(range(piece.first_row, piece.first_row + n))


def _bytes(piece: Slice) -> bytes:
    with Path(piece.path).open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.length)


def _jsonl(piece: Slice) -> Raw:
    data = _bytes(piece)
    if piece.offset == 0:
        data = data.removeprefix(BOM)
    raw = Raw([])
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, piece.first_row):
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            if line.strip():
                raw.unreadable.append(_why_unreadable(number, line))
            continue
        if isinstance(row, dict):
            raw.rows.append(row)
            raw.numbers.append(number)
        else:
            raw.unreadable.append(_not_an_object(number, row))
    return raw


def _why_unreadable(number: int, line: bytes) -> Unreadable:
    payload = line.decode("utf-8", "backslashreplace")
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"The line is not valid UTF-8 at byte {error.start + 1}; write the file again in UTF-8."
        return Unreadable(number, "invalid_utf8", detail, payload)
    try:
        json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = f"The line is not valid JSON ({error}); write one JSON object a line."
        return Unreadable(number, "malformed_json", detail, payload)
    if "\\ud" in payload.lower():
        detail = "The line holds a lone surrogate (half a character, \\ud800 to \\udfff); remove or repair it."
        return Unreadable(number, "lone_surrogate", detail, payload)
    detail = "The line is not strict JSON (NaN, Infinity, or nested too deep); write null or a number instead."
    return Unreadable(number, "malformed_json", detail, payload)


def _not_an_object(number: int, row: Any) -> Unreadable:
    detail = f"The row is a JSON {type(row).__name__}, not an object with named fields; write {{...}}."
    return Unreadable(number, "not_an_object", detail, orjson.dumps(row).decode())


def _json(piece: Slice) -> Raw:
    raw = Raw([])
    for number, row in enumerate(json_records(Path(piece.path))[: piece.length], 1):
        if isinstance(row, dict):
            raw.rows.append(row)
            raw.numbers.append(number)
        else:
            raw.unreadable.append(_not_an_object(number, row))
    return raw


def _parquet(piece: Slice) -> Raw:
    try:
        rows = pl.scan_parquet(piece.path).slice(piece.offset, piece.length)
        frame = rows.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String)).collect()
    except pl.exceptions.PolarsError as error:
        if "utf" not in str(error).lower():
            raise
        return _parquet_with_bad_text(piece)
    return Raw(_numbers(piece, frame.height), frame)


def _parquet_with_bad_text(piece: Slice) -> Raw:
    """Arrow reads text without checking it, so each row's failure shows when that row is decoded."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(piece.path).slice(piece.offset, piece.length)
    raw = Raw([])
    for index, number in enumerate(_numbers(piece, table.num_rows)):
        row: dict[str, Any] = {}
        for name in table.column_names:
            try:
                row[name] = table.column(name)[index].as_py()
            except UnicodeDecodeError as error:
                detail = f"Field {name} is not valid UTF-8 at byte {error.start + 1}; write the file again in UTF-8."
                payload = error.object.decode("utf-8", "backslashreplace")
                raw.unreadable.append(Unreadable(number, "invalid_utf8", detail, payload))
                break
        else:
            raw.rows.append(row)
            raw.numbers.append(number)
    return raw


def _csv(piece: Slice) -> Raw:
    schema = dict.fromkeys(piece.columns, pl.String)
    frame = pl.read_csv(_bytes(piece), has_header=False, schema=schema)
    numbered = frame.with_columns(pl.Series(_NUMBER, _numbers(piece, frame.height), dtype=pl.Int64))
    filled = numbered.filter(~pl.all_horizontal(pl.col(frame.columns).is_null()))  # a blank line is no row
    return Raw(filled[_NUMBER].to_list(), filled.drop(_NUMBER))


def _csv_by_row(piece: Slice) -> Raw:
    raw = Raw([])
    rows = islice(csv_rows(piece.path), piece.offset + 1, piece.offset + 1 + piece.length)
    for number, cells in enumerate(rows, piece.first_row):
        shown = ",".join(cells).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if any("\udc80" <= c <= "\udcff" for cell in cells for c in cell):
            detail = "The row is not valid UTF-8; write the file again in UTF-8."
            raw.unreadable.append(Unreadable(number, "invalid_utf8", detail, shown))
        elif len(cells) > len(piece.columns):
            detail = f"The row has {len(cells)} cells under {len(piece.columns)} names; quote cells that hold commas."
            raw.unreadable.append(Unreadable(number, "malformed_csv", detail, shown))
        elif any(cells):
            raw.rows.append({n: c or None for n, c in zip_longest(piece.columns, cells)})
            raw.numbers.append(number)
    return raw
