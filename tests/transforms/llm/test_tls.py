"""The connection pool over TLS: a certificate is checked, connections are kept, a cut reply is an error."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.errors import EngineError
from transforms.engines.openai import OpenAI
from transforms.llm.client import Patience
from transforms.llm.request import Request
from transforms.llm.wire import Answer, CannotConnectError, CutError, Wire

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
REPLY = b'{"choices": [{"message": {"role": "assistant", "content": "over TLS"}, "finish_reason": "stop"}]}'
PAST, FUTURE = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=n) for n in (-2, 2))


def certificate(folder: Path, valid_from: datetime.datetime = PAST, valid_to: datetime.datetime = FUTURE) -> Path:
    """Make a self-signed certificate for 127.0.0.1; the file holds its key too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(valid_from)
        .not_valid_after(valid_to)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    return head + await reader.readexactly(length)


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while not reader.at_eof():
        try:
            await read_request(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(REPLY) + REPLY)


async def cutting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhalf")
    await writer.drain()
    writer.transport.abort()


async def served(path: Path, answer: Serve, use: Callable[[str], Awaitable[Any]]) -> Any:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        return await use(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


async def asked(url: str, times: int = 1) -> list[Answer]:
    wire = Wire(url, {"authorization": "Bearer secret"})
    try:
        return [await wire.ask("POST", "/v1/chat/completions", b"{}" * 1000, 5.0) for _ in range(times)]
    finally:
        wire.close()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return path


def test_replies_come_over_one_kept_connection(trusted: Path) -> None:
    connections = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answering(reader, writer)

    replies = asyncio.run(served(trusted, counted, lambda url: asked(url, 5)))
    assert [reply.body for reply in replies] == [REPLY] * 5
    assert connections == 1


def test_a_cut_reply_is_an_error(trusted: Path) -> None:
    with pytest.raises(CutError):
        asyncio.run(served(trusted, cutting, asked))


def test_a_certificate_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotConnectError, match=r"certificate verify failed|CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(served(certificate(tmp_path), answering, asked))


def test_an_expired_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = certificate(tmp_path, PAST - datetime.timedelta(days=9), PAST)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(CannotConnectError, match="expired"):
        asyncio.run(served(path, answering, asked))


def test_a_certificate_of_another_host_is_refused(trusted: Path) -> None:
    async def by_name(url: str) -> list[Answer]:
        return await asked(url.replace("127.0.0.1", "localhost"))

    with pytest.raises(CannotConnectError, match=r"Hostname mismatch|certificate is not valid for 'localhost'"):
        asyncio.run(served(trusted, answering, by_name))


def test_plain_http_is_not_taken_for_tls(trusted: Path) -> None:
    async def run() -> None:
        server = await asyncio.start_server(answering, "127.0.0.1", 0)
        try:
            await asked(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        finally:
            server.close()

    with pytest.raises((CannotConnectError, CutError)):
        asyncio.run(run())


def test_an_engine_answers_over_tls_and_stops_where_it_may_not_trust(
    trusted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(url: str) -> str:
        engine = OpenAI("cloud", OpenAI.Config(base_url=f"{url}/v1", model="m", outage_s=0.5), 0)
        async with engine.connect([f"{url}/v1"]) as client:
            client.patience = Patience(outage_s=0.5, retries=1, backoff_s=0.01)
            return (await client.send(Request("cloud", "m", {"messages": []}))).text

    assert asyncio.run(served(trusted, answering, ask)) == "over TLS"
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(EngineError, match=r"nothing answers.*certificate"):
        asyncio.run(served(trusted, answering, ask))
