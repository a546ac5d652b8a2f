"""What the two stages of hygiene share: every row alone first, then duplicates among the rows that stay."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.runtime.fitted_stage import FittedStage, pass_name
from pipelines.runtime.stage_class import Stage
from schemas.ids import hash_json
from schemas.tables import TABLES, Rejects, conform, rows_frame
from transforms.hygiene.clean import Outcome, drop, reject
from transforms.hygiene.config import HygieneConfig
from transforms.hygiene.decontamination import read_prompts
from transforms.hygiene.duplicates import DROPS, and_further, resolve, same
from transforms.hygiene.semantic import cells, semantic_duplicates
from transforms.storage.files import parquet_bytes
from transforms.storage.memo import EmbeddingCache
from transforms.storage.workspace import Output, Workspace
from transforms.text.embedding import Embedder

DROPS_FILE = "drops.parquet"
_RECORD = "record"  # names a row of the input: ids may occur twice, and masking changes them


@dataclass(frozen=True)
class HygieneStage(FittedStage):
    """A stage of the recipe's `hygiene`. Where nothing of a bucket changes its outputs are its inputs' parts.

    Rows are examined one by one first, and only those that pass can make another row a duplicate: so whatever is
    dropped has its like among what stays.
    """

    table: ClassVar[str]
    raw: ClassVar[tuple[str, ...]]  # the stages that give the rows; of equal rows those of the first stay
    id_column: ClassVar[str]

    @cached_property
    def config(self) -> HygieneConfig:
        """The recipe's hygiene, its paths starting from the recipe's folder."""
        return self._given.beside(self.base_dir)

    @property
    def _given(self) -> HygieneConfig:
        return HygieneConfig.model_validate(self.recipe.hygiene)

    @property
    @abstractmethod
    def gains(self) -> bool:
        """Whether rows are added to those of the sources, of which one may equal another."""

    @property
    def is_idle(self) -> bool:
        """Whether every bucket's parts stay as they are."""
        return not self.recipe.hygiene and not self.gains

    @property
    def is_global(self) -> bool:
        """Whether a bucket's outcome depends on the other buckets: by duplicates, or rows that masking made equal."""
        personal = self.config.personal
        masks = personal is not None and "mask" in (personal.policy, personal.secrets)
        return self.config.duplicates is not None or masks or self.gains

    @property
    def examines(self) -> bool:
        """Whether anything is looked for in a row alone."""
        return any((self.config.sanity, self.config.language, self.config.personal, self.config.decontamination))

    @cached_property
    def fit_identity(self) -> Any:
        """The configuration, and what the benchmarks hold."""
        settings = self.config.decontamination
        benchmarks = [] if settings is None else [hash_json(read_prompts(path)) for path in settings.benchmarks]
        return [self._given.model_dump(mode="json", exclude_defaults=True), benchmarks]

    @property
    def identity(self) -> Any:
        """Where buckets depend on each other, all inputs; else the configuration."""
        return self.fit_key if self.is_global else self.fit_identity

    @abstractmethod
    def examine(self, rows: pl.DataFrame) -> list[Outcome]:
        """What becomes of each row by itself."""

    @abstractmethod
    def keys(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The keys that duplicates share, a row each, in order."""

    @abstractmethod
    def origins(self, rows: pl.DataFrame) -> pl.Series:
        """What tells rows of one id in two buckets apart."""

    @abstractmethod
    def order(self) -> pl.Expr:
        """The column by which, of rows that are alike, the first stays; it begins with what matters most."""

    @abstractmethod
    def meaning(self, rows: pl.DataFrame) -> tuple[list[str], list[str]]:
        """Of each row the text that says what it means, and the group within which rows are compared."""

    @contextmanager
    def ready(self, pending: Sequence[int]) -> Iterator[Stage]:
        """Find duplicates over all buckets."""
        if self.is_global and not self.is_idle and self.artefact(DROPS_FILE) is None:
            self.store(DROPS_FILE, parquet_bytes(self._resolved()))
        yield self

    def first_pass(self, bucket: int) -> pl.DataFrame:
        """Of the rows that pass by themselves: their keys, and whether they stay as they are."""
        if not self.examines and self.config.duplicates is None:
            rows, is_same = self._records(bucket, []), None
        else:
            rows, is_same = self._examined(self._records(bucket))[:2]
        named = rows.select(
            _RECORD, now=self.id_column, order=self.order(), is_same=pl.lit(value=True) if is_same is None else is_same
        )
        if self.config.duplicates is not None:
            return pl.concat([self.keys(rows).drop("id"), named], how="horizontal")
        exact = rows.select(exact=pl.col(self.id_column).cast(pl.Binary), context=pl.lit(b""))
        return pl.concat([exact, named], how="horizontal")

    def process(self, bucket: int) -> Output:
        """The bucket's rows that stay; what goes is rejected with its reason."""
        drops = self.frame(DROPS_FILE) if self.is_global and not self.is_idle else None
        passed = self.frame(pass_name(bucket)) if drops is not None else None
        names = self._records(bucket, [])
        if self.is_idle or (drops is not None and passed is not None and _all_stay(names, passed, drops)):
            parts = {self.table: self.workspace.parts(self.table, bucket, self.raw)}
            rows = {self.table: names.height}
            return Output(rows_in=names.height, rows_out=names.height, counts=rows, parts=parts, rows=rows)
        given = self._records(bucket)
        gone = pl.DataFrame(schema=DROPS) if drops is None else drops
        left, repeated = drop(given, gone, self.id_column, self.config.personal, by=_RECORD)
        kept, _, rejects = self._examined(left, passed)
        tables = {
            self.table: conform(kept, TABLES[self.table]),
            "rejects": pl.concat([conform(repeated, Rejects), rejects]),
        }
        tables |= self.beside_kept(bucket, given, kept)
        return Output(tables, rows_in=given.height, rows_out=kept.height, counts={self.table: kept.height})

    def beside_kept(self, bucket: int, rows: pl.DataFrame, kept: pl.DataFrame) -> dict[str, pl.DataFrame]:
        """Further tables that follow from what stays of the bucket's rows."""
        return {}

    def _records(self, bucket: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of every stage that gives some, each with its name; none is lost to another of the same id."""
        frames = []
        for rank, stage in enumerate(self.raw):
            wanted = None if columns is None else list(dict.fromkeys([*columns, *self.origin_columns]))
            rows = self.workspace.read(self.table, bucket, (stage,), wanted)
            name = pl.format("{} {} {} {}", pl.lit(rank), self.id_column, self.origins(rows), pl.lit(bucket))
            frames.append(rows.with_columns(name.alias(_RECORD)))
        return pl.concat(frames)

    def _examined(
        self, rows: pl.DataFrame, passed: pl.DataFrame | None = None
    ) -> tuple[pl.DataFrame, pl.Series | None, pl.DataFrame]:
        """The rows that pass by themselves, whether each stays as it is (None: all do), and rejects of the others.

        Args:
            passed: what `first_pass` found; a row that stays as it is is not examined again.
        """
        none = rows_frame([], Rejects)
        if not self.examines:
            return rows, None, none
        settled = rows.head(0)
        if passed is not None:
            known = passed.filter("is_same").select(_RECORD)
            settled, rows = rows.join(known, on=_RECORD, how="semi"), rows.join(known, on=_RECORD, how="anti")
        given = rows.drop(_RECORD)
        kept, is_same, rejects = [], [], []
        for row, name, outcome in zip(given.iter_rows(named=True), rows[_RECORD], self.examine(given), strict=True):
            if isinstance(outcome, dict):
                kept.append({**outcome, _RECORD: name})
                is_same.append(outcome == row)
            else:
                rejects.append(reject(*outcome, row[self.id_column], row, self.config.personal))
        frame = pl.DataFrame(kept, schema=rows.schema, orient="row")
        same_rows = [*[True] * settled.height, *is_same]
        return pl.concat([settled, frame]), pl.Series(same_rows, dtype=pl.Boolean), rows_frame(rejects, Rejects)

    def _resolved(self) -> pl.DataFrame:
        """Which rows go as duplicates: `id` is their name, `kept_id` the id that its like has among what stays."""
        found = pl.concat(list(self.gathered()))
        keys = found.rename({"order": "id"})
        settings = self.config.duplicates
        drops = same(keys) if settings is None else resolve(keys, settings.threshold, settings.other_prompt)
        if settings is not None and settings.cosine is not None:
            drops = and_further(drops, self._alike_in_meaning(drops, settings.cosine))
        names = dict(found.select("order", _RECORD).iter_rows())
        ids = dict(found.select("order", "now").iter_rows())
        return drops.with_columns(
            id=pl.col("id").replace_strict(names, return_dtype=pl.String),
            kept_id=pl.col("kept_id").replace_strict(ids, return_dtype=pl.String),
        )

    def _alike_in_meaning(self, drops: pl.DataFrame, cosine: float) -> pl.DataFrame:
        """Among the rows that `drops` leaves, those that say what another one says."""
        ids: list[str] = []
        texts: list[str] = []
        groups: list[str] = []
        for bucket in self.workspace.buckets:
            rows = self._examined(self._records(bucket), self.frame(pass_name(bucket)))[0]
            rows = rows.with_columns(order=self.order()).join(drops, left_on="order", right_on="id", how="anti")
            said, group = self.meaning(rows)
            ids, texts, groups = ids + rows["order"].to_list(), texts + said, groups + group
        if not ids:
            return pl.DataFrame(schema=DROPS)
        vectors = self.embed(texts)
        return semantic_duplicates(ids, vectors, cosine, cells(ids, vectors, groups)).cast(pl.Schema(DROPS))

    @property
    @abstractmethod
    def origin_columns(self) -> tuple[str, ...]:
        """The columns that `origins` reads."""

    @property
    def needs_vectors(self) -> bool:
        """Whether decontamination compares embeddings."""
        return self.config.decontamination is not None and self.config.decontamination.cosine is not None

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of unit length, bought once a workspace."""
        return embedded(self.workspace, texts)


def _all_stay(names: pl.DataFrame, passed: pl.DataFrame, drops: pl.DataFrame) -> bool:
    """Whether every row passed as it is and none is dropped."""
    is_whole = passed.height == names.height and bool(passed["is_same"].all())
    return is_whole and names.join(drops, left_on=_RECORD, right_on="id", how="semi").is_empty()


def embedded(workspace: Workspace, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of unit length, shape (len(texts), d), bought once a workspace."""
    vectors = Embedder().embed_memoised(texts, EmbeddingCache(workspace.path("tables", "embeddings")))
    return np.stack([vectors[text] for text in texts])
