"""Stage route: a queue of pairs for humans, best first, within the budget."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import polars as pl

from pipelines.runtime.annotation import asked
from pipelines.runtime.job import StoredInputs, input_parts
from pipelines.runtime.stage import (
    PAIR_STAGES,
    VOTE_STAGES,
    Artefacts,
    BucketPass,
    Fit,
    Inputs,
    PerBucket,
    Run,
    Stage,
    artefact_frame,
    pass_name,
)
from pipelines.runtime.summary import Summary
from schemas.ids import canonical_json, hash_json
from schemas.rows import HUMAN
from transforms.annotate.votes import held_out_answers, votes_of
from transforms.plugins.build import build
from transforms.policies.base import Policy
from transforms.publish.rows import PUBLISHED
from transforms.routers.base import Router
from transforms.routers.queue.config import QueueConfig
from transforms.routers.queue.features import prompt_families, response_features
from transforms.routers.queue.fill import narrow, outlook, select, shortlist
from transforms.routers.queue.threshold import fit_threshold, sized_queue, threshold_words
from transforms.stats.controls import known_label
from transforms.stats.human_labels import human_label
from transforms.storage.files import parquet_bytes, without_slack
from transforms.storage.workspace import Output

_COLUMNS = ("prompt_id", "origin", "kind", "language", "context", "context_kind", "tags", "source_label")
_TEXTS = ("prompt", "response_a", "response_b")


class Observed(NamedTuple):
    """What a queue depends on beside the tables and the recipe.

    Attributes:
        made_after: hash of what was offered when a queue of these settings and inputs was made.
        audit: hash of the audit's answers, if the recipe asks for an accuracy; they are no votes.
    """

    made_after: str
    audit: str | None


class Routing(NamedTuple):
    """The recipe's router, and how the budget is spent.

    Attributes:
        outlook_labels: for how many further labels the gain is estimated.
        before: the queue as last offered to people.
        observed: what lies outside the stage's tables.
        asks_only_routed: whether the policy wants people to see pairs of action `route` alone.
    """

    router: Router
    queue: QueueConfig
    outlook_labels: int
    seed: int
    before: pl.DataFrame
    observed: Observed | None
    asks_only_routed: bool

    @property
    def identity(self) -> list[Any]:
        """Router, budget, what was asked before and, for an accuracy, the audit's answers."""
        assert self.observed is not None  # the stage is observed before it is run
        return [*self.settings, *(value for value in self.observed if value is not None)]

    @property
    def settings(self) -> list[Any]:
        """What the recipe says."""
        return [
            self.router.identity,
            self.queue.model_dump(mode="json", exclude_defaults=True),
            self.outlook_labels,
            self.seed,
            *(["asks_only_routed"] if self.asks_only_routed else []),
        ]


def _setup(run: Run) -> Routing:
    section, seed = run.recipe.route, run.recipe.seed
    router, config = build(Router, section.router, seed, run.folder), QueueConfig.model_validate(section.queue)
    policy = build(Policy, run.recipe.fuse.policy, seed, run.folder)
    before = asked(run.workspace)
    return Routing(router, config, section.outlook_labels, seed, before, run.observed, policy.asks_only_routed)


def _observe(run: Run) -> Observed:
    """The audit's answers, and what was asked before the queue.

    Where what was offered is the very queue of these settings and inputs, that is what was offered before it, so that a
    second run with the same votes finds its queue and does not choose another.
    """
    setup = _setup(run)
    audit = None if setup.queue.accuracy is None else hash_json(_audit_answers(run, setup).rows())
    offered = _offered(setup.before)
    made = run.workspace.read_artefact("route", _made_from(run, setup, audit))
    if made is None:
        return Observed(offered, audit)
    known: dict[str, str] = orjson.loads(made)
    return Observed(known["before"] if known["queue"] == offered else offered, audit)


def _audit_answers(run: Run, setup: Routing) -> pl.DataFrame:
    """The answers that touch no label (`held_out_answers`), in canonical order."""
    return held_out_answers(_annotations(run), setup.before).sort("pair_id", "annotation_id")


def _annotations(run: Run) -> pl.DataFrame:
    return pl.concat(run.workspace.read("annotations", bucket, ("pull",)) for bucket in run.workspace.buckets)


def _made_from(run: Run, setup: Routing, audit: str | None) -> str:
    """Name of the artefact that says which queue these settings and inputs made, and what was asked before it."""
    inputs = [ROUTE.name, ROUTE.version, setup.settings, input_parts(ROUTE, run.workspace)]
    return f"queue-{hash_json([*inputs, *([audit] if audit else [])])}"


def _router_names(_run: Run, _setup: Routing) -> tuple[str, ...]:
    return ("router",)


def _fit_router(run: Run, setup: Routing, _: Artefacts) -> Iterator[tuple[str, bytes]]:
    """The router, on every pair that humans have labelled."""
    labelled = []
    for bucket in run.workspace.buckets:
        some = _candidates(setup, StoredInputs(run.workspace, bucket, ROUTE.reads))
        labelled.append(without_slack(some.filter(pl.col("n_human") > 0)))
    yield "router", canonical_json(setup.router.fit(pl.concat(labelled)))


def _threshold_names(_run: Run, setup: Routing) -> tuple[str, ...]:
    return ("threshold",) if setup.queue.accuracy else ()


