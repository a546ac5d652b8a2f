"""Requests per second against one stub server: plain client, our window, our judge stage on Beam, Beam's own handler.

    python -m tests.benchmarks.llm [--requests 8000] [--rounds 3] [--only raw,window] [--heavy] [--out FILE.json]

The stub (a process of its own) serves 256 requests at once, 50 ms each (`--heavy`: log-normal latency, mean 0.5 s),
and reports token counts. All contenders send the same bodies (the log-probability judge, pairs of 1 kB, both orders)
with 256 in flight. Rounds are interleaved, so that a busy machine is busy for all; the median counts. On a machine
shared with other work the processor time per request is the figure to trust: it bounds the rate wherever the client
is the bottleneck.

raw: one aiohttp session, 256 workers over a shared iterator, JSON out and in, nothing else.
window: our client, memo journal, accounting, in-flight joining, votes built, on asyncio.
beam: the judge stage of a recipe, run by Beam: reading pairs, templates, hashes, memo, votes, Parquet, checkpoints.
stock: `RunInference` with Beam's VLLMChatModelHandler, its model server pointed at the stub (needs `openai`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import polars as pl

from pipelines.run import run_stages
from schemas.messages import to_messages
from schemas.pairs import make_pair
from transforms.engines.openai import OpenAI
from transforms.engines.window import Caller, Work, answer
from transforms.judges.logprob import LogprobJudge
from transforms.storage.memo import Memo

SLOTS = 256
ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


class Timed:
    """A block of so many requests: requests per second, and processor microseconds of this process per request."""

    def __init__(self, requests: int) -> None:
        self.requests = requests

    def __enter__(self) -> Self:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.per_second = self.requests / (time.perf_counter() - self._wall)
        self.cpu_us = (time.process_time() - self._cpu) / self.requests * 1e6


@contextmanager
def stub(heavy: bool) -> Iterator[str]:
    """A stub server in a process of its own; gives its base URL."""
    options = {"slots": SLOTS, "latency_s": 0.5 if heavy else 0.05, "heavy_tail": heavy}
    command = [sys.executable, "-m", "tests.stub_llm", "--options", json.dumps(options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def made_pairs(count: int, tag: str) -> list[Row]:
    """Pairs of about 1 kB, two to a prompt; `tag` makes every round's requests new."""
    rows = []
    for number in range(count):
        prompt = to_messages(f"{tag} question {number // 2}: " + "what is the matter here and why? " * 6, "user")
        texts = [f"{tag} answer {number}.{side}: " + "because of this and that, " * 14 for side in "xy"]
        first, second = (to_messages(text, "assistant") for text in texts)
        rows.append(make_pair(prompt, first, second, origin="benchmark")[0])
    return rows


def judge_for(url: str) -> tuple[OpenAI, LogprobJudge]:
    """The engine and the judge all contenders use."""
    engine = OpenAI("llm", OpenAI.Config(base_url=url, model="stub", concurrency=SLOTS), 0)
    judge = LogprobJudge("judge", LogprobJudge.Config(engine="llm"), 0)
    judge.bind({"llm": engine.model})
    return engine, judge


def raw(url: str, pairs: list[Row]) -> Timed:
    """Requests per second of a plain client."""
    _, judge = judge_for(url)
    bodies = [{**judge.body(judge.messages(p, order), 0), "model": "stub"} for p in pairs for order in ("ab", "ba")]

    async def run() -> None:
        left = iter(bodies)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=SLOTS)) as session:

            async def worker() -> None:
                for body in left:
                    async with session.post(f"{url}/chat/completions", json=body) as response:
                        reply = await response.json()
                        assert reply["choices"][0]["message"]["content"]

            await asyncio.gather(*(worker() for _ in range(SLOTS)))

    with Timed(len(bodies)) as timed:
        asyncio.run(run())
    return timed


def window(url: str, pairs: list[Row]) -> Timed:
    """Requests per second of the window, memo and votes included."""
    engine, judge = judge_for(url)
    votes: list[Row] = []

    async def run(folder: str) -> None:
        async with engine.connect([url]) as client:
            caller = Caller({"llm": client})
            with Memo(folder) as memo:
                ask = caller.asker(memo)
                units = (lambda p=prompt: judge.votes(p, ask) for prompt in zip(pairs[::2], pairs[1::2], strict=True))
                await answer(
                    [Work(units, lambda found: votes.extend(v for unit in found for v in unit))], max_units=128
                )

    with tempfile.TemporaryDirectory() as folder, Timed(2 * len(pairs)) as timed:
        asyncio.run(run(folder))
    assert len(votes) == timed.requests
    return timed


