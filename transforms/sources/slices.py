"""Cutting a source into slices of about 10,000 rows: what a Beam element names.

A slice is a few numbers about a file, never its rows. JSON lines and CSV are cut at the ends of
records, Parquet at row counts, and a JSON array is one slice because it can only be parsed whole.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import polars as pl

from schemas.errors import DataError
from schemas.ids import ID_LENGTH, hash_fields
from transforms.sources.config import PairsSource, PromptsSource
from transforms.sources.detect import detect
from transforms.sources.files import column_names, csv_rows, csv_shape, json_records, jsonl_columns, source_files
from transforms.sources.lines import Range, ranges

ROWS_PER_SLICE = 10_000


@dataclass(frozen=True)
class Slice:
    """A range of one file's rows.

    `offset` and `length` are bytes for jsonl and csv, and rows otherwise; `first_row` is the 1-based number of the
    first of `n_rows` rows (of jsonl and csv with the blank lines). `format` is a suffix, or "csv-rows" for a
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
        files = list(source_files(config, base_dir))
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


def _cut(path: Path, ref: str, config: PromptsSource | PairsSource, rows: int, limit: int | None) -> Iterator[Slice]:
    form = path.suffix.removeprefix(".")
    if form == "jsonl":
        names = jsonl_columns(path, config)
        for r in ranges(path, rows, limit):
            print_ = hash_fields(ref, r.content, str(r.first), *names)
            yield Slice(str(path), ref, form, r.start, r.end - r.start, r.first, r.n, names, print_)
        return
    if form == "json":
        records = json_records(path)
        n, names = len(records), column_names(records)
    elif form == "csv":
        form, n, names = csv_shape(path)
    else:
        scan = pl.scan_parquet(path)
        n, names = int(scan.select(pl.len()).collect().item()), tuple(scan.collect_schema().names())
    if n and names:
        detect(config, names, str(path), every_row=form != "json")
    if form == "csv" and n:
        if sum(r.n for r in _csv_ranges(path, rows, None)) == n:
            for r in _csv_ranges(path, rows, limit):
                print_ = hash_fields(ref, r.content, str(r.first), *names)
                yield Slice(str(path), ref, form, r.start, r.end - r.start, r.first, r.n, names, print_)
            return
        # A quote inside an unquoted cell: only a parser can tell where records end.
        form, n = "csv-rows", sum(1 for _ in csv_rows(path)) - 1
    n = n if limit is None else min(n, limit)
    state = path.stat()
    content = _content(path, state.st_size, state.st_mtime_ns)
    # A parser that must start at the top for every slice gets few slices.
    step = n if form == "json" else max(rows, n // 8) if form == "csv-rows" else rows
    for offset in range(0, n, step or 1):
        length = min(step, n - offset)
        print_ = hash_fields(ref, content, f"{offset}+{length}")
        yield Slice(str(path), ref, form, offset, length, offset + 1, length, names, print_)


@cache
def _content(path: Path, size: int, changed_ns: int) -> str:
    """Hash of a file's bytes, taken once per process for each state of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:ID_LENGTH]


def _csv_ranges(path: Path, rows: int, limit: int | None) -> Iterator[Range]:
    header = next(ranges(path, 1, quoted=True)).end
    return ranges(path, rows, limit, quoted=True, skip=header)
