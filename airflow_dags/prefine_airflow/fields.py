"""What a field of the settings file may be, as pydantic types, and the errors that say so."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar

from croniter import croniter
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

MOST = 1e6  # hours, minutes: what an interval can hold, and no typing error
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # as schemas/names.py has it
_KINDS = {
    **dict.fromkeys(("model_type", "mapping_type", "dict_type"), "a mapping"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    "string_type": "a text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}
_PRESETS = ("@once", "@continuous", "@quarterly")  # Airflow's own; croniter knows the others


class SettingsError(ValueError):
    """The file is wrong; the text names file, field and what is expected."""


class Section(BaseModel):
    """A mapping of the settings file: no value is converted, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_fields(cls, row: Any) -> Any:
        known = [name for name, field in cls.model_fields.items() if field.init is not False]
        for name in [str(name) for name in row if name not in known] if isinstance(row, Mapping) else ():
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise wrong(f"unknown field {name!r}; {hint}")
        return row


S = TypeVar("S", bound=Section)


def wrong(text: str, field: str = "") -> PydanticCustomError:
    """The error of a section that breaks a rule; `field` is the one to change."""
    return PydanticCustomError("rule", "{text}", {"text": text, "field": field})


def must(holds: Callable[[Any], Any], expected: str) -> AfterValidator:
    """The check that a value is what is `expected`."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise PydanticCustomError("value", "expected {text}", {"text": expected})
        return value

    return AfterValidator(check)


def _are_folders(names: Sequence[str]) -> bool:
    return all(map(_FOLDER.fullmatch, names)) and len(set(names)) == len(names)


Text = Annotated[str, must(str.strip, "a text that is not empty")]
Name = Annotated[str, must(_NAME.fullmatch, "lower-case letters, digits, - and _")]
YamlFile = Annotated[str, must(lambda name: name.endswith((".yaml", ".yml")), "the path of a .yaml or .yml file")]
Schedule = Annotated[
    str,
    must(lambda v: v in _PRESETS or croniter.is_valid(v), "a cron expression such as '0 1 * * *', in quotes, or null"),
]
Folders = Annotated[
    tuple[str, ...],
    Field(strict=False),  # a list in the file
    must(_are_folders, "a list of different names of letters, digits, ., - and _"),
]
_Value = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) in (int, float) else value)]
Environment = Mapping[Text, _Value]
Positive = Annotated[float, Field(gt=0, le=MOST)]
NotNegative = Annotated[float, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]


def validated(kind: type[S], row: Any, path: Path, where: str = "", context: Any = None) -> S:
    """A mapping of the file as a section.

    Raises:
        SettingsError: one line per fault.
    """
    try:
        return kind.model_validate(row, context=context)
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["type"] != "default_factory_not_called"]
        raise SettingsError("\n".join(f"{path}: {_line(fault, where)}" for fault in faults)) from None


def _line(fault: ErrorDetails, where: str) -> str:
    """`recipes[0].labels.hours: expected ..., not ...`."""
    parts = [where, *(str(part) for part in fault["loc"] if part != "[key]"), fault.get("ctx", {}).get("field", "")]
    place = ".".join(filter(None, parts)) or "the file"
    if fault["type"] == "rule":
        return f"{place}: {fault['msg']}"
    if fault["type"] == "missing":
        return f"{place}: expected, but it is missing"
    kind = _KINDS.get(fault["type"])
    expected = f"expected {kind}" if kind else fault["msg"].replace("Input should be", "expected a value")
    return f"{place}: {expected}, not {fault['input']!r}"
