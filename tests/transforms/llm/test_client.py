"""The client against a server that misbehaves: what is repeated, what is final, what stops the run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from schemas.errors import EngineError
from tests.stub_llm import Options, StubServer
from transforms.llm.client import Client, Patience
from transforms.llm.request import Reply, Request
from transforms.llm.supervisor import free_port

QUICK = Patience(attempt_s=5.0, deadline_s=30.0, retries=8, backoff_s=0.01, backoff_max_s=0.05, outage_s=2.0)


def requests(count: int, path: str = "chat/completions") -> list[Request]:
    return [
        Request("e", "m", {"messages": [{"role": "user", "content": f"question {n}"}], "max_tokens": 5}, path=path)
        for n in range(count)
    ]


def ask(
    urls: list[str], asked: list[Request], patience: Patience = QUICK, concurrency: int = 64, key: str | None = None
) -> list[Reply]:
    headers = {"authorization": f"Bearer {key}"} if key else {}

    async def run() -> list[Reply]:
        async with Client("e", urls, "stub", concurrency, patience, headers) as client:
            return list(await asyncio.gather(*(client.send(request) for request in asked)))

    return asyncio.run(run())


FAULTS: dict[str, Options] = {
    "429 at random": Options(rate_limited=0.3),
    "429 storm with Retry-After": Options(storm=200, retry_after="0.05"),
    "503 at random": Options(unavailable=0.3),
    "every request fails twice": Options(fail_first=2),
    "cut connections": Options(cut=0.3),
    "truncated JSON": Options(truncate=0.3),
    "malformed bodies": Options(malformed=0.3),
    "all at once": Options(rate_limited=0.1, unavailable=0.1, cut=0.1, truncate=0.1, malformed=0.1),
    "answers out of order": Options(latency_s=0.02, heavy_tail=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_gets_the_answer_of_a_healthy_server(fault: str) -> None:
    asked = requests(150)
    with StubServer() as healthy:
        expected = [reply.text for reply in ask([healthy.url], asked)]
    with StubServer(FAULTS[fault]) as stub:
        replies = ask([stub.url], asked)
        assert [reply.state for reply in replies] == ["ok"] * len(asked)
        assert [reply.text for reply in replies] == expected
        assert [reply.request_id for reply in replies] == [request.request_id for request in asked]
        assert set(stub.stub.answered.values()) == {1}, "an answer was bought twice"
        assert sum(reply.retries for reply in replies) == sum(stub.stub.received.values()) - len(asked)


def test_a_hanging_request_is_given_up_and_repeated() -> None:
    patience = Patience(attempt_s=0.3, deadline_s=20, retries=12, backoff_s=0.01, outage_s=30)
    with StubServer(Options(hang=0.3)) as stub:
        replies = ask([stub.url], requests(40), patience)
    assert {reply.state for reply in replies} == {"ok"}
    assert any(reply.retries for reply in replies)


def test_retries_are_bounded_and_the_failure_is_transient() -> None:
    patience = Patience(retries=3, backoff_s=0.001, outage_s=60)
    with StubServer(Options(unavailable=1.0)) as stub:
        (reply,) = ask([stub.url], requests(1), patience)
        assert sum(stub.stub.received.values()) == 4
    assert (reply.state, reply.transient, reply.retries) == ("error", True, 3)
    assert "503" in (reply.error or "")


def test_the_deadline_bounds_all_attempts_together() -> None:
    patience = Patience(attempt_s=10, deadline_s=0.5, retries=100, backoff_s=0.05, outage_s=60)
    with StubServer(Options(hang=1.0)) as stub:
        started = time.monotonic()
        (reply,) = ask([stub.url], requests(1), patience)
    assert reply.transient
    assert time.monotonic() - started < 3


def test_retry_after_is_honoured() -> None:
    with StubServer(Options(fail_first=1, retry_after="0.4")) as stub:
        started = time.monotonic()
        (reply,) = ask([stub.url], requests(1))
    assert reply.state == "ok"
    assert time.monotonic() - started >= 0.4


def test_a_bad_request_is_a_permanent_error_with_the_servers_reason() -> None:
    with StubServer(Options(bad_request=1.0)) as stub:
        (reply,) = ask([stub.url], requests(1))
        assert sum(stub.stub.received.values()) == 1
    assert (reply.state, reply.transient) == ("error", False)
    assert reply.error == "400: This model's maximum context length is 4096 tokens."


def test_a_refusal_is_not_repeated() -> None:
    with StubServer(Options(refuse=1.0)) as stub:
        (reply,) = ask([stub.url], requests(1))
        assert sum(stub.stub.received.values()) == 1
    assert reply.state == "refused"


def test_an_unknown_address_stops_the_run_with_a_message() -> None:
    with StubServer() as stub, pytest.raises(EngineError, match="turns requests away with 404"):
        ask([stub.url], requests(1, path="no/such/path"))


def test_a_server_without_tokenizer_stops_nothing() -> None:
    with StubServer() as stub:
        url = stub.url.replace("/v1", "/elsewhere/v1")
        (reply,) = ask([url], requests(1, path="tokenize"))
    assert (reply.state, reply.transient) == ("error", False)


def test_nothing_answering_stops_the_run_with_a_message() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(EngineError, match="nothing answers at") as caught:
        ask([url], requests(20), Patience(outage_s=0.5))
    assert url in str(caught.value)


def test_a_server_that_never_answers_well_trips_the_breaker() -> None:
    patience = Patience(retries=1000, backoff_s=0.005, backoff_max_s=0.01, outage_s=0.5, breaker_failures=20)
    with StubServer(Options(unavailable=1.0)) as stub, pytest.raises(EngineError, match="no usable answer"):
        ask([stub.url], requests(20), patience)


@pytest.mark.parametrize("fault", [{"rate_limited": 1.0}, {"malformed": 1.0}, {"truncate": 1.0}])
def test_no_kind_of_failure_alone_keeps_the_breaker_from_tripping(fault: dict[str, float]) -> None:
    patience = Patience(retries=1000, backoff_s=0.005, backoff_max_s=0.01, outage_s=0.5, breaker_failures=20)
    with StubServer(Options(**fault)) as stub, pytest.raises(EngineError, match="no usable answer"):
        ask([stub.url], requests(20), patience)


def test_counting_tokens_does_not_hide_that_the_model_is_silent() -> None:
    patience = Patience(retries=1000, backoff_s=0.005, backoff_max_s=0.01, outage_s=0.5, breaker_failures=20)
    counted = [Request("e", "m", {"content": "a b", "prompt": "a b"}, path="tokenize", salt=str(n)) for n in range(400)]
    with StubServer(Options(unavailable=1.0)) as stub, pytest.raises(EngineError, match="no usable answer"):
        ask([stub.url], [*requests(20), *counted], patience)


def test_a_wait_that_the_server_asks_for_is_no_outage() -> None:
    patience = Patience(retries=5, backoff_s=0.001, outage_s=0.3, breaker_failures=4)
    with StubServer(Options(storm=20, retry_after="0.6")) as stub:
        replies = ask([stub.url], requests(20), patience)
    assert {reply.state for reply in replies} == {"ok"}


def test_a_wait_beyond_the_deadline_is_not_waited_for_and_not_cut_short() -> None:
    with StubServer(Options(rate_limited=1.0, retry_after="3600")) as stub:
        started = time.monotonic()
        replies = ask([stub.url], requests(200), QUICK, concurrency=4)
        received = sum(stub.stub.received.values())
    assert time.monotonic() - started < 5
    assert received <= 4, "a server that asked for an hour of silence was asked again"
    assert {(reply.state, reply.transient) for reply in replies} == {("error", True)}
    assert "Retry-After" in (replies[-1].error or "")


def test_one_server_that_wants_silence_leaves_its_share_to_the_other() -> None:
    with StubServer(Options(rate_limited=1.0, retry_after="3600")) as busy, StubServer() as free:
        replies = ask([busy.url, free.url], requests(40), concurrency=1)
    assert [reply.state for reply in replies].count("ok") >= 39


def test_a_server_that_dies_and_comes_back_costs_nothing_but_time() -> None:
    async def run() -> list[Reply]:
        first = StubServer(Options(latency_s=0.05))
        first.__enter__()
        patience = Patience(retries=3, backoff_s=0.01, outage_s=20)
        async with Client("e", [first.url], "stub", 8, patience) as client:
            pending = asyncio.gather(*(client.send(request) for request in asked))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(first.__exit__)
            await asyncio.sleep(1.0)
            with StubServer(Options(latency_s=0.01), port=first.port):
                return list(await pending)

    asked = requests(100)
    replies = asyncio.run(run())
    assert {reply.state for reply in replies} == {"ok"}


def test_servers_share_the_load_and_one_may_be_dead() -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with StubServer() as one, StubServer() as two:
        replies = ask([one.url, dead, two.url], requests(60))
        shares = [sum(stub.stub.received.values()) for stub in (one, two)]
    assert {reply.state for reply in replies} == {"ok"}
    assert sum(shares) == 60
    assert min(shares) >= 15


def test_concurrency_is_bounded_and_used() -> None:
    with StubServer(Options(latency_s=0.05)) as stub:
        ask([stub.url], requests(60), concurrency=7)
        assert stub.stub.peak == 7


def test_the_request_is_sent_as_it_stands_with_the_served_name() -> None:
    seen: list[dict[str, Any]] = []

    def keep(body: dict[str, Any]) -> str:
        seen.append(body)
        return "x"

    with StubServer(reply=keep) as stub:
        (request,) = requests(1)
        ask([stub.url], [request])
    assert seen == [{**request.body, "model": "stub"}]


@pytest.mark.parametrize("key", ["sk-live-4242424242", "proj/4242+4242=4242%42"])
@pytest.mark.parametrize("fault", ["none", "bad_request", "unavailable", "rate_limited"])
def test_a_server_that_repeats_our_headers_gets_no_key_into_a_reply(fault: str, key: str) -> None:
    options = Options(echo=True, **({} if fault == "none" else {fault: 1.0}))
    with StubServer(options) as stub:
        (reply,) = ask([stub.url], requests(1), Patience(retries=1, backoff_s=0.001), key=key)
    said = f"{reply.text} {reply.error}"
    assert "authorization" in said.lower()
    assert "Bearer [redacted]" in said
    assert key not in repr(reply)


def test_a_short_key_is_taken_out_of_errors_and_leaves_answers_alone() -> None:
    with StubServer(reply=lambda _: "the bucket is EMPTY") as stub:
        (reply,) = ask([stub.url], requests(1), key="EMPTY")
    assert reply.text == "the bucket is EMPTY"
    with StubServer(Options(echo=True, bad_request=1.0)) as stub:
        (refused,) = ask([stub.url], requests(1), key="EMPTY")
    assert "EMPTY" not in (refused.error or "")


def escaped(text: str) -> bytes:
    """A JSON string all of whose characters are escaped, as a server may write it."""
    return b'"' + "".join(f"\\u{ord(c):04x}" for c in text).encode() + b'"'


def whole(status: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


FILLER = b"x" * 70  # so that a message cut at 80 characters would end within the key
WORDS: dict[str, Callable[[bytes], bytes]] = {
    "status line": lambda given: FILLER + given,
    "header line": lambda given: b"HTTP/1.1 200 OK\r\n" + FILLER + given.replace(b":", b""),
    "unauthorised": lambda given: whole(b"401 No", given),
    "a long page": lambda given: whole(b"400 No", given + b"x" * 100_000),
    "a list": lambda given: whole(b"400 No", b"[%s]" % escaped(given.decode())),
    "an escaped error": lambda given: whole(b"400 No", b'{"error": {"message": %s}}' % escaped(given.decode())),
    "an escaped error in a field of its own": lambda given: whole(b"400 No", b'{"why": %s}' % escaped(given.decode())),
    "an escaped answer": lambda given: whole(
        b"200 OK", b'{"choices": [{"message": {"content": %s}}]}' % escaped(given.decode())
    ),
    "an escaped thought": lambda given: whole(
        b"200 OK", b'{"choices": [{"message": {"content": "", "reasoning": %s}}]}' % escaped(given.decode())
    ),
    "an escaped refusal": lambda given: whole(
        b"200 OK", b'{"choices": [{"message": {"content": null, "refusal": %s}}]}' % escaped(given.decode())
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_however_a_server_repeats_a_key_it_stands_in_no_reply_and_no_error(words: str) -> None:
    key = "sk-live+4242/4242424242=="

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        given = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"authorization"))
        writer.write(WORDS[words](given) + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    async def run() -> str:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        headers = {"authorization": f"Bearer {key}"}
        async with server, Client("e", [url], "m", 1, Patience(retries=0), headers) as client:
            try:
                return repr(await client.send(requests(1)[0]))
            except EngineError as error:
                return str(error)

    said = asyncio.run(run())
    assert "[redacted]" in said
    assert "sk-live" not in said
    assert len(said) < 1000
