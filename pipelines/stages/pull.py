"""Stage pull: humans' answers come home, are checked, and become votes."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson
import polars as pl

from pipelines.runtime.annotation import LEDGER, asked, ledger, page_config, pairs_by_id, rankings, server, store_frame
from pipelines.runtime.stage import PAIR_STAGES, Artefacts, Inputs, PerBucket, Run, Stage
from schemas.errors import DataError
from schemas.ids import canonical_json, hash_bytes
from schemas.tables import Annotations, Rejects, polars_schema
from transforms.annotate.answers import read_answers
from transforms.annotate.checked import Answers, merged
from transforms.annotate.files import from_jsonl
from transforms.annotate.label_studio import Pulled, pull, reconcile
from transforms.annotate.ranking import rankings_by_id
from transforms.annotate.votes import audited_alone, votes_of
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output, Workspace

_RAW, _CURSORS, _VALID, _REJECTED = "raw.parquet", "cursors.json", "annotations.parquet", "rejects.parquet"
_EMPTY = {
    _VALID: pl.DataFrame(schema=polars_schema(Annotations)),
    _REJECTED: pl.DataFrame(schema=polars_schema(Rejects)),
}


class Answered(NamedTuple):
    """Every answer as last fetched, and what was asked.

    Attributes:
        content: hashes of the stored answers, valid ones and rejects.
        asked: the queue as last offered.
    """

    answers: Answers
    content: list[str]
    asked: pl.DataFrame

    @property
    def identity(self) -> list[Any]:
        """The answers' content, and what of the answered pairs was held out for the audit."""
        held = self.asked.join(self.answers.annotations, on="pair_id", how="semi").select(
            # Of a pair that was asked for the audit alone every answer is held out, of another one so many.
            "pair_id",
            pl.when(audited_alone()).then(pl.lit("all")).otherwise(pl.col("held_out").cast(pl.String)),
        )
        return [*self.content, held.sort("pair_id").rows()]


def _setup(run: Run) -> Answered:
    content = [hash_bytes(run.workspace.read_artefact("pull", name) or b"") for name in (_VALID, _REJECTED)]
    return Answered(fetched(run.workspace), content, asked(run.workspace))


def fetch(run: Run) -> None:
    """Fetch what changed on the server and read the files of the recipe; check every answer.

    Raises:
        AnnotationServerError: the server does not answer; ask again later.
        DataError: a file cannot be read.
    """
    section = run.recipe.annotate
    if section.plugin != "label_studio" and not section.files:
        for name, empty in _EMPTY.items():
            if _frame(run.workspace, name) is not None:
                _store(run.workspace, name, empty)
        return
    answers = [_from_server(run)] if section.plugin == "label_studio" else []
    answers += [_from_file(run, path) for path in section.files]
    checked = merged(answers)
    _store(run.workspace, _VALID, checked.annotations)
    _store(run.workspace, _REJECTED, checked.rejects)


def fetched(workspace: Workspace) -> Answers:
    """Every answer as last fetched."""
    valid, rejected = (_frame(workspace, name) for name in (_VALID, _REJECTED))
    return Answers(_EMPTY[_VALID] if valid is None else valid, _EMPTY[_REJECTED] if rejected is None else rejected)


def _is_idle(answered: Answered) -> bool:
    """Whether nobody has answered."""
    return answered.answers.annotations.is_empty() and answered.answers.rejects.is_empty()


def bucket_answers(answered: Answered, inputs: Inputs, _: Artefacts) -> Output:
    """The answers to the bucket's pairs; rejects that name no known pair lie in bucket 0."""
    ids = inputs.read("pairs", []).select("pair_id")
    valid, rejects = answered.answers.annotations, answered.answers.rejects
    rejected = rejects.clear() if inputs.bucket else rejects
    mine = valid.join(ids, on="pair_id", how="semi")
    votes = votes_of(mine, answered.asked)
    return Output(
        {"annotations": mine, "votes": votes, "rejects": rejected},
        rows_in=mine.height + rejected.height,
        rows_out=mine.height,
        counts={"votes": votes.height},
    )


def _from_server(run: Run) -> Answers:
    workspace, studio = run.workspace, server(run.recipe.annotate)
    raw = _frame(workspace, _RAW)
    cursors = orjson.loads(workspace.read_artefact("pull", _CURSORS) or b"{}")
    tasks, _, _ = reconcile(studio, ledger(workspace))
    store_frame(workspace, LEDGER, tasks)
    state = pull(studio, tasks, Pulled() if raw is None else Pulled(raw, cursors))
    _store(workspace, _RAW, state.raw)
    workspace.write_artefact("pull", _CURSORS, canonical_json(state.cursors))
    ranked = rankings(workspace)
    pairs = pairs_by_id(workspace, [*tasks["pair_id"], *ranked["pair_id"]])
    page, controls = page_config(run.recipe), _controls(workspace)
    return read_answers(state.records(), tasks, pairs, page, studio.annotators(), controls, rankings_by_id(ranked))


def _controls(workspace: Workspace) -> pl.Series:
    """The pairs that were asked because their answer is known."""
    return asked(workspace).filter(pl.col("purpose") == "control")["pair_id"]


def _from_file(run: Run, name: str) -> Answers:
    path = run.folder / name
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"annotate.files: cannot read {path}: {error.strerror}") from None
    pairs = pairs_by_id(run.workspace, _named_pairs(lines))
    return from_jsonl(lines, pairs, _controls(run.workspace), name=name)


def _frame(workspace: Workspace, name: str) -> pl.DataFrame | None:
    return workspace.read_frame("pull", name)


def _store(workspace: Workspace, name: str, frame: pl.DataFrame) -> None:
    workspace.write_artefact("pull", name, parquet_bytes(frame))


def _named_pairs(lines: list[bytes]) -> list[str]:
    names = []
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("pair_id"), str):
            names.append(row["pair_id"])
    return names


PULL = Stage(
    name="pull",
    version=1,
    reads={"pairs": PAIR_STAGES},
    setup=_setup,
    observe=fetch,
    work=PerBucket(bucket_answers),
    is_idle=_is_idle,
)