def _fit_threshold(run: Run, setup: Routing, _: Artefacts) -> Iterator[tuple[str, bytes]]:
    """From which certainty on labels stay without being asked, for the accuracy that the recipe asks for."""
    votes = votes_of(_annotations(run), setup.before)
    people = human_label(votes).select("pair_id", answer=pl.col("label").fill_null("split"))
    audited = setup.before.filter(pl.col("held_out") > 0).select("pair_id", audited=pl.lit(value=True))

    def buckets() -> Iterator[pl.DataFrame]:
        for bucket in run.workspace.buckets:
            labels = _labels(setup, StoredInputs(run.workspace, bucket, ROUTE.reads))
            labels = labels.join(people, on="pair_id", how="left").join(audited, on="pair_id", how="left")
            yield labels.with_columns(pl.col("audited").fill_null(value=False))

    threshold = fit_threshold(buckets, _audit_answers(run, setup), setup.queue, setup.seed)
    yield "threshold", canonical_json(threshold)


def _labels(setup: Routing, inputs: Inputs) -> pl.DataFrame:
    """`pair_id, label, certainty, stays, always` of a bucket's pairs, as `fit_threshold` takes them."""
    verdicts = inputs.read("verdicts", ("label", "certainty", "action"))
    always = pl.lit(setup.asks_only_routed) & (pl.col("action") == "route")
    published = pl.col("action").is_in(PUBLISHED) & (pl.col("label") != "tie")
    return verdicts.select("pair_id", "label", "certainty", stays=published, always=always)


def _wanted(setup: Routing, threshold: float | None) -> pl.Expr:
    """Whether people are asked about a pair beside the audit and the controls."""
    routed = pl.col("action") == "route" if setup.asks_only_routed else pl.lit(threshold is None)
    return routed if threshold is None else routed | (pl.col("certainty") < threshold)


def _queue_of(setup: Routing, artefacts: Artefacts) -> tuple[QueueConfig, float | None]:
    """The queue's settings with the size of the audit, and the certainty below which labels are asked, if any."""
    if setup.queue.accuracy is None:
        return setup.queue, None
    return sized_queue(setup.queue, orjson.loads(artefacts["threshold"]))


def bucket_shortlist(setup: Routing, inputs: Inputs, artefacts: Artefacts) -> pl.DataFrame:
    """The bucket's pairs that the queue may come to hold."""
    candidates = _candidates(setup, inputs)
    values = setup.router.values(orjson.loads(artefacts["router"]), candidates)
    config, threshold = _queue_of(setup, artefacts)
    candidates = candidates.with_columns(wanted=_wanted(setup, threshold))
    return shortlist(candidates, values, config, setup.seed, setup.before["pair_id"].to_list())


def _queue_names(_run: Run, _setup: Routing) -> tuple[str, ...]:
    return ("queue.parquet", "outlook")


def _choose(run: Run, setup: Routing, artefacts: Artefacts) -> Iterator[tuple[str, bytes]]:
    """The queue, of all shortlists; and it is put down which queue was offered before it."""
    lists = (artefact_frame(artefacts, pass_name(bucket)) for bucket in run.workspace.buckets)
    config, _ = _queue_of(setup, artefacts)
    candidates = narrow(lists, config, setup.before["pair_id"].to_list())
    queue = select(candidates, config, setup.before, seed=setup.seed)
    made = {"before": _offered(setup.before), "queue": _offered(queue)}
    audit = None if setup.observed is None else setup.observed.audit
    run.workspace.write_artefact("route", _made_from(run, setup, audit), canonical_json(made))
    expected = {"labels": setup.outlook_labels, "gain": outlook(candidates, queue, setup.outlook_labels)}
    model = orjson.loads(artefacts["router"])
    regret = {"regret": model["regret"]} if "regret" in model else {}
    yield "outlook", canonical_json(expected | regret)
    yield "queue.parquet", parquet_bytes(queue)


def queued(_: Routing, inputs: Inputs, artefacts: Artefacts) -> Output:
    """The bucket's part of the queue."""
    ids = inputs.read("verdicts", ["prompt_id"]).select("pair_id")
    mine = artefact_frame(artefacts, "queue.parquet").join(ids, on="pair_id", how="semi")
    counts = {"queued": mine.height, "answers": int(mine["overlap"].sum())}
    return Output({"queue": mine}, rows_in=ids.height, rows_out=ids.height, counts=counts)


def _candidates(setup: Routing, inputs: Inputs) -> pl.DataFrame:
    return candidates_of(
        inputs.read("pairs", (*_COLUMNS, *_TEXTS)),
        inputs.read("votes", ("pair_id", "kind", "voter")),
        inputs.read("verdicts"),
        setup.router.reads_responses,
    )


def _notes(_run: Run, setup: Routing, artefacts: Artefacts, _summary: Summary) -> list[str]:
    """What the next labels are expected to fix, and how far the accuracy is that was asked for."""
    expected = orjson.loads(artefacts["outlook"])
    notes = [f"the next {expected['labels']} human labels are expected to fix {expected['gain']:.1f} labels"]
    if "regret" in expected:
        notes.append(f"regret of the bandit so far: {expected['regret']:.1f} labels turned over")
    if setup.queue.accuracy:
        notes.append(f"accuracy {setup.queue.accuracy:.1%}: {threshold_words(orjson.loads(artefacts['threshold']))}")
    return notes


ROUTE = Stage(
    name="route",
    version=3,
    reads={"pairs": PAIR_STAGES, "votes": VOTE_STAGES, "verdicts": ("fuse",)},
    setup=_setup,
    observe=_observe,
    steps=(
        Fit(_router_names, _fit_router),
        Fit(_threshold_names, _fit_threshold),
        BucketPass(bucket_shortlist),
        Fit(_queue_names, _choose),
    ),
    work=PerBucket(queued),
    conserves="verdicts",
    notes=_notes,
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
