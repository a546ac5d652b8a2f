"""Plug-ins by kind and name.

A plug-in is a class in `transforms/<kind>/<file>.py`, or in a folder there if its method needs several files,
under `@register(kind, name)` with a pydantic `Config`. Its folder is its registration: `find` imports every module
of the kind's package, so a new plug-in is one new file. Modules must import heavy libraries inside functions.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from schemas.errors import UsageError

KINDS = ("engines", "generators", "judges", "scorers", "fusers", "policies", "routers", "exporters")
_PLUGINS: dict[tuple[str, str], type[Any]] = {}
C = TypeVar("C", bound=type[Any])


def register(kind: str, name: str) -> Callable[[C], C]:
    """Class decorator: make the class known as plug-in `name` of `kind`."""
    if kind not in KINDS:
        raise ValueError(f"unknown plug-in kind {kind!r}; known: {', '.join(KINDS)}")

    def add(cls: C) -> C:
        known = _PLUGINS.setdefault((kind, name), cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"{kind}/{name} is registered twice: {known.__module__} and {cls.__module__}")
        cls.plugin_name = name
        return cls

    return add


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted."""
    _load(kind)
    return sorted(name for k, name in _PLUGINS if k == kind)


def find(kind: str, name: str) -> type[Any]:
    """The plug-in class.

    Raises:
        UsageError: no such plug-in; the text lists the known ones and the nearest.
    """
    _load(kind)
    try:
        return _PLUGINS[kind, name]
    except KeyError:
        near = difflib.get_close_matches(name, names(kind), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no {kind.removesuffix('s')} named {name!r}{hint} Known: {', '.join(names(kind))}") from None


@cache
def _load(kind: str) -> None:
    prefix = f"transforms.{kind}."
    package = importlib.import_module(f"transforms.{kind}")
    for module in pkgutil.walk_packages(package.__path__, prefix):
        if not any(part.startswith("_") for part in module.name.removeprefix(prefix).split(".")):
            importlib.import_module(module.name)
