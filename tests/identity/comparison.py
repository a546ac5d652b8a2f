"""Are two folders of published files the same, and where not, in which file, at which key, in which row."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import polars as pl

from schemas.ids import canonical_json

MANIFEST, CARD, REPORT = "manifest.json", "README.md", "report.html"
_SHOWN = 160  # characters of a differing value
_MOST = 20  # differing keys listed of one file
# What may differ: the hash of the code, and of the two documents that tell it or are made for eyes.
_CODE = re.compile(rb'(?<!\\)"code_version":\s*"[^"]*"')
_DOCUMENTS = re.compile(rb'(?<!\\)"(README\.md|report\.html)":\s*\{[^{}]*\}')
_CARD_CODE = re.compile(rb"^(Row hash `[0-9a-f]+`, recipe hash `[0-9a-f]+`, code )\S+\.$")
_CARD_RECIPE = re.compile(rb"(, recipe hash )`[0-9a-f]+`")


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same.

    Attributes:
        file: relative to the compared folder.
        where: key path, line, column and row; empty for the file as a whole.
        old, new: what stands there.
    """

    file: str
    where: str
    old: str
    new: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}\n    old: {self.old}\n    new: {self.new}"


def compare_folders(old: Path, new: Path, allowed: Collection[str] = ()) -> list[Difference]:
    """Every difference between two folders' files but what may differ between two versions of the code.

    Args:
        old: a folder.
        new: the other one.
        allowed: fields of manifest.json that may differ too, such as `recipe_hash`, also in a version's README.md.
    """
    ours, theirs = files_of(old), files_of(new)
    found = []
    for name in sorted({*ours, *theirs}):
        if name not in ours or name not in theirs:
            state = ["there" if name in files else "missing" for files in (ours, theirs)]
            found.append(Difference(name, "", *state))
        else:
            found += compare_files(name, old / name, new / name, allowed)
    return found


def files_of(folder: Path) -> set[str]:
    """Names of all files under a folder; none where there is no folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def compare_files(name: str, old: Path, new: Path, allowed: Collection[str] = ()) -> list[Difference]:
    """Every difference between two files of one name."""
    last = name.rpartition("/")[2]
    if last == REPORT:
        return []
    ours, theirs = (without_what_may_differ(last, path.read_bytes(), allowed) for path in (old, new))
    if ours == theirs:
        return []
    if name.endswith(".parquet"):
        return [_in_parquet(name, old, new)]
    if name.endswith(".json"):
        return _in_json(name, ours, theirs)
    return [_in_text(name, ours, theirs)]


def without_what_may_differ(last: str, data: bytes, allowed: Collection[str] = ()) -> bytes:
    """A file's bytes with what depends on the code's own hash taken out.

    Of a manifest: `code_version`, and hash and size of README.md and report.html. Of a version's card: the code in its
    last line. An export's README names exporter, options and seed and no code, so nothing of it may differ.
    """
    if last == MANIFEST:
        data = _DOCUMENTS.sub(rb'"\1":{}', _CODE.sub(b'"code_version":""', data))
        return canonical_json({**json.loads(data), **dict.fromkeys(allowed)}) if allowed else data
    if last == CARD:
        head, line, end = _last_line(data)
        line = _CARD_CODE.sub(rb"\1", line)
        return head + (_CARD_RECIPE.sub(rb"\1", line) if "recipe_hash" in allowed else line) + end
    return data


def _last_line(data: bytes) -> tuple[bytes, bytes, bytes]:
    body = data.rstrip(b"\n")
    head, newline, line = body.rpartition(b"\n")
    return head + newline, line, data[len(body) :]


def compare_values(old: Any, new: Any, where: str = "") -> list[tuple[str, str, str]]:
    """Key paths at which two JSON values differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [
            (f"{where}.{key}" if where else str(key), old.get(key, _ABSENT), new.get(key, _ABSENT))
            for key in dict.fromkeys((*old, *new))
        ]
    elif isinstance(old, list) and isinstance(new, list):
        parts = [(f"{where}[{i}]", a, b) for i, (a, b) in enumerate(zip_longest(old, new, fillvalue=_ABSENT))]
    else:
        # 1, 1.0 and true are equal in Python and are not the same in a file.
        return [] if type(old) is type(new) and old == new else [(where, _shown(old), _shown(new))]
    return [difference for part, a, b in parts for difference in compare_values(a, b, part)]


class _Absent:
    def __repr__(self) -> str:
        return "absent"


_ABSENT = _Absent()


def _in_json(name: str, old: bytes, new: bytes) -> list[Difference]:
    found = [Difference(name, *parts) for parts in compare_values(json.loads(old), json.loads(new))]
    return found[:_MOST] or [_in_text(name, old, new)]


def _in_parquet(name: str, old: Path, new: Path) -> Difference:
    ours, theirs = pl.read_parquet(old), pl.read_parquet(new)
    if ours.schema != theirs.schema:
        return Difference(name, "schema", _shown(dict(ours.schema)), _shown(dict(theirs.schema)))
    if ours.height != theirs.height:
        return Difference(name, "rows", str(ours.height), str(theirs.height))
    for column in ours.columns:
        if ours[column].equals(theirs[column], null_equal=True):
            continue
        for row, (a, b) in enumerate(zip(ours[column].to_list(), theirs[column].to_list(), strict=True)):
            if repr(a) != repr(b):
                return Difference(name, f"column {column}, row {row}", _shown(a), _shown(b))
    return Difference(name, "equal rows in other bytes", f"{old.stat().st_size:,}", f"{new.stat().st_size:,}")


def _in_text(name: str, old: bytes, new: bytes) -> Difference:
    lines = zip_longest(old.splitlines(keepends=True), new.splitlines(keepends=True), fillvalue=b"")
    for number, (a, b) in enumerate(lines, start=1):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            start = max(0, at - _SHOWN // 2)
            return Difference(name, f"line {number}, byte {at}", *(_shown(part[start:]) for part in (a, b)))
    raise AssertionError(f"{name}: no line differs, but the bytes do")


def _shown(value: Any) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    shown = repr(text)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
