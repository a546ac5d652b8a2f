"""What a stage is: a value that says how its buckets are made. `pipelines.runtime.run_stage` runs every one of them.

A stage's functions are module-level functions: the value travels to Beam's workers by their names. Those that compute
take what `setup` built, the tables of one bucket (`Inputs`) and what was fitted (`Artefacts`): a test gives them
frames, and no workspace.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from uuid import uuid4

import polars as pl

from pipelines.runtime.summary import Summary
from schemas.errors import WorkspaceError
from transforms.storage.workspace import Output, Workspace

if TYPE_CHECKING:  # what reads a workspace needs the names of stages, neither recipes nor the clients of engines
    from schemas.recipe import AskingSection, Recipe
    from transforms.engines.base import Engine
    from transforms.llm.request import Ask

RETRY = "retry:"  # before the key of a bucket that lacks answers: it stays pending
CURRENT = "current"  # artefact that names the fit behind the latest checkpoints

PAIR_STAGES = ("clean",)
ANSWER_STAGES = ("ingest", "generate", "clean", "judge", "pull")
VOTE_STAGES = (*ANSWER_STAGES, "score")

Unit = Callable[[], Awaitable[Any]]  # a piece of work that asks engines


@dataclass(frozen=True)
class Run:
    """A recipe over a workspace, as its stages are run. Picklable; workers build plug-ins for themselves.

    Attributes:
        folder: where relative paths of the recipe start.
        limit: at most this many source rows per source; None for all.
        flags: Beam flags.
        observed: what the `observe` of the stage that runs returned.
        retries_errors: whether requests that were turned away for good are asked again.
        name: one that no other run has.
    """

    workspace: Workspace
    recipe: Recipe
    folder: Path
    limit: int | None = None
    flags: tuple[str, ...] = ()
    observed: Any = None
    retries_errors: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)


class Inputs(ABC):
    """The tables of one bucket that a stage says it reads, and no others."""

    def __init__(self, bucket: int, reads: Mapping[str, tuple[str, ...]]) -> None:
        self.bucket = bucket
        self.reads = reads

    def stages(self, table: str, stage: str | None = None) -> tuple[str, ...]:
        """The stages whose rows of `table` are read: all that are declared, or the one that is named.

        Raises:
            KeyError: the stage does not declare that it reads them, so a change of them would go unnoticed.
        """
        declared = self.reads[table]
        if stage is not None and stage not in declared:
            raise KeyError(f"{table} of stage {stage}")
        return declared if stage is None else (stage,)

    @abstractmethod
    def read(self, table: str, columns: Sequence[str] | None = None, stage: str | None = None) -> pl.DataFrame:
        """The table's rows, one per id, sorted by id.

        Args:
            columns: those wanted beside the id; None for all.
            stage: one of `reads[table]`, whose rows alone are wanted; None for all of them.
        """

    @abstractmethod
    def parts(self, table: str) -> list[str]:
        """Names of the stored parts that hold the table's rows."""


class Artefacts(Protocol):
    """By name, what a stage keeps under the hash of all that it depends on; a dict is one too."""

    def get(self, name: str, /) -> bytes | None:
        """The artefact, or None."""
        ...

    def __getitem__(self, name: str, /) -> bytes: ...

    def __setitem__(self, name: str, data: bytes, /) -> None: ...

    def __contains__(self, name: object, /) -> bool: ...


class Setup(Protocol):
    """What a stage works with: its plug-ins and settings, built from the recipe on the driver and on every worker."""

    @property
    def identity(self) -> Any:
        """All but the inputs that can change the output, as plain JSON; asked on the driver alone."""
        ...


S = TypeVar("S", bound=Setup)


@dataclass(frozen=True)
class Pass(Generic[S]):
    """Work that workers do before the buckets; elements are names of work, not rows.

    Attributes:
        elements: what is still to be done.
        make: do one and store what comes of it.
        after: on the driver, when all are done.
    """

    elements: Callable[[Run, S], Sequence[Any]]
    make: Callable[[Run, S, Any], None]
    after: Callable[[Run, S], None]


@dataclass(frozen=True)
class BucketPass(Generic[S]):
    """A frame of every bucket that the whole must know before any bucket is done: keys or sums, never texts."""

    apply: Callable[[S, Inputs, Artefacts], pl.DataFrame]


