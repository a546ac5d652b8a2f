"""What the two stages of hygiene share: every row alone first, then duplicates among the rows that stay.

Only rows that pass by themselves can make another row a duplicate, so whatever is dropped has its like among what
stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.runtime.job import StoredInputs
from pipelines.runtime.stage import (
    Artefacts,
    BucketPass,
    Fit,
    Inputs,
    Run,
    artefact_frame,
    pass_name,
)
from schemas.ids import hash_json
from schemas.tables import TABLES, Rejects, conform, rows_frame
from transforms.hygiene.clean import Embed, Outcome, drop, reject
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
class RowKind:
    """What hygiene must know of the rows of a table.

    Attributes:
        stages: they give the rows; of equal rows those of the first stay.
        origin_columns: what `origins` reads.
        origins: what tells rows of one id in two buckets apart.
        order: by which, of rows that are alike, the first stays; it begins with what matters most.
        examine: what becomes of each row by itself.
        keys: the keys that duplicates share, one row each, in order.
        meaning: of each row the text that says what it means, and the group within which rows are compared.
    """

    table: str
    id_column: str
    stages: tuple[str, ...]
    origin_columns: tuple[str, ...]
    origins: Callable[[pl.DataFrame], pl.Series]
    order: Callable[[], pl.Expr]
    examine: Callable[[pl.DataFrame, HygieneConfig, Embed | None], list[Outcome]]
    keys: Callable[[pl.DataFrame], pl.DataFrame]
    meaning: Callable[[pl.DataFrame], tuple[list[str], list[str]]]


class Hygiene(NamedTuple):
    """The recipe's hygiene for one kind of rows.

    Attributes:
        given: the recipe's section, and `config`: the same with its paths starting from the recipe's folder.
        gains: whether rows are added to those of the sources, of which one may equal another.
        embed: texts to embeddings of unit length.
    """

    kind: RowKind
    given: HygieneConfig
    config: HygieneConfig
    gains: bool
    embed: Embed

    @property
    def identity(self) -> Any:
        """The configuration, and what the benchmarks hold."""
        settings = self.config.decontamination
        benchmarks = [] if settings is None else [hash_json(read_prompts(path)) for path in settings.benchmarks]
        return [self.given.model_dump(mode="json", exclude_defaults=True), benchmarks]

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

    @property
    def is_idle(self) -> bool:
        """Whether every bucket's parts stay as they are."""
        return not self.examines and not self.is_global

    def outcomes(self, rows: pl.DataFrame) -> list[Outcome]:
        """What becomes of each row by itself."""
        settings = self.config.decontamination
        needs_vectors = settings is not None and settings.cosine is not None
        return self.kind.examine(rows, self.config, self.embed if needs_vectors else None)


def setup_hygiene(run: Run, kind: RowKind, gains: bool) -> Hygiene:
    """The recipe's hygiene for rows of this kind."""
    given = HygieneConfig.model_validate(run.recipe.hygiene)
    return Hygiene(kind, given, given.with_paths_from(run.folder), gains, partial(embedded, run.workspace))


def row_keys(hygiene: Hygiene, inputs: Inputs, _: Artefacts) -> pl.DataFrame:
    """Of a bucket's rows that pass by themselves: their keys, and whether they stay as they are."""
    duplicates = hygiene.config.duplicates
    if not hygiene.examines and duplicates is None:
        rows, is_same = _records(hygiene.kind, inputs, []), None
    else:
        rows, is_same = _examined(hygiene, _records(hygiene.kind, inputs))[:2]
    named = rows.select(
        _RECORD,
        now=hygiene.kind.id_column,
        order=hygiene.kind.order(),
        is_same=pl.lit(value=True) if is_same is None else is_same,
    )
    if duplicates is not None:
        return pl.concat([hygiene.kind.keys(rows).drop("id"), named], how="horizontal")
    exact = rows.select(exact=pl.col(hygiene.kind.id_column).cast(pl.Binary), context=pl.lit(b""))
    return pl.concat([exact, named], how="horizontal")


def _drops_names(_: Run, hygiene: Hygiene) -> tuple[str, ...]:
    return (DROPS_FILE,) if hygiene.is_global else ()


def _find_drops(run: Run, hygiene: Hygiene, artefacts: Artefacts) -> Iterator[tuple[str, bytes]]:
    """Which rows go as duplicates: `id` is their name, `kept_id` the id that its like has among what stays."""
    keyed = pl.concat([artefact_frame(artefacts, pass_name(bucket)) for bucket in run.workspace.buckets])
    keys = keyed.rename({"order": "id"})
    settings = hygiene.config.duplicates
    drops = same(keys) if settings is None else resolve(keys, settings.threshold, settings.other_prompt)
    if settings is not None and settings.cosine is not None:
        drops = and_further(drops, _alike_in_meaning(run, hygiene, artefacts, drops, settings.cosine))
    names = dict(keyed.select("order", _RECORD).iter_rows())
    ids = dict(keyed.select("order", "now").iter_rows())
    named = drops.with_columns(
        id=pl.col("id").replace_strict(names, return_dtype=pl.String),
        kept_id=pl.col("kept_id").replace_strict(ids, return_dtype=pl.String),
    )
    yield DROPS_FILE, parquet_bytes(named)


FIND_DUPLICATES = (BucketPass(row_keys), Fit(_drops_names, _find_drops))


