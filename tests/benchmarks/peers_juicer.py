"""The tabular path in data-juicer, in an environment of its own: `peers.py` runs it.

    PYTHON -m tests.benchmarks.peers_juicer INPUT OUTPUT SCRATCH

Its own: reading, `document_deduplicator`, `specified_field_filter` (drops ties), Parquet export, two processes. Through
`python_file_mapper`, as it has none: content ids, counting the votes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from data_juicer.config import init_configs  # type: ignore[import-not-found]
from data_juicer.core.executor import DefaultExecutor  # type: ignore[import-not-found]


def main() -> None:
    """Write the recipe and run it."""
    source, out, scratch = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    rows = str(Path(__file__).with_name("peers_rows.py"))
    config = {
        "dataset_path": source,
        "export_path": str(out / "rows.parquet"),
        "work_dir": str(scratch),
        "np": 2,
        "turbo": True,  # rows one by one, not in batches of one
        "text_keys": "prompt",
        "ds_cache_dir": str(scratch / "cache"),
        "strict_preflight": False,  # it would miss the column that the first step makes
        "process": [
            {"python_file_mapper": {"file_path": rows, "function_name": "decided"}},
            {"document_deduplicator": {"text_key": "pair_id"}},
            {"specified_field_filter": {"field_key": "winner", "target_value": ["a", "b"]}},
        ],
    }
    path = scratch / "recipe.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    DefaultExecutor(init_configs(["--config", str(path)])).run()


if __name__ == "__main__":
    main()
