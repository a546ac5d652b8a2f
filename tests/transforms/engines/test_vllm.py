"""The real vLLM on CPU: start, verdicts, structured output, prefix cache, stop. Build it with `make vllm`."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from pathlib import Path

import pytest

from tests.transforms.judges.fixtures import pair
from transforms.engines.vllm import VLLM
from transforms.engines.window import Caller
from transforms.judges.json_verdict import JsonVerdictJudge
from transforms.judges.logprob import LogprobJudge
from transforms.storage.memo import Memo

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def engine() -> VLLM:
    folder = Path(os.environ.get("PREFINE_VLLM", ROOT / ".vllm"))
    executable = folder / "env" / "bin" / "vllm"
    if not executable.exists():
        pytest.skip(f"no vLLM at {executable}; build it with `make vllm`, or set PREFINE_VLLM")
    config = VLLM.Config(
        model=str(folder / "model"),
        executable=str(executable),
        flags={"max-model-len": 1024, "enable-prefix-caching": True, "dtype": "bfloat16", "max-num-seqs": 8},
        environment={"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
        concurrency=8,
    )
    return VLLM("vllm", config, 0)


@pytest.mark.slow
def test_both_orders_of_every_judge_are_answered_and_prefixes_are_cached(engine: VLLM, tmp_path: Path) -> None:
    judges = [
        LogprobJudge("quick", LogprobJudge.Config(engine="vllm", min_mass=0.0), 0),
        JsonVerdictJudge("reasoned", JsonVerdictJudge.Config(engine="vllm", max_tokens=200), 0),
    ]
    for judge in judges:
        judge.bind({"vllm": engine.model})
    question = "Why is the sky blue? " * 12
    pairs = [pair(f"Because of light {n}.", "I like cake.", prompt=question) for n in range(4)]

    async def run(urls: list[str]) -> tuple[list[dict[str, object]], Caller]:
        async with engine.connect(urls) as client:
            caller = Caller({"vllm": client})
            ask = caller.asker(Memo(tmp_path))
            both = await asyncio.gather(*(judge.votes(pairs, ask) for judge in judges))
            return [vote for votes in both for vote in votes], caller

    with engine.serve() as urls:
        votes, caller = asyncio.run(run(urls))
        with urllib.request.urlopen(urls[0].removesuffix("/v1") + "/metrics") as response:
            metrics = response.read().decode()
    quick = [vote for vote in votes if vote["voter"] == "quick"]
    assert len(votes) == 16
    assert {vote["label"] for vote in quick} <= {"a", "b", "tie"}
    assert all(isinstance(vote["p_a"], float) for vote in quick)
    # A structured reply is whole JSON or was cut off; it is never another form.
    reasoned = [vote for vote in votes if vote["voter"] == "reasoned"]
    assert all(vote["label"] in ("a", "b", "tie") or "cut off" in str(vote["detail"]) for vote in reasoned)
    hits, queries = (_metric(metrics, f"vllm:prefix_cache_{name}_total") for name in ("hits", "queries"))
    assert hits / queries > 0.3
    usage = caller.ledger.total()
    assert usage.errors == 0
    assert usage.tokens_out > 0


def _metric(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))
