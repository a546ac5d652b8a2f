"""A stub OpenAI-compatible server for tests: replies are a function of the request, faults are chosen.

`python -m tests.stub_llm --port 0 [--options JSON]` prints its base URL and serves until killed; `StubServer` is the
same inside a test, on a thread. `GET /stats` gives how often each request (hash of its body) was received and
answered, so that a test can say what was paid twice.

The reply to a chat request: if the body asks for one token, `A` or `B` by the request's hash, with log-probabilities;
else `reply` (a function of the body in tests) or a sentence made from the hash.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from aiohttp import web


@dataclass
class Options:
    """How the stub behaves. Shares are probabilities per received request, decided by a hash: deterministic."""

    latency_s: float = 0.0
    heavy_tail: bool = False  # latency_s is then the mean of a log-normal with sigma 1.5, cut at 40 x the mean
    slots: int = 0  # requests served at once, 0: unlimited; the others queue
    prompt_tokens: int = 0  # reported usage; 0: words of the prompt
    cached: float = 0.0  # share of the prompt tokens reported as taken from the prefix cache, in replies and /metrics
    rate_limited: float = 0.0  # 429
    retry_after: str | None = None  # sent with 429 and 503
    unavailable: float = 0.0  # 503
    hang: float = 0.0  # never answers
    cut: float = 0.0  # closes the connection in the middle of the body
    truncate: float = 0.0  # a whole HTTP reply with half of the JSON
    malformed: float = 0.0  # 200 with something that is no reply
    fuzz: int = 0  # each distinct request gets so many damaged bodies (`damaged`) before its answer
    bad_request: float = 0.0  # 400, always for the same bodies
    refuse: float = 0.0  # content filter, always for the same bodies
    storm: int = 0  # the first so many requests get 429
    fail_first: int = 0  # each distinct request fails so many times (503) before it succeeds
    echo: bool = False  # whatever it says ends with the request's headers, as some proxies' error pages do
    model: str = "stub"
    max_model_len: int = 0  # what the list of models says of the context, as vLLM's does; 0: nothing


# In place of an answer, given the request, how often it was received and its body; None: the usual answer.
Special = Callable[[web.Request, int, dict[str, Any]], web.Response | None]

MALFORMED = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"choices": []}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": {"content": 3}}]}',
    b"<html>502</html>",
    b'{"choices": [{"message": {"role": "assist',
    b"\xff\xfe\x00",
)


@dataclass
class Stub:
    """The handlers and what they counted."""

    options: Options = field(default_factory=Options)
    reply: Callable[[dict[str, Any]], str] | None = None
    special: Special | None = None
    received: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    peak: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self.handle)
        app.router.add_post("/v1/completions", self.handle)
        app.router.add_post("/moved/chat/completions", self.handle)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/health", self.models)
        app.router.add_get("/stats", self.stats)
        if self.options.cached:
            app.router.add_get("/metrics", self.metrics)
        app.on_startup.append(self.start)
        return app

    async def start(self, _: web.Application) -> None:
        self._slots = asyncio.Semaphore(self.options.slots or 2**31)

    async def models(self, _: web.Request) -> web.Response:
        entry: dict[str, Any] = {"id": self.options.model, "object": "model", "created": len(self.received)}
        if self.options.max_model_len:
            entry["max_model_len"] = self.options.max_model_len
        return web.json_response({"object": "list", "data": [entry]})

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response({"received": self.received, "answered": self.answered, "peak": self.peak})

    async def metrics(self, _: web.Request) -> web.Response:
        lines = ["# TYPE vllm:prefix_cache_queries_total counter"]
        for name, value in (("queries", self.prefix_queries), ("hits", self.prefix_hits)):
            lines.append(f'vllm:prefix_cache_{name}_total{{engine="0",model_name="stub"}} {float(value)}')
        return web.Response(text="\n".join(lines) + "\n")

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body.get("content") or body.get("prompt") or json.dumps(body.get("messages"))
        return web.json_response({"count": len(text.split()), "tokens": [0] * len(text.split())})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        key = hashlib.sha256(raw).hexdigest()[:32]
        self.received[key] += 1
        attempt = self.received[key]
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            async with self._slots:
                return await self.respond(request, key, attempt, json.loads(raw))
        finally:
            self.in_flight -= 1

    async def respond(self, request: web.Request, key: str, attempt: int, body: dict[str, Any]) -> web.StreamResponse:
        options = self.options
        echo = f" {sorted(request.headers.items())}" if options.echo else ""
        special = self.special(request, attempt, body) if self.special else None
        if special is not None:
            return special
        await asyncio.sleep(self.latency(key))
        if sum(self.received.values()) <= options.storm or self.falls(options.rate_limited, key, attempt, "429"):
            return self.failure(429, f"too many requests{echo}")
        if attempt <= options.fail_first or self.falls(options.unavailable, key, attempt, "503"):
            return self.failure(503, f"overloaded{echo}")
        if self.falls(options.bad_request, key, 0, "400"):
            message = f"This model's maximum context length is 4096 tokens.{echo}"
            return web.json_response({"error": {"message": message, "code": 400}}, status=400)
        if self.falls(options.hang, key, attempt, "hang"):
            await asyncio.sleep(3600)
        if self.falls(options.malformed, key, attempt, "malformed"):
            return web.Response(body=MALFORMED[draw_int(key, attempt) % len(MALFORMED)])
        completion = self.completion(key, body, "chat" in request.path)
        if options.echo:
            completion["choices"][0]["message"]["content"] += echo
        data = json.dumps(completion).encode()
        if attempt <= options.fuzz:
            return web.Response(body=damaged(data, key, attempt), content_type="application/json")
        if self.falls(options.truncate, key, attempt, "truncate"):
            return web.Response(body=data[: len(data) // 2], content_type="application/json")
        if self.falls(options.cut, key, attempt, "cut"):
            response = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await response.prepare(request)
            await response.write(data[: len(data) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        self.answered[key] += 1
        return web.Response(body=data, content_type="application/json")

    def failure(self, status: int, message: str) -> web.Response:
        wait = self.options.retry_after
        headers = {"Retry-After": wait} if wait is not None else {}
        return web.json_response({"error": {"message": message}}, status=status, headers=headers)

    def falls(self, share: float, key: str, attempt: int, fault: str) -> bool:
        return share > 0 and draw(key, str(attempt), fault) < share

    def latency(self, key: str) -> float:
        mean = self.options.latency_s
        if not self.options.heavy_tail:
            return mean
        u, v = draw(key, "u"), draw(key, "v")
        normal = math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)
        return min(40 * mean, mean * math.exp(1.5 * normal - 1.5**2 / 2))

    def completion(self, key: str, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        refused = self.falls(self.options.refuse, key, 0, "refuse")
        short = body.get("max_tokens", body.get("max_completion_tokens", 0)) == 1
        p = draw(key, "p")
        text = ("A" if p > 0.5 else "B") if short else f"reply {key[:8]} to a request of {len(body)} fields"
        if self.reply is not None:
            text = self.reply(body)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "content_filter" if refused else "stop"}
        if chat:
            choice["message"] = {"role": "assistant", "content": None if refused else text}
        else:
            choice["text"] = text
        if body.get("logprobs"):
            a, b = math.log(max(p, 1e-9) * 0.98), math.log(max(1 - p, 1e-9) * 0.98)
            top = [{"token": "A", "logprob": a}, {"token": "B", "logprob": b}, {"token": "C", "logprob": -4.6}]
            choice["logprobs"] = {"content": [{"token": text[:1], "logprob": max(a, b), "top_logprobs": top}]}
        words = sum(len(str(m.get("content", "")).split()) for m in body.get("messages", [])) or 1
        n_in, n_out = self.options.prompt_tokens or words, len(text.split())
        usage: dict[str, Any] = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
        if self.options.cached:
            hits = int(n_in * self.options.cached)
            usage["prompt_tokens_details"] = {"cached_tokens": hits}
            self.prefix_queries, self.prefix_hits = self.prefix_queries + n_in, self.prefix_hits + hits
        return {"id": f"chatcmpl-{key[:8]}", "object": "chat.completion", "choices": [choice], "usage": usage}


def draw(*fields: str) -> float:
    """Uniform in [0, 1), a function of the fields."""
    return int(hashlib.sha256("\x1f".join(fields).encode()).hexdigest()[:13], 16) / 16**13


def damaged(data: bytes, key: str, attempt: int) -> bytes:
    """The body of a reply, damaged so that it is none: a function of key and attempt, another one each time."""
    chance = random.Random(f"{key} {attempt}")
    body = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(body) or 1)
        kind = chance.randrange(4)
        if kind == 0:
            body[at : at + chance.randint(1, 40)] = b""
        elif kind == 1:
            body[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2:
            body[at : at + 1] = bytes([chance.randrange(256)])
        else:
            body[at : at + 1] = chance.choice([b"null", b"[]", b"{}", b'"', b"\\", b"1e999", b"NaN", b"\x00", b"\xff"])
    try:
        text = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return bytes(body)
    # Still a reply, if another one: cut off before its end it is none.
    return bytes(data[: chance.randrange(len(data))]) if isinstance(text, str) or text is None else bytes(body)


def draw_int(key: str, attempt: int) -> int:
    return int(hashlib.sha256(f"{key}{attempt}".encode()).hexdigest()[:8], 16)


class StubServer:
    """A stub on a thread: `with StubServer(Options(latency_s=0.05)) as stub: stub.url, stub.stub.received`."""

    def __init__(
        self,
        options: Options | None = None,
        reply: Callable[[dict[str, Any]], str] | None = None,
        port: int = 0,
        special: Special | None = None,
    ) -> None:
        self.stub = Stub(options or Options(), reply, special)
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        self._runner = web.AppRunner(self.stub.app(), access_log=None, shutdown_timeout=0)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=2048)
        await self._site.start()
        assert self._site._server is not None
        self.port = self._site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def _stop(self) -> None:
        await self._site.stop()
        current = asyncio.current_task()
        rest = [task for task in asyncio.all_tasks() if task is not current]
        for task in rest:  # requests that hang by order
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self._runner.cleanup()


async def _serve(options: Options, port: int) -> None:
    runner = web.AppRunner(Stub(options).app(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=2048)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--options", default="{}", help=f"JSON of {list(asdict(Options()))}")
    arguments = parser.parse_args()
    asyncio.run(_serve(Options(**json.loads(arguments.options)), arguments.port))
