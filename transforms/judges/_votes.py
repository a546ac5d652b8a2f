"""From a judge's opinion of the responses as shown to a row of `votes` about the stored a and b."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from schemas.ids import hash_fields
from schemas.pairs import mirrored
from schemas.tables import Row
from transforms.llm.request import Reply

STATES = ("invalid", "refused", "error")
RAW_LIMIT = 20_000  # characters of a reply kept with the vote; the memo has all of it


@dataclass(frozen=True)
class Opinion:
    """What one reply says. `label` and numbers are in terms of the responses as shown: `a` is the one shown first.

    `label` is a, b, tie, or invalid with the reason in `detail`. `p_first` is P(first is better | one is better).
    """

    label: str
    p_first: float | None = None
    score_first: float | None = None
    score_second: float | None = None
    aspects: Mapping[str, Any] | None = None
    rationale: str | None = None
    detail: str | None = None


def invalid(detail: str) -> Opinion:
    """An opinion that could not be read."""
    return Opinion("invalid", detail=detail)


def opinion_by_scores(first: float, second: float, tie_margin: float = 0.0, **fields: Any) -> Opinion:
    """The response with the higher score wins; scores at most `tie_margin` apart tie."""
    winner = "a" if first > second else "b"
    label = "tie" if abs(first - second) <= tie_margin else winner
    return Opinion(label, score_first=first, score_second=second, **fields)


def vote(
    pair: Row, voter: str, order: str, opinion: Opinion, replies: Sequence[Reply], *, sample: int = 0, group: str = ""
) -> Row:
    """A row of `votes`.

    Args:
        pair: row of `pairs`.
        voter: the judge's name in the recipe.
        order: `ab` if response_a was shown first, else `ba`.
        opinion: in terms of the responses as shown.
        replies: what the opinion rests on; their ids are the vote's id.
        sample: number of the repeated sample.
        group: voters of one group share errors; default: the voter.

    Raises:
        ValueError: p_first lies outside [0, 1] or a score is not finite.
    """
    p_a, score_a, score_b, label = opinion.p_first, opinion.score_first, opinion.score_second, opinion.label
    if p_a is not None and not 0.0 <= p_a <= 1.0:
        raise ValueError(f"{voter}: p_first is {p_a}")
    if any(score is not None and not math.isfinite(score) for score in (score_a, score_b)):
        raise ValueError(f"{voter}: scores are {score_a} and {score_b}")
    if order == "ba":
        p_a = None if p_a is None else 1.0 - p_a
        score_a, score_b, label = score_b, score_a, mirrored(label)
    known = label not in STATES
    requests = [reply.request_id for reply in replies] or ["unsent", order, str(sample)]
    return {
        "vote_id": hash_fields(*requests, pair["pair_id"], voter),
        "pair_id": pair["pair_id"],
        "voter": voter,
        "voter_group": group or voter,
        "kind": "judge",
        "order": order,
        "sample": sample,
        "label": label,
        "p_a": p_a if known else None,
        "score_a": score_a if known else None,
        "score_b": score_b if known else None,
        "aspects": orjson.dumps(opinion.aspects).decode() if opinion.aspects else None,
        "rationale": opinion.rationale,
        "raw": "\n\n".join(reply.text for reply in replies)[:RAW_LIMIT] if replies else None,
        "detail": opinion.detail,
        "tokens_in": sum(reply.tokens_in for reply in replies),
        "tokens_out": sum(reply.tokens_out for reply in replies),
        "ms": sum(reply.ms for reply in replies),
    }


def failed(replies: Sequence[Reply]) -> Opinion | None:
    """The state of the first reply that is not ok; None when all are."""
    for reply in replies:
        if reply.state != "ok":
            return Opinion(reply.state, detail=reply.error or reply.state)
    return None
