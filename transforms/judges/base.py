"""What a judge must have, and what those with a template share: both orders, long inputs, states."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field

from schemas.ids import hash_fields, unit_interval
from schemas.pairs import mirrored
from schemas.rows import vote_row
from schemas.tables import Row
from transforms.judges._length import Messages, fit, windowed
from transforms.judges._templates import JudgeTemplate, case, shown_exemplar
from transforms.llm.request import Ask, Reply, Request
from transforms.plugins.base import Plugin, PluginConfig

T = TypeVar("T")


STATES = ("invalid", "refused", "error")
RAW_LIMIT = 20_000  # characters of a reply kept with the vote; the memo has all of it


@dataclass(frozen=True)
class Opinion:
    """What one reply says. `label` and numbers are in terms of the responses as shown: `a` is the one shown first.

    `label` is a, b, tie, or invalid with the reason in `detail`. `p_first` is P(first is better | one is better).
    """

    label: str
    p_first: float | None = None
    score_first: float | None = None
    score_second: float | None = None
    aspects: Mapping[str, Any] | None = None
    rationale: str | None = None
    detail: str | None = None


def invalid(detail: str) -> Opinion:
    """An opinion that could not be read."""
    return Opinion("invalid", detail=detail)


def opinion_by_scores(first: float, second: float, tie_margin: float = 0.0, **fields: Any) -> Opinion:
    """The response with the higher score wins; scores at most `tie_margin` apart tie."""
    winner = "a" if first > second else "b"
    label = "tie" if abs(first - second) <= tie_margin else winner
    return Opinion(label, score_first=first, score_second=second, **fields)


def vote(
    pair: Row, voter: str, order: str, opinion: Opinion, replies: Sequence[Reply], *, sample: int = 0, group: str = ""
) -> Row:
    """A row of `votes`.

    Args:
        pair: row of `pairs`.
        voter: the judge's name in the recipe.
        order: `ab` if response_a was shown first, else `ba`.
        opinion: in terms of the responses as shown.
        replies: what the opinion rests on; their ids are the vote's id.
        sample: number of the repeated sample.
        group: voters of one group share errors; default: the voter.

    Raises:
        ValueError: p_first lies outside [0, 1] or a score is not finite.
    """
    p_a, score_a, score_b, label = opinion.p_first, opinion.score_first, opinion.score_second, opinion.label
    if p_a is not None and not 0.0 <= p_a <= 1.0:
        raise ValueError(f"{voter}: p_first is {p_a}")
    if any(score is not None and not math.isfinite(score) for score in (score_a, score_b)):
        raise ValueError(f"{voter}: scores are {score_a} and {score_b}")
    if order == "ba":
        p_a = None if p_a is None else 1.0 - p_a
        score_a, score_b, label = score_b, score_a, mirrored(label)
    known = label not in STATES
    requests = [reply.request_id for reply in replies] or ["unsent", order, str(sample)]
    return vote_row(
        hash_fields(*requests, pair["pair_id"], voter),
        pair["pair_id"],
        voter,
        "judge",
        label,
        voter_group=group or voter,
        order=order,
        sample=sample,
        p_a=p_a if known else None,
        score_a=score_a if known else None,
        score_b=score_b if known else None,
        aspects=orjson.dumps(opinion.aspects).decode() if opinion.aspects else None,
        rationale=opinion.rationale,
        raw="\n\n".join(reply.text for reply in replies)[:RAW_LIMIT] if replies else None,
        detail=opinion.detail,
        tokens_in=sum(reply.tokens_in for reply in replies),
        tokens_out=sum(reply.tokens_out for reply in replies),
        ms=sum(reply.ms for reply in replies),
    )


def failed(replies: Sequence[Reply]) -> Opinion | None:
    """The state of the first reply that is not ok; None when all are."""
    for reply in replies:
        if reply.state != "ok":
            return Opinion(reply.state, detail=reply.error or reply.state)
    return None


class Exemplar(BaseModel):
    """A labelled example shown to the judge."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    response_a: str
    response_b: str
    label: Literal["a", "b", "tie"]
    note: str | None = None


class JudgeConfig(PluginConfig):
    """Fields every judge with a template has."""

    unhashed: ClassVar[frozenset[str]] = frozenset({"engine"})  # its model counts, not its name

    engine: str = Field(description="name of the engine that answers")
    orders: Literal["both", "ab", "ba", "coin"] = Field(
        "both", description="orders in which the responses are shown; coin: one, drawn per pair from the seed"
    )
    template: str = Field(description="`<name>.v<N>` of a template of ours, or the path of a .jinja2 file")
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1, description="tokens the judge may write")
    samples: int = Field(1, ge=1, description="replies per order; more than one needs temperature > 0")
    use_context: bool = Field(True, description="show the pair's context; without it a judge is its own baseline")
    exemplars: list[Exemplar] = Field([], description="labelled examples shown with every pair")
    context_tokens: int | None = Field(
        None, ge=64, description="tokens of a request, reply included; default: the engine's, if known"
    )
    too_long: Literal["refuse", "window"] = Field(
        "refuse", description="what to do beyond context_tokens: an error vote, or head and tail of the long texts"
    )
    extra_body: dict[str, Any] = Field({}, description="further fields of the request, e.g. chat_template_kwargs")


