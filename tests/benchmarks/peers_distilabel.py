"""The tabular path in distilabel, in an environment of its own: `peers.py` runs it.

    PYTHON -m tests.benchmarks.peers_distilabel INPUT OUTPUT SCRATCH

Its own: reading files, `FormatTextGenerationDPO` (chosen and rejected by rating), `KeepColumns`, a process a step.
Through its `@step`, as it has none: content ids and counting the votes, dropping repeated pairs and ties (global).
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilabel.pipeline import Pipeline  # type: ignore[import-not-found]
from distilabel.steps import (  # type: ignore[import-not-found]
    FormatTextGenerationDPO,
    KeepColumns,
    LoadDataFromFileSystem,
    StepInput,
    step,
)

from tests.benchmarks.peers_rows import decided

BATCH = 1000
INPUT = ["prompt", "response_a", "response_b", "votes"]
DECIDED = ["pair_id", "instruction", "generations", "ratings", "winner"]
KEPT = ["pair_id", "prompt", "chosen", "rejected", "chosen_rating", "rejected_rating"]
Rows = list[dict[str, Any]]


@step(inputs=INPUT, outputs=DECIDED)  # type: ignore[untyped-decorator]
def decide(inputs: StepInput) -> Iterator[Rows]:
    """Give pairs their ids and the votes as ratings of the two responses."""
    rows = [decided(row) for row in inputs]
    yield [
        {
            "pair_id": row["pair_id"],
            "winner": row["winner"],
            "instruction": row["prompt"],
            "generations": [row["response_a"], row["response_b"]],
            "ratings": [row["for_a"], row["for_b"]],
        }
        for row in rows
    ]


@step(inputs=DECIDED, outputs=DECIDED, step_type="global")  # type: ignore[untyped-decorator]
def drop_repeated(inputs: StepInput) -> Iterator[Rows]:
    """Keep a pair's first row; drop ties."""
    first = {row["pair_id"]: row for row in reversed(inputs)}
    yield [row for row in first.values() if row["winner"] != "tie"]


def main() -> None:
    """Run the pipeline and write its rows."""
    source, out, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with Pipeline("peers", cache_dir=scratch) as pipeline:
        load = LoadDataFromFileSystem(data_files=f"{source}/*.parquet", batch_size=BATCH)
        form = FormatTextGenerationDPO(input_batch_size=BATCH)
        keep = KeepColumns(columns=KEPT, input_batch_size=BATCH)
        load >> decide(input_batch_size=BATCH) >> drop_repeated() >> form >> keep
    pipeline.run(use_cache=False)["default"]["train"].to_parquet(out / "rows.parquet")


if __name__ == "__main__":
    main()
