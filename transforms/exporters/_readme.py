"""README.md with the metadata by which `datasets.load_dataset(folder)` finds splits, files and column types."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import yaml

from transforms.publish.features import features


def readme(schema: pl.Schema, splits: Sequence[str], suffix: str, about: Sequence[str]) -> str:
    """The file's text, the lines `about` last.

    Types are declared, because a column that is empty in one file has no type of its own.
    """
    files = [{"split": s, "path": f"{s}-*.{suffix}"} for s in splits]
    metadata = {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features(schema)},
    }
    return "\n".join([f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---", *about, ""])
