"""Ranking the responses to one prompt at once: which pairs go together, the task, and the answer as preferences.

Where at least three responses to a prompt, under the same context, are queued in pairs, one ranking of all of
them answers every such pair. A ranking's group is fixed when it is first formed and kept beside the ledger,
so that pushing again asks nothing new and every answer finds its pairs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from schemas.ids import hash_fields
from schemas.messages import messages_id
from schemas.tables import Row
from transforms.annotate.answers import text_of_answer
from transforms.annotate.checked import AnswerError
from transforms.annotate.display import images, page_text
from transforms.annotate.page import ranking_page
from transforms.annotate.tasks import Task, Tasks, ranking_data

LEAST = 3  # responses that are worth a ranking
RANKINGS = pl.Schema(
    {
        "group_id": pl.String,
        "pair_id": pl.String,
        "place_a": pl.Int32,  # where the stored a stands on the page, from 0
        "place_b": pl.Int32,
        "n": pl.Int32,  # responses on the page
    }
)

_PLACE = re.compile(r"place_([1-9])")


@dataclass(frozen=True)
class Ranking:
    """A group: its pairs with where their a and b stand on the page."""

    n: int
    members: tuple[tuple[str, int, int], ...]

    def rows(self, base: Row, result: Any) -> list[Row]:
        """One annotation per pair; `base` is what the answer says besides its result.

        The seconds are shared among the pairs, so that seconds per label stay comparable.

        Raises:
            AnswerError: the answer is no ranking.
        """
        places = None if base["cancelled"] else read_places(result, self.n)
        labels = {} if places is None else preferences(places)
        seconds = None if base["seconds"] is None else base["seconds"] / len(self.members)
        out = []
        for pair_id, a, b in self.members:
            row = base | {"pair_id": pair_id, "seconds": seconds}
            row["annotation_id"] = hash_fields("ranked", base["annotation_id"], pair_id)
            if places is not None:
                row["label"] = labels[a, b] if a < b else {"a": "b", "b": "a", "tie": "tie"}[labels[b, a]]
                row["rationale"] = rationale_of(result)
            out.append(row)
        return out


def new_rankings(pairs: Mapping[str, Row], most: int, seed: int) -> pl.DataFrame:
    """Groups (`RANKINGS`) of these pairs; pairs that fit into none are left out.

    Args:
        pairs: pair_id -> `pairs` row, of pairs that are not asked yet.
        most: responses on one page; a prompt with more gets several pages.
        seed: of the order on the page, which is a hash and thus blind to everything else.
    """
    by_prompt: dict[tuple[str, str], list[Row]] = {}
    for pair in sorted(pairs.values(), key=lambda p: str(p["pair_id"])):
        if not any(images(pair[name]) for name in ("prompt", "response_a", "response_b")):
            by_prompt.setdefault((pair["prompt_id"], pair.get("context") or ""), []).append(pair)
    rows: list[Row] = []
    for (prompt_id, context), mine in sorted(by_prompt.items()):
        sides = {p["pair_id"]: (messages_id(p["response_a"]), messages_id(p["response_b"])) for p in mine}
        responses = sorted({r for both in sides.values() for r in both})
        for start in range(0, len(responses), most):
            page = set(responses[start : start + most])
            inside = {p: both for p, both in sides.items() if page.issuperset(both)}
            used = sorted({r for both in inside.values() for r in both})
            if len(used) < LEAST:
                continue
            group = hash_fields("ranking", prompt_id, context, *used)
            place = {r: i for i, r in enumerate(sorted(used, key=lambda r: hash_fields(str(seed), group, r)))}
            rows += [
                {"group_id": group, "pair_id": p, "place_a": place[a], "place_b": place[b], "n": len(used)}
                for p, (a, b) in inside.items()
            ]
    return pl.DataFrame(rows, schema=RANKINGS)


def ranked_queue(queue: pl.DataFrame, rankings: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The queue without what is ranked, and a queue of the groups (`pair_id` is the group's)."""
    members = queue.join(rankings.select("pair_id", "group_id"), on="pair_id")
    groups = members.group_by("group_id").agg(pl.col("rank").min(), pl.col("overlap").max(), pl.col("value").sum())
    groups = groups.join(members.drop("rank", "overlap", "value", "pair_id").unique("group_id"), on="group_id")
    groups = groups.rename({"group_id": "pair_id"}).select(pl.col(c).cast(t) for c, t in queue.schema.items())
    return queue.join(rankings, on="pair_id", how="anti"), groups.sort("rank", "pair_id")


