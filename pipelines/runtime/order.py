"""All stages by name, and the order a run takes them in."""

from __future__ import annotations

from typing import Any

from pipelines.runtime.stage import Stage
from pipelines.runtime.stage_class import Stage as StageClass
from pipelines.stages.clean import Clean
from pipelines.stages.evolve import Evolve
from pipelines.stages.fuse import FUSE
from pipelines.stages.generate import Generate
from pipelines.stages.ingest import Ingest
from pipelines.stages.judge import Judge
from pipelines.stages.materialise import Materialise
from pipelines.stages.pull import PULL
from pipelines.stages.push import PUSH
from pipelines.stages.route import ROUTE
from pipelines.stages.score import SCORE
from pipelines.stages.screen import Screen

STAGES: dict[str, type[StageClass] | Stage[Any]] = {
    stage.name: stage
    for stage in (Ingest, Evolve, Screen, Generate, Clean, Judge, SCORE, FUSE, ROUTE, PUSH, PULL, Materialise)
}
# Answers are pulled before judges are asked: a sequential panel learns from them in the run that brings them.
RUN_ORDER = (
    *("ingest", "evolve", "screen", "generate", "clean", "pull"),
    *("judge", "score", "fuse", "route", "push", "materialise"),
)