@dataclass(frozen=True)
class Fit(Generic[S]):
    """Artefacts of the whole workspace, made on the driver once per key; every bucket then depends on all inputs.

    Attributes:
        names: the artefacts; if all of them are there, nothing is made. Empty, if buckets do not depend on each other.
        make: the artefacts that are missing, with their names; each is stored before the next one is made.
    """

    names: Callable[[Run, S], Sequence[str]]
    make: Callable[[Run, S, Artefacts], Iterable[tuple[str, bytes]]]


@dataclass(frozen=True)
class AskingFit(Generic[S]):
    """One artefact that is made of what engines answer, on the driver, before the buckets; the memo knows the answers.

    Attributes:
        name: of the artefact.
        purpose: what is asked for, for messages.
        wanted: whether it can and should be made.
        units: what is asked about one bucket.
        make: the artefact of all results, in the order of buckets and units; empty if they are too few.
    """

    name: str
    purpose: str
    wanted: Callable[[S], bool]
    units: Callable[[S, Inputs, Ask], list[Unit]]
    make: Callable[[S, Sequence[Any]], bytes]


@dataclass(frozen=True)
class PerBucket(Generic[S]):
    """A bucket's output is computed from its inputs and the artefacts."""

    apply: Callable[[S, Inputs, Artefacts], Output]


@dataclass(frozen=True)
class PerUnit(Generic[S]):
    """A bucket is units of work that ask engines; all units of a worker's buckets share one window.

    Attributes:
        section: what the recipe says of the calls: what they may cost, how many may fail.
        engines: by the name that requests carry.
        count: how many units a bucket holds.
        units: the units.
        output: the bucket's output, of the units' results in order.
        fit: what must be asked before any bucket is done.
    """

    section: Callable[[Recipe], AskingSection]
    engines: Callable[[S], Mapping[str, Engine]]
    count: Callable[[S, Inputs], int]
    units: Callable[[S, Inputs, Artefacts, Ask], list[Unit]]
    output: Callable[[S, Inputs, list[Any]], Output]
    fit: AskingFit[S] | None = None


Step = Pass[S] | BucketPass[S] | Fit[S]


def nothing(_: Run) -> None:
    """Observe nothing."""


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A stage, as `run_stage` needs it.

    Attributes:
        version: raised when the output changes though the recipe does not.
        reads: table -> the stages whose rows of it are taken; their parts are in the key of every bucket.
        setup: builds what the stage works with.
        work: how a bucket is made.
        observe: brings in what lies outside the tables, on the driver and first; the result is picklable.
        needs: stages that are brought up to date first.
        steps: what must be known before any bucket is done, in order.
        is_idle: whether the recipe asks nothing of it; its buckets are then done without workers.
        conserves: the table of `reads` whose rows are its rows in; None if rows in are counted in another way.
        check: raise if what was made is not good enough to go on with.
        notes: what a person should know of what was made.
    """

    name: str
    version: int
    reads: Mapping[str, tuple[str, ...]]
    setup: Callable[[Run], S]
    work: PerBucket[S] | PerUnit[S]
    observe: Callable[[Run], Any] = nothing
    needs: tuple[Stage[Any], ...] = ()
    steps: tuple[Step[S], ...] = ()
    is_idle: Callable[[S], bool] | None = None
    conserves: str | None = None
    check: Callable[[Run, S, Summary], None] | None = None
    notes: Callable[[Run, S, Artefacts, Summary], list[str]] | None = None


def pass_name(bucket: int) -> str:
    """Name of the artefact that a bucket's pass leaves."""
    return f"pass-{bucket:04d}.parquet"


def artefact_frame(artefacts: Artefacts, name: str) -> pl.DataFrame:
    """An artefact that is a Parquet file.

    Raises:
        WorkspaceError: it is gone or damaged.
    """
    try:
        return pl.read_parquet(BytesIO(artefacts[name]))
    except KeyError:
        raise WorkspaceError(f"{artefacts} has no {name}; run again: it is then made anew") from None
    except pl.exceptions.PolarsError as error:
        raise WorkspaceError(f"cannot read {artefacts}/{name}: {error}; delete it and run again") from error
