"""Byte ranges of whole records in files whose records are lines."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from schemas.ids import ID_LENGTH

BYTES_PER_RANGE = 64 * 2**20
_CHUNK = 8 * 2**20


@dataclass(frozen=True)
class Range:
    """Bytes [start, end) of a file: `n` records of which the first is number `first` (1-based)."""

    start: int
    end: int
    first: int
    n: int
    content: str  # hash of the bytes


def ranges(path: Path, records: int, limit: int | None = None, quoted: bool = False, skip: int = 0) -> Iterator[Range]:
    """Cut a file at line ends into ranges of at most `records` records (or as many as fill 64 MiB).

    Args:
        limit: stop after so many records.
        skip: bytes at the file's start that are no records (a header).
        quoted: line ends between double quotes are part of a record (CSV). A quote written twice inside
            quotes counts twice, so the number of quotes before a record's end is always even.
    """
    start, first, n, odd, complete = skip, 1, 0, False, True
    digest, position = hashlib.sha256(), skip
    left = 2**62 if limit is None else limit
    with path.open("rb") as file:
        file.seek(skip)
        while chunk := file.read(_CHUNK):
            ends, odd = _record_ends(chunk, quoted, odd)
            begin = 0
            for end in ends:
                n += 1
                if n == min(records, left) or position + end - start >= BYTES_PER_RANGE:
                    digest.update(chunk[begin:end])
                    yield Range(start, position + end, first, n, digest.hexdigest()[:ID_LENGTH])
                    left -= n
                    if left <= 0:
                        return
                    start, first, n, begin, digest = position + end, first + n, 0, end, hashlib.sha256()
            digest.update(chunk[begin:])
            position += len(chunk)
            complete = bool(ends) and ends[-1] == len(chunk)
    if position > start:
        yield Range(start, position, first, n + (not complete), digest.hexdigest()[:ID_LENGTH])


def _record_ends(chunk: bytes, quoted: bool, odd: bool) -> tuple[list[int], bool]:
    data = np.frombuffer(chunk, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if quoted:
        quotes = np.flatnonzero(data == ord('"'))
        ends = ends[(np.searchsorted(quotes, ends) + odd) % 2 == 0]
        odd = bool((len(quotes) + odd) % 2)
    return (ends + 1).tolist(), odd