def beam(url: str, pairs: list[Row]) -> Timed:
    """Requests per second of the judge stage through Beam."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = [
            {
                "prompt": row["prompt"][0]["content"],
                "response_a": row["response_a"][0]["content"],
                "response_b": row["response_b"][0]["content"],
            }
            for row in pairs
        ]
        pl.DataFrame(source).write_parquet(folder / "pairs.parquet")
        recipe = {
            "name": "benchmark",
            "seed": 0,
            "buckets": 8,
            "sources": [
                {"name": "s", "kind": "pairs", "path": str(folder / "pairs.parquet"), "columns": {"label": None}}
            ],
            "engines": {"llm": {"plugin": "openai", "base_url": url, "model": "stub", "concurrency": SLOTS}},
            "judge": {"judges": [{"name": "judge", "plugin": "logprob", "engine": "llm"}]},
            "beam": {"workers": 1},
        }
        path = folder / "recipe.yaml"
        path.write_text(json.dumps(recipe))  # JSON is YAML
        run_stages(path, str(folder / "w"), ["ingest", "clean"], None, (), True)
        with Timed(2 * len(pairs)) as timed:
            done = run_stages(path, str(folder / "w"), ["judge"], None, (), True)
    assert done.stages[-1].counts["votes"] == timed.requests, done
    assert not done.stages[-1].counts["not_counted"]
    return timed


def stock(url: str, pairs: list[Row]) -> Timed:
    """Requests per second of Beam's chat handler for vLLM."""
    import apache_beam as beam_
    from apache_beam.ml.inference import vllm_inference
    from apache_beam.ml.inference.base import RunInference

    port = int(url.split(":")[2].split("/")[0])

    class Server:
        """What the handler calls a model: a server that is already there."""

        def get_server_port(self) -> int:
            return port

        def check_connectivity(self, retries: int = 3) -> None:
            return None

    class Handler(vllm_inference.VLLMChatModelHandler):  # type: ignore[misc]
        def load_model(self) -> Any:
            return Server()

    _, judge = judge_for(url)
    chats = [judge.messages(pair, order) for pair in pairs for order in ("ab", "ba")]
    elements = [[vllm_inference.OpenAIChatMessage(m["role"], m["content"]) for m in chat] for chat in chats]
    options = beam_.options.pipeline_options.PipelineOptions(["--runner=FnApiRunner"])
    with Timed(len(elements)) as timed, beam_.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam_.Create(elements)
            | RunInference(Handler("stub"), inference_args={"max_tokens": 1, "logprobs": True, "top_logprobs": 20})
        )
    return timed


CONTENDERS: dict[str, Callable[[str, list[Row]], Timed]] = {"raw": raw, "window": window, "beam": beam, "stock": stock}


def measure(names: list[str], requests: int, rounds: int, heavy: bool) -> dict[str, list[Timed]]:
    """Every round by contender."""
    rates: dict[str, list[Timed]] = {name: [] for name in names}
    with stub(heavy) as url:
        raw(url, made_pairs(512, "warm"))
        for number in range(rounds):
            for name in names:
                count = min(requests, 1000 if name == "stock" else requests) // 2
                timed = CONTENDERS[name](url, made_pairs(count, f"{name} {number}"))
                rates[name].append(timed)
                print(f"{name}: {timed.per_second:.0f}/s, {timed.cpu_us:.0f} us", file=sys.stderr, flush=True)
    return rates


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--heavy", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rates = measure(arguments.only.split(","), arguments.requests, arguments.rounds, arguments.heavy)
    medians = {
        name: [statistics.median(t.per_second for t in found), statistics.median(t.cpu_us for t in found)]
        for name, found in rates.items()
    }
    base = medians.get("raw", [float("nan"), float("nan")])
    print("| contender | requests/s | of raw | processor us/request | of raw | rounds |")
    print("|---|---|---|---|---|---|")
    for name, (speed, cpu) in medians.items():
        rounds = ", ".join(f"{timed.per_second:.0f}" for timed in rates[name])
        print(f"| {name} | {speed:.0f} | {speed / base[0]:.2f} | {cpu:.0f} | {cpu / base[1]:.2f} | {rounds} |")
    if arguments.out:
        values = {name: [vars(timed) for timed in found] for name, found in rates.items()}
        arguments.out.write_text(json.dumps({"heavy": arguments.heavy, "rates": values}, indent=1))


if __name__ == "__main__":
    main()
