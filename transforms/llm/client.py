"""An asynchronous client of one model behind one or several OpenAI-compatible servers.

A semaphore holds the number of requests in flight. What a failure means (transforms/llm/statuses.py has the statuses):

- connection refused: the server is away. Every request waits while one prober polls, which uses up no attempts
  and moves deadlines by `outage_s` at most; after `outage_s` without an answer from any server, `EngineError`.
  A server of ours that its supervisor is restarting is waited for as long as that takes.
- a transient status, a timeout, a cut connection, a body that is no reply: the attempt is repeated after
  exponential back-off with jitter, at most `retries` times and never past the request's deadline; then the reply is a
  transient error. A wait that the server asks for (`Retry-After`) costs no attempt; one beyond the deadline ends the
  request at once. Nothing but such failures for `outage_s`: `EngineError`.
- 503 before the first answer of all: the model is being loaded, which costs no attempt for `loading_s`.
- a status of all requests rather than one (key, payment, permission, address) before the first answer, or for
  requests of `TURNED_AWAY` different prompts in a row: `EngineError`; later a permanent error of that request.
- a content filter: a refused reply. Another 4xx (a malformed request, a context too long): a permanent error reply
  with the server's reason.
- a redirect is followed with its method and body; our headers go to no other host.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import orjson

from schemas.errors import EngineError
from schemas.ids import unit_interval
from schemas.secrets import Redaction
from transforms.llm.bodies import MalformedReplyError
from transforms.llm.patience import Patience
from transforms.llm.redirects import RedirectError, Redirects, below
from transforms.llm.replies import ERROR_LIMIT, UNVERSIONED, BodyError, parse_reply, read_error, retry_after
from transforms.llm.request import Reply, Request
from transforms.llm.statuses import MOVED, Meaning
from transforms.llm.supervisor import Standing
from transforms.llm.usage import TOKENIZE
from transforms.llm.wire import CannotConnectError, CutError, Wire

TURNED_AWAY = 3  # units of work turned away in a row by a status of all requests, which stops the run

__all__ = ["TURNED_AWAY", "UNIT", "Client", "Patience"]

# Requests of one unit of work (one prompt) go to the same server, whose prefix cache then hits.
UNIT: contextvars.ContextVar[int] = contextvars.ContextVar("unit", default=-1)


@dataclass
class _Server:
    url: str
    base: str  # path before /chat/completions
    query: str  # after it, with its question mark
    wire: Wire
    redirects: Redirects
    down: bool = False
    resume_at: float = 0.0  # a Retry-After silences the whole server till then


@dataclass(frozen=True)
class _Failure:
    """Why an attempt gave no answer. Without a meaning nobody listens, which is no attempt."""

    reason: str
    cause: str  # the reason's kind, for counting
    meaning: Meaning | None = "transient"
    wait_s: float | None = None  # what the server asked for
    status: int = 0


@dataclass
class Client:
    """Sends requests to a model. Use as an async context manager on the event loop that will send.

    Args:
        name: the engine's name in the recipe, for messages.
        urls: base URLs.
        served_model: the model's name on these servers.
        concurrency: requests in flight, all servers together.
        patience: timeouts and retries.
        headers: sent with every request (authorisation); their values are taken out of whatever a server says.
        standing: how it stands with the server, if it is ours and somebody restarts it.
        has_answered: whether the model ever answered, be it in an earlier run.
        extra_body: fields of every completion's body in place of those that are asked for; None leaves a field out.
        limit_field: what `max_tokens` is called there.
    """

    name: str
    urls: Sequence[str]
    served_model: str
    concurrency: int = 256
    patience: Patience = field(default_factory=Patience)
    headers: Mapping[str, str] = field(default_factory=dict)
    standing: Callable[[], Standing] | None = None
    has_answered: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    limit_field: str = "max_tokens"

    def __post_init__(self) -> None:
        if not self.urls:
            raise EngineError(f"engine {self.name!r} has no server address")
        self._servers = [_server(url.rstrip("/"), self.headers) for url in self.urls]
        self._redaction = Redaction(self.headers.values())
        self._turn = 0
        self._in_flight = self._held = 0  # requests; those that wait for news of others
        self._has_spoken = False
        self._turned_away: set[int | str] = set()  # units of work, or requests outside them, since the last answer
        self._failures_in_row = 0
        self._longest_wait = 0.0  # asked for by a server since the last usable answer
        self._lost_because = ""
        self._answered_at = self._opened_at = time.monotonic()
        self._dead: EngineError | None = None
        self._prober: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._slots = asyncio.Semaphore(self.concurrency)
        self._news = asyncio.Event()  # a request ended
        self._up = asyncio.Event()
        self._answered_at = self._opened_at = time.monotonic()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._prober is not None:
            self._prober.cancel()
            await asyncio.gather(self._prober, return_exceptions=True)
        for server in self._servers:
            server.wire.close()
            server.redirects.close()

    async def send(self, request: Request, turned_away: str | None = None) -> Reply:
        """Ask until there is a reply, a permanent error, or patience ends.

        Args:
            turned_away: the cause of the permanent error that the same request got in an earlier run, if it did:
                getting it once more says nothing of other requests.

        Raises:
            EngineError: nothing answers, or the servers turn every request away.
        """
        # Not the canonical JSON that is hashed: servers write a schema's properties in the order in which they stand.
        body = {**request.body, "model": self.served_model}
        if request.path not in UNVERSIONED:
            if self.limit_field != "max_tokens" and "max_tokens" in body:
                body[self.limit_field] = body.pop("max_tokens")
            body = {name: value for name, value in {**body, **self.extra_body}.items() if value is not None}
        data = orjson.dumps(body)
        async with self._slots:
            self._in_flight += 1
            try:
                return await self._persist(request, data, turned_away)
            finally:
                self._in_flight -= 1
                self._news.set()

    async def _persist(self, request: Request, data: bytes, turned_away: str | None) -> Reply:
        """Try, wait and try again until there is a reply or patience ends."""
        started = time.monotonic()
        deadline = started + self.patience.deadline_s
        attempts = tries = 0
        while True:
            server, dark_s = await self._available_server(deadline)
            # A server of ours is away only while it starts, however long that takes; another may never come back.
            latest = started + self.patience.deadline_s + (dark_s if self.standing else self.patience.outage_s)
            deadline = max(deadline, min(deadline + dark_s, latest))
            outcome = server if isinstance(server, _Failure) else await self._attempt(server, request, data, deadline)
            now = time.monotonic()
            ms = (now - started) * 1000.0
            if isinstance(outcome, Reply):
                self._note_answer(request.path, now)
                return self._redacted(replace(outcome, ms=ms, retries=tries))
            if outcome.meaning not in ("transient", None):
                return await self._final(request, outcome, turned_away, now, ms, tries)
            if isinstance(server, _Server):
                tries += outcome.meaning is not None
                if outcome.meaning is None:
                    self._mark_down(server, outcome.reason)
                elif self._is_loading(outcome, now):
                    deadline = max(deadline, self._opened_at + self.patience.loading_s + self.patience.deadline_s)
                else:
                    attempts += not outcome.wait_s
                    self._note_failure(outcome, now)
            wait = self._wait(request.request_id, tries, outcome)
            if attempts > self.patience.retries or now + wait >= deadline:
                reason = f"gave up after {tries} attempts in {now - started:.0f} s: {outcome.reason}"
                if isinstance(server, _Server) and outcome.wait_s:
                    reason += f" (Retry-After: {outcome.wait_s:.0f} s)"
                return Reply(
                    request.request_id,
                    "error",
                    error=reason,
                    cause=outcome.cause,
                    ms=ms,
                    retries=max(0, tries - 1),
                    transient=True,
                )
            if wait:
                await asyncio.sleep(wait)

    async def _final(
        self, request: Request, failure: _Failure, turned_away: str | None, now: float, ms: float, tries: int
    ) -> Reply:
        """The reply to a request that asking again does not help.

        Raises:
            EngineError: it would help none: the servers turn everybody away.
        """
        if failure.meaning == "refused":
            self._note_answer(request.path, now)
            return Reply(request.request_id, "refused", error=failure.reason, cause=failure.cause, ms=ms, retries=tries)
        if failure.meaning in ("door", "moved") and request.path != TOKENIZE and turned_away != failure.cause:
            await self._stand_or_die(request.request_id, failure.reason)
        elif request.path != TOKENIZE:  # the server lives
            self._answered_at, self._failures_in_row, self._longest_wait = now, 0, 0.0
        return Reply(request.request_id, "error", error=failure.reason, cause=failure.cause, ms=ms, retries=tries)

    async def _stand_or_die(self, request_id: str, reason: str) -> None:
        """Return if the model answers others; what is on the way is waited for before that is known.

        Raises:
            EngineError: it answers nobody.
        """
        # One prompt may be turned away with all its requests.
        self._turned_away.add(UNIT.get() if UNIT.get() >= 0 else request_id)
        self._held += 1
        try:
            while len(self._turned_away) < TURNED_AWAY and not self.has_answered and self._held < self._in_flight:
                self._news.clear()
                await self._news.wait()
        finally:
            self._held -= 1
        if not self.has_answered or len(self._turned_away) >= TURNED_AWAY:
            raise self._die(f"engine {self.name!r}: {reason}")

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

    async def _attempt(self, server: _Server, request: Request, data: bytes, deadline: float) -> Reply | _Failure:
        is_beside, base = request.path in UNVERSIONED, server.base
        if is_beside and not base.endswith("/v1"):
            return _Failure(f"{server.url} does not say where /{request.path} is", "no such path", "final")
        base = base.removesuffix("/v1") if is_beside else base
        seconds = max(0.001, min(self.patience.attempt_s, deadline - time.monotonic()))
        try:
            path, answer = f"{base}/{request.path}{server.query}", None
            if path not in server.redirects.moved:
                answer = await server.wire.ask("POST", path, data, seconds)
            if answer is None or answer.status in MOVED:
                answer = await server.redirects.follow("POST", path, data, seconds, answer)
        except CannotConnectError as error:
            return _Failure(f"cannot connect to {server.url}: {error}", "no connection", meaning=None)
        except TimeoutError:
            return _Failure(f"no reply from {server.url} within {seconds:.0f} s", "no reply in time")
        except RedirectError as error:
            return _Failure(self._short(f"{below(server.url, request.path)}: {error}"), "a redirect", "moved")
        except CutError as error:
            return _Failure(self._short(f"connection to {server.url} lost: {error}"), "connection lost")
        status, kind = answer.status, answer.headers.get("content-type", "")
        if 200 <= status < 300:
            try:
                return parse_reply(request, answer.body, content_type=kind)
            except MalformedReplyError as error:
                return _Failure(self._short(str(error)), error.cause)
            except BodyError as error:
                status, reason, meaning = error.status, f"{error} (in a reply with status 200)", error.meaning
        else:
            reason, meaning = read_error(status, answer.body, kind)
        if answer.keyless:
            reason += f" (after a redirect to {answer.keyless}, which gets no key)"
        if meaning == "door" and request.path != TOKENIZE:
            reason = f"{below(server.url, request.path)} turns requests away with {reason}"
        wait = retry_after(answer.headers.get("retry-after")) if meaning == "transient" else None
        if wait is not None:
            server.resume_at = max(server.resume_at, time.monotonic() + wait)
        return _Failure(self._short(reason), f"status {status}", meaning, wait, status)

    def _short(self, reason: str) -> str:
        return self._redaction.error(reason)[:ERROR_LIMIT]

    def _is_loading(self, failure: _Failure, now: float) -> bool:
        """Whether the server says that it is not ready, before it ever was."""
        return failure.status == 503 and not self._has_spoken and now - self._opened_at < self.patience.loading_s

    def _wait(self, request_id: str, tries: int, failure: _Failure) -> float:
        if failure.meaning is None:
            return 0.0
        backoff = min(self.patience.backoff_max_s, self.patience.backoff_s * 2.0 ** min(max(tries - 1, 0), 30))
        jitter = 0.5 + 0.5 * unit_interval("backoff", request_id, str(tries))
        return max(failure.wait_s or 0.0, 0.0) + backoff * jitter

    def _note_answer(self, path: str, now: float) -> None:
        if path != TOKENIZE:  # which says nothing of the model behind it
            self._answered_at, self._failures_in_row, self._longest_wait = now, 0, 0.0
            self.has_answered = self._has_spoken = True
            self._turned_away.clear()
            self._news.set()

    def _note_failure(self, failure: _Failure, now: float) -> None:
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
        self._news.set()
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
            answer = await server.wire.ask("GET", f"{server.base}/models{server.query}", b"", 5.0)
        except (ConnectionError, TimeoutError):
            return False
        return answer.status < 500

    def _addresses(self) -> str:
        return ", ".join(server.url for server in self._servers)


def _server(url: str, headers: Mapping[str, str]) -> _Server:
    wire = Wire(url, headers)
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return _Server(url, parts.path.rstrip("/"), query, wire, Redirects(url, headers, wire))
