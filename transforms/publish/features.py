"""Column types in the YAML form of the Hub, which `datasets.load_dataset` obeys."""

from __future__ import annotations

from typing import Any

import polars as pl

_VALUES: dict[Any, str] = {
    pl.String: "string",
    pl.Boolean: "bool",
    pl.Float64: "float64",
    pl.Float32: "float32",
    pl.Int64: "int64",
    pl.Int32: "int32",
    pl.UInt32: "uint32",
}


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
