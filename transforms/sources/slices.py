"""Cutting a source into slices of about 10,000 rows: what a Beam element names.

A slice is a few numbers about a file, never its rows. JSON lines are cut at line ends, Parquet and CSV at
row counts, and a JSON array is one slice because it can only be parsed whole.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from schemas.errors import DataError
from schemas.ids import ID_LENGTH, hash_fields
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.detect import detect

ROWS_PER_SLICE = 10_000
BYTES_PER_SLICE = 64 * 2**20
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_CHUNK = 8 * 2**20
_HEAD_LINES = 1000
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Slice:
    """A range of one file's rows.

    `offset` and `length` are bytes for jsonl and rows otherwise; `first_row` is the 1-based number of the
    first of `n_rows` rows (lines for jsonl, blank ones included). `format` is a suffix, or "csv-rows" for a
    CSV file that only a parser working row by row can read. `columns` are the file's, for JSON those of the
    rows looked at. `ref` is the file's name in record ids: it holds no machine's path. `fingerprint` hashes
    the content and the place, so it changes whenever the rows or their ids do.
    """

    path: str
    ref: str
    format: str
    offset: int
    length: int
    first_row: int
    n_rows: int
    columns: tuple[str, ...]
    fingerprint: str


def slices(
    config: PromptsSource | PairsSource,
    base_dir: Path,
    scratch: Path | None = None,
    rows_per_slice: int = ROWS_PER_SLICE,
) -> list[Slice]:
    """All slices of a source, in a fixed order.

    Args:
        base_dir: what a relative `path` is relative to (the recipe's folder).
        scratch: where a `datasets` id is written as Parquet first; needed for such a source only.
        rows_per_slice: at most this many rows in a slice.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    if config.dataset is not None:
        if scratch is None:
            raise DataError(f"source {config.name!r} needs a scratch folder to hold the data set {config.dataset!r}")
        from transforms.sources.library import materialise

        files = [(materialise(config, base_dir, scratch), f"{config.dataset}[{config.split}].parquet")]
    else:
        files = list(_files(config, base_dir))
    cut: list[Slice] = []
    left = config.limit
    for path, ref in files:
        try:
            for piece in _cut(path, ref, config, rows_per_slice, left):
                cut.append(piece)
                left = None if left is None else left - piece.n_rows
        except (OSError, csv.Error, pl.exceptions.PolarsError) as error:
            raise DataError(f"source {config.name!r}: {path} cannot be read: {error}") from error
        if left is not None and left <= 0:
            break
    return cut


def _files(config: PromptsSource | PairsSource, base_dir: Path) -> Iterator[tuple[Path, str]]:
    given = str(config.path)
    where = os.path.normpath(base_dir / Path(given).expanduser())
    if Path(where).is_dir():
        found = [p for p in sorted(Path(where).rglob("*")) if p.suffix in SUFFIXES and p.is_file()]
        root = where
    elif Path(where).is_file():
        found, root = [Path(where)], str(Path(where).parent)
    else:
        anchor = Path(Path(where).anchor)
        found = sorted(p for p in anchor.glob(str(Path(where).relative_to(anchor))) if p.is_file())
        root = os.path.commonpath([p.parent for p in found]) if found else where
    if not found:
        raise DataError(f"source {config.name!r}: no file at {given!r} (looked at {where})")
    for path in found:
        if path.suffix not in SUFFIXES:
            raise DataError(f"source {config.name!r}: {path} is not one of {', '.join(SUFFIXES)}")
        yield path, path.relative_to(root).as_posix()


def _cut(path: Path, ref: str, config: PromptsSource | PairsSource, rows: int, limit: int | None) -> Iterator[Slice]:
    form = path.suffix.removeprefix(".")
    if form == "jsonl":
        names = _jsonl_columns(path, config)
        start, line = 0, 1
        for end, n_lines, content in _line_ranges(path, rows, limit):
            print_ = hash_fields(ref, content, str(line), *names)
            yield Slice(str(path), ref, form, start, end - start, line, n_lines, names, print_)
            start, line = end, line + n_lines
        return
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:ID_LENGTH]
    if form == "json":
        records = json_records(path)
        n, names = len(records), column_names(records)
    elif form == "csv":
        form, n, names = _csv_shape(path)
    else:
        scan = pl.scan_parquet(path)
        n, names = int(scan.select(pl.len()).collect().item()), tuple(scan.collect_schema().names())
    if n and names:
        detect(config, names, str(path), every_row=form != "json")
    n = n if limit is None else min(n, limit)
    step = n if form == "json" else rows
    for offset in range(0, n, step or 1):
        length = min(step, n - offset)
        print_ = hash_fields(ref, content, f"{offset}+{length}")
        yield Slice(str(path), ref, form, offset, length, offset + 1, length, names, print_)


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


def _csv_shape(path: Path) -> tuple[str, int, tuple[str, ...]]:
    """Which parser can read the file, its rows and its columns."""
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


def _jsonl_columns(path: Path, config: PromptsSource | PairsSource) -> tuple[str, ...]:
    """Column names of the first lines, or of all lines where those do not make a known format."""
    names = column_names(_json_lines(path, _HEAD_LINES))
    try:
        detect(config, names, str(path), every_row=False)
    except DataError:
        names = column_names(_json_lines(path, None))
        if names:
            detect(config, names, str(path), every_row=False)
    return names


def _json_lines(path: Path, limit: int | None) -> Iterator[Any]:
    with path.open("rb") as file:
        for index, line in enumerate(islice(file, limit)):
            with suppress(orjson.JSONDecodeError):
                yield orjson.loads(line if index else line.removeprefix(BOM))


def _line_ranges(path: Path, rows: int, limit: int | None) -> Iterator[tuple[int, int, str]]:
    """(end offset, lines, content hash) of successive ranges of whole lines."""
    digest, n_lines, n_bytes, position = hashlib.sha256(), 0, 0, 0
    left = 2**62 if limit is None else limit
    open_line = False
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            begin = 0
            ends = (np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == 0x0A) + 1).tolist()
            for end in ends:
                n_lines += 1
                if n_lines >= min(rows, left) or n_bytes + end - begin >= BYTES_PER_SLICE:
                    digest.update(chunk[begin:end])
                    yield position + end, n_lines, digest.hexdigest()[:ID_LENGTH]
                    left -= n_lines
                    if left <= 0:
                        return
                    digest, n_lines, n_bytes, begin = hashlib.sha256(), 0, 0, end
            digest.update(chunk[begin:])
            n_bytes += len(chunk) - begin
            position += len(chunk)
            open_line = not chunk.endswith(b"\n")
    if n_bytes:
        yield position, n_lines + open_line, digest.hexdigest()[:ID_LENGTH]
