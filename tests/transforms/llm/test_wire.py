"""The HTTP connection pool: replies of every framing in pieces of every size; what is cut is never a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import UsageError
from tests.stub_llm import Options, StubServer
from transforms.llm.wire import Answer, CannotConnectError, CutError, Wire, _Reader

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;note=1\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nTrailer: x\r\n\r\n"


def framed(body: bytes, kind: str, size: int) -> bytes:
    if kind == "length":
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == "informed":
        return b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"content-length:%d\r\n\r\n" % len(body) + body
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, size)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200),
    st.sampled_from(["length", "informed", "chunked"]),
    st.integers(1, 50),
    st.lists(st.integers(1, 40), max_size=30),
)
def test_a_reply_is_read_whole_however_it_arrives(body: bytes, kind: str, size: int, cuts: list[int]) -> None:
    wire = framed(body, kind, size)
    reader, at = _Reader(), 0
    for cut in [*cuts, len(wire)]:
        piece = wire[at : at + cut]
        at += len(piece)
        if not piece:
            break
        done = reader.feed(piece)
        assert done == (at == len(wire)), "complete exactly with the last byte"
    if at == len(wire):
        assert reader.answer().body == body
        assert reader.answer().status == 200


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_anything_else_is_incomplete_or_refused(data: bytes) -> None:
    try:
        done = _Reader().feed(data)
    except ValueError:
        return
    assert not done or data.startswith(b"HTTP/1.")


def serve(answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], calls: int = 1) -> list[Any]:
    async def run() -> list[Any]:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        wire = Wire(f"http://127.0.0.1:{port}", {})
        out: list[Any] = []
        for _ in range(calls):
            try:
                out.append(await wire.ask("POST", "/x", b"{}", 2.0))
            except (ConnectionError, TimeoutError) as error:
                out.append(error)
        wire.close()
        server.close()
        return out

    return asyncio.run(run())


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


def test_a_body_may_end_with_the_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        writer.close()

    (found,) = serve(answer)
    assert isinstance(found, Answer)
    assert found.body == b"hello"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", b"nonsense\r\n\r\n"])
def test_a_cut_reply_is_an_error(sent: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sent)
        writer.close()

    (found,) = serve(answer)
    assert isinstance(found, CutError)


def test_a_connection_the_server_closed_while_idle_is_replaced_silently() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()  # without having said so

    found = serve(answer, calls=5)
    assert [reply.body for reply in found] == [b"ok"] * 5


def test_connections_are_kept() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while not reader.at_eof():
            try:
                await read_request(reader)
            except asyncio.IncompleteReadError:
                return
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    assert [reply.body for reply in serve(answer, calls=6)] == [b"ok"] * 6
    assert connections == 1


def test_a_late_reply_is_not_taken_for_the_next_one() -> None:
    async def run() -> None:
        with StubServer(Options(latency_s=0.3)) as stub:
            wire = Wire(stub.url.removesuffix("/v1"), {})
            with pytest.raises(TimeoutError):
                await wire.ask("POST", "/v1/chat/completions", b'{"messages":[{"content":"one"}]}', 0.1)
            second = await wire.ask("POST", "/v1/chat/completions", b'{"messages":[{"content":"two"}]}', 5.0)
            again = await wire.ask("POST", "/v1/chat/completions", b'{"messages":[{"content":"two"}]}', 5.0)
            assert second.body == again.body
            wire.close()

    asyncio.run(run())


def test_nobody_listening_is_told_apart_from_a_cut() -> None:
    async def run() -> None:
        with pytest.raises(CannotConnectError):
            await Wire("http://127.0.0.1:1", {}).ask("GET", "/", b"", 2.0)

    asyncio.run(run())


@pytest.mark.parametrize("value", ["a\r\nEvil: 1", "schlüssel", "a\x00b"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(UsageError, match="header 'authorization'"):
        Wire("http://127.0.0.1:1", {"authorization": value})


def test_an_address_must_be_http() -> None:
    with pytest.raises(UsageError, match="not an http address"):
        Wire("ftp://host/v1", {})
