"""The tabular path in datatrove, in an environment of its own: `peers.py` runs it.

    PYTHON -m tests.benchmarks.peers_datatrove INPUT OUTPUT SCRATCH

Its own: Parquet reader and writer, exact deduplication in three passes (signatures, matches, filter), two processes.
Through its API for custom steps, as it has none: counting the votes, dropping ties.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.executor import LocalPipelineExecutor  # type: ignore[import-not-found]
from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
    ExactDedupConfig,
    ExactDedupFilter,
    ExactDedupSignature,
    ExactFindDedups,
)
from datatrove.pipeline.readers import ParquetReader  # type: ignore[import-not-found]
from datatrove.pipeline.writers import ParquetWriter  # type: ignore[import-not-found]

from tests.benchmarks.peers_rows import decided, pair_id

WORKERS = 2
KEPT = ("pair_id", "for_a", "for_b", "chosen", "rejected")


def document(self: Any, row: dict[str, Any], path: str, number: int) -> dict[str, Any]:
    """A row of the input as datatrove's document."""
    return {"text": row["prompt"], "id": pair_id(row), "metadata": row}


def content(doc: Any) -> str:
    """What makes two documents the same."""
    return str(doc.id)


def majority(data: Iterator[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    """Count the votes; drop ties."""
    for doc in data:
        row = decided(doc.metadata)
        if row["winner"] != "tie":
            doc.metadata = {name: row[name] for name in KEPT}
            yield doc


def main() -> None:
    """Run the three passes."""
    source, out, scratch = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    config = ExactDedupConfig(content_getter=content)
    signatures, repeated = str(scratch / "signatures"), str(scratch / "repeated")
    passes = [
        [ParquetReader(source, adapter=document), ExactDedupSignature(signatures, config, finder_workers=WORKERS)],
        [ExactFindDedups(signatures, repeated, config)],
        [
            ParquetReader(source, adapter=document),
            ExactDedupFilter(repeated, config),
            majority,
            ParquetWriter(out, expand_metadata=True, compression="zstd"),
        ],
    ]
    for number, steps in enumerate(passes):
        logs = str(scratch / f"logs-{number}")
        LocalPipelineExecutor(steps, tasks=WORKERS, workers=WORKERS, logging_dir=logs, start_method="fork").run()


if __name__ == "__main__":
    main()
