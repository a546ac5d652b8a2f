"""How many rows a source has, without reading them."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from transforms.sources.config import SOURCE_ADAPTER
from transforms.sources.slices import Slice, slices


def count_rows(settings: dict[str, Any], base_dir: Path, limit: int | None, scratch: Path | None = None) -> int:
    """Rows of a source as its recipe section describes it, at most `limit`.

    Raises:
        DataError: the source cannot be found or read.
    """
    source = SOURCE_ADAPTER.validate_python(settings)
    if limit is not None:
        source = source.model_copy(update={"limit": min(limit, source.limit or limit)})
    return sum(_rows(piece) for piece in slices(source, base_dir, scratch))


def _rows(piece: Slice) -> int:
    if piece.format == "json":
        return max(piece.length, 0)
    if piece.format != "jsonl":
        return piece.length
    with Path(piece.path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        text = data[piece.offset : piece.offset + piece.length]
    return text.count(b"\n") + (not text.endswith(b"\n"))
