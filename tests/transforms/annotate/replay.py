"""Real pairs with real humans, and answers posted the way a browser posts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import polars as pl

from schemas.messages import to_messages
from schemas.pairs import make_pair, mirrored
from tests.transforms.routers.queue.whole import build_queue
from transforms.annotate.page import PageConfig
from transforms.annotate.tasks import Tasks, pair_tasks
from transforms.routers.queue.config import QueueConfig

Pairs = dict[str, dict[str, Any]]


def pandalm_pairs(path: Path, n: int) -> tuple[Pairs, dict[str, list[str]]]:
    """The first n distinct pairs of pandalm_test, and what its three humans said of the stored a and b."""
    pairs: Pairs = {}
    humans: dict[str, list[str]] = {}
    for row in pl.read_parquet(path / "pandalm_test.parquet").iter_rows(named=True):
        prompt = to_messages(row["prompt"], "user")
        first, second = (to_messages(row[f"response_{side}"], "assistant") for side in "ab")
        pair, swapped = make_pair(prompt, first, second, origin="pandalm")
        if pair["pair_id"] in pairs:
            continue
        pairs[pair["pair_id"]] = pair
        humans[pair["pair_id"]] = [mirrored(x) if swapped else x for x in row["human_labels"]]
        if len(pairs) == n:
            break
    return pairs, humans


def queue_of(pairs: Pairs, **config: Any) -> pl.DataFrame:
    """A queue of all these pairs."""
    candidates = pl.DataFrame(
        {
            "pair_id": list(pairs),
            "prompt_id": [p["prompt_id"] for p in pairs.values()],
            "certainty": [0.5] * len(pairs),
            "p_a": [0.5] * len(pairs),
            "p_tie": [0.0] * len(pairs),
            "n_chars": [100] * len(pairs),
        }
    )
    values = pl.Series([1.0] * len(pairs), dtype=pl.Float64)
    return build_queue(candidates, values, QueueConfig(**config), seed=7)


def tasks_of(pairs: Pairs, config: PageConfig) -> Tasks:
    """Pairwise tasks of these pairs."""
    return pair_tasks(lambda ids: {i: pairs[i] for i in ids}, config)


def choices(name: str, *values: str) -> dict[str, Any]:
    """An answered group of choices."""
    return {"from_name": name, "to_name": "conversation", "type": "choices", "value": {"choices": list(values)}}


def answer(label: str, shown: str, strength: int = 3) -> list[dict[str, Any]]:
    """A browser's result for a label in terms of the stored a and b, on a page that showed them in this order."""
    on_page = label if shown == "ab" else mirrored(label)
    result = [choices("preference", on_page)]
    if on_page in ("a", "b"):
        result.append(choices("strength", str(strength)))
    return result


def span(side: str, start: int, end: int, text: str, kind: str) -> dict[str, Any]:
    """A marked span of the response shown on that side."""
    value = {"start": start, "end": end, "text": text, "labels": [kind]}
    return {"from_name": f"spans_{side}", "to_name": f"response_{side}", "type": "labels", "value": value}


class Person:
    """An annotator at the API, with a token of their own."""

    def __init__(self, url: str, user_id: int, token: str) -> None:
        self.user_id = user_id
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=120)

    def post(self, task_id: int, result: list[dict[str, Any]], **fields: Any) -> int:
        """Submit an answer; returns its id."""
        body = {"result": result, "lead_time": 12.5, **fields}
        reply = self._http.post(f"/api/tasks/{task_id}/annotations/", json=body)
        reply.raise_for_status()
        return int(reply.json()["id"])

    def edit(self, answer_id: int, result: list[dict[str, Any]]) -> None:
        """Change an answer."""
        self._http.patch(f"/api/annotations/{answer_id}/", json={"result": result}).raise_for_status()

    def delete(self, answer_id: int) -> None:
        """Withdraw an answer."""
        self._http.delete(f"/api/annotations/{answer_id}/").raise_for_status()

    def next_task(self, project_id: int) -> int | None:
        """The task the server would show next, or None."""
        reply = self._http.get(f"/api/projects/{project_id}/next")
        return int(reply.json()["id"]) if reply.status_code == 200 else None

    def close(self) -> None:
        """Close the connection."""
        self._http.close()
