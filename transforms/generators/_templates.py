"""Prompt templates: one Jinja file a prompt, versioned by content."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from schemas.ids import hash_bytes

_FOLDER = files("transforms.generators") / "templates"
# The output is an LLM prompt, never HTML: escaping would change it.
_ENVIRONMENT = jinja2.Environment(
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # noqa: S701
)


@cache
def source(name: str) -> str:
    """Text of `templates/<name>.jinja2`."""
    return (_FOLDER / f"{name}.jinja2").read_text(encoding="utf-8")


@cache
def template_version(name: str) -> str:
    """Content hash of a template: a changed word is another version."""
    return hash_bytes(source(name).encode())


@cache
def _compiled(name: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source(name))


def render(name: str, **values: Any) -> str:
    """The filled template, without surrounding white space; an absent value is an error."""
    return _compiled(name).render(**values).strip()
