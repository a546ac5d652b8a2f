"""README.md with the metadata by which `datasets.load_dataset(folder)` finds splits, files and column types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import yaml

_VALUES: dict[Any, str] = {
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
    files = [{"split": s, "path": f"{s}-*.{suffix}"} for s in splits]
    metadata = {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"config_name": "default", "features": features(schema)},
    }
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n"


def features(schema: pl.Schema) -> list[dict[str, Any]]:
    """Column types in the Hub's YAML form."""
    return [{"name": name, **_feature(dtype)} for name, dtype in schema.items()]


def _feature(dtype: Any) -> dict[str, Any]:
    if isinstance(dtype, pl.List):
        inner: Any = dtype.inner
        if isinstance(inner, pl.Struct):
            return {"list": _fields(inner)}
        return {"list": _feature(inner) if isinstance(inner, pl.List) else _VALUES[type(inner)]}
    if isinstance(dtype, pl.Struct):
        return {"struct": _fields(dtype)}
    return {"dtype": _VALUES[type(dtype)]}


def _fields(dtype: pl.Struct) -> list[dict[str, Any]]:
    return [{"name": field.name, **_feature(field.dtype)} for field in dtype.fields]
