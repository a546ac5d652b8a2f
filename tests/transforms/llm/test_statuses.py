"""What the client does about every status and every form of reply, over real sockets against the stub."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from schemas.errors import EngineError
from tests.stub_llm import Options, Special, StubServer
from transforms.engines.base import wait_until_answers
from transforms.engines.openai import OpenAI
from transforms.llm.client import TURNED_AWAY, Client, Patience
from transforms.llm.redirects import below, keeps_headers
from transforms.llm.request import Reply, Request
from transforms.llm.statuses import DOOR, MOVED, REFUSED, TRANSIENT, meaning_of
from transforms.llm.usage import TOKENIZE

QUICK = Patience(attempt_s=5.0, deadline_s=20.0, retries=3, backoff_s=0.001, backoff_max_s=0.01, outage_s=5.0)
DOCS = Path(__file__).parents[3] / "docs" / "engines.md"


def asked(number: int) -> Request:
    return Request("e", "m", {"messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 9})


def replies(stub: StubServer, numbers: range, patience: Patience = QUICK, **client: Any) -> list[Reply]:
    """The replies to questions asked one after another."""

    async def run() -> list[Reply]:
        async with Client("e", [stub.url], "stub", 8, patience, **client) as made:
            return [await made.send(asked(number)) for number in numbers]

    return asyncio.run(run())


def failing(status: int, times: int = 1, error: Any = None, headers: dict[str, str] | None = None) -> Special:
    """The first `times` attempts of question 1 get the status."""

    def special(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        if "question 1" not in body["messages"][0]["content"] or attempt > times:
            return None
        shown = {"error": error or {"message": "the provider's words"}}
        return web.json_response(shown, status=status, headers=headers)

    return special


def answering(make: Callable[[dict[str, Any]], web.Response]) -> Special:
    """Every request is answered with what `make` does with a usual completion."""
    usual: dict[str, Any] = {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "fine"}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
    return lambda _request, _attempt, _body: make(json.loads(json.dumps(usual)))


@pytest.mark.parametrize("status", [*sorted(TRANSIENT), 500, 501, 502, 503, 504, 507, 520, 522, 524, 529, 599])
def test_a_transient_status_is_asked_again(status: int) -> None:
    with StubServer(special=failing(status)) as stub:
        (reply,) = replies(stub, range(1, 2))
    assert (reply.state, reply.retries) == ("ok", 1)


@pytest.mark.parametrize("status", [400, 406, 410, 413, 415, 422, 431])
def test_another_status_is_final_for_its_request(status: int) -> None:
    with StubServer(special=failing(status, times=9)) as stub:
        first, second = replies(stub, range(1, 3))
        assert sum(stub.stub.received.values()) == 2
    assert (first.state, first.transient, first.cause) == ("error", False, f"status {status}")
    assert first.error == f"{status}: the provider's words"
    assert second.state == "ok"


@pytest.mark.parametrize("status", sorted(DOOR))
def test_a_status_of_all_requests_ends_the_stage_before_the_first_answer_and_is_final_after_it(status: int) -> None:
    with StubServer(special=failing(status, times=9)) as stub:
        with pytest.raises(EngineError, match=f"turns requests away with {status}: the provider's words"):
            replies(stub, range(1, 2))
        before, turned_away, after = replies(stub, [0, 1, 2])  # type: ignore[arg-type]
    assert (before.state, after.state) == ("ok", "ok")
    assert (turned_away.state, turned_away.transient, turned_away.cause) == ("error", False, f"status {status}")


def test_so_many_different_requests_in_a_row_end_the_stage() -> None:
    def revoked(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        is_first = "question 0" in body["messages"][0]["content"]
        return None if is_first else web.json_response({"error": {"message": "revoked"}}, status=401)

    with StubServer(special=revoked) as stub:
        assert [reply.state for reply in replies(stub, range(TURNED_AWAY))] == ["ok"] + ["error"] * (TURNED_AWAY - 1)
        with pytest.raises(EngineError, match="401: revoked"):
            replies(stub, range(TURNED_AWAY + 1))
        again = [0] + [1] * 2 * TURNED_AWAY  # the same one says nothing of the others
        assert [reply.state for reply in replies(stub, again)][1:] == ["error"] * 2 * TURNED_AWAY  # type: ignore[arg-type]


@pytest.mark.parametrize("turned_away", range(1, TURNED_AWAY + 1))
def test_what_is_on_the_way_is_heard_before_the_stage_ends(turned_away: int) -> None:
    """Refusals come faster than answers."""

    def special(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        number = int(body["messages"][0]["content"].split()[1])
        return web.json_response({"error": {"message": "no"}}, status=403) if number < turned_away else None

    async def run(url: str) -> list[Reply]:
        async with Client("e", [url], "stub", 8, QUICK) as client:
            return list(await asyncio.gather(*(client.send(asked(number)) for number in range(8))))

    with StubServer(Options(latency_s=0.3), special=special) as stub:
        if turned_away == TURNED_AWAY:
            with pytest.raises(EngineError, match="403: no"):
                asyncio.run(run(stub.url))
        else:
            states = [reply.state for reply in asyncio.run(run(stub.url))]
            assert states == ["error"] * turned_away + ["ok"] * (8 - turned_away)


def test_a_request_that_was_turned_away_in_an_earlier_run_ends_no_stage() -> None:
    async def run(url: str) -> Reply:
        async with Client("e", [url], "stub", 8, QUICK) as client:
            return await client.send(asked(1), turned_away="status 403")

    with StubServer(special=failing(403, times=9)) as stub:
        assert asyncio.run(run(stub.url)).cause == "status 403"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            400,
            {"message": "filtered", "code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}},
        ),
        (403, {"message": "flagged", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "..."}}),
        (400, {"message": "sensitive", "code": "1301"}),
        (451, {"message": "not here"}),
        (200, {"message": "flagged", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "..."}}),
    ],
)
def test_a_content_filter_refuses_and_is_not_asked_again(status: int, error: dict[str, Any]) -> None:
    with StubServer(special=failing(status, times=9, error=error)) as stub:
        (reply,) = replies(stub, range(1, 2))
        assert sum(stub.stub.received.values()) == 1
    assert reply.state == "refused"
    assert error["message"] in (reply.error or "")


@pytest.mark.parametrize("code", [502, "server_error", None, "429"])
def test_an_error_below_a_status_of_200_is_asked_again_by_its_code(code: Any) -> None:
    error = {"message": "the provider's words", "code": code}
    with StubServer(special=failing(200, error=error)) as stub:
        (reply,) = replies(stub, range(1, 2))
    assert (reply.state, reply.retries) == ("ok", 1)
    with StubServer(special=failing(200, times=9, error=error)) as stub:
        (reply,) = replies(stub, range(1, 2))
    assert reply.transient
    assert "the provider's words" in (reply.error or "")


def test_spent_credits_below_a_status_of_200_end_the_stage_with_the_providers_words() -> None:
    error = {"message": "more credits needed", "code": 402}
    with StubServer(special=failing(200, times=9, error=error)) as stub:
        with pytest.raises(EngineError, match="402: more credits needed"):
            replies(stub, range(1, 2))
        assert sum(stub.stub.received.values()) == 1


@pytest.mark.parametrize("finish", ["error", "abort", "network_error", "something new"])
def test_a_reply_that_was_broken_off_is_asked_again(finish: str) -> None:
    def broken(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": "half of an"}}
        return web.json_response({"choices": [choice]}) if attempt == 1 else None

    with StubServer(special=broken) as stub:
        (reply,) = replies(stub, range(1))
    assert (reply.state, reply.retries) == ("ok", 1)
    assert "half of an" not in reply.text


def test_waiting_as_the_server_asks_costs_no_attempt() -> None:
    patience = Patience(attempt_s=5, deadline_s=20, retries=1, backoff_s=0.001, outage_s=10)
    with StubServer(special=failing(429, times=4, headers={"Retry-After": "0.05"})) as stub:
        (reply,) = replies(stub, range(1, 2), patience)
    assert (reply.state, reply.retries) == ("ok", 4)
    with StubServer(special=failing(429, times=4)) as stub:
        (reply,) = replies(stub, range(1, 2), patience)
    assert reply.transient


def test_a_server_that_loads_its_model_is_waited_for_before_its_first_answer_only() -> None:
    started = time.monotonic()

    def loading(_: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        is_late = "question 1" in body["messages"][0]["content"]
        is_loading = time.monotonic() - started < 1.0 or is_late
        return web.json_response({"error": {"message": "Loading model"}}, status=503) if is_loading else None

    patience = Patience(attempt_s=5, deadline_s=20, retries=1, backoff_s=0.05, outage_s=10, loading_s=10)
    with StubServer(special=loading) as stub:
        first, second = replies(stub, range(2), patience)
    assert first.state == "ok"
    assert first.retries > patience.retries
    assert second.transient


@pytest.mark.parametrize("status", sorted(MOVED))
def test_a_redirect_is_followed_with_method_and_body(status: int) -> None:
    def moved(request: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        if request.path.startswith("/moved"):
            return None
        return web.Response(status=status, headers={"Location": "/moved/chat/completions"})

    with StubServer(special=moved) as stub, StubServer() as plain:
        found, expected = replies(stub, range(3)), replies(plain, range(3))
        assert [reply.text for reply in found] == [reply.text for reply in expected]
        # What moved for good is asked at its new address the next time.
        assert sum(stub.stub.received.values()) == (4 if status in (301, 308) else 6)


@pytest.mark.parametrize("is_far", [False, True])
def test_no_header_of_ours_goes_to_another_host(is_far: bool) -> None:
    seen: list[str | None] = []

    def there(request: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        seen.append(request.headers.get("Authorization"))
        return None

    def here(request: web.Request, attempt: int, body: dict[str, Any]) -> web.Response | None:
        seen.append(request.headers.get("Authorization"))
        if request.path.startswith("/moved"):
            return None
        target = f"{other.url}/chat/completions" if is_far else "/moved/chat/completions"
        return web.Response(status=307, headers={"Location": target})

    with StubServer(special=there) as other, StubServer(special=here) as stub:
        (reply,) = replies(stub, range(1), headers={"Authorization": "Bearer secret-key-42"})
    assert reply.state == "ok"
    assert seen == ["Bearer secret-key-42", None if is_far else "Bearer secret-key-42"]


def test_the_start_check_follows_redirects_without_our_headers() -> None:
    seen: list[str | None] = []

    async def models(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response({"data": []})

    async def away(_: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{far}/models"})

    async def served(handler: Any) -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_get("/v1/models", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        return runner, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[attr-defined]

    async def run() -> None:
        nonlocal far
        (one, far), (two, near) = await served(models), await served(away)
        await asyncio.to_thread(wait_until_answers, "e", [near], {"Authorization": "Bearer secret-key-42"}, 5.0)
        await asyncio.gather(one.cleanup(), two.cleanup())

    far = ""
    asyncio.run(run())
    assert seen == [None]


def test_no_check_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with StubServer() as stub:
        wait_until_answers("e", [stub.url], {}, 1.0)


@pytest.mark.parametrize("location", ["", "ftp://example.org/x", "/v1/chat/completions"])
def test_a_redirect_to_nowhere_ends_the_stage(location: str) -> None:
    headers = {"Location": location} if location else {}
    nowhere = answering(lambda _: web.Response(status=302, headers=headers))
    with StubServer(special=nowhere) as stub, pytest.raises(EngineError, match=r"redirect|Location|may go"):
        replies(stub, range(1))


def test_headers_stay_with_name_and_port() -> None:
    assert keeps_headers("http://a.org/v1", "http://a.org:80/x")
    assert keeps_headers("http://a.org/v1", "https://a.org/x")
    for other in ("http://b.org/x", "http://a.org:81/x", "https://a.org:8443/x", "http://a.org.evil/x"):
        assert not keeps_headers("http://a.org/v1", other)
    assert not keeps_headers("https://a.org/v1", "http://a.org/x")


def packed(encoding: str, data: bytes) -> bytes:
    if encoding == "gzip":
        return gzip.compress(data)
    if encoding == "deflate":
        return zlib.compress(data)
    squeeze = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeeze.compress(data) + squeeze.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "bare deflate"])
def test_a_compressed_reply_is_read(encoding: str) -> None:
    name = encoding.split()[-1]

    def make(usual: dict[str, Any]) -> web.Response:
        return web.Response(body=packed(encoding, json.dumps(usual).encode()), headers={"Content-Encoding": name})

    with StubServer(special=answering(make)) as stub:
        assert replies(stub, range(1))[0].text == "fine"


def test_an_encoding_that_nobody_asked_for_is_named() -> None:
    headers = {"Content-Encoding": "zstd"}
    with StubServer(special=answering(lambda _: web.Response(body=b"(\xb5/\xfd", headers=headers))) as stub:
        (reply,) = replies(stub, range(1))
    assert reply.transient
    assert "'zstd'" in (reply.error or "")


def test_what_is_no_json_is_named_with_its_type_and_beginning() -> None:
    with StubServer(special=answering(lambda _: web.Response(text="<html>hello", content_type="text/html"))) as stub:
        (reply,) = replies(stub, range(1))
    assert "text/html" in (reply.error or "")
    assert "<html>hello" in (reply.error or "")


@pytest.mark.parametrize("is_whole", [True, False])
def test_an_event_stream_nobody_asked_for_is_read_if_it_is_whole(is_whole: bool) -> None:
    def make(usual: dict[str, Any]) -> web.Response:
        deltas: list[dict[str, Any]] = [
            {"role": "assistant"},
            {"reasoning_content": "hm"},
            {"content": "fi"},
            {"content": "ne"},
        ]
        pieces: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
        if is_whole:
            pieces.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usual["usage"]})
        lines = "".join(f"data: {json.dumps(piece)}\n\n" for piece in pieces)
        return web.Response(text=lines + ("data: [DONE]\n\n" if is_whole else ""), content_type="text/event-stream")

    with StubServer(special=answering(make)) as stub:
        (reply,) = replies(stub, range(1))
    if is_whole:
        assert (reply.text, reply.reasoning, reply.finish_reason, reply.tokens_in) == ("fine", "hm", "stop", 3)
    else:
        assert reply.transient


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "latin-1"])
def test_a_body_in_another_encoding_is_read(charset: str) -> None:
    def make(usual: dict[str, Any]) -> web.Response:
        usual["choices"][0]["message"]["content"] = "naïve"
        data = json.dumps(usual, ensure_ascii=False).encode(charset)
        return web.Response(body=data, headers={"Content-Type": f"application/json; charset={charset}"})

    with StubServer(special=answering(make)) as stub:
        assert replies(stub, range(1))[0].text == "naïve"


def test_half_a_character_and_numbers_that_json_lacks_cost_no_reply() -> None:
    def make(usual: dict[str, Any]) -> web.Response:
        top = [("A", -0.1), ("B", float("-inf")), ("C", float("nan")), ("HALF", -3.0), ("D", float("inf"))]
        rows = [{"token": token, "logprob": value} for token, value in top]
        usual["choices"][0]["message"]["content"] = "sunny HALF"
        usual["choices"][0]["logprobs"] = {"content": [{**rows[0], "top_logprobs": rows}]}
        return web.Response(body=json.dumps(usual).replace("HALF", "\\ud83d").encode(), content_type="application/json")

    with StubServer(special=answering(make)) as stub:
        (reply,) = replies(stub, range(1))
    assert reply.text == "sunny \ufffd"
    assert reply.logprobs == [{"A": -0.1, "B": -100.0, "\ufffd": -3.0}]


def test_tokens_that_nobody_counted_are_estimated_and_said() -> None:
    def make(usual: dict[str, Any]) -> web.Response:
        return web.json_response({"choices": usual["choices"]})

    with StubServer(special=answering(make)) as stub:
        (reply,) = replies(stub, range(1))
    assert reply.estimated
    assert (reply.tokens_in, reply.tokens_out) == (3, 1)  # four bytes to a token
    with StubServer() as stub:
        assert not replies(stub, range(1))[0].estimated


@pytest.mark.parametrize("given", [{}, {"user-agent": "mine"}])
def test_requests_have_a_name(given: dict[str, str]) -> None:
    seen: list[str] = []

    def special(request: web.Request, attempt: int, body: dict[str, Any]) -> None:
        seen.extend(request.headers.getall("User-Agent"))

    with StubServer(special=special) as stub:
        replies(stub, range(1), headers=given)
    assert seen == [given.get("user-agent", "prefine")]


@pytest.mark.parametrize("tail", ["", "/", "?api-version=2024-10-21", "/?api-version=2024-10-21"])
def test_a_base_url_may_have_any_path_and_a_query(tail: str) -> None:
    seen: list[str] = []

    def special(request: web.Request, attempt: int, body: dict[str, Any]) -> None:
        seen.append(request.path_qs)

    async def run(url: str) -> list[Reply]:
        async with Client("e", [url], "stub", 8, QUICK) as client:
            return [await client.send(asked(0)), await client.send(Request("e", "m", {"content": "x"}, TOKENIZE))]

    with StubServer(special=special) as stub:
        reply, count = asyncio.run(run(stub.url.replace("/v1", f"/moved{tail}")))
    assert reply.state == "ok"
    assert seen == [f"/moved/chat/completions{tail.strip('/')}"]
    assert (count.state, count.transient) == ("error", False)  # nobody knows where such a server counts tokens
    assert below("http://a.org/x/?q=1", "models") == "http://a.org/x/models?q=1"


@pytest.mark.parametrize(
    "url", ["ftp://a.org/v1", "a.org/v1", "http:///v1", "http://a.org/v1#x", "http://a.org/v1/chat/completions"]
)
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"base URL|leave out"):
        OpenAI.Config(base_url=url, model="m")


def test_an_engine_renames_adds_and_takes_away_fields_for_every_asker() -> None:
    bodies: list[dict[str, Any]] = []

    def special(_: web.Request, attempt: int, body: dict[str, Any]) -> None:
        bodies.append(body)

    extra = {"temperature": None, "chat_template_kwargs": {"enable_thinking": False}}
    config = {"base_url": "http://x/v1", "model": "stub"}
    plain, renamed, changed = (
        OpenAI("e", OpenAI.Config(**config, **more), 0)  # type: ignore[arg-type]
        for more in ({}, {"limit_field": "max_completion_tokens"}, {"extra_body": extra})
    )
    assert plain.answers_as == renamed.answers_as != changed.answers_as

    async def send(engine: OpenAI, url: str) -> None:
        async with engine.connect([url]) as client:
            body = {"messages": [], "max_tokens": 9, "temperature": 0.0}
            await client.send(Request("e", engine.answers_as, body))

    with StubServer(special=special) as stub:
        for engine in (plain, renamed, changed):
            asyncio.run(send(engine, stub.url))
    assert bodies == [
        {"messages": [], "max_tokens": 9, "temperature": 0.0, "model": "stub"},
        {"messages": [], "max_completion_tokens": 9, "temperature": 0.0, "model": "stub"},
        {"messages": [], "max_tokens": 9, "model": "stub", "chat_template_kwargs": {"enable_thinking": False}},
    ]


def test_the_documented_table_is_what_the_client_does() -> None:
    rows = re.findall(r"^\| ([0-9, –x]+) \| (\w+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    listed: dict[int, str] = {}
    for statuses, meaning in rows:
        for part in statuses.split(","):
            low, _, high = part.strip().replace("5xx", "500–599").replace("2xx", "200–299").partition("–")
            listed |= dict.fromkeys(range(int(low), int(high or low) + 1), meaning)
    assert {status: meaning_of(status) for status in listed} == listed
    assert TRANSIENT | DOOR | MOVED | REFUSED | set(range(500, 600)) <= listed.keys()
