"""Requests per second against one stub server: plain client, our window, our judge stage on Beam, other people's.

    python -m tests.benchmarks.llm [--requests 4000] [--rounds 7] [--only window,beam] [--heavy]
                                   [--distilabel PYTHON] [--vllm ENVIRONMENT] [--out FILE.json]

The stub (a process of its own) serves 256 requests at once, 50 ms each (`--heavy`: log-normal latency, mean 0.5 s),
and reports token counts. All contenders send the same bodies (the log-probability judge, pairs of 1 kB, both orders)
with 256 in flight, and the stub takes equally long for equal bodies. On a machine shared with other work rates jump
about, so every contender's round stands between two rounds of the plain client, its ratio is to the mean of these two,
and the median of the ratios counts. The processor time per request hardly feels the load: it bounds the rate wherever
the client is the bottleneck.

raw: one aiohttp session, 256 workers over a shared iterator, JSON out and in, nothing else.
window: our client, memo journal, accounting, in-flight joining, votes built, on asyncio.
beam: the judge stage of a recipe, run by Beam: reading pairs, templates, hashes, memo, votes, Parquet, checkpoints.
stock: `RunInference` with Beam's VLLMChatModelHandler, its model server pointed at the stub (needs `openai`).
distilabel: `OpenAILLM.generate` in batches of 256, run by PYTHON, an environment that has distilabel.

`--vllm` asks a real vLLM on the CPU instead (ENVIRONMENT: the folder that `make vllm` builds, `.vllm`), without prefix
caching, so that no round finds what the one before left; it answers a few requests a second, so ask for few
(`--requests 40 --rounds 1 --only window,beam`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp
import polars as pl

from pipelines.runtime.run import run_stages
from schemas.messages import to_messages
from schemas.pairs import make_pair
from transforms.engines.openai import OpenAI
from transforms.engines.vllm import VLLM
from transforms.judges.logprob import LogprobJudge
from transforms.llm.window import Caller, Work, answer
from transforms.storage.memo import Memo

SLOTS = 256
BAR = 0.95
MODEL = "stub"
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


@contextmanager
def real_vllm(environment: Path) -> Iterator[str]:
    """A real vLLM serving the tiny model under the stub's name; gives its base URL."""
    settings = VLLM.Config(
        model=str(environment.resolve() / "model"),
        executable=str(environment.resolve() / "env" / "bin" / "vllm"),
        flags={
            "served-model-name": MODEL,
            "max-model-len": 2048,
            "max-num-seqs": 16,
            "enable-prefix-caching": False,
            "dtype": "bfloat16",
            "enforce-eager": True,
        },
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
    )
    with VLLM("vllm", settings, 0).serve() as urls:
        yield urls[0]


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
    engine = OpenAI("llm", OpenAI.Config(base_url=url, model=MODEL, concurrency=SLOTS), 0)
    judge = LogprobJudge("judge", LogprobJudge.Config(engine="llm"), 0)
    judge.bind({"llm": engine.model})
    return engine, judge


def raw(url: str, pairs: list[Row]) -> Timed:
    """Requests per second of a plain client."""
    _, judge = judge_for(url)
    bodies = [{**judge.body(judge.messages(p, order), 0), "model": MODEL} for p in pairs for order in ("ab", "ba")]

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
            "engines": {"llm": {"plugin": "openai", "base_url": url, "model": MODEL, "concurrency": SLOTS}},
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
            | RunInference(Handler(MODEL), inference_args={"max_tokens": 1, "logprobs": True, "top_logprobs": 20})
        )
    return timed


def distilabel(python: str) -> Callable[[str, list[Row]], Timed]:
    """The contender that an environment of its own runs."""

    def run(url: str, pairs: list[Row]) -> Timed:
        _, judge = judge_for(url)
        chats = json.dumps([judge.messages(pair, order) for pair in pairs for order in ("ab", "ba")])
        command = [python, str(Path(__file__).with_name("llm_distilabel.py")), url, str(SLOTS)]
        done = subprocess.run(command, input=chats, capture_output=True, text=True, check=True)
        answered, wall, cpu = json.loads(done.stdout.splitlines()[-1])
        assert answered == 2 * len(pairs), f"{answered} of {2 * len(pairs)} answered"
        timed = Timed(answered)
        timed.per_second, timed.cpu_us = answered / wall, cpu / answered * 1e6
        return timed

    return run


