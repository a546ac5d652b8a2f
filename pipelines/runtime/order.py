"""All stages by name, and the order a run takes them in."""

from __future__ import annotations

from typing import Any

from pipelines.runtime.stage import Stage
from pipelines.stages.clean import CLEAN
from pipelines.stages.evolve import EVOLVE
from pipelines.stages.fuse import FUSE
from pipelines.stages.generate import GENERATE
from pipelines.stages.ingest import INGEST
from pipelines.stages.judge import JUDGE
from pipelines.stages.materialise import MATERIALISE
from pipelines.stages.pull import PULL
from pipelines.stages.push import PUSH
from pipelines.stages.route import ROUTE
from pipelines.stages.score import SCORE
from pipelines.stages.screen import SCREEN

STAGES: dict[str, Stage[Any]] = {
    stage.name: stage
    for stage in (INGEST, EVOLVE, SCREEN, GENERATE, CLEAN, JUDGE, SCORE, FUSE, ROUTE, PUSH, PULL, MATERIALISE)
}
# Answers are pulled before judges are asked: a sequential panel learns from them in the run that brings them.
RUN_ORDER = (
    *("ingest", "evolve", "screen", "generate", "clean", "pull"),
    *("judge", "score", "fuse", "route", "push", "materialise"),
)
