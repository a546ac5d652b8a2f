"""Stage pull: humans' answers come home, are checked, and become votes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any, ClassVar

import orjson
import polars as pl

from pipelines.runtime.annotation import LEDGER, asked, ledger, page_config, pairs_by_id, rankings, server, store_frame
from pipelines.runtime.stage import PAIR_STAGES
from pipelines.runtime.stage_class import Reads, Stage
from schemas.errors import DataError
from schemas.ids import canonical_json, hash_bytes
from schemas.tables import Annotations, Rejects, polars_schema
from transforms.annotate.answers import read_answers
from transforms.annotate.collected import Answers, merged
from transforms.annotate.files import from_jsonl
from transforms.annotate.label_studio import Pulled, pull, reconcile
from transforms.annotate.ranking import rankings_by_id
from transforms.annotate.votes import votes_of
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output

_RAW, _CURSORS, _VALID, _REJECTED = "raw.parquet", "cursors.json", "annotations.parquet", "rejects.parquet"


@dataclass(frozen=True)
class Pull(Stage):
    """Every valid answer as an annotation and a vote, every other one as a reject."""

    name: ClassVar[str] = "pull"
    reads: ClassVar[Reads] = (("pairs", PAIR_STAGES),)

    def refresh(self) -> None:
        """Fetch what changed on the server and read the files of the recipe; check every answer."""
        section = self.recipe.annotate
        if section.plugin != "label_studio" and not section.files:
            for name in (_VALID, _REJECTED):
                if self._frame(name) is not None:
                    self._store(name, self._empty(name))
            return
        answers = [self._from_server()] if section.plugin == "label_studio" else []
        answers += [self._from_file(path) for path in section.files]
        found = merged(answers)
        self._store(_VALID, found.annotations)
        self._store(_REJECTED, found.rejects)

    @property
    def is_idle(self) -> bool:
        """Whether nobody has answered."""
        answers = self.answers()
        return answers.annotations.is_empty() and answers.rejects.is_empty()

    def answers(self) -> Answers:
        """Every answer as last fetched."""
        valid, rejected = (self._frame(name) for name in (_VALID, _REJECTED))
        return Answers(
            self._empty(_VALID) if valid is None else valid, self._empty(_REJECTED) if rejected is None else rejected
        )

    @cached_property
    def identity(self) -> Any:
        """The answers' content, and what of the answered pairs was held out for the audit."""
        offered, answered = asked(self.workspace), self.answers().annotations
        held = offered.join(answered, on="pair_id", how="semi").select("pair_id", "held_out").sort("pair_id")
        names = (_VALID, _REJECTED)
        return [hash_bytes(self.workspace.read_artefact(self.name, n) or b"") for n in names] + [held.rows()]

    def process(self, bucket: int) -> Output:
        """The answers to the bucket's pairs; rejects that name no known pair lie in bucket 0."""
        ids = self.workspace.read("pairs", bucket, PAIR_STAGES, []).select("pair_id")
        answers = self.answers()
        valid, rejected = answers.annotations, answers.rejects.clear() if bucket else answers.rejects
        mine = valid.join(ids, on="pair_id", how="semi")
        votes = votes_of(mine, asked(self.workspace))
        return Output(
            {"annotations": mine, "votes": votes, "rejects": rejected},
            rows_in=mine.height + rejected.height,
            rows_out=mine.height,
            counts={"votes": votes.height},
        )

    def _from_server(self) -> Answers:
        studio = server(self.recipe.annotate)
        raw = self._frame(_RAW)
        cursors = orjson.loads(self.workspace.read_artefact(self.name, _CURSORS) or b"{}")
        tasks, _, _ = reconcile(studio, ledger(self.workspace))
        store_frame(self.workspace, LEDGER, tasks)
        state = pull(studio, tasks, Pulled() if raw is None else Pulled(raw, cursors))
        self._store(_RAW, state.raw)
        self.workspace.write_artefact(self.name, _CURSORS, canonical_json(state.cursors))
        ranked = rankings(self.workspace)
        pairs = pairs_by_id(self.workspace, [*tasks["pair_id"], *ranked["pair_id"]])
        groups = rankings_by_id(ranked)
        return read_answers(
            state.records(), tasks, pairs, page_config(self.recipe), studio.annotators(), self._controls(), groups
        )

    def _controls(self) -> pl.Series:
        """The pairs that were asked because their answer is known."""
        return asked(self.workspace).filter(pl.col("purpose") == "control")["pair_id"]

    def _from_file(self, name: str) -> Answers:
        path = self.base_dir / name
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise DataError(f"annotate.files: cannot read {path}: {error.strerror}") from None
        pairs = pairs_by_id(self.workspace, _named_pairs(lines))
        return from_jsonl(lines, pairs, self._controls(), name=name)

    def _frame(self, name: str) -> pl.DataFrame | None:
        data = self.workspace.read_artefact(self.name, name)
        return None if data is None else pl.read_parquet(BytesIO(data))

    def _store(self, name: str, frame: pl.DataFrame) -> None:
        self.workspace.write_artefact(self.name, name, parquet_bytes(frame))

    @staticmethod
    def _empty(name: str) -> pl.DataFrame:
        return pl.DataFrame(schema=polars_schema(Annotations if name == _VALID else Rejects))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name in self.__dataclass_fields__}


def _named_pairs(lines: list[bytes]) -> list[str]:
    found = []
    for line in lines:
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(row, dict) and isinstance(row.get("pair_id"), str):
            found.append(row["pair_id"])
    return found
