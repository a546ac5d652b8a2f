"""Cutting a source into slices of about 10,000 rows: what a Beam element names.

A slice is a few numbers about a file, never its rows. JSON lines are cut at line ends, Parquet and CSV at
row counts, and a JSON array is one slice because it can only be parsed whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from schemas.errors import DataError
from schemas.ids import ID_LENGTH, hash_fields
from transforms.sources.config import PairsSource, PromptsSource

ROWS_PER_SLICE = 10_000
BYTES_PER_SLICE = 64 * 2**20
SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_CHUNK = 8 * 2**20


@dataclass(frozen=True)
class Slice:
    """A range of one file's rows.

    `offset` and `length` are bytes for jsonl and rows otherwise; `first_row` is the 1-based number of the
    first row (of the first line for jsonl). `ref` is the file's name in record ids: it holds no machine's
    path. `fingerprint` hashes the content and the place, so it changes whenever the rows or their ids do.
    """

    path: str
    ref: str
    format: str
    offset: int
    length: int
    first_row: int
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
        for piece in _cut(path, ref, rows_per_slice, left, config.name):
            cut.append(piece[0])
            left = None if left is None else left - piece[1]
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


def _cut(path: Path, ref: str, rows: int, limit: int | None, source: str) -> Iterator[tuple[Slice, int]]:
    form = path.suffix.removeprefix(".")
    try:
        if form == "jsonl":
            yield from _cut_lines(path, ref, rows, limit)
            return
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()[:ID_LENGTH]
        if form == "json":
            n = rows = limit or -1
        else:
            scan = pl.scan_parquet(path) if form == "parquet" else scan_csv(path)
            n = min(int(scan.select(pl.len()).collect().item()), limit or 2**62)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"source {source!r}: {path} cannot be read as {form}: {error}") from error
    if form == "json":
        yield Slice(str(path), ref, form, 0, n, 1, hash_fields(ref, content, str(n))), max(n, 0)
        return
    for offset in range(0, n, rows):
        length = min(rows, n - offset)
        yield (
            Slice(str(path), ref, form, offset, length, offset + 1, hash_fields(ref, content, f"{offset}+{length}")),
            length,
        )


def scan_csv(path: Path | str) -> pl.LazyFrame:
    """A CSV file as text columns, in a lenient encoding: for counting rows and naming columns."""
    return pl.scan_csv(path, infer_schema=False, encoding="utf8-lossy", truncate_ragged_lines=True)


def _cut_lines(path: Path, ref: str, rows: int, limit: int | None) -> Iterator[tuple[Slice, int]]:
    start, line = 0, 1
    for end, n_lines, content in _line_ranges(path, rows, limit):
        print_ = hash_fields(ref, content, str(line))
        yield Slice(str(path), ref, "jsonl", start, end - start, line, print_), n_lines
        start, line = end, line + n_lines


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
