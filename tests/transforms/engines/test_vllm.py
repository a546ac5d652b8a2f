"""The real vLLM on CPU: generate and judge through it. `make integration` builds it, as `make vllm` does alone."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from tests.conftest import ROOT
from tests.pipelines.conftest import Project
from transforms.engines.vllm import VLLM
from transforms.llm.request import Reply, Request
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

NAME = "vllm"
CONTEXT = 2048


def settings() -> dict[str, Any]:
    """The engine's settings in a recipe."""
    folder = Path(os.environ.get("PREFINE_VLLM", ROOT / ".vllm")).resolve()
    executable = folder / "env" / "bin" / "vllm"
    if not executable.exists():
        missing = f"no vLLM at {executable}: `make vllm` builds it; elsewhere set PREFINE_VLLM"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return {
        "plugin": "vllm",
        "model": str(folder / "model"),
        "executable": str(executable),
        "flags": {
            "max-model-len": CONTEXT,
            "enable-prefix-caching": True,
            "dtype": "float32",
            "max-num-seqs": 16,
            "enforce-eager": True,  # compiling takes minutes here
            # A small model else fills its reply with the blanks that JSON allows.
            "structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
        },
        "environment": {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        "concurrency": 16,
    }


@pytest.fixture(scope="module")
def engine() -> VLLM:
    given = settings()
    return VLLM(NAME, VLLM.Config(**{name: value for name, value in given.items() if name != "plugin"}), 0)


@pytest.fixture(scope="module")
def urls(engine: VLLM) -> Iterator[list[str]]:
    """The server, kept for all tests of this file: runs that name the same command share it."""
    with engine.serve() as urls:
        yield urls


def ask(engine: VLLM, urls: list[str], *bodies: dict[str, Any], path: str = "chat/completions") -> list[Reply]:
    async def run() -> list[Reply]:
        async with engine.connect(urls) as client:
            requests = [Request(NAME, engine.model, body, path=path) for body in bodies]
            return list(await asyncio.gather(*(client.send(request) for request in requests)))

    return asyncio.run(run())


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, "temperature": 0.0, **more}


def test_a_schema_binds_every_reply_and_logprobs_are_probabilities(engine: VLLM, urls: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"verdict": {"enum": ["A", "B", "C"]}, "sure": {"type": "boolean"}},
        "required": ["verdict", "sure"],
        "additionalProperties": False,
    }
    bound = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    questions = [f"Is {n} a prime number? Tell me a story about it." for n in range(6)]
    for reply in ask(engine, urls, *(chat(q, response_format=bound, max_tokens=60) for q in questions)):
        found = json.loads(reply.text)
        assert found["verdict"] in ("A", "B", "C")
        assert found["sure"] in (True, False)
    (letter,) = ask(engine, urls, chat("Say A or B.", max_tokens=1, logprobs=True, top_logprobs=20))
    assert letter.logprobs is not None
    assert len(letter.logprobs[0]) >= 20
    assert 0 < sum(math.exp(value) for value in letter.logprobs[0].values()) <= 1 + 1e-6


def test_an_input_that_is_too_long_is_a_permanent_error_with_the_reason(engine: VLLM, urls: list[str]) -> None:
    (reply,) = ask(engine, urls, chat("word " * (CONTEXT + 100)))
    assert (reply.state, reply.transient) == ("error", False)
    assert "context length" in (reply.error or "")
    (count,) = ask(engine, urls, {"prompt": "one two three"}, path="tokenize")
    assert 3 <= int(count.text) <= 5


def test_prompts_become_pairs_and_votes(tmp_path: Path, urls: list[str]) -> None:
    prompts = [{"prompt": f"Name {n} things one can do with a {thing}."} for n, thing in enumerate(THINGS, 2)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    twins = {"engines": [NAME], "n": 2, "max_tokens": 24}
    recipe = {
        "name": "real",
        "seed": 1,
        "buckets": 2,
        "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
        "engines": {NAME: settings()},
        "generate": {
            "generators": [
                {"name": "sample", "plugin": "sample_n", "engines": [NAME], "n": 2, "max_tokens": 24},
                {"name": "twins", "plugin": "context_reversal", **twins, "verify": False},
                {"name": "checked", "plugin": "context_reversal", **twins},  # whether this model agrees is chance
            ]
        },
        "judge": {
            "judges": [
                {"name": "quick", "plugin": "logprob", "engine": NAME, "min_mass": 0.0},
                {"name": "reasoned", "plugin": "json_verdict", "engine": NAME, "max_tokens": 120},
            ]
        },
    }
    project = Project(tmp_path, urls[0], recipe)
    project.run("w", "--until", "judge")
    workspace = Workspace.open(str(tmp_path / "w"))
    pairs = table_frame(workspace, "pairs").collect()
    votes = table_frame(workspace, "votes").filter(pl.col("kind") == "judge").collect()
    assert set(pairs["origin"]) - {"checked"} == {"sample", "twins"}
    assert votes.height == 4 * pairs.height
    quick = votes.filter(pl.col("voter") == "quick")
    assert quick["label"].is_in(["a", "b", "tie"]).all()
    assert quick["p_a"].is_between(0, 1).all()
    assert quick["p_a"].n_unique() > pairs.height  # graded, and the orders differ
    # A reply bound by a schema is whole JSON or was cut off at its limit; it is never another form.
    bound = votes.filter(pl.col("voter") != "quick")
    read = bound["label"].is_in(["a", "b", "tie"])
    assert (read | bound["detail"].fill_null("").str.contains("cut off")).all(), bound["detail"].to_list()
    assert read.any()
    stages = {row["stage"]: row for row in json.loads(project.prefine("status", "-w", "w", "--json"))}
    assert {row["who"] for row in stages["generate"]["requests"]} == {"sample", "twins", "checked"}
    asked = {row["who"]: row for row in stages["judge"]["requests"]}
    assert {row["failed"] for row in asked.values()} == {0}
    assert asked["quick"]["tokens_in"] > 0
    # Two orders and two judges of a prompt share its beginning: vLLM says so, and so does each reply.
    assert stages["judge"]["prefix_caches"][NAME] > 0.2
    assert sum(row["cached"] * row["tokens_in"] for row in asked.values()) > 0


THINGS = ("spoon", "ladder", "bicycle")
