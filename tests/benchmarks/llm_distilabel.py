"""Chats through distilabel's OpenAI client, in an environment of its own that has distilabel (and its `requests`).

    PYTHON tests/benchmarks/llm_distilabel.py BASE_URL SLOTS < chats.json

Its `generate` answers a batch at once and waits for all of it; a batch is as large as the server is wide. Prints how
many were answered, the seconds, and the processor seconds. Imports and client are made before the clock starts.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

warnings.simplefilter("ignore")
from distilabel.models.llms import OpenAILLM  # type: ignore[import-not-found] # noqa: E402


def main() -> None:
    """Answer the chats of standard input."""
    url, slots, chats = sys.argv[1], int(sys.argv[2]), json.load(sys.stdin)
    llm = OpenAILLM(model="stub", base_url=url, api_key="none", max_retries=0, timeout=120)
    llm.load()
    wall, cpu, answered = time.perf_counter(), time.process_time(), 0
    for start in range(0, len(chats), slots):
        replies = llm.generate(
            inputs=chats[start : start + slots], max_new_tokens=1, logprobs=True, top_logprobs=20, temperature=0.0
        )
        answered += sum(reply["generations"][0] is not None for reply in replies)
    print(json.dumps([answered, time.perf_counter() - wall, time.process_time() - cpu]))


if __name__ == "__main__":
    main()
