"""The files of a source: where they are, and what can be told of each before it is cut into slices."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from schemas.errors import DataError
from schemas.names import did_you_mean
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.detect import detect

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
BOM = b"\xef\xbb\xbf"
_HEAD_LINES = 1000


def source_files(config: PromptsSource | PairsSource, base_dir: Path) -> Iterator[tuple[Path, str]]:
    """The files of a source's `path`, sorted, each with the name it has in record ids.

    Raises:
        DataError: there is none, or one is empty or of an unknown format.
    """
    given = str(config.path)
    where = os.path.normpath(base_dir / Path(given).expanduser())
    if Path(where).is_dir():
        paths = [p for p in sorted(Path(where).rglob("*")) if p.suffix in SUFFIXES and p.is_file()]
        root = where
    elif Path(where).is_file():
        paths, root = [Path(where)], str(Path(where).parent)
    else:
        anchor = Path(Path(where).anchor)
        paths = sorted(p for p in anchor.glob(str(Path(where).relative_to(anchor))) if p.is_file())
        root = os.path.commonpath([p.parent for p in paths]) if paths else where
    if not paths:
        hint = did_you_mean(Path(where).name, (p.name for p in Path(where).parent.glob("*")))
        raise DataError(f"source {config.name!r}: no file at {given!r} (looked at {where}){hint}")
    for path in paths:
        if path.suffix not in SUFFIXES:
            raise DataError(f"source {config.name!r}: {path} is not one of {', '.join(SUFFIXES)}")
        if not path.stat().st_size:
            raise DataError(
                f"source {config.name!r}: {path} is empty (0 bytes): was its download interrupted? Fetch it "
                "again or remove it"
            )
        yield path, path.relative_to(root).as_posix()


def json_records(path: Path) -> list[Any]:
    """The items of a file that is one JSON array.

    Raises:
        DataError: it is something else.
    """
    try:
        records = orjson.loads(path.read_bytes().removeprefix(BOM))
    except orjson.JSONDecodeError as error:
        raise DataError(
            f"{path}: not valid JSON ({error}). A .json file is one array of objects; name a file of one object "
            "a line .jsonl, whose bad lines can be left out one by one."
        ) from None
    if not isinstance(records, list):
        raise DataError(f"{path}: holds a JSON {type(records).__name__}, not an array of objects")
    return records


def column_names(records: Iterable[Any]) -> tuple[str, ...]:
    """Every name that one of the objects has, in order of appearance."""
    return tuple(dict.fromkeys(name for record in records if isinstance(record, dict) for name in record))


def csv_rows(path: Path | str) -> Iterator[list[str]]:
    """A CSV file's rows, header first, with bytes that are not UTF-8 as surrogate escapes; a blank line is []."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        with Path(path).open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from csv.reader(file)
    finally:
        csv.field_size_limit(before)


def csv_shape(path: Path) -> tuple[str, int, tuple[str, ...]]:
    """A CSV file's parser ("csv": Polars, "csv-rows": row by row), its number of rows, and its columns."""
    scan = pl.scan_csv(path, infer_schema=False)
    try:
        # Asking for every cell makes Polars decode the whole file, so bad text and ragged rows show here.
        checked = scan.select(pl.len(), pl.all().str.len_bytes().max().name.prefix("bytes of ")).collect()
        return "csv", int(checked["len"].item()), tuple(scan.collect_schema().names())
    except pl.exceptions.PolarsError:
        rows = csv_rows(path)
        names = next(rows, [])
        shown = [name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for name in names]
        return "csv-rows", sum(1 for _ in rows), tuple(shown)


def columns_in(path: Path, wanted: Collection[str]) -> tuple[str, ...]:
    """A file's columns; of a .jsonl file those of its first lines, of all where those lack a `wanted` one.

    Raises:
        DataError, OSError, ValueError, PolarsError: it cannot be read.
    """
    if path.suffix == ".parquet":
        return tuple(pl.read_parquet_schema(path))
    if path.suffix == ".csv":
        return tuple(next(csv_rows(path), []))
    if path.suffix == ".json":
        return column_names(json_records(path))
    names = _jsonl_names(path, _HEAD_LINES)
    return names if set(wanted) <= set(names) else _jsonl_names(path, None)


def jsonl_columns(path: Path, config: PromptsSource | PairsSource) -> tuple[str, ...]:
    """Column names of the first lines, or of all lines where those do not make a known format."""
    names = _jsonl_names(path, _HEAD_LINES)
    try:
        detect(config, names, str(path), every_row=False)
    except DataError:
        names = _jsonl_names(path, None)
        if names:
            detect(config, names, str(path), every_row=False)
    return names


def _jsonl_names(path: Path, limit: int | None) -> tuple[str, ...]:
    """Every name in the first `limit` lines, in order of appearance."""
    names: dict[str, None] = {}
    with path.open("rb") as file:
        for index, line in enumerate(islice(file, limit)):
            with suppress(orjson.JSONDecodeError):
                row = orjson.loads(line if index else line.removeprefix(BOM))
                names |= dict.fromkeys(row if isinstance(row, dict) else ())
    return tuple(names)
