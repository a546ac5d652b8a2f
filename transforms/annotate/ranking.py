"""An answer of the ranking page as preferences between every two of its responses."""

from __future__ import annotations

import itertools
import re
from typing import Any

from transforms.annotate.answers import AnswerError

_PLACE = re.compile(r"place_([1-9])")


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
    for item in result:
        name = item.get("from_name") if isinstance(item, dict) else None
        if name == "rationale":
            continue
        found = _PLACE.fullmatch(str(name))
        value = item.get("value") if isinstance(item, dict) else None
        chosen = value.get("choices") if isinstance(value, dict) else None
        if (
            found is None
            or not isinstance(chosen, list)
            or len(chosen) != 1
            or chosen[0] not in map(str, range(1, n + 1))
        ):
            raise AnswerError("off_schema", f"A part of the result is no answer of the page: {str(item)[:200]}")
        if int(found[1]) in places:
            raise AnswerError("off_schema", f"{name} is answered twice.")
        places[int(found[1])] = int(chosen[0])
    if set(places) != set(range(1, n + 1)):
        raise AnswerError("off_schema", f"{len(places)} of {n} responses have a place.")
    return [places[i] for i in range(1, n + 1)]


def preferences(places: list[int]) -> dict[tuple[int, int], str]:
    """(i, j), i < j, to `a` where response i stands before j, `b` where after, `tie` where they share a place."""
    return {
        (i, j): "tie" if places[i] == places[j] else "a" if places[i] < places[j] else "b"
        for i, j in itertools.combinations(range(len(places)), 2)
    }
