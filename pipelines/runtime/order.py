"""All stages by name, and the order a run takes them in."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.runtime.stage import Stage

# Answers are pulled before judges are asked: a sequential panel learns from them in the run that brings them.
RUN_ORDER = (
    *("ingest", "evolve", "screen", "generate", "clean", "pull"),
    *("judge", "score", "fuse", "route", "push", "materialise"),
)


class _Stages(Mapping[str, "Stage[Any]"]):
    """Stage NAME is the value NAME, in capitals, of `pipelines/stages/NAME.py`, which is imported when it is asked for.

    Commands that only read need the names, and the stages bring all that they compute with.
    """

    def __getitem__(self, name: str) -> Stage[Any]:
        if name not in RUN_ORDER:
            raise KeyError(name)
        stage: Stage[Any] = getattr(importlib.import_module(f"pipelines.stages.{name}"), name.upper())
        return stage

    def __iter__(self) -> Iterator[str]:
        return iter(RUN_ORDER)

    def __len__(self) -> int:
        return len(RUN_ORDER)


STAGES: Mapping[str, Stage[Any]] = _Stages()
