"""The fast path: rows that are surely fine because prompt and both responses are ordinary text.

Whatever is unusual (messages, transcripts, an empty text, an unknown label, a list where a text should
be) is left to rows.py, so this path has nothing to reject. Both give the same pairs; tests assert it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
import polars as pl

from schemas.ids import ID_LENGTH
from schemas.pairs import mirrored
from schemas.tables import CONTEXT_KINDS, Pairs, conform, polars_schema, rows_frame
from transforms.sources.config import PairsSource
from transforms.sources.conversation import MIN_ECHO
from transforms.sources.detect import Layout
from transforms.sources.labels import UnknownLabel, read_label
from transforms.sources.raw import Raw
from transforms.sources.values import TEXT_FIELDS, meta_json

_VISIBLE = r"[^\s\x1c-\x1f]"  # what str.strip() would leave something of
_EMBEDDED = r"^[\s\x1c-\x1f]*\[\{"
_TEXTS = ("prompt", "first", "second")
_UNKNOWN = "?"


@dataclass(frozen=True)
class PlainPairs:
    """A `pairs` frame, and per row its index in the slice and whether its responses were exchanged."""

    frame: pl.DataFrame
    index: list[int]
    swapped: list[bool]


def take_plain(raw: Raw, config: PairsSource, layout: Layout, ref: str) -> pl.DataFrame:
    """The rows of a slice that need no second look.

    Returns:
        Columns index (into the slice), prompt, first, second (texts), label (a|b|tie|null, a meaning first),
        strength, model_first, model_second, the optional texts and context_kind.

    Raises:
        DataError: the label column holds numbers and the recipe does not say what they mean.
    """
    if layout.format not in ("labelled", "chosen_rejected"):
        return pl.DataFrame({"index": []}, schema={"index": pl.Int64})
    labelled = layout.format == "labelled"
    fields = {
        "prompt": "prompt",
        "first": "response_a" if labelled else "chosen",
        "second": "response_b" if labelled else "rejected",
        "model_first": "model_a" if labelled else "model_chosen",
        "model_second": "model_b" if labelled else "model_rejected",
        **{name: name for name in (*TEXT_FIELDS, "context_kind")},
    }
    columns = [pl.Series("index", range(len(raw.numbers)), dtype=pl.Int64)]
    columns += [_texts(name, field, raw, config, layout) for name, field in fields.items()]
    labels = _labels(raw, config, layout, ref) if labelled else pl.Series(["a"]).new_from_index(0, len(raw.numbers))
    columns += [_strengths(raw, layout), labels.alias("label")]
    frame = pl.DataFrame(columns)
    unusual = _unusual(raw, config, layout, fields)
    keep = _ordinary(config) & ~pl.lit(unusual)
    return frame.filter(keep).with_columns(
        pl.when(pl.col("label").is_in(["a", "b"])).then("strength").alias("strength"),
        pl.when(pl.col("context").is_not_null()).then("context_kind").alias("context_kind"),
    )


def plain_pairs(plain: pl.DataFrame, raw: Raw, config: PairsSource, layout: Layout, ref: str) -> PlainPairs:
    """`take_plain`'s rows as pairs."""
    if plain.is_empty():
        return PlainPairs(rows_frame([], Pairs), [], [])
    prompt_ids = text_ids(plain["prompt"].to_list(), "user")
    first_ids = text_ids(plain["first"].to_list(), "assistant")
    second_ids = text_ids(plain["second"].to_list(), "assistant")
    swapped = [second < first for first, second in zip(first_ids, second_ids, strict=True)]
    contexts = plain["context"].to_list()
    pair_ids = list(map(_pair_id, prompt_ids, contexts, first_ids, second_ids))
    labels = [
        mirrored(label) if label and swap else label
        for label, swap in zip(plain["label"].to_list(), swapped, strict=True)
    ]
    index = plain["index"].to_list()
    swap = pl.lit(pl.Series(swapped, dtype=pl.Boolean))
    tags = config.constants.get("tags")
    frame = plain.select(
        *TEXT_FIELDS,
        "context_kind",
        pl.Series("pair_id", pair_ids, dtype=pl.String),
        pl.Series("prompt_id", prompt_ids, dtype=pl.String),
        _message("user", pl.col("prompt")).alias("prompt"),
        _message("assistant", pl.when(swap).then("second").otherwise("first")).alias("response_a"),
        _message("assistant", pl.when(swap).then("first").otherwise("second")).alias("response_b"),
        pl.when(swap).then("model_second").otherwise("model_first").alias("model_a"),
        pl.when(swap).then("model_first").otherwise("model_second").alias("model_b"),
        pl.lit(config.name).alias("origin"),
        pl.Series("origin_ref", [f"{ref}:{raw.numbers[i]}" for i in index], dtype=pl.String),
        pl.Series("source_label", labels, dtype=pl.String),
        pl.col("strength").alias("source_strength"),
        pl.Series("tags", [tags] * plain.height, dtype=pl.List(pl.String)),
        pl.Series("meta", _metas(index, raw, layout), dtype=pl.String),
    )
    return PlainPairs(conform(frame, Pairs), index, swapped)


def text_ids(texts: list[str], role: str) -> list[str]:
    """`messages_id` of one message of plain text each, without building the messages."""
    head, tail = b'[{"content":', b',"role":"' + role.encode() + b'"}]'
    return [sha256(head + orjson.dumps(text) + tail).hexdigest()[:ID_LENGTH] for text in texts]