CONTENDERS: dict[str, Callable[[str, list[Row]], Timed]] = {"window": window, "beam": beam, "stock": stock}
SLOW = frozenset({"stock", "distilabel"})  # asked less, or the benchmark would be theirs alone


@dataclass
class Round:
    """A contender's round and the plain client's before and after it."""

    timed: Timed
    before: Timed
    after: Timed

    @property
    def ratio(self) -> float:
        """Requests per second, of the plain client's."""
        return 2 * self.timed.per_second / (self.before.per_second + self.after.per_second)

    @property
    def cpu_ratio(self) -> float:
        """Processor time per request, of the plain client's."""
        return 2 * self.timed.cpu_us / (self.before.cpu_us + self.after.cpu_us)


def measure(
    contenders: dict[str, Callable[[str, list[Row]], Timed]],
    requests: int,
    rounds: int,
    server: AbstractContextManager[str],
) -> dict[str, list[Round]]:
    """Every round by contender."""
    found: dict[str, list[Round]] = {name: [] for name in contenders}
    with server as url:
        raw(url, made_pairs(min(256, requests // 2), "warm"))
        for number in range(rounds):
            pairs = made_pairs(requests // 2, f"round {number}")
            before = raw(url, pairs)
            for name, contender in contenders.items():
                timed = contender(url, pairs[: 256 if name in SLOW else None])
                after = raw(url, pairs)
                found[name].append(Round(timed, before, after))
                print(
                    f"{number} {name}: {timed.per_second:.0f}/s, {timed.cpu_us:.0f} us; {found[name][-1].ratio:.2f} of "
                    f"{before.per_second:.0f} and {after.per_second:.0f}",
                    file=sys.stderr,
                    flush=True,
                )
                before = after
    return found


def main() -> int:
    """Measure and print a table; fail where the judge stage is slower than `BAR` of the plain client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default=",".join(CONTENDERS))
    parser.add_argument("--heavy", action="store_true")
    parser.add_argument("--distilabel", metavar="PYTHON")
    parser.add_argument("--vllm", metavar="ENVIRONMENT", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    contenders = {name: CONTENDERS[name] for name in arguments.only.split(",")}
    if arguments.distilabel:
        contenders["distilabel"] = distilabel(arguments.distilabel)
    server = real_vllm(arguments.vllm) if arguments.vllm else stub(arguments.heavy)
    found = measure(contenders, arguments.requests, arguments.rounds, server)
    print(f"load average {os.getloadavg()[1]:.1f} on {os.cpu_count()} cores")
    print("| contender | requests/s | of raw | quartiles | processor us/request | of raw |")
    print("|---|---|---|---|---|---|")
    plain = [timed for rounds in found.values() for each in rounds for timed in (each.before, each.after)]
    print(f"| raw | {_median(t.per_second for t in plain):.0f} | 1 | | {_median(t.cpu_us for t in plain):.0f} | 1 |")
    for name, rounds in found.items():
        ratios = [each.ratio for each in rounds]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        speed, cpu = _median(each.timed.per_second for each in rounds), _median(each.timed.cpu_us for each in rounds)
        cpu_ratio = _median(each.cpu_ratio for each in rounds)
        print(f"| {name} | {speed:.0f} | {_median(ratios):.2f} | {low:.2f}-{high:.2f} | {cpu:.0f} | {cpu_ratio:.2f} |")
    if arguments.out:
        values = {
            name: [{side: vars(getattr(each, side)) for side in ("timed", "before", "after")} for each in rounds]
            for name, rounds in found.items()
        }
        arguments.out.write_text(json.dumps({"heavy": arguments.heavy, "rounds": values}, indent=1))
    reached = _median(each.ratio for each in found["beam"]) if "beam" in found else BAR
    if reached < BAR:
        print(f"missed: the judge stage reaches {reached:.2f} of the plain client, the bar is {BAR}", file=sys.stderr)
    return int(reached < BAR)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


if __name__ == "__main__":
    raise SystemExit(main())
