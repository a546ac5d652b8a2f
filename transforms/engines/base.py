"""What an engine must have: how many requests may be in flight, how patient the client is, who may be asked."""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.errors import EngineError
from schemas.ids import hash_json
from schemas.secrets import Redaction, secret
from transforms.llm.bodies import read_json
from transforms.llm.client import Client, Patience
from transforms.llm.metrics import PrefixCache, prefix_cache
from transforms.llm.redirects import below, fetch
from transforms.llm.supervisor import ServerSpec, standing
from transforms.plugins.base import Plugin, PluginConfig

_log = logging.getLogger(__name__)

# Of an entry in a list of models: vLLM, OpenRouter, llama.cpp, Groq, Mistral. No times, prices and permissions.
_ABILITIES = (
    *("max_model_len", "root", "context_length", "context_window", "max_context_length", "max_completion_tokens"),
    *("supported_parameters", "capabilities", "meta"),
)


class EngineConfig(PluginConfig):
    """Fields every engine has. Times in seconds."""

    unhashed: ClassVar[frozenset[str]] = frozenset(
        {"concurrency", "attempt_s", "deadline_s", "retries", "backoff_s", "outage_s", "start_timeout_s", "limit_field"}
    )

    concurrency: int = Field(256, ge=1, description="requests in flight, all worker processes together")
    attempt_s: float = Field(300.0, gt=0, description="limit of one attempt")
    deadline_s: float = Field(900.0, gt=0, description="limit of one request with all its attempts")
    retries: int = Field(6, ge=0, description="repeated attempts after 429, 5xx, timeouts and the like")
    backoff_s: float = Field(0.5, ge=0, description="first wait between attempts; doubles")
    outage_s: float = Field(120.0, gt=0, description="the run stops if no server answers for this long")
    limit_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="the field that limits the tokens of a reply"
    )
    extra_body: dict[str, Any] = Field(
        {}, description="further fields of every request, whoever asks; null takes a field away that it would have"
    )


class Engine(Plugin):
    """Who answers requests: an OpenAI-compatible server, ours or somebody's.

    A subclass gives `model`, `served_model` and `serve`.
    """

    kind: ClassVar[str] = "engines"
    Config: ClassVar[type[PluginConfig]] = EngineConfig
    config: EngineConfig

    @property
    @abstractmethod
    def model(self) -> str:
        """Which weights answer, wherever they run."""

    @property
    @abstractmethod
    def served_model(self) -> str:
        """The name by which the server knows the model."""

    @property
    def server(self) -> ServerSpec | None:
        """The server that `serve` starts on whichever host it is called; None: servers already there."""
        return None

    @property
    def context_tokens(self) -> int | None:
        """Tokens that one request may use, prompt and reply together; None: only the server knows."""
        return None

    @property
    def loading_s(self) -> float:
        """How long the server may say that it is not ready, before its first answer; one of ours is waited for."""
        return 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """Replies depend on who answers, not on where it runs."""
        return {"answers_as": self.answers_as}

    @property
    def answers_as(self) -> str:
        """What stands for the engine in every request's hash: the model, and whatever else may change a reply."""
        version = [f"v{self.version}"] if self.version > 1 else []
        package = [] if self.distribution is None else ["@".join(self.distribution)]
        body = [f"body={hash_json(self.config.extra_body)[:8]}"] if self.config.extra_body else []
        return ",".join([self.model, *version, *package, *body])

    @property
    def addresses(self) -> list[str]:
        """Base URLs of servers already there; none where `server` is started."""
        return []

    def fingerprint(self) -> str:
        """What of the server decides whether it turns a request away for good, as `ADDRESS:CAPABILITIES`.

        The address and the model; and what the server's list of models says of the model's abilities, nothing if it
        cannot be asked. Of a server of ours its command line says all.
        """
        about = self.addresses if self.server is None else [*self.server.command]
        address = hash_json([self.answers_as, about])[:16]
        told = [abilities(url, self.headers(), self.served_model) for url in self.addresses]
        return f"{address}:{hash_json(told)[:16] if any(told) else ''}"

    @abstractmethod
    def serve(self) -> AbstractContextManager[list[str]]:
        """Make the server answer (start it if it is ours) and give its base URLs."""

    def headers(self) -> Mapping[str, str]:
        """Extra headers of every request."""
        return {}

    def prefix_cache(self, urls: Sequence[str]) -> PrefixCache | None:
        """What the servers count of their prefix caches; None if they do not."""
        return prefix_cache(urls, self.headers())

    def connect(self, urls: Sequence[str], workers: int = 1) -> Client:
        """A client for one of `workers` processes, each with its share of the concurrency."""
        config = self.config
        patience = Patience(
            attempt_s=config.attempt_s,
            deadline_s=config.deadline_s,
            retries=config.retries,
            backoff_s=config.backoff_s,
            outage_s=config.outage_s,
            loading_s=self.loading_s,
        )
        share = max(1, config.concurrency // max(1, workers))
        tended = None if self.server is None else partial(standing, self.server)
        return Client(
            self.name,
            urls,
            self.served_model,
            share,
            patience,
            self.headers(),
            tended,
            extra_body=config.extra_body,
            limit_field=config.limit_field,
        )


def api_key(variable: str | None) -> str | None:
    """The value of the environment variable that holds a key, if one is named; see `schemas.secrets.secret`."""
    return None if variable is None else secret(variable)


def abilities(url: str, headers: Mapping[str, str], model: str) -> dict[str, Any]:
    """What a server's list of models says the model can do; {} if it says nothing, or cannot be asked."""
    try:
        data = read_json(fetch(below(url, "models"), headers, timeout_s=10))
    except (http.client.HTTPException, OSError, ValueError):
        return {}
    listed = data.get("data") if isinstance(data, dict) else None
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict) and entry.get("id") == model:
            return {name: entry[name] for name in _ABILITIES if entry.get(name) is not None}
    return {}


def wait_until_answers(name: str, urls: Sequence[str], headers: Mapping[str, str], timeout_s: float) -> None:
    """Wait until `url/models` of any of the servers answers; warn of those that do not.

    Raises:
        EngineError: none does within `timeout_s`.
    """
    give_up = time.monotonic() + timeout_s
    while True:
        silent = {url: reason for url in urls if (reason := _silence(url, headers)) is not None}
        if len(silent) < len(urls):
            break
        if time.monotonic() >= give_up:
            raise EngineError(f"engine {name!r}: nothing answers at {_listed(silent)}. Is the server running?")
        time.sleep(0.5)
    if silent:
        _log.warning(
            "engine %r: nothing answers at %s; the other %d of its %d servers do, and the run goes on with them",
            *(name, _listed(silent), len(urls) - len(silent), len(urls)),
        )


def _silence(url: str, headers: Mapping[str, str]) -> str | None:
    """Why nothing answers at the URL; None where something does."""
    try:
        fetch(below(url, "models"), headers, timeout_s=10)
        return None
    except urllib.error.HTTPError as error:
        # Somebody answers; whether this key and model will do shows with the first request.
        return None if error.code < 500 else f"status {error.code}"
    except (http.client.HTTPException, OSError, ValueError) as error:
        return Redaction(headers.values()).error(str(error) or type(error).__name__)


def _listed(silent: Mapping[str, str]) -> str:
    return ", ".join(f"{below(url, 'models')} ({reason})" for url, reason in silent.items())
