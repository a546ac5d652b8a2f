"""Stage route: a queue of pairs for humans, best first, within the budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import orjson
import polars as pl

from pipelines.runtime.annotation import asked
from pipelines.runtime.fitted_stage import FittedStage
from pipelines.runtime.stage import PAIR_STAGES, VOTE_STAGES
from pipelines.runtime.stage_class import Reads, Stage
from pipelines.runtime.summary import Summary
from schemas.ids import canonical_json, hash_json
from schemas.tables import Queue, polars_schema
from transforms.annotate.votes import HUMAN
from transforms.plugins.build import build
from transforms.routers.base import Router
from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.features import prompt_families, response_features
from transforms.routers.queue.fill import narrow, outlook, select, shortlist
from transforms.stats.controls import known_label
from transforms.storage.files import parquet_bytes, without_slack
from transforms.storage.workspace import Output

_COLUMNS = ("prompt_id", "origin", "kind", "language", "context", "context_kind", "tags", "source_label")
_TEXTS = ("prompt", "response_a", "response_b")


@dataclass(frozen=True)
class Route(FittedStage):
    """The pairs a human should see."""

    name: ClassVar[str] = "route"
    version: ClassVar[int] = 2
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES), ("votes", VOTE_STAGES), ("verdicts", ("fuse",)))

    @cached_property
    def router(self) -> Router:
        """The recipe's router."""
        return build(Router, self.recipe.route.router, self.recipe.seed, self.base_dir)

    @property
    def queue_config(self) -> QueueConfig:
        """How the budget is spent."""
        return QueueConfig.model_validate(self.recipe.route.queue)

    @cached_property
    def fit_identity(self) -> Any:
        """Router, budget and what was asked before: where that is the queue of the same fit, what came before it."""
        before = _offered(asked(self.workspace))
        made = self.workspace.read_artefact(self.name, self._made_from)
        if made is not None:
            known = orjson.loads(made)
            before = known["before"] if known["queue"] == before else before
        return [*self._settings, before]

    @property
    def _settings(self) -> list[Any]:
        config = self.queue_config.model_dump(mode="json", exclude_defaults=True)
        return [self.router.identity, config, self.recipe.route.outlook_labels, self.recipe.seed]

    @cached_property
    def _made_from(self) -> str:
        """Name of the artefact that says which queue these settings and inputs made, and what was asked before it."""
        return f"queue-{hash_json([self.name, self.version, self._settings, self.input_parts()])}"

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Fit the router on what humans have labelled, shortlist every bucket, choose."""
        if self.artefact("queue.parquet") is None:
            found = map(self._candidates, self.workspace.buckets)
            labelled = [without_slack(some.filter(pl.col("n_human") > 0)) for some in found]
            model = self.router.fit(pl.concat(labelled))
            self.store("router", canonical_json(model))
            config = self.queue_config
            before = asked(self.workspace)
            candidates = narrow(self.gathered(), config, before["pair_id"].to_list())
            queue = select(candidates, config, before, seed=self.recipe.seed)
            gain = outlook(candidates, queue, self.recipe.route.outlook_labels)
            expected = {"labels": self.recipe.route.outlook_labels, "gain": gain}
            regret = {"regret": model["regret"]} if "regret" in model else {}
            self.store("outlook", canonical_json(expected | regret))
            self.store("queue.parquet", parquet_bytes(queue))
            made = {"before": _offered(before), "queue": _offered(queue)}
            self.workspace.write_artefact(self.name, self._made_from, canonical_json(made))
        self.make_current()
        yield self

    def notes(self, summary: Summary) -> list[str]:
        """What the next labels are expected to mend."""
        found = orjson.loads(self.artefact("outlook") or b"null")
        if not found:
            return []
        said = [f"the next {found['labels']} human labels are expected to mend {found['gain']:.1f} labels"]
        if "regret" in found:
            said.append(f"regret of the bandit so far: {found['regret']:.1f} labels turned over")
        return said

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """The bucket's shortlist."""
        candidates = self._candidates(bucket)
        values = self.router.values(orjson.loads(self.artefact("router") or b"{}"), candidates)
        before = asked(self.workspace)["pair_id"].to_list()
        return shortlist(candidates, values, self.queue_config, self.recipe.seed, before)

    def process(self, bucket: int) -> Output:
        """The bucket's part of the queue."""
        queue = self.frame("queue.parquet")
        ids = self.workspace.read("verdicts", bucket, ("fuse",), ["prompt_id"]).select("pair_id")
        if queue is None:
            queue = pl.DataFrame(schema=polars_schema(Queue))
        mine = queue.join(ids, on="pair_id", how="semi")
        answers = int(mine["overlap"].sum())
        return Output(
            {"queue": mine}, rows_in=ids.height, rows_out=ids.height, counts={"queued": mine.height, "answers": answers}
        )

    def _candidates(self, bucket: int) -> pl.DataFrame:
        return candidates_of(
            self.workspace.read("pairs", bucket, PAIR_STAGES, (*_COLUMNS, *_TEXTS)),
            self.workspace.read("votes", bucket, VOTE_STAGES, ("pair_id", "kind", "voter")),
            self.workspace.read("verdicts", bucket, ("fuse",)),
            self.router.reads_responses,
        )


def candidates_of(
    pairs: pl.DataFrame, votes: pl.DataFrame, verdicts: pl.DataFrame, reads_responses: bool
) -> pl.DataFrame:
    """What routers and the queue know of each pair with a verdict.

    Args:
        pairs: `pairs` rows; likewise `votes` and `verdicts`, of the same pairs.
        reads_responses: whether the router wants the features of `response_features`.
    """
    n_chars = pl.sum_horizontal(text_length(c) for c in _TEXTS) + pl.col("context").str.len_chars().fill_null(0)
    extra = pairs.select(
        "pair_id",
        "origin",
        "kind",
        "language",
        "context_kind",
        n_chars.cast(pl.Int64).alias("n_chars"),
        known_label(),
        prompt_families(pairs.select("prompt_id", "prompt")),
    )
    if reads_responses:
        extra = extra.join(response_features(pairs), on="pair_id", how="left", maintain_order="left")
    people = votes.filter(pl.col("kind") == "human").group_by("pair_id").agg(humans=pl.col("voter").unique().sort())
    candidates = verdicts.join(extra, on="pair_id", how="inner", maintain_order="left")
    return candidates.join(people, on="pair_id", how="left", maintain_order="left").with_columns(
        pl.col("humans").fill_null([]),
        # Of those we asked: people whom a source brought along are no answers to our questions.
        pl.col("humans").fill_null([]).list.eval(pl.element().str.starts_with(HUMAN)).list.sum().alias("answered"),
    )


def _offered(queue: pl.DataFrame) -> str:
    """Hash of what a queue asks for."""
    return hash_json(queue.select("pair_id", "overlap", "held_out").sort("pair_id").rows())


def text_length(column: str) -> pl.Expr:
    """Characters of a column of messages."""
    return pl.col(column).list.eval(pl.element().struct.field("content").str.len_chars()).list.sum()