def _alike_in_meaning(
    run: Run, hygiene: Hygiene, artefacts: Artefacts, drops: pl.DataFrame, cosine: float
) -> pl.DataFrame:
    """Among the rows that `drops` leaves, those that say what another one says."""
    kind = hygiene.kind
    ids: list[str] = []
    texts: list[str] = []
    groups: list[str] = []
    for bucket in run.workspace.buckets:
        given = _records(kind, StoredInputs(run.workspace, bucket, {kind.table: kind.stages}))
        rows = _examined(hygiene, given, artefact_frame(artefacts, pass_name(bucket)))[0]
        rows = rows.with_columns(order=kind.order()).join(drops, left_on="order", right_on="id", how="anti")
        own_texts, own_groups = kind.meaning(rows)
        ids, texts, groups = ids + rows["order"].to_list(), texts + own_texts, groups + own_groups
    if not ids:
        return pl.DataFrame(schema=DROPS)
    vectors = hygiene.embed(texts)
    return semantic_duplicates(ids, vectors, cosine, cells(ids, vectors, groups)).cast(pl.Schema(DROPS))


def cleaned(hygiene: Hygiene, inputs: Inputs, artefacts: Artefacts) -> Output:
    """The bucket's rows that stay; what goes is rejected with its reason.

    Where nothing of the bucket changes, the output names the input's parts.
    """
    kind = hygiene.kind
    drops = passed = None
    if hygiene.is_global:
        drops = artefact_frame(artefacts, DROPS_FILE)
        passed = artefact_frame(artefacts, pass_name(inputs.bucket)) if pass_name(inputs.bucket) in artefacts else None
    names = _records(kind, inputs, [])
    if hygiene.is_idle or (drops is not None and passed is not None and _all_stay(names, passed, drops)):
        # Rows of two stages that share an id are read as one: so many rows do the parts hold for who reads them.
        rows = {kind.table: names[kind.id_column].n_unique()}
        parts, counts = {kind.table: inputs.parts(kind.table)}, {kind.table: names.height}
        return Output(rows_in=names.height, rows_out=names.height, counts=counts, parts=parts, rows=rows)
    given = _records(kind, inputs)
    gone = pl.DataFrame(schema=DROPS) if drops is None else drops
    left, repeated = drop(given, gone, kind.id_column, hygiene.config.personal, by=_RECORD)
    kept, _, rejects = _examined(hygiene, left, passed)
    tables = {
        kind.table: conform(kept, TABLES[kind.table]),
        "rejects": pl.concat([conform(repeated, Rejects), rejects]),
    }
    return Output(tables, rows_in=given.height, rows_out=kept.height, counts={kind.table: kept.height})


def _records(kind: RowKind, inputs: Inputs, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of every stage that gives some, each with its name; none is lost to another of the same id."""
    frames = []
    for rank, stage in enumerate(kind.stages):
        wanted = None if columns is None else list(dict.fromkeys([*columns, *kind.origin_columns]))
        rows = inputs.read(kind.table, wanted, stage)
        name = pl.format("{} {} {} {}", pl.lit(rank), kind.id_column, kind.origins(rows), pl.lit(inputs.bucket))
        frames.append(rows.with_columns(name.alias(_RECORD)))
    return pl.concat(frames)


def _examined(
    hygiene: Hygiene, rows: pl.DataFrame, passed: pl.DataFrame | None = None
) -> tuple[pl.DataFrame, pl.Series | None, pl.DataFrame]:
    """The rows that pass by themselves, whether each stays as it is (None: all do), and rejects of the others.

    Args:
        passed: what `row_keys` found; a row that stays as it is is not examined again.
    """
    none = rows_frame([], Rejects)
    if not hygiene.examines:
        return rows, None, none
    settled = rows.head(0)
    if passed is not None:
        known = passed.filter("is_same").select(_RECORD)
        settled, rows = rows.join(known, on=_RECORD, how="semi"), rows.join(known, on=_RECORD, how="anti")
    given = rows.drop(_RECORD)
    kept, is_same, rejects = [], [], []
    for row, name, outcome in zip(given.iter_rows(named=True), rows[_RECORD], hygiene.outcomes(given), strict=True):
        if isinstance(outcome, dict):
            kept.append({**outcome, _RECORD: name})
            is_same.append(outcome == row)
        else:
            rejects.append(reject(*outcome, row[hygiene.kind.id_column], row, hygiene.config.personal))
    frame = pl.DataFrame(kept, schema=rows.schema, orient="row")
    same_rows = [*[True] * settled.height, *is_same]
    return pl.concat([settled, frame]), pl.Series(same_rows, dtype=pl.Boolean), rows_frame(rejects, Rejects)


def _all_stay(names: pl.DataFrame, passed: pl.DataFrame, drops: pl.DataFrame) -> bool:
    """Whether every row passed as it is and none is dropped."""
    is_whole = passed.height == names.height and bool(passed["is_same"].all())
    return is_whole and names.join(drops, left_on=_RECORD, right_on="id", how="semi").is_empty()


def embedded(workspace: Workspace, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embeddings of unit length, shape (len(texts), d), bought once per workspace."""
    vectors = Embedder().embed_memoised(texts, EmbeddingCache(workspace.path("tables", "embeddings")))
    return np.stack([vectors[text] for text in texts])
