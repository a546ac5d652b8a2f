"""README.md with the metadata by which `datasets.load_dataset(folder)` finds splits, files and column types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import yaml

_VALUES: dict[type[pl.DataType] | pl.DataType, str] = {
    pl.String: "string",
    pl.Boolean: "bool",
    pl.Float64: "float64",
    pl.Float32: "float32",
    pl.Int64: "int64",
    pl.Int32: "int32",
    pl.UInt32: "uint32",
}


def readme(schema: pl.Schema, splits: Sequence[str], suffix: str) -> str:
    """The file's text. Types are declared, because a column that is empty in one file has no type of its own."""
    from datasets import Features

    features = Features({name: _feature(dtype) for name, dtype in schema.items()})
    files = [{"split": s, "path": f"{s}-*.{suffix}"} for s in splits]
    metadata = {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features._to_yaml_list()},
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n"


def _feature(dtype: pl.DataType) -> Any:
    from datasets import List, Value

    if isinstance(dtype, pl.List):
        return List(_feature(dtype.inner))  # type: ignore[arg-type]
    if isinstance(dtype, pl.Struct):
        return {field.name: _feature(field.dtype) for field in dtype.fields}  # type: ignore[arg-type]
    return Value(_VALUES[type(dtype)])
