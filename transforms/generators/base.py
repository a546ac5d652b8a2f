"""What every generator shares: configuration, accounting, requests, and how a pair says where it came from."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from types import MappingProxyType
from typing import Any, ClassVar

import orjson
from pydantic import Field

from schemas.errors import UsageError
from schemas.ids import canonical_json, hash_fields, hash_json
from schemas.messages import Message, chat_messages, message, text_of
from schemas.pairs import make_pair, mirrored
from schemas.rows import reject_row
from schemas.tables import Row
from transforms.generators._templates import template_version
from transforms.llm.reasoning import silence
from transforms.llm.request import Ask, Reply, Request
from transforms.plugins.base import Plugin, PluginConfig

UNUSABLE = "generation_"  # begins the reasons of rejects for replies without a usable text
EMPTY = f"{UNUSABLE}empty"
_SEED_BITS = 31  # engines read `seed` as a signed 32-bit integer


@dataclass(frozen=True)
class Response:
    """A candidate response with how it was made; `details` goes into the pair's `origin_ref`."""

    messages: tuple[Message, ...]
    model: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The response as plain text."""
        return text_of(self.messages)


def written(text: str, model: str | None = None, **details: Any) -> Response:
    """A response of one assistant turn."""
    return Response((message("assistant", text),), model, details)


def group_of(row: Row) -> str:
    """What must share a split with this row: its group, else its prompt."""
    return str(row.get("group_id") or row["prompt_id"])


def read_meta(row: Row) -> dict[str, Any]:
    """The row's `meta` as an object; {} when absent or not a JSON object."""
    if not row.get("meta"):
        return {}
    value = orjson.loads(row["meta"])
    return value if isinstance(value, dict) else {}


def json_text(value: Any) -> str:
    """Canonical JSON text."""
    return canonical_json(value).decode()


class Decoding(PluginConfig):
    """How text is drawn from an engine."""

    temperature: float = Field(default=0.8, ge=0.0, le=5.0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1)


class OneEngine(Decoding):
    """A generator that asks one engine."""

    engine: str


