"""What a plug-in of each kind must be.

Rows are plain dicts with the columns of the table they belong to (schemas/tables.py); frames are
Polars frames of that table. A plug-in is built as `cls(name, config, seed)`: `name` is the recipe's
name for this use of it, `config` an instance of its `Config`, `seed` the recipe's seed.
`identity` is a JSON-serialisable value of everything that can change its output; it goes into every
checkpoint key, so a changed template or parameter is never served stale results.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import polars as pl
from pydantic import BaseModel, ConfigDict

from schemas.ids import hash_json

Row = dict[str, Any]


class PluginConfig(BaseModel):
    """Base of every plug-in's `Config`: unknown fields are errors, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    path_fields: ClassVar[tuple[str, ...]] = ()

    def beside(self, folder: Path) -> Self:
        """The settings with the relative paths in `path_fields` starting from `folder`; `datasets:` names stay."""

        def located(value: Any) -> Any:
            if isinstance(value, str):
                return value if value.startswith("datasets:") else str(folder / Path(value).expanduser())
            return tuple(map(located, value)) if isinstance(value, tuple) else value

        return self.model_copy(update={name: located(getattr(self, name)) for name in self.path_fields})


@dataclass(frozen=True)
class Request:
    """One LLM call. `body` is the OpenAI request body without `model`, which the engine adds.

    `engine` is the recipe's engine name; `model` its identity (name and weights), which is part of the
    hash while the address of the server is not: the same model behind another port answers from the memo.
    `salt` separates calls meant to be different though their bodies agree (repeated samples).
    """

    engine: str
    model: str
    body: dict[str, Any]
    path: str = "chat/completions"
    salt: str = ""
    purpose: str = field(default="", compare=False)  # who asks (judge or generator name), for accounting only
    hope: str = field(default="", compare=False)  # a reply with which the asker goes on furthest: what a plan assumes

    @cached_property
    def request_id(self) -> str:
        """Hash of all that determines the reply."""
        return hash_json([self.model, self.path, self.body, self.salt])


@dataclass(frozen=True)
class Reply:
    """What came back. `state` is `ok`, `refused` (content filter) or `error` (with `error` the reason)."""

    request_id: str
    state: str
    text: str = ""
    reasoning: str | None = None
    finish_reason: str | None = None
    logprobs: list[dict[str, float]] | None = None  # per generated token: {token: log-probability}
    error: str | None = None
    cause: str | None = None  # the kind of error in a few words, for counting
    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    ms: float = 0.0
    retries: int = 0
    transient: bool = False  # an error that asking again may cure


Ask = Callable[[Request], Awaitable[Reply]]


class Engine(Protocol):
    """Who answers requests: an OpenAI-compatible server, ours or somebody's."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any
    model: str  # identity string that goes into Request.model

    def serve(self) -> AbstractContextManager[list[str]]:
        """Make the server answer (start it if it is ours) and give its base URLs, each ending in /v1."""
        ...


@dataclass
class Yield:
    """What a generator made of one prompt: `pairs` rows, further `prompts` rows, and `rejects` rows."""

    pairs: list[Row] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    rejects: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # asked, parsed, ...: the yield table


class Generator(Protocol):
    """Prompts (or pairs) to pairs."""

    Config: ClassVar[type[PluginConfig]]
    consumes: ClassVar[str]  # "prompts" or "pairs"
    makes: ClassVar[str]  # "pairs" or "prompts"
    name: str
    identity: Any

    async def pairs(self, row: Row, ask: Ask) -> Yield:
        """Make pairs from one prompt (or pair) row."""
        ...


class Judge(Protocol):
    """Pairs to votes through an LLM."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """Votes on all pairs of one prompt, given together so that requests with one prefix are adjacent."""
        ...


class Scorer(Protocol):
    """Pairs to votes without an LLM call; `fit` sees a bounded sample of the whole workspace.

    A scorer whose votes depend on what others said of the pairs has `reads_votes = True`, and its `votes` takes a
    third argument `answers`: the votes of source, judges and people on these pairs. It must not let a pair's own
    labels speak in its vote on that pair.
    """

    Config: ClassVar[type[PluginConfig]]
    measures: ClassVar[str]  # one sentence: what the score means
    name: str
    identity: Any

    def fit(self, pairs: pl.DataFrame, votes: pl.DataFrame) -> bytes:
        """Train on a sample; b"" for a scorer that has nothing to learn. Deterministic."""
        ...

    def votes(self, pairs: pl.DataFrame, model: bytes) -> pl.DataFrame:
        """Votes on a bucket's pairs."""
        ...


class Fuser(Protocol):
    """Votes to posterior; the model is JSON so that `explain` and the report can read it."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any

    def fit(self, votes: pl.DataFrame, pairs: pl.DataFrame) -> Row:
        """Learn voters' reliability. `pairs` holds pair_id, prompt_id, source_label, kind, language, origin, the
        responses' lengths in characters (`length_a`, `length_b`) and `known_label`, the answer of a control."""
        ...

    def apply(self, model: Row, votes: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Posteriors: the `verdicts` columns without noise, action and reasons; one row per row of `pairs`."""
        ...


class Policy(Protocol):
    """Posterior to action."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any

    def fit(self, verdicts: pl.DataFrame) -> Row:
        """Whatever the policy needs of the whole (percentiles); {} if nothing."""
        ...

    def decide(self, model: Row, verdicts: pl.DataFrame) -> pl.DataFrame:
        """The same rows with `action` and `reasons` filled."""
        ...


class Router(Protocol):
    """Verdicts to a queue for humans under a budget."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any
    reads_responses: bool  # whether it wants `similarity` and `length_difference` of the responses as columns

    def fit(self, labelled: pl.DataFrame) -> Row:
        """Learn from the candidates that humans already answered (columns as in `values`); {} if there is nothing
        to learn."""
        ...

    def values(self, model: Row, candidates: pl.DataFrame) -> pl.Series:
        """Expected gain of one label per candidate (verdict columns plus origin, kind, language, n_chars)."""
        ...


class Exporter(Protocol):
    """A dataset version to the files a trainer reads; `identity` stands in the export's README.md."""

    Config: ClassVar[type[PluginConfig]]
    name: str
    identity: Any

    def export(self, rows: pl.LazyFrame, out: Path) -> dict[str, int]:
        """Write files under `out`; returns rows written per split."""
        ...

    def notes(self, rows: pl.LazyFrame) -> list[str]:
        """What a person must know of the export of these rows: how many it leaves out, and why."""
        ...
