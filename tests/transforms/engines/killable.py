"""A judge run to be killed: `python -m tests.transforms.engines.killable URL FOLDER`; writes FOLDER/votes-N.json.

Four buckets of prompts, two judges, both orders; a bucket's file appears when all its votes are there.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from schemas.messages import to_messages
from schemas.pairs import make_pair
from transforms.engines.openai import OpenAI
from transforms.engines.window import Caller, Work, answer
from transforms.judges.json_verdict import JsonVerdictJudge
from transforms.judges.logprob import LogprobJudge
from transforms.storage.memo import Memo

CONCURRENCY = 16
BUCKETS, PROMPTS = 4, 30


def pairs_of(bucket: int, prompt: int) -> list[dict[str, Any]]:
    """Two pairs on one prompt."""
    asked = to_messages(f"question {bucket}.{prompt}", "user")
    answers = [to_messages(f"answer {n} to {bucket}.{prompt}", "assistant") for n in range(3)]
    return [make_pair(asked, answers[0], other, origin="test")[0] for other in answers[1:]]


async def run(url: str, folder: Path) -> None:
    """Judge everything that has no file yet."""
    engine = OpenAI("llm", OpenAI.Config(base_url=url, model="stub", concurrency=CONCURRENCY), 0)
    judges = [
        LogprobJudge("quick", LogprobJudge.Config(engine="llm"), 0),
        JsonVerdictJudge("slow", JsonVerdictJudge.Config(engine="llm"), 0),
    ]
    for judge in judges:
        judge.bind({"llm": engine.model})
    async with engine.connect([url]) as client:
        caller = Caller({"llm": client})

        def works() -> Iterator[Work[list[dict[str, Any]]]]:
            for bucket in range(BUCKETS):
                out = folder / f"votes-{bucket}.json"
                if out.exists():
                    continue
                memo = Memo(folder / f"bucket={bucket:04d}").load()
                ask = caller.asker(memo)

                async def unit(bucket: int, prompt: int, ask: Any = ask) -> list[dict[str, Any]]:
                    pairs = pairs_of(bucket, prompt)
                    both = await asyncio.gather(*(judge.votes(pairs, ask) for judge in judges))
                    return [vote for votes in both for vote in votes]

                def finish(results: list[list[dict[str, Any]]], out: Path = out, memo: Memo = memo) -> None:
                    memo.close()
                    temporary = out.with_suffix(".tmp")
                    temporary.write_bytes(orjson.dumps([vote for votes in results for vote in votes]))
                    temporary.replace(out)

                yield Work([lambda b=bucket, p=p, u=unit: u(b, p) for p in range(PROMPTS)], finish)

        await answer(works(), max_units=CONCURRENCY * 2, on_failure=caller.stop)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], Path(sys.argv[2])))
