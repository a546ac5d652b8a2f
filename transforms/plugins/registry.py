"""Plug-ins by kind and name.

Ours are classes in `transforms/<kind>/<file>.py`, or in a folder there if the method needs several files, under
`@register("name")`: the folder is the registration, so a new plug-in is one new file. Which file registers a name is
read off the sources' text, and the file is imported when a recipe names the plug-in: nobody waits for the others.

Another package offers plug-ins by entry points of the group `prefine.<kind>`, each naming a class:

    [project.entry-points."prefine.judges"]
    polite = "prefine_polite:PoliteJudge"
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar, overload

from schemas.errors import UsageError
from schemas.names import did_you_mean
from transforms.plugins.base import Plugin

BASES = {
    "engines": "Engine",
    "generators": "Generator",
    "judges": "Judge",
    "scorers": "Scorer",
    "fusers": "Fuser",
    "policies": "Policy",
    "routers": "Router",
    "exporters": "Exporter",
}  # kind -> its base class in transforms/<kind>/base.py
P = TypeVar("P", bound=Plugin)
C = TypeVar("C", bound=type[Plugin])

_REGISTERED = re.compile(r'^@register\("([^"]+)"\)$', re.MULTILINE)
_TRANSFORMS = Path(__file__).resolve().parents[1]
_OURS: dict[tuple[str, str], type[Plugin]] = {}  # those that are imported


def register(name: str) -> Callable[[C], C]:
    """Class decorator: make a class of ours known as plug-in `name` of its kind.

    Raises:
        ValueError: another class has that name already, or the class is another package's, which names it in an entry
            point: the registry could not tell whose it is.
    """

    def add(cls: C) -> C:
        if not cls.__module__.startswith("transforms."):
            where = f"{cls.__module__}.{cls.__name__}"
            raise ValueError(f"{where} is not prefine's: name it in an entry point of `prefine.{cls.kind}` instead")
        known = _OURS.setdefault((cls.kind, name), cls)
        if known is not cls and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"{cls.kind}/{name} is registered twice: {known.__module__} and {cls.__module__}")
        cls.plugin_name = name
        return cls

    return add


def names(kind: str) -> list[str]:
    """The names of all plug-ins of a kind, sorted: ours and those of other packages."""
    return sorted({*_modules(kind), *_offered(kind)})


def distribution_of(kind: str, name: str) -> tuple[str, str] | None:
    """Name and version of the package a plug-in comes from, without importing it; None for ours."""
    return None if name in _modules(kind) else _distribution(_offered(kind)[name])


@overload
def find(kind: type[P], name: str) -> type[P]: ...
@overload
def find(kind: str, name: str) -> type[Plugin]: ...
def find(kind: str | type[Plugin], name: str) -> type[Plugin]:
    """The plug-in class of that name.

    Args:
        kind: `judges`, or the base class of the kind.
        name: as in recipes.

    Raises:
        UsageError: there is none (the text lists those there are and the nearest), or another package's cannot be used.
    """
    kind = kind if isinstance(kind, str) else kind.kind
    if (kind, name) not in _OURS and name in _modules(kind):
        importlib.import_module(_modules(kind)[name])
    if (kind, name) in _OURS:
        return _OURS[kind, name]
    if name in _offered(kind):
        return _imported(kind, name)
    known = names(kind)
    one = "policy" if kind == "policies" else kind.removesuffix("s")
    raise UsageError(f"no {one} named {name!r}{did_you_mean(name, known)} Known: {', '.join(known)}")


@cache
def _modules(kind: str) -> dict[str, str]:
    """The module that registers each of our plug-ins of a kind, by the plug-in's name.

    Raises:
        ValueError: two files register one name.
    """
    modules: dict[str, str] = {}
    for path in sorted((_TRANSFORMS / kind).rglob("*.py")):
        for name in _REGISTERED.findall(path.read_text(encoding="utf-8")):
            module = ".".join(("transforms", *path.relative_to(_TRANSFORMS).with_suffix("").parts))
            if modules.setdefault(name, module) != module:
                raise ValueError(f"{kind}/{name} is registered twice: {modules[name]} and {module}")
    return modules


@cache
def _offered(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What other packages offer, by name.

    Raises:
        UsageError: a name of ours, or one name from two packages: recipes could not say which they mean.
    """
    ours = _modules(kind)
    points: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"prefine.{kind}"):
        where = " ".join(_distribution(point))
        if point.name in ours:
            raise UsageError(f"package {where} offers {kind}/{point.name}, which is a name of prefine's own; remove it")
        if points.setdefault(point.name, point) is not point:
            others = " ".join(_distribution(points[point.name]))
            raise UsageError(f"packages {others} and {where} both offer {kind}/{point.name}; remove one of them")
    return points


@cache
def _imported(kind: str, name: str) -> type[Plugin]:
    point = _offered(kind)[name]
    package = _distribution(point)
    base = getattr(importlib.import_module(f"transforms.{kind}.base"), BASES[kind])
    try:
        cls = point.load()
    except Exception as error:  # whatever its module raises while it is imported
        where = " ".join(package)
        raise UsageError(
            f"{kind}/{name} of package {where} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    wrong = _fault(cls, base)
    if wrong is not None:
        raise UsageError(f"{kind}/{name} of package {' '.join(package)} is {point.value}, which {wrong}")
    # A class of its own, so that one class offered under two names has two names.
    return type(cls.__name__, (cls,), {"plugin_name": name, "distribution": package, "__module__": cls.__module__})


def _fault(cls: object, base: type[Plugin]) -> str | None:
    """Why an object cannot be a plug-in of the kind, or None."""
    if not (isinstance(cls, type) and issubclass(cls, base)):
        return f"is no subclass of {base.__module__}.{base.__name__}"
    if inspect.isabstract(cls):
        return f"does not have {', '.join(sorted(cls.__abstractmethods__))}"
    if not issubclass(cls.Config, base.Config):
        return f"has a Config that is no subclass of {base.Config.__name__}"
    return None


def _distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    return ("?", "?") if point.dist is None else (point.dist.name, point.dist.version)