class Judge(Plugin):
    """Pairs to votes through language models.

    Attributes:
        models: engine name -> identity of its model, of the engines that `engine_fields` of the settings name.
        contexts: engine name -> tokens a request may have there, if that is known.
    """

    kind: ClassVar[str] = "judges"
    models: Mapping[str, str] = MappingProxyType({})
    contexts: Mapping[str, int | None] = MappingProxyType({})

    def bind(self, models: Mapping[str, str], contexts: Mapping[str, int | None] = MappingProxyType({})) -> None:
        """Learn the models behind the engines' names, and what is known of their contexts."""
        self.models = {name: models[name] for name in self.config.engine_names()}
        self.contexts = contexts

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a vote."""
        return {**super().identity, "models": dict(self.models), "seed": self.seed}

    @property
    def evidence(self) -> dict[str, Any]:
        """What the manifest of a version says of the judge besides the recipe."""
        return {"models": dict(self.models)}

    @abstractmethod
    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """Rows of `votes` on all pairs of one prompt, given together so that requests with one prefix are adjacent."""


class TemplateJudge(Judge):
    """A judge that fills a template and asks about one pair at a time. A subclass gives `body` and `read`."""

    Config: ClassVar[type[PluginConfig]] = JudgeConfig
    config: JudgeConfig
    version: ClassVar[int] = 3  # of what is asked and how replies are read

    @cached_property
    def template(self) -> JudgeTemplate:
        """The template that the settings name."""
        return JudgeTemplate(self.config.template)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that can change a vote: template, model, sampling, how replies are read."""
        return {**super().identity, "template": self.template.hash}

    @property
    def evidence(self) -> dict[str, Any]:
        """The template's hash and the model."""
        return {"template_hash": self.template.hash, **super().evidence}

    async def votes(self, pairs: Sequence[Row], ask: Ask) -> list[Row]:
        """One vote per pair, order and sample; pairs of one prompt and both orders go out together."""
        asked = [
            self._vote(pair, order, sample, ask)
            for pair in pairs
            for order in self.orders(pair)
            for sample in range(self.config.samples)
        ]
        return list(await asyncio.gather(*asked))

    def orders(self, pair: Row) -> list[str]:
        """The orders in which a pair is shown."""
        if self.config.orders == "both":
            return ["ab", "ba"]
        if self.config.orders == "coin":
            return ["ab" if unit_interval(str(self.seed), self.name, pair["pair_id"]) < 0.5 else "ba"]
        return [self.config.orders]

    def values(self, pair: Row, order: str) -> dict[str, Any]:
        """What the template is rendered with. `exemplars` of the row come after those of the configuration."""
        given = [exemplar.model_dump() for exemplar in self.config.exemplars]
        exemplars = [shown_exemplar(exemplar) for exemplar in [*given, *(pair.get("exemplars") or [])]]
        return {**case(pair, order, self.config.use_context), "exemplars": exemplars}

    def messages(self, pair: Row, order: str) -> list[dict[str, str]]:
        """The chat messages about a pair."""
        return self.template.messages(self.values(pair, order))

    def body(self, messages: list[dict[str, str]], sample: int) -> dict[str, Any]:
        """The request body."""
        config = self.config
        body = {"messages": messages, "temperature": config.temperature, "max_tokens": config.max_tokens}
        if config.temperature > 0:
            body["seed"] = self.seed + sample
        return {**body, **config.extra_body}

    def request(self, body: dict[str, Any], sample: int = 0) -> Request:
        """A request to the judge's engine."""
        model = self.models[self.config.engine]
        return Request(self.config.engine, model, body, salt=str(sample) if sample else "", purpose=self.name)

    def read(self, reply: Reply, pair: Row, order: str) -> Opinion:
        """The opinion in an `ok` reply, in terms of the responses as shown."""
        raise NotImplementedError(f"{type(self).__name__} asks about pairs in its own way")

    async def _vote(self, pair: Row, order: str, sample: int, ask: Ask) -> Row:
        reply, problem = await self.reply(pair, order, sample, ask)
        replies = [reply] if reply is not None else []
        opinion = problem or failed(replies)
        if opinion is None:
            assert reply is not None
            opinion = self.read(reply, pair, order)
        return vote(pair, self.name, order, opinion, replies, sample=sample)

    async def reply(self, pair: Row, order: str, sample: int, ask: Ask) -> tuple[Reply | None, Opinion | None]:
        """The reply about a pair, or the reason why nothing was asked."""
        row = pair if self.config.use_context else {**pair, "context": None}
        fitting = await self.fitting(row, lambda shown: self.messages(shown, order), windowed, ask)
        if isinstance(fitting, Opinion):
            return None, fitting
        return await ask(self.request(self.body(fitting, sample), sample)), None

    async def fitting(
        self, item: T, render: Callable[[T], Messages], shorten: Callable[[T, float], T | None], ask: Ask
    ) -> Messages | Opinion:
        """The messages about an item, shortened if the policy says so, or an error because they are too long.

        Args:
            item: what is asked about; `render` gives its messages, `shorten` cuts its texts to a share.
        """
        room = self.room
        if room is None:
            return render(item)
        fitting, tokens = await fit(item, render, shorten, room, self.config, self.models, ask)
        if fitting is None:
            return Opinion("error", detail=f"too long: {tokens} tokens of input, {room} fit beside the reply")
        return fitting

    @property
    def room(self) -> int | None:
        """Tokens of input a request may have; None if nothing is known."""
        reply = self.config.max_tokens
        if self.config.context_tokens is not None:
            return self.config.context_tokens - reply
        # The reply may be allowed more than the engine has: it will hardly need all of it.
        limit = self.contexts.get(self.config.engine)
        return None if limit is None else limit - min(reply, limit // 2)
