"""A request to a language model and what came back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from schemas.ids import hash_json


@dataclass(frozen=True)
class Request:
    """One LLM call. `body` is the OpenAI request body without `model`, which the engine adds.

    `engine` is the recipe's engine name; `model` its identity (name and weights), which is part of the
    hash while the address of the server is not: the same model behind another port answers from the memo.
    `salt` separates calls meant to be different though their bodies agree (repeated samples).
    `assumed_reply` is the reply after which the asker sends the most further requests: a dry run answers with it,
    so its counts are at least a run's.
    """

    engine: str
    model: str
    body: dict[str, Any]
    path: str = "chat/completions"
    salt: str = ""
    purpose: str = field(default="", compare=False)  # who asks (judge or generator name), for accounting only
    assumed_reply: str = field(default="", compare=False)

    @cached_property
    def request_id(self) -> str:
        """Hash of all that determines the reply."""
        return hash_json([self.model, self.path, self.body, self.salt])


@dataclass(frozen=True)
class Reply:
    """What came back. `state` is `ok`, `refused` (content filter) or `error` (with `error` the reason).

    What a model thought is never in `text` of a reply that `Ask` gives (transforms/llm/reasoning.py).
    """

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
    estimated: bool = False  # whether the server counted no tokens, so that they are taken from the lengths of texts
    ms: float = 0.0
    retries: int = 0
    transient: bool = False  # an error that asking again may cure


Ask = Callable[[Request], Awaitable[Reply]]
