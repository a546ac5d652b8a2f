"""All stages by name, and the order a run takes them in."""

from __future__ import annotations

from pipelines.clean import Clean
from pipelines.evolve import Evolve
from pipelines.fuse import Fuse
from pipelines.generate import Generate
from pipelines.ingest import Ingest
from pipelines.judge import Judge
from pipelines.materialise import Materialise
from pipelines.pull import Pull
from pipelines.push import Push
from pipelines.route import Route
from pipelines.score import Score
from pipelines.screen import Screen
from pipelines.stage import Stage

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (Ingest, Evolve, Screen, Generate, Clean, Judge, Score, Fuse, Route, Push, Pull, Materialise)
}
# Answers are pulled before judges are asked: a sequential panel learns from them in the run that brings them.
RUN_ORDER = (
    *("ingest", "evolve", "screen", "generate", "clean", "pull"),
    *("judge", "score", "fuse", "route", "push", "materialise"),
)