class Tally:
    """`ask` with accounting: counts requests, usable replies and tokens into a `Yield.counts`.

    Attributes:
        unread: why the last rating or comparison that could not be read could not; "" while all were read.
    """

    unread: str = ""

    def __init__(self, ask: Ask, counts: dict[str, int]) -> None:
        self._ask = ask
        self._counts = counts
        for key in ("asked", "answered", "parsed", "valid", "tokens_in", "tokens_out"):
            counts.setdefault(key, 0)

    async def __call__(self, request: Request) -> Reply:
        """Ask, and count that it was asked and what the reply cost."""
        self._counts["asked"] += 1
        reply = await self._ask(request)
        self._counts["tokens_in"] += reply.tokens_in
        self._counts["tokens_out"] += reply.tokens_out
        self._counts["answered"] += reply.state == "ok" and bool(reply.text.strip())
        return reply

    async def all(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests, asked together."""
        return list(await asyncio.gather(*(self(request) for request in requests)))

    def why(self, p: float | None, sentence: str) -> str:
        """The sentence with the probability a comparison gave, or why it gave none."""
        return f"the comparison cannot be read: {self.unread}" if p is None else sentence.format(p=p)

    def parsed(self, n: int = 1) -> None:
        """Count replies whose structure could be read."""
        self._counts["parsed"] += n


@dataclass
class Yield:
    """What a generator made of one row: `pairs` rows, further `prompts` rows, and `rejects` rows."""

    pairs: list[Row] = field(default_factory=list)
    prompts: list[Row] = field(default_factory=list)
    rejects: list[Row] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # asked, parsed, ...: the yield table


class Generator(Plugin):
    """Prompts (or pairs) to pairs: `make` fills a `Yield` from one row; everything else is here.

    The output is a pure function of (row, seed, config, replies). `group_id` of every pair and prompt is
    the group of the row it came from (its own `prompt_id` where it has none), so all that descends from
    one prompt shares a split.
    """

    kind: ClassVar[str] = "generators"
    version: ClassVar[int] = 2  # of all of them; a generator that changes alone counts on from here
    consumes: ClassVar[str] = "prompts"  # or "pairs"
    makes: ClassVar[str] = "pairs"  # or "prompts"
    templates: ClassVar[tuple[str, ...]] = ()
    models: Mapping[str, str] = MappingProxyType({})

    def bind(self, models: Mapping[str, str]) -> None:
        """Learn the models behind the engines' names.

        Raises:
            UsageError: an engine the configuration names is not among `models`.
        """
        names = self.config.engine_names()
        missing = [name for name in names if name not in models]
        if missing:
            known = ", ".join(sorted(models)) or "none"
            raise UsageError(f"generate/{self.name}: no engine named {missing[0]!r}; the recipe declares: {known}")
        self.models = {name: models[name] for name in names}

    @property
    def identity(self) -> dict[str, Any]:
        """All that can change the output besides the row and the replies; of files what they hold, not where."""
        return {
            **super().identity,
            "name": self.name,
            "seed": self.seed,
            "prompt_version": self.prompt_version,
            "models": dict(self.models),
        }

    @cached_property
    def prompt_version(self) -> str:
        """Hash of the templates this generator renders; "" when it renders none."""
        return hash_json([template_version(name) for name in self.templates])[:12] if self.templates else ""

    async def pairs(self, row: Row, ask: Ask) -> Yield:
        """Make pairs (and prompts, and rejects) from one row, in an order no timing can change.

        Pairs and prompts are unique by id: one made again is a reject (`duplicate`).
        """
        out = Yield()
        await self._make(row, Tally(ask, out.counts), out)
        out.pairs = self._once(out.pairs, "pair_id", out)
        out.prompts = self._once(out.prompts, "prompt_id", out)
        out.rejects.sort(key=itemgetter("reject_id"))
        out.counts["valid"] = len(out.pairs) + len(out.prompts)
        return out

    def _once(self, rows: list[Row], key: str, out: Yield) -> list[Row]:
        """The rows by id, each once; of those with one id the first in the order of their content stays."""
        kept: dict[str, Row] = {}
        for row in sorted(rows, key=lambda row: (row[key], json_text(row))):
            if kept.setdefault(row[key], row) is not row:
                self.reject(out, "duplicate", row[key], "made already from the same row; that one is kept", row)
        return list(kept.values())

    @abstractmethod
    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        """What a generator gives: ask, and fill `out` with `pair`, `reject` and `out.prompts`."""

    def request(
        self,
        engine: str,
        messages: Sequence[Message],
        draw: Sequence[str],
        *,
        temperature: float,
        max_tokens: int,
        top_p: float = 1.0,
        assumed: str = "",
        **body: Any,
    ) -> Request:
        """A sampling request whose `seed` is drawn from (recipe seed, `draw`).

        Two generators that build the same request share one reply through the memo, so `draw` names
        the sample, not who asks for it.
        """
        seed = int(hash_fields(str(self.seed), *draw)[:13], 16) % 2**_SEED_BITS
        full = {
            "messages": chat_messages(messages),
            "temperature": temperature,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "seed": seed,
            **body,
        }
        return Request(engine, self.models[engine], full, salt="/".join(draw), purpose=self.name, assumed_reply=assumed)

    async def answer(
        self,
        engine: str,
        messages: Sequence[Message],
        draw: Sequence[str],
        decoding: Decoding,
        row: Row,
        ask: Tally,
        out: Yield,
        *,
        assumed: str = "",
        **about: Any,
    ) -> Response | None:
        """One sampled response with `about` among its details; None, and a reject, when there is no usable reply."""
        request = self.request(
            engine,
            messages,
            draw,
            temperature=decoding.temperature,
            max_tokens=decoding.max_tokens,
            top_p=decoding.top_p,
            assumed=assumed,
        )
        reply = await ask(request)
        if not self.usable(reply, row, out, about):
            return None
        ask.parsed()
        details = {"engine": engine, "request_id": request.request_id, "tokens_out": reply.tokens_out, **about}
        return written(reply.text, self.models[engine], **details)

    def reject(self, out: Yield, reason: str, record_id: str, detail: str, payload: Any) -> None:
        """Record something that did not become a pair."""
        out.rejects.append(reject_row(f"generate/{self.name}", reason, record_id, detail, json_text(payload)))

    def usable(self, reply: Reply, row: Row, out: Yield, about: dict[str, Any]) -> bool:
        """Whether a reply has text; if not, a reject says why (`generation_error`, `_refused`, `_empty`)."""
        if reply.state == "ok" and reply.text.strip():
            return True
        reason = EMPTY if reply.state == "ok" else f"{UNUSABLE}{reply.state}"
        detail = reply.error or silence(reply) or reply.state
        payload = {"prompt_id": row["prompt_id"], **about, "text": reply.text, "finish_reason": reply.finish_reason}
        self.reject(out, reason, reply.request_id, detail, payload)
        return False

    def pair(
        self,
        row: Row,
        out: Yield,
        first: Response,
        second: Response,
        *,
        prompt: Sequence[Message] | None = None,
        first_label: str | None = None,
        expected: str | None = None,
        tags: Sequence[str] = (),
        ref: dict[str, Any] | None = None,
        meta: dict[str, Any] | None = None,
        sides: tuple[Any, Any] | None = None,
        **fields: Any,
    ) -> Row | None:
        """Add the pair to `out.pairs`; identical responses become a reject instead.

        Args:
            first_label: the source label, `a` meaning `first`.
            expected: who should win by construction, `a` meaning `first`; goes into meta, turned like the label.
            prompt: the pair's prompt when it is not the row's own; checks and reference then no longer apply.
            sides: facts about `first` and `second`, stored as meta `sides` = {"a": ..., "b": ...}.
            ref: further fields of `origin_ref`.
        """
        same_prompt = prompt is None
        inherited = {key: row.get(key) for key in ("kind", "language", "user_id", "context", "context_kind")}
        inherited |= {key: row.get(key) if same_prompt else None for key in ("checks", "reference")}
        try:
            pair, swapped = make_pair(
                row["prompt"] if prompt is None else prompt,
                first.messages,
                second.messages,
                first_label=first_label,
                model_first=first.model,
                model_second=second.model,
                **{**inherited, **fields},
            )
        except ValueError:
            payload = {"prompt_id": row["prompt_id"], "text": first.text, "made": [first.details, second.details]}
            self.reject(out, "identical_responses", row["prompt_id"], "both responses are the same text", payload)
            return None
        a, b = (second, first) if swapped else (first, second)
        own = dict(meta or {})
        if expected is not None:
            own["expected"] = mirrored(expected) if swapped else expected
        if sides is not None:
            own["sides"] = {"a": sides[swapped], "b": sides[not swapped]}
        reference = {
            "generator": self.plugin_name,
            "prompt_version": self.prompt_version,
            "model": sorted({m for m in (a.model, b.model) if m}),
            "seed": self.seed,
            "a": a.details,
            "b": b.details,
            **(ref or {}),
        }
        pair |= {
            "origin": self.name,
            "origin_ref": json_text(reference),
            "group_id": group_of(row),
            "tags": list(dict.fromkeys([*(row.get("tags") or []), *tags])),
            "meta": json_text({**read_meta(row), **own}) if own or row.get("meta") else None,
        }
        out.pairs.append(pair)
        return pair