def _pair_id(prompt_id: str, context: str | None, first_id: str, second_id: str) -> str:
    """`hash_fields(prompt_id, context, smaller id, larger id)`, spelt out: it runs once a row."""
    low, high = (first_id, second_id) if first_id < second_id else (second_id, first_id)
    data = (context or "").encode()
    n = str(ID_LENGTH).encode() + b"\x1f"
    ids = prompt_id.encode(), low.encode(), high.encode()
    head = n + ids[0] + str(len(data)).encode() + b"\x1f" + data
    return sha256(head + n + ids[1] + n + ids[2]).hexdigest()[:ID_LENGTH]


def _message(role: str, content: pl.Expr) -> pl.Expr:
    fields = polars_schema(Pairs)["prompt"].inner.fields  # type: ignore[attr-defined]
    known = {"role": pl.lit(role), "content": content}
    parts = [known.get(f.name, pl.lit(None, dtype=f.dtype)).alias(f.name) for f in fields]
    return pl.concat_list(pl.struct(parts))


def _ordinary(config: PairsSource) -> pl.Expr:
    keep = pl.col("first") != pl.col("second")
    for name in _TEXTS:
        text = pl.col(name)
        keep &= text.is_not_null() & text.str.contains(_VISIBLE) & (text.str.len_chars() <= config.max_chars)
        keep &= ~text.str.contains(_EMBEDDED) & ~text.str.starts_with("\n\nHuman:")
    if config.strip_prompt != "never":
        echo = pl.all_horizontal(pl.col(n).str.starts_with(pl.col("prompt")) for n in ("first", "second"))
        if config.strip_prompt == "auto":
            echo &= pl.col("prompt").str.len_chars() >= MIN_ECHO
        keep &= ~echo
    keep &= pl.col("label").is_null() | (pl.col("label") != _UNKNOWN)
    keep &= pl.col("context_kind").is_null() | pl.col("context_kind").is_in(CONTEXT_KINDS)
    return keep.fill_null(value=False)


def _column(field: str, raw: Raw, layout: Layout) -> pl.Series | list[Any] | None:
    column = layout.columns.get(field)
    if column is None:
        return None
    return raw.frame[column] if raw.frame is not None else [row.get(column) for row in raw.rows]


def _texts(name: str, field: str, raw: Raw, config: PairsSource, layout: Layout) -> pl.Series:
    """A field as text, null if it is absent, empty or not text (`_unusual` marks the last)."""
    n = len(raw.numbers)
    constant = config.constants.get(field)
    if isinstance(constant, str):
        return pl.Series(name, [constant or None], dtype=pl.String).new_from_index(0, n)
    values = _column(field, raw, layout)
    if isinstance(values, list):
        kinds = (str,) if name in _TEXTS else (str, int)
        return pl.Series(name, [str(v) if type(v) in kinds and v != "" else None for v in values], dtype=pl.String)
    if values is not None and values.dtype.is_integer() and name not in _TEXTS:
        return values.cast(pl.String).alias(name)
    if values is None or values.dtype != pl.String:
        return pl.Series(name, [None], dtype=pl.String).new_from_index(0, n)
    return values.set(values == "", None).alias(name)


def _unusual(raw: Raw, config: PairsSource, layout: Layout, fields: dict[str, str]) -> pl.Series:
    """Rows where a field holds what only the careful path reads: checks, tags, or values of another type."""
    unusual = pl.Series([False]).new_from_index(0, len(raw.numbers))
    for name, field in (*fields.items(), ("checks", "checks"), ("tags", "tags"), ("strength", "strength")):
        values = None if field in config.constants else _column(field, raw, layout)
        if values is None:
            continue
        if name == "strength":
            odd = [v is not None and _strength(v) is _ODD for v in values]
            unusual = unusual | pl.Series(odd, dtype=pl.Boolean)
            continue
        kinds = () if name in ("checks", "tags") else (str,) if name in _TEXTS else (str, int)
        if isinstance(values, list):
            odd = [v is not None and type(v) not in kinds for v in values]
            unusual = unusual | pl.Series(odd, dtype=pl.Boolean)
        elif not (values.dtype == pl.String and str in kinds) and not (values.dtype.is_integer() and int in kinds):
            unusual = unusual | values.is_not_null()
    return unusual


_ODD = -1.0  # no strength is negative


def _strength(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or math.isinf(value):
        return _ODD
    return None if math.isnan(value) else abs(value) or None


def _strengths(raw: Raw, layout: Layout) -> pl.Series:
    values = _column("strength", raw, layout)
    if values is None:
        return pl.Series("strength", [None], dtype=pl.Float64).new_from_index(0, len(raw.numbers))
    return pl.Series("strength", [_strength(v) for v in values], dtype=pl.Float64)


def _labels(raw: Raw, config: PairsSource, layout: Layout, ref: str) -> pl.Series:
    values = _column("label", raw, layout)
    if values is None:
        return pl.Series("label", [None], dtype=pl.String).new_from_index(0, len(raw.numbers))
    known: dict[tuple[type, Any], str | None] = {}
    labels: list[str | None] = []
    for position, value in enumerate(values):
        key = (type(value), value) if isinstance(value, (str, int, type(None))) else (type(value), position)
        if key not in known:
            where = f"{ref}:{raw.numbers[position]}, column {layout.columns['label']}"
            try:
                known[key] = read_label(value, config.labels, where)
            except UnknownLabel:
                known[key] = _UNKNOWN
        labels.append(known[key])
    return pl.Series("label", labels, dtype=pl.String)


def _metas(index: list[int], raw: Raw, layout: Layout) -> list[str | None]:
    if raw.frame is None:
        return [meta_json(raw.rows[i], layout) for i in index]
    others = [name for name in raw.frame.columns if name not in layout.taken]
    identifier = [layout.columns["id"]] if "id" in layout.columns else []
    if not others and not identifier:
        return [None] * len(index)
    frame = raw.frame.select(list(dict.fromkeys(others + identifier)))[index]
    return [meta_json(row, layout) for row in frame.iter_rows(named=True)]