def ranking_tasks(pairs_of: Callable[[Sequence[str]], Mapping[str, Row]], rankings: pl.DataFrame) -> Tasks:
    """Ranking tasks of groups."""
    groups = rankings_by_id(rankings)

    def tasks(batch: pl.DataFrame) -> list[Task]:
        chosen = {group: groups[group] for group in batch["pair_id"]}
        pairs = pairs_of([member[0] for group in chosen.values() for member in group.members])
        return [_task(group_id, group, pairs) for group_id, group in chosen.items()]

    return tasks


def _task(group_id: str, group: Ranking, pairs: Mapping[str, Row]) -> Task:
    texts = [""] * group.n
    for pair_id, a, b in group.members:
        texts[a], texts[b] = (page_text(pairs[pair_id][f"response_{side}"]) for side in "ab")
    one = pairs[group.members[0][0]]
    data = ranking_data(group_id, one["prompt"], one.get("context"), texts)
    return Task(ranking_page(group.n, context="context" in data), data)


def rankings_by_id(rankings: pl.DataFrame) -> dict[str, Ranking]:
    """Every group by its id."""
    members: dict[str, list[tuple[str, int, int]]] = {}
    n: dict[str, int] = {}
    for row in rankings.sort("group_id", "pair_id").iter_rows(named=True):
        members.setdefault(row["group_id"], []).append((row["pair_id"], row["place_a"], row["place_b"]))
        n[row["group_id"]] = row["n"]
    return {group: Ranking(n[group], tuple(pairs)) for group, pairs in members.items()}


def unasked(queue: pl.DataFrame, ledger: pl.DataFrame, rankings: pl.DataFrame) -> Collection[str]:
    """Queued pairs that may still go into a new group: asked in no task, and neither audited nor controls."""
    known = pl.concat([ledger.select("pair_id"), rankings.select("pair_id")])
    return queue.filter(pl.col("purpose") == "value").join(known, on="pair_id", how="anti")["pair_id"].to_list()


def read_places(result: Any, n: int) -> list[int]:
    """The place, 1 best, of each of the n responses in the order shown.

    Raises:
        AnswerError: not what the page offers, or a response without a place.
    """
    if not isinstance(result, list):
        raise AnswerError("off_schema", f"The result is {type(result).__name__}, not a list.")
    if not result:
        raise AnswerError("empty_result", "The answer is empty.")
    places: dict[int, int] = {}
    rationales = 0
    for item in result:
        name = item.get("from_name") if isinstance(item, dict) else None
        if name == "rationale":
            rationales += 1
            continue
        match = _PLACE.fullmatch(str(name))
        value = item.get("value") if isinstance(item, dict) else None
        chosen = value.get("choices") if isinstance(value, dict) else None
        if (
            match is None
            or not isinstance(chosen, list)
            or len(chosen) != 1
            or chosen[0] not in map(str, range(1, n + 1))
        ):
            raise AnswerError("off_schema", f"A part of the result is no answer of the page: {str(item)[:200]}")
        if int(match[1]) in places:
            raise AnswerError("off_schema", f"{name} is answered twice.")
        places[int(match[1])] = int(chosen[0])
    if rationales > 1:
        raise AnswerError("off_schema", "rationale is answered twice.")
    if set(places) != set(range(1, n + 1)):
        raise AnswerError("off_schema", f"{len(places)} of {n} responses have a place.")
    return [places[i] for i in range(1, n + 1)]


def preferences(places: list[int]) -> dict[tuple[int, int], str]:
    """(i, j), i < j, to `a` where response i stands before j, `b` where after, `tie` where they share a place."""
    return {
        (i, j): "tie" if places[i] == places[j] else "a" if places[i] < places[j] else "b"
        for i, j in itertools.combinations(range(len(places)), 2)
    }


def rationale_of(result: Any) -> str | None:
    """What the annotator wrote beside the ranking.

    Raises:
        AnswerError: it is not text.
    """
    values = [item.get("value") for item in result if item.get("from_name") == "rationale"]
    return None if not values else text_of_answer(values[0].get("text") if isinstance(values[0], dict) else values[0])
