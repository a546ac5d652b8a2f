"""HTTP/1.1 over asyncio for many small JSON requests to one server: a pool of kept-alive connections.

A client that can do everything spends most of its time per request on what JSON over one connection does not need:
in the benchmark (tests/benchmarks/llm.py) aiohttp takes two to three times the processor time of this. Bodies with
Content-Length, chunked or ended by closing are read, informational replies skipped, gzip and deflate undone though
none is asked for; redirects are followed by transforms/llm/redirects.py; no proxies, no HTTP/2.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from schemas.errors import UsageError

IDLE_S = 4.0  # uvicorn closes connections after 5 s without traffic
CONNECT_S = 30.0
USER_AGENT = "prefine"
HEAD_LIMIT = 64 * 1024
BODY_LIMIT = 256 * 1024 * 1024
_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": zlib.MAX_WBITS}


class CannotConnectError(ConnectionError):
    """Nobody listens, or the name or certificate is wrong."""


class CutError(ConnectionError):
    """The connection ended, or went wrong, before the reply was complete."""


@dataclass(frozen=True)
class Answer:
    """Status, headers with names in lower case, and body of a reply.

    Attributes:
        keyless: the host that gave it without having got our headers, if a redirect led there.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    keyless: str = ""


class Wire:
    """Requests to one server (`http(s)://host[:port]`), each on a connection of its own while it lasts.

    Raises:
        UsageError: the address or a header cannot be used.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not an http address")
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._context = ssl.create_default_context() if self._tls else None
        fields = {"Host": parts.netloc.rpartition("@")[2], "Accept": "application/json", **named(headers)}
        for name, value in fields.items():
            if not value.isprintable() or not name.isprintable() or not (name + value).isascii():
                raise UsageError(f"header {name!r} for {self._host} holds characters that no header may hold")
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._heads: dict[tuple[str, str], bytes] = {}
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()

    async def ask(self, method: str, path: str, body: bytes, timeout_s: float) -> Answer:
        """Send a request and read the reply.

        Raises:
            CannotConnectError: no connection.
            CutError: no complete reply.
            TimeoutError: neither within `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout_s
        data = self._head(method, path) + b"%d\r\n\r\n" % len(body) + body
        while (kept := self._kept(loop.time())) is not None:
            try:
                return await self._exchange(loop, kept, data, give_up)
            except CutError:
                if kept.has_begun or loop.time() >= give_up:
                    raise
                # The server closed an idle connection while the request was on its way: not its answer to it.
        return await self._exchange(loop, await self._connect(loop, min(CONNECT_S, timeout_s)), data, give_up)

    async def _exchange(
        self, loop: asyncio.AbstractEventLoop, connection: _Connection, data: bytes, give_up: float
    ) -> Answer:
        answer = connection.exchange(data)
        timer = loop.call_at(give_up, connection.expire)
        try:
            return unpacked(await answer)
        finally:
            timer.cancel()
            if connection.reusable:
                connection.idle_since = loop.time()
                self._idle.append(connection)
            else:
                connection.abort()

    def close(self) -> None:
        """End all connections."""
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def _head(self, method: str, path: str) -> bytes:
        head = self._heads.get((method, path))
        if head is None:
            text = f"{method} {path} HTTP/1.1\r\n{self._fields}Content-Type: application/json\r\nContent-Length: "
            head = self._heads[method, path] = text.encode("ascii")
        return head

    def _kept(self, now: float) -> _Connection | None:
        """The connection used last, if it is still good; the others get older and are closed from the other end."""
        while self._idle and (self._idle[0].closed or now - self._idle[0].idle_since > IDLE_S):
            self._idle.popleft().abort()
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _connect(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> _Connection:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop, self._open),
                    self._host,
                    self._port,
                    ssl=self._context,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise CannotConnectError(f"no connection within {timeout_s:.0f} s") from None
        except OSError as error:
            raise CannotConnectError(error.strerror or str(error)) from error
        return connection


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers with our name, where they give no other: firewalls turn nameless clients away."""
    has_name = any(header.lower() == "user-agent" for header in headers)
    return dict(headers) if has_name else {"User-Agent": USER_AGENT, **headers}


def unpacked(answer: Answer) -> Answer:
    """The reply with its body as it was before it was compressed.

    Raises:
        CutError: the body is damaged, longer than `BODY_LIMIT`, or in an encoding that was not asked for.
    """
    encoding = answer.headers.get("content-encoding", "").strip().lower()
    if encoding in ("", "identity") or not answer.body:
        return answer
    if encoding not in _WINDOW_BITS:
        raise CutError(f"the body has the content encoding {encoding!r}, which was not asked for")
    # Servers call both zlib's form and the bare one deflate; a zlib body begins with method 8.
    is_bare = encoding == "deflate" and answer.body[0] & 0x0F != 8
    unpack = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _WINDOW_BITS[encoding])
    try:
        body = unpack.decompress(answer.body, BODY_LIMIT)
    except zlib.error as error:
        raise CutError(f"the body is no {encoding}: {error}") from error
    if not unpack.eof:
        raise CutError(f"the {encoding} body is cut off or too large")
    return replace(answer, body=body)


class _Connection(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, open_connections: set[_Connection]) -> None:
        self._loop, self._open = loop, open_connections
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._reader: _Reader | None = None
        self.closed = False
        self.reusable = False
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def exchange(self, data: bytes) -> asyncio.Future[Answer]:
        self._answer = self._loop.create_future()
        self._reader = _Reader()
        self.reusable = False
        if self._transport is None or self.closed:
            self._fail(CutError("the connection is closed"))
        else:
            self._transport.write(data)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._reader is None or self._answer.done():
            self.abort()  # nothing was asked: this connection is out of step
            return
        try:
            done = self._reader.feed(data)
        except ValueError as error:
            self._fail(CutError(f"not HTTP: {error}"))
            self.abort()
            return
        if done:
            self._finish(reusable=self._reader.keeps_alive)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._open.discard(self)
        if self._answer is not None and not self._answer.done():
            if error is None and self._reader is not None and self._reader.ended_by_close:
                self._finish(reusable=False)
            else:
                self._fail(CutError(str(error) if error else "closed before the reply was complete"))

    @property
    def has_begun(self) -> bool:
        """Whether any byte of the reply arrived."""
        return self._reader is not None and self._reader.begun

    def expire(self) -> None:
        self._fail(TimeoutError("no reply in time"))

    def abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, reusable: bool) -> None:
        assert self._answer is not None
        assert self._reader is not None
        self.reusable = reusable and not self.closed
        self._answer.set_result(self._reader.answer())

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


class _Reader:
    """Reads one reply from pieces of any size."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._status = 0
        self._headers: dict[str, str] = {}
        self._at = -1  # where the body, or the next chunk, begins; -1: the head is not complete
        self._length: int | None = None
        self._chunked = False
        self._chunks: list[bytes] = []
        self._body = b""

    def feed(self, data: bytes) -> bool:
        """Take more bytes; True when the reply is complete. ValueError if this is not HTTP."""
        self._data += data
        if len(self._data) > BODY_LIMIT:
            raise ValueError("reply too large")
        while self._at < 0:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > HEAD_LIMIT:
                    raise ValueError("head too long")
                return False
            self._read_head(bytes(self._data[:end]), end + 4)
        if self._chunked:
            return self._read_chunks()
        if self._length is None:
            return False
        if len(self._data) - self._at < self._length:
            return False
        self._body = bytes(self._data[self._at : self._at + self._length])
        return True

    @property
    def begun(self) -> bool:
        """Whether anything was read."""
        return bool(self._data) or self._at >= 0

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow on this connection."""
        return self._headers.get("connection", "").lower() != "close"

    @property
    def ended_by_close(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._at >= 0 and not self._chunked and self._length is None

    def answer(self) -> Answer:
        """The reply, once complete."""
        if self.ended_by_close:
            self._body = bytes(self._data[self._at :])
        return Answer(self._status, self._headers, self._body)

    def _read_head(self, head: bytes, body_at: int) -> None:
        lines = head.decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ValueError(f"status line {lines[0]!r}")
        status = int(rest[:3])
        if 100 <= status < 200:
            del self._data[:body_at]
            return
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"header line {line!r}")
            headers[name.strip().lower()] = value.strip()
        self._status, self._headers, self._at = status, headers, body_at
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        if length is not None:
            if not length.isdigit():
                raise ValueError(f"Content-Length {length!r}")
            self._length = int(length)
        if status in (204, 304):
            self._length, self._chunked = 0, False
        if version == "HTTP/1.0":
            headers.setdefault("connection", "close")

    def _read_chunks(self) -> bool:
        while True:
            end = self._data.find(b"\r\n", self._at)
            if end < 0:
                return False
            size = int(self._data[self._at : end].split(b";")[0], 16)
            if size < 0:
                raise ValueError("negative chunk")
            if size == 0:
                # Trailers, if any, end with an empty line.
                if self._data.find(b"\r\n\r\n", end) < 0:
                    return False
                self._body = b"".join(self._chunks)
                return True
            if len(self._data) < end + 2 + size + 2:
                return False
            self._chunks.append(bytes(self._data[end + 2 : end + 2 + size]))
            self._at = end + 2 + size + 2
