"""A `prefine` that does what a plan says: answers, exit codes, pauses; it writes down how it was called.

`$FAKE/plan.json` maps a stage or command to a list of behaviours, used one after another, the last for ever:
`exit`, `say` (the last line), `sleep` (seconds), `log` (standard error). Everything else succeeds.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

FAKE = Path(os.environ["FAKE"])
DEFAULTS: dict[str, object] = {
    "labels": {"wanted": 10, "answered": 10, "pairs": 8, "pairs_answered": 8, "rejected": 0},
    "datasets": [{"name": "plain", "version": "v0001"}],
    "verify": [{"name": "hashes", "ok": True, "detail": ""}],
    "audit": {"worse": False},
    "status": [{"stage": "judge", "buckets": 3, "n_buckets": 4}, {"stage": "score", "buckets": 4, "n_buckets": 4}],
}


def result_of(name: str, words: list[str]) -> object:
    if name == "materialise":
        dataset = Path(words[2]).stem
        path = f"w/datasets/{dataset}/v0001"
        version = {"dataset": dataset, "version": "v0001", "published": True, "certificate": {"low": 0.7}, "path": path}
        return {"stages": [], **version, "report": f"{path}/report.html", "workspace": "w"}
    if name == "export":
        return {"out": words[words.index("--out") + 1], "rows": {"train": 3}}
    return DEFAULTS.get(name, {"stages": [{"stage": name, "rows_out": 1}]})


def main() -> int:
    words = sys.argv[1:]
    name = words[1] if words[0] == "stage" else words[0]
    with (FAKE / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"name": name, "words": words, "environment": sorted(os.environ)}) + "\n")
    seen = [json.loads(line)["name"] for line in (FAKE / "calls.jsonl").read_text().splitlines()].count(name)
    plan = json.loads((FAKE / "plan.json").read_text()).get(name) or [{}]
    todo = plan[min(seen, len(plan)) - 1]
    print(todo.get("log", "a line of log"), file=sys.stderr, flush=True)
    if todo.get("sleep"):
        (FAKE / "sleeping.pid").write_text(str(os.getpid()))
        time.sleep(todo["sleep"])
    if not todo.get("exit"):
        print("a line that is no result")
        answer = result_of(name, words)
        said = todo.get("say", {})
        print(json.dumps({**answer, **said} if isinstance(answer, dict) and isinstance(said, dict) else said or answer))
    return int(todo.get("exit", 0))


if __name__ == "__main__":
    sys.exit(main())
