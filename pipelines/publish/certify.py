"""The certificate of a version: how many of its labels are right, from the audit that was drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from pipelines.runtime.annotation import asked
from pipelines.runtime.stage import PAIR_STAGES
from transforms.annotate.votes import held_out_answers, known_answers
from transforms.stats.certificate import certify, certify_slices
from transforms.stats.prediction_powered import Predictions
from transforms.storage.workspace import Workspace

SLICES = ("kind", "language", "origin")


def certificate(workspace: Workspace) -> dict[str, Any] | None:
    """Accuracy of the published labels with a 95% interval, overall and by slice; None without an audit's answers."""
    columns = ("pair_id", "chosen_is", "p_chosen", *SLICES)
    return _certified(
        workspace, (workspace.read("rows", bucket, ("materialise",), columns) for bucket in workspace.buckets)
    )


def audited(workspace: Workspace, rows: pl.DataFrame) -> dict[str, Any] | None:
    """The certificate of rows published earlier, from the answers there are now."""
    return _certified(workspace, [rows])


def audited_noise(workspace: Workspace) -> dict[str, Any] | None:
    """Share of wrong source labels by the audit's answers, with a 95% interval; None without them.

    The audit is a random sample of all pairs and its answers took no part in any label, so unlike the posterior's
    estimate this one needs no belief in the model. `rate`, `low`, `high`, `level`, `audited`, `population`.
    """
    held, known = _answers(workspace)
    if held.is_empty():
        return None
    sided = pl.col("source_label").is_in(["a", "b"])
    labels = [
        workspace.read("pairs", bucket, PAIR_STAGES, ("source_label",)).filter(sided) for bucket in workspace.buckets
    ]
    audit = pl.concat([held.join(label, on="pair_id") for label in labels]).rename({"source_label": "published"})
    certificate = certify(audit, sum(frame.height for frame in labels), known=known).as_dict()
    if certificate["accuracy"] is None:
        return None
    rates = {"rate": 1 - certificate["accuracy"], "low": 1 - certificate["high"], "high": 1 - certificate["low"]}
    return {**rates, **{name: certificate[name] for name in ("level", "audited", "population")}}


def _certified(workspace: Workspace, published: Iterable[pl.DataFrame]) -> dict[str, Any] | None:
    held, known = _answers(workspace)
    if held.is_empty():
        return None
    answers, population = [], 0
    sizes = {column: dict[str, int]() for column in SLICES}
    every, predictions = Predictions.of(_NOTHING), {column: dict[str, Predictions]() for column in SLICES}
    for rows in published:
        population += rows.height
        every = every.with_more(_predictions(rows))
        for column in SLICES:
            for (value,), part in rows.drop_nulls(column).group_by(column):
                name = str(value)
                sizes[column][name] = sizes[column].get(name, 0) + part.height
                before = predictions[column].get(name, Predictions.of(_NOTHING))
                predictions[column][name] = before.with_more(_predictions(part))
        labels = rows.select("pair_id", "p_chosen", pl.col("chosen_is").alias("published"), *SLICES)
        answers.append(held.join(labels, on="pair_id"))
    audit = pl.concat(answers) if answers else None
    if audit is None or audit.is_empty():
        return None
    slices = certify_slices(audit, sizes, known=known, predictions=predictions)
    by_slice = {c: {v: certificate.as_dict() for v, certificate in values.items()} for c, values in slices.items()}
    return {**certify(audit, population, known=known, predictions=every).as_dict(), "slices": by_slice}


_NOTHING = np.empty(0)


def _predictions(rows: pl.DataFrame) -> Predictions:
    return Predictions.of(rows["p_chosen"].sort().to_numpy())


class _Answers(NamedTuple):
    """held_out: `annotation_id, pair_id, answer, at` of answers that serve the audit alone. known: `pair_id, known,
    answer, at` of answers to pairs whose answer is known."""

    held_out: pl.DataFrame
    known: pl.DataFrame


def _answers(workspace: Workspace) -> _Answers:
    queue = asked(workspace)
    annotations = pl.concat([workspace.read("annotations", bucket, ("pull",)) for bucket in workspace.buckets])
    return _Answers(held_out_answers(annotations, queue), known_answers(annotations, queue))
