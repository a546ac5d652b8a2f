"""An asynchronous client of one model behind one or several OpenAI-compatible servers.

A semaphore holds the number of requests in flight. What a failure means:

- connection refused: the server is away. Every request waits while one prober polls, which uses up no attempts
  and moves deadlines by `outage_s` at most; after `outage_s` without an answer from any server, `EngineError`.
  A server of ours that its supervisor is restarting is waited for as long as that takes.
- 408, 409, 425, 429, 5xx, a timeout, a cut connection, a body that is no reply: the attempt is repeated after
  exponential back-off with jitter (or after `Retry-After`), at most `retries` times and never past the
  request's deadline; then the reply is a transient error. A `Retry-After` beyond the
  deadline ends the request at once. Nothing but such failures for `outage_s`: `EngineError`.
- another 4xx (a malformed request, a context too long): a permanent error reply with the server's reason.
- 401, 402, 403, 404, 405: no request can succeed (key, quota, address or model name): `EngineError`.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import orjson

from schemas.errors import EngineError
from schemas.ids import unit_interval
from schemas.secrets import Redaction
from transforms.llm.replies import (
    ERROR_LIMIT,
    MISCONFIGURED,
    RETRIED,
    UNVERSIONED,
    MalformedReplyError,
    error_text,
    parse_reply,
    retry_after,
)
from transforms.llm.request import Reply, Request
from transforms.llm.supervisor import Standing
from transforms.llm.usage import TOKENIZE
from transforms.llm.wire import Answer, CannotConnectError, CutError, Wire

# Requests of one unit of work (one prompt) go to the same server, whose prefix cache then hits.
UNIT: contextvars.ContextVar[int] = contextvars.ContextVar("unit", default=-1)


@dataclass(frozen=True)
class Patience:
    """How long and how often a client tries. All times in seconds."""

    attempt_s: float = 300.0  # one attempt
    deadline_s: float = 900.0  # one request, all attempts and waits together
    retries: int = 6
    backoff_s: float = 0.5  # first wait; doubled each time, up to backoff_max_s, times a jitter in [0.5, 1)
    backoff_max_s: float = 30.0
    outage_s: float = 120.0  # the run stops if no server answers for this long
    breaker_failures: int = 32  # failures in a row, spread over outage_s at least, that stop the run


@dataclass
class _Server:
    url: str
    base: str  # path before /chat/completions
    wire: Wire
    down: bool = False
    resume_at: float = 0.0  # a Retry-After silences the whole server till then


@dataclass(frozen=True)
class _Failure:
    reason: str
    cause: str  # the reason's kind, for counting
    wait_s: float | None = None  # what the server asked for
    lost: bool = False  # nobody listens: does not count as an attempt
    permanent: bool = False  # the request itself is at fault: the server lives, asking again is in vain


@dataclass
class Client:
    """Sends requests to a model. Use as an async context manager on the event loop that will send.

    Args:
        name: the engine's name in the recipe, for messages.
        urls: base URLs, each ending in /v1.
        served_model: the model's name on these servers.
        concurrency: requests in flight, all servers together.
        patience: timeouts and retries.
        headers: sent with every request (authorisation); their values are taken out of whatever a server says.
        standing: how it stands with the server, if it is ours and somebody restarts it.
    """

    name: str
    urls: Sequence[str]
    served_model: str
    concurrency: int = 256
    patience: Patience = Patience()
    headers: Mapping[str, str] = field(default_factory=dict)
    standing: Callable[[], Standing] | None = None

    def __post_init__(self) -> None:
        if not self.urls:
            raise EngineError(f"engine {self.name!r} has no server address")
        self._servers = [_server(url.rstrip("/"), self.headers) for url in self.urls]
        self._redaction = Redaction(self.headers.values())
        self._turn = 0
        self._failures_in_row = 0
        self._longest_wait = 0.0  # asked for by a server since the last usable answer
        self._lost_because = ""
        self._answered_at = time.monotonic()
        self._dead: EngineError | None = None
        self._prober: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._up = asyncio.Event()
        self._answered_at = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        for server in self._servers:
            server.wire.close()

    async def send(self, request: Request) -> Reply:
        """Ask until there is a reply, a permanent error, or patience ends.

        Raises:
            EngineError: nothing answers, or the servers turn every request away.
        """
        # Not the canonical JSON that is hashed: servers write a schema's properties in the order in which they stand.
        data = orjson.dumps({**request.body, "model": self.served_model})
        async with self._slots:
            return await self._persist(request, data)

    async def _persist(self, request: Request, data: bytes) -> Reply:
        """Try, wait and try again until there is a reply or patience ends."""
        started = time.monotonic()
        deadline = started + self.patience.deadline_s
        attempts = 0
        while True:
            server, dark_s = await self._available_server(deadline)
            # A server of ours is away only while it starts, however long that takes; another may never come back.
            latest = started + self.patience.deadline_s + (dark_s if self.standing else self.patience.outage_s)
            deadline = max(deadline, min(deadline + dark_s, latest))
            if isinstance(server, _Failure):
                outcome: Answer | _Failure = server
            else:
                outcome = await self._attempt(server, request, data, deadline)
            now = time.monotonic()
            ms = (now - started) * 1000.0
            if isinstance(outcome, Answer):
                try:
                    reply = parse_reply(request, outcome.body, ms, attempts)
                except MalformedReplyError as error:
                    outcome = _Failure(self._redaction.error(str(error)), "a body that is no reply")
                else:
                    self._note_answer(request.path, now)
                    return self._redacted(reply)
            if outcome.permanent:
                self._note_answer(request.path, now)
                return Reply(
                    request.request_id, "error", error=outcome.reason, cause=outcome.cause, ms=ms, retries=attempts
                )
            if isinstance(server, _Server):
                if outcome.lost:
                    self._mark_down(server, outcome.reason)
                attempts += not outcome.lost
                self._note_failure(outcome, now)
            wait = self._wait(request.request_id, attempts, outcome)
            if attempts > self.patience.retries or now + wait >= deadline:
                reason = f"gave up after {attempts} attempts in {now - started:.0f} s: {outcome.reason}"
                if isinstance(server, _Server) and outcome.wait_s:
                    reason += f" (Retry-After: {outcome.wait_s:.0f} s)"
                return Reply(
                    request.request_id,
                    "error",
                    error=reason,
                    cause=outcome.cause,
                    ms=ms,
                    retries=max(0, attempts - 1),
                    transient=True,
                )
            if wait:
                await asyncio.sleep(wait)

    def _redacted(self, reply: Reply) -> Reply:
        """The reply without our own header values, which some servers repeat."""
        if not self.headers:
            return reply
        answer = self._redaction.answer
        return replace(
            reply,
            text=answer(reply.text),
            reasoning=None if reply.reasoning is None else answer(reply.reasoning),
            error=None if reply.error is None else self._redaction.error(reply.error),
        )

    async def _attempt(self, server: _Server, request: Request, data: bytes, deadline: float) -> Answer | _Failure:
        base = server.base.removesuffix("/v1") if request.path in UNVERSIONED else server.base
        seconds = max(0.001, min(self.patience.attempt_s, deadline - time.monotonic()))
        try:
            answer = await server.wire.ask("POST", f"{base}/{request.path}", data, seconds)
        except CannotConnectError as error:
            return _Failure(f"cannot connect to {server.url}: {error}", "no connection", lost=True)
        except TimeoutError:
            return _Failure(f"no reply from {server.url} within {seconds:.0f} s", "no reply in time")
        except CutError as error:
            reason = self._redaction.error(f"connection to {server.url} lost: {error}")[:ERROR_LIMIT]
            return _Failure(reason, "connection lost")
        status = answer.status
        if 200 <= status < 300:
            return answer
        reason = self._redaction.error(error_text(status, answer.body))[:ERROR_LIMIT]
        if status in RETRIED:
            wait = retry_after(answer.headers.get("retry-after"))
            if wait is not None:
                server.resume_at = max(server.resume_at, time.monotonic() + wait)
            return _Failure(reason, f"status {status}", wait_s=wait)
        if status in MISCONFIGURED and request.path != TOKENIZE:  # which servers need not have
            raise self._die(f"engine {self.name!r}: {server.url}/{request.path} turns requests away with {reason}")
        return _Failure(reason, f"status {status}", permanent=True)

    def _wait(self, request_id: str, attempts: int, failure: _Failure) -> float:
        if failure.lost:
            return 0.0
        backoff = min(self.patience.backoff_max_s, self.patience.backoff_s * 2.0 ** min(attempts - 1, 30))
        jitter = 0.5 + 0.5 * unit_interval("backoff", request_id, str(attempts))
        return max(failure.wait_s or 0.0, 0.0) + backoff * jitter

    def _note_answer(self, path: str, now: float) -> None:
        if path != TOKENIZE:  # which says nothing of the model behind it
            self._answered_at, self._failures_in_row, self._longest_wait = now, 0, 0.0

    def _note_failure(self, failure: _Failure, now: float) -> None:
        if failure.lost:
            return
        self._failures_in_row += 1
        self._longest_wait = max(self._longest_wait, failure.wait_s or 0.0)
        silent = now - self._answered_at
        # A server that asked for silence is heard out: after it many are turned away before the first is answered.
        patience_s = self.patience.outage_s + self._longest_wait
        if self._failures_in_row >= self.patience.breaker_failures and silent >= patience_s:
            raise self._die(
                f"engine {self.name!r}: no usable answer from {self._addresses()} for {silent:.0f} s "
                f"({self._failures_in_row} failures in a row; last: {failure.reason}). "
                "Everything answered so far is kept: run again when the server answers."
            )

    def _die(self, reason: str) -> EngineError:
        self._dead = self._dead or EngineError(reason)
        self._up.set()
        return self._dead

    async def _available_server(self, deadline: float) -> tuple[_Server | _Failure, float]:
        """The next server that is up and not silenced, and how long none was up; waits for one if need be.

        A failure if all that are up ask for silence beyond the deadline.
        """
        dark = 0.0
        while True:
            if self._dead is not None:
                raise self._dead
            alive = [server for server in self._servers if not server.down]
            now = time.monotonic()
            if not alive:
                self._up.clear()
                await self._up.wait()
                dark += time.monotonic() - now
                continue
            available = [server for server in alive if server.resume_at <= now]
            if available:
                unit = UNIT.get()
                if unit < 0:
                    unit = self._turn = self._turn + 1
                return available[unit % len(available)], dark
            first = min(alive, key=lambda server: server.resume_at)
            wait = first.resume_at - now
            if first.resume_at >= deadline + dark:
                reason = f"{first.url} asks for silence for {wait:.0f} s more (Retry-After), beyond the deadline"
                return _Failure(reason, "Retry-After beyond the deadline", wait_s=wait), dark
            await asyncio.sleep(wait)

    def _mark_down(self, server: _Server, reason: str) -> None:
        server.down = True
        self._lost_because = reason
        if self._prober is None or self._prober.done():
            self._prober = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        """Poll the servers that are down until they answer; give up when all have been down for `outage_s`."""
        wait, dark_since = 0.1, time.monotonic()
        standing = Standing()
        while any(server.down for server in self._servers):
            await asyncio.sleep(wait)
            wait = min(2.0, wait * 1.5)
            for server in self._servers:
                if server.down and await self._answers(server):
                    server.down = False
                    self._up.set()
            if self.standing is not None:
                try:
                    standing = await asyncio.to_thread(self.standing)
                except EngineError as error:
                    self._die(f"engine {self.name!r}: {error}")
                    return
            if standing.failed:
                self._die(f"engine {self.name!r}: {standing.failed}. Everything answered so far is kept.")
                return
            if standing.tended or any(not server.down for server in self._servers):
                dark_since = time.monotonic()
            elif time.monotonic() - dark_since >= self.patience.outage_s:
                self._die(
                    f"engine {self.name!r}: nothing answers at {self._addresses()} for {self.patience.outage_s:.0f} s "
                    f"({self._lost_because}). Is the server running? Everything answered so far is kept: "
                    "run again when it answers."
                )
                return

    async def _answers(self, server: _Server) -> bool:
        try:
            answer = await server.wire.ask("GET", f"{server.base}/models", b"", 5.0)
        except (ConnectionError, TimeoutError):
            return False
        return answer.status < 500

    def _addresses(self) -> str:
        return ", ".join(server.url for server in self._servers)


def _server(url: str, headers: Mapping[str, str]) -> _Server:
    return _Server(url, urlsplit(url).path, Wire(url, headers))
