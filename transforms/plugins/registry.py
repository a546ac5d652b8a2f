"""Plug-ins by kind and name.

Ours are classes in `transforms/<kind>/<file>.py`, or in a folder there if the method needs several files, under
`@register(name)`: the folder is the registration, so a new plug-in is one new file. Modules import heavy libraries
inside functions, because looking for one plug-in imports all of its kind.

Another package offers plug-ins by entry points of the group `prefine.<kind>`, each naming a class:

    [project.entry-points."prefine.judges"]
    polite = "prefine_polite:PoliteJudge"
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable
from functools import cache
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

_OURS: dict[tuple[str, str], type[Plugin]] = {}


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
    _import_ours(kind)
    return sorted({name for k, name in _OURS if k == kind} | _offered(kind).keys())


def distribution_of(kind: str, name: str) -> tuple[str, str] | None:
    """Name and version of the package a plug-in comes from, without importing it; None for ours."""
    _import_ours(kind)
    return None if (kind, name) in _OURS else _distribution(_offered(kind)[name])


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
    _import_ours(kind)
    if (kind, name) in _OURS:
        return _OURS[kind, name]
    if name in _offered(kind):
        return _imported(kind, name)
    known = names(kind)
    one = "policy" if kind == "policies" else kind.removesuffix("s")
    raise UsageError(f"no {one} named {name!r}{did_you_mean(name, known)} Known: {', '.join(known)}")


@cache
def _import_ours(kind: str) -> None:
    prefix = f"transforms.{kind}."
    package = importlib.import_module(f"transforms.{kind}")
    for module in pkgutil.walk_packages(package.__path__, prefix):
        if not any(part.startswith("_") for part in module.name.removeprefix(prefix).split(".")):
            importlib.import_module(module.name)


@cache
def _offered(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    """What other packages offer, by name.

    Raises:
        UsageError: a name of ours, or one name from two packages: recipes could not say which they mean.
    """
    _import_ours(kind)
    points: dict[str, importlib.metadata.EntryPoint] = {}
    for point in importlib.metadata.entry_points(group=f"prefine.{kind}"):
        where = " ".join(_distribution(point))
        if (kind, point.name) in _OURS:
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
