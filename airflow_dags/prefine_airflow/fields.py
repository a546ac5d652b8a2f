"""What a field of the settings file may be, and the error that says so.

A dataclass names the check of each field beside its default (`checked`); `section` reads a mapping into it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from croniter import croniter

_MOST = 1e6  # hours, minutes: what an interval can hold, and no typing error
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # as schemas/names.py has it
_PRESETS = ("@once", "@continuous", "@quarterly")  # Airflow's own; croniter knows the others


class SettingsError(ValueError):
    """The file is wrong; the text names file, field and what is expected."""


@dataclass(frozen=True)
class Check:
    """What a value must be.

    Attributes:
        expected: in words, after "expected".
        holds: whether a value is that.
    """

    expected: str
    holds: Callable[[Any], bool]


def number(least: float, *, above: bool = False, most: float = _MOST) -> Check:
    """A finite number from `least` (or above it) to `most`."""
    words = f"a number {'above' if above else 'of at least'} {least:g}, at most {most:g}"
    return Check(words, lambda v: _is_number(v) and (least < v if above else least <= v) and v <= most)


def whole(least: int, *, optional: bool = False) -> Check:
    """A whole number of at least `least`; `optional` allows nothing, too."""
    words = f"a whole number of at least {least}{' or nothing' if optional else ''}"
    return Check(words, lambda v: (optional and v is None) or (type(v) is int and least <= v <= _MOST))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_schedule(value: Any) -> bool:
    return value is None or value in _PRESETS or (_is_text(value) and bool(croniter.is_valid(value)))


def _is_folders(value: Any) -> bool:
    if not isinstance(value, list) or not all(map(_is_text, value)):
        return False
    return all(map(_FOLDER.fullmatch, value)) and len(set(value)) == len(value)


def _is_environment(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_text(k) and type(v) in (str, int, float) for k, v in value.items())


TEXT = Check("a text", _is_text)
NAME = Check("lower-case letters, digits, - and _, as a text", lambda v: _is_text(v) and bool(_NAME.fullmatch(v)))
FLAG = Check("true or false", lambda v: type(v) is bool)
MAPPING = Check("a mapping", lambda v: isinstance(v, Mapping))
FOLDERS = Check("a list of different names of letters, digits, ., - and _", _is_folders)
YAML_FILE = Check("the path of a .yaml or .yml file", lambda v: _is_text(v) and v.endswith((".yaml", ".yml")))
SCHEDULE = Check("a cron expression such as '0 1 * * *', in quotes, or null", _is_schedule)
ENVIRONMENT = Check("a mapping of names to texts", _is_environment)


def checked(check: Check, default: Any = MISSING, *, factory: Any = MISSING) -> Any:
    """A dataclass field whose value in the file must hold `check`."""
    if factory is not MISSING:
        return field(default_factory=factory, metadata={"check": check})
    return field(default=default, metadata={"check": check})


def section(path: Path, where: str, kind: Any, row: Any, also: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of `kind` that a mapping of the file sets, each checked.

    Args:
        path: the settings file.
        where: what the mapping is called in it, such as `recipes[0].labels`.
        kind: a dataclass whose fields are `checked`; others cannot be set.
        row: the mapping; None is an empty one.
        also: fields that are needed, beside those without a default.

    Raises:
        SettingsError: it is no mapping, a field is unknown, missing or wrong.
    """
    if row is None:
        row = {}
    if not isinstance(row, Mapping):
        raise SettingsError(f"{path}: {where}: expected a mapping, not {row!r}")
    checks = {f.name: f.metadata["check"] for f in fields(kind) if "check" in f.metadata}
    known(path, where, row, list(checks))
    for name, check in checks.items():
        if name in also and name not in row:
            raise SettingsError(f"{path}: {where}.{name}: expected {check.expected}")
        if name in row and not check.holds(row[name]):
            raise SettingsError(f"{path}: {where}.{name}: expected {check.expected}, not {row[name]!r}")
    return dict(row)


def known(path: Path, where: str, row: Mapping[Any, Any], names: Sequence[str]) -> None:
    """Refuse fields that are not among `names`.

    Raises:
        SettingsError: there is one.
    """
    if unknown := sorted({str(name) for name in row} - set(names)):
        raise SettingsError(f"{path}: {where or 'the file'}: unknown field {unknown[0]!r}; known: {', '.join(names)}")
