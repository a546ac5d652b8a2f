"""The defaults of all settings, as recorded: `python -m tests.defaults` records them anew.

Identities leave out settings at their default, so a changed default must be a new version of the plug-in or stage that
obeys it; else a workspace would take old results for those of the new default. A new setting changes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from pipelines.runtime.order import STAGES
from schemas.recipe import AnnotateSection, FuseSection, PanelSection, RouteSection, ScoreSection
from transforms.hygiene.config import HygieneConfig
from transforms.plugins.registry import BASES, distribution_of, find, names
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig
from transforms.routers.queue.config import QueueConfig
from transforms.sources.config import PairsSource, PromptsSource

RECORD = Path(__file__).with_name("defaults.json")
SECTIONS: dict[str, tuple[type[BaseModel], ...]] = {  # stage -> the sections it obeys that are no plug-in's
    "ingest": (PromptsSource, PairsSource),
    "clean": (HygieneConfig,),
    "screen": (HygieneConfig,),
    "judge": (PanelSection,),
    "score": (ScoreSection,),
    "fuse": (FuseSection,),
    "route": (RouteSection, QueueConfig),
    "push": (AnnotateSection,),
    "materialise": (SplitsConfig, RowsConfig),
}


def current() -> dict[str, dict[str, Any]]:
    """Plug-in or stage -> its `version` and `defaults`."""
    found: dict[str, dict[str, Any]] = {}
    for kind in BASES:
        for name in names(kind):
            if distribution_of(kind, name) is None:
                plugin = find(kind, name)
                found[f"{kind}/{name}"] = {"version": plugin.version, "defaults": defaults(plugin.Config)}
    for stage, models in SECTIONS.items():
        found[f"stage {stage}"] = {
            "version": STAGES[stage].version,
            "defaults": {f"{m.__name__}.{name}": value for m in models for name, value in defaults(m).items()},
        }
    return found


def defaults(model: type[BaseModel]) -> dict[str, Any]:
    """The default of every field that has one, as plain JSON; those of models inside as `Model.field`."""
    fields = {name: field for name, field in model.model_fields.items() if not field.is_required()}
    given = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    dumped = model.model_construct(**given).model_dump(mode="json", include=set(fields), warnings=False)
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            dumped |= {f"{inner.__name__}.{name}": value for name, value in defaults(inner).items()}
    return dict(sorted(dumped.items()))


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a type mentions: those of a list, a union or an annotated type too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def changed(recorded: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Defaults that are others than recorded though the version is the same."""
    return [
        f"{owner} version {old['version']}: the default of {name} was {value!r} and is {now[owner]['defaults'][name]!r}"
        for owner, old in recorded.items()
        if owner in now and now[owner]["version"] == old["version"]
        for name, value in old["defaults"].items()
        if name in now[owner]["defaults"] and now[owner]["defaults"][name] != value
    ]


def main() -> int:
    now = current()
    wrong = changed(json.loads(RECORD.read_text()), now) if RECORD.exists() else []
    if wrong:
        print("\n".join([*wrong, "raise the version first: old results would be taken for those of the new default"]))
        return 1
    RECORD.write_text(json.dumps(now, indent=1, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
