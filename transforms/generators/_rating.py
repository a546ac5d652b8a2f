"""Quick opinions at generation time: a rating of one response, a comparison of two.

They decide what is worth keeping or trying; the label of a published pair is the judges' business
(transforms/judges). Both read the first answer token's log-probabilities if the engine gives them
(expected rating; P(A)/(P(A)+P(B))), else the answer's text. An answer that says neither is None, never
a number.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Literal

from schemas.messages import Message, message, text_of
from schemas.tables import Row
from transforms.generators._templates import render
from transforms.generators.base import Generator, Response, Tally
from transforms.llm.request import Reply

RATE, COMPARE = "rate.v1", "compare.v1"
_RATING = re.compile(r"(?<![\d.])(10|[1-9])(?![\d.])")
_CHOICE = re.compile(r"\b([AB])\b")
_MIN_MASS = 0.05  # below this the first token is not an answer and its distribution says nothing


def read_rating(reply: Reply) -> float | None:
    """Rating in [1, 9]: expectation over the digits' probabilities, else the first such number in the text."""
    if reply.state != "ok":
        return None
    mass = _mass(reply, [str(digit) for digit in range(1, 10)])
    total = sum(mass.values())
    if total >= _MIN_MASS:
        return sum(int(digit) * p for digit, p in mass.items()) / total
    match = _RATING.search(reply.text)
    return min(9.0, float(match.group(1))) if match else None


def read_choice(reply: Reply) -> float | None:
    """P(the response shown as A is better) in [0, 1]: from log-probabilities, else 1 or 0 from the text."""
    if reply.state != "ok":
        return None
    mass = _mass(reply, ["A", "B"])
    total = sum(mass.values())
    if total >= _MIN_MASS:
        return mass["A"] / total
    match = _CHOICE.search(reply.text.strip())
    return None if match is None else float(match.group(1) == "A")


def _mass(reply: Reply, answers: Sequence[str]) -> dict[str, float]:
    """Probability of each answer at the first token; spellings that differ by white space are added up."""
    mass = dict.fromkeys(answers, 0.0)
    for token, logprob in (reply.logprobs[0] if reply.logprobs else {}).items():
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logprob)
    return mass


async def rate(
    generator: Generator,
    engine: str,
    row: Row,
    responses: Sequence[Response],
    ask: Tally,
    *,
    samples: int = 1,
    context: str | None = None,
    assumed: Sequence[int] = (),
) -> list[list[float]]:
    """Ratings of each response, `samples` draws each (temperature 0 when one); unreadable ones are left out.

    `assumed` are the ratings a dry run answers with; by default they fall from one to the next.
    """
    draws = [(r, s) for r in range(len(responses)) for s in range(samples)]
    prompt = text_of(row["prompt"])
    requests = [
        generator.request(
            engine,
            [message("user", render(RATE, prompt=prompt, response=responses[r].text, context=context))],
            (row["prompt_id"], "rate", str(s)),
            temperature=0.0 if samples == 1 else 1.0,
            max_tokens=4,
            logprobs=True,
            top_logprobs=20,
            assumed=str(assumed[r] if assumed else max(1, 9 - r)),
        )
        for r, s in draws
    ]
    ratings: list[list[float]] = [[] for _ in responses]
    for (r, _), reply in zip(draws, await ask.all(requests), strict=True):
        rating = read_rating(reply)
        if rating is not None:
            ask.parsed()
            ratings[r].append(rating)
    return ratings


async def prefer(
    generator: Generator,
    engine: str,
    prompt_id: str,
    prompt: Sequence[Message],
    first: Response,
    second: Response,
    ask: Tally,
    *,
    context: str | None = None,
    sample: int = 0,
    assumed: Literal["first", "second"] = "first",
) -> float | None:
    """P(`first` is better), the mean of both orders so that position bias cancels; None if either is unreadable.

    `assumed` is the winner a dry run answers with: the one that makes a pair.
    """
    shown = [(first, second), (second, first)]
    requests = [
        generator.request(
            engine,
            [message("user", render(COMPARE, prompt=text_of(prompt), a=a.text, b=b.text, context=context))],
            (prompt_id, "compare", str(sample)),
            temperature=0.0 if sample == 0 else 1.0,
            max_tokens=4,
            logprobs=True,
            top_logprobs=20,
            assumed="A" if (a is first) == (assumed == "first") else "B",
        )
        for a, b in shown
    ]
    forward, backward = [read_choice(reply) for reply in await ask.all(requests)]
    ask.parsed((forward is not None) + (backward is not None))
    if forward is None or backward is None:
        return None
    return (forward + 1.0 - backward) / 2.0


async def prefer_each(
    generator: Generator, engine: str, row: Row, pairs: Sequence[tuple[Response, Response]], ask: Tally
) -> list[float | None]:
    """`prefer` for several pairs of one prompt, asked together."""
    return list(
        await asyncio.gather(*(prefer(generator, engine, row["prompt_id"], row["prompt"], a, b, ask) for a, b in pairs))
    )
