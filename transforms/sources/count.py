"""How many rows a source has, without reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transforms.sources.config import SOURCE_ADAPTER
from transforms.sources.slices import slices


def count_rows(settings: dict[str, Any], base_dir: Path, limit: int | None, scratch: Path | None = None) -> int:
    """Rows of a source as its recipe section describes it, at most `limit`.

    Raises:
        DataError: the source cannot be found or read.
    """
    source = SOURCE_ADAPTER.validate_python(settings)
    if limit is not None:
        source = source.model_copy(update={"limit": min(limit, source.limit or limit)})
    return sum(piece.n_rows for piece in slices(source, base_dir, scratch))
