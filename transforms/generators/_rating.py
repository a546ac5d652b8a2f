"""Quick opinions at generation time: a rating of one response, a comparison of two.

They decide what is worth keeping or trying; the label of a published pair is the judges' business
(transforms/judges). Both read the first answer token's log-probabilities if the engine gives them
(expected rating; P(A)/(P(A)+P(B))), else the first line of the answer, which must say it and nothing else. After a
thought the first token is the thought's, so the text counts. An answer that says neither is None, never a number.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from schemas.messages import Message, message, text_of
from schemas.tables import Row
from transforms.generators._templates import render
from transforms.generators.base import Generator, Response, Tally
from transforms.llm.reasoning import silence
from transforms.llm.request import Reply
from transforms.plugins.base import PluginConfig
from transforms.text.letters import WRAPPING, letter

RATE, COMPARE = "rate.v1", "compare.v1"
_RATING = re.compile(
    r"(?:(?:the\s+)?(?:rating|score|answer)\s*(?:is|:)?[\s*_]*)?([1-9])(?:\s*(?:/|out of)\s*9)?", re.IGNORECASE
)
_SHOWN = 40  # characters of a reply in a reason
_MIN_MASS = 0.05  # below this the first token is not an answer and its distribution says nothing


class RatingConfig(PluginConfig):
    """What generators that rate or compare responses say of it."""

    rating_tokens: int = Field(
        default=4, ge=1, description="tokens of a rating or comparison; more where the model thinks or talks first"
    )


def read_rating(reply: Reply) -> float | None:
    """Rating in [1, 9]: expectation over the digits' probabilities, else the number that the text says."""
    if reply.state != "ok":
        return None
    mass = _mass(reply, [str(digit) for digit in range(1, 10)])
    total = sum(mass.values())
    if total >= _MIN_MASS:
        return sum(int(digit) * p for digit, p in mass.items()) / total
    found = _RATING.fullmatch(_first_line(reply).strip(WRAPPING))
    return float(found[1]) if found else None


def read_choice(reply: Reply) -> float | None:
    """P(the response shown as A is better) in [0, 1]: from log-probabilities, else 1 or 0 from the text."""
    if reply.state != "ok":
        return None
    mass = _mass(reply, ["A", "B"])
    total = sum(mass.values())
    if total >= _MIN_MASS:
        return mass["A"] / total
    found = letter(_first_line(reply))
    return float(found == "A") if found in ("A", "B") else None


def _first_line(reply: Reply) -> str:
    return reply.text.strip().split("\n", 1)[0]


def _tokens(generator: Generator) -> int:
    config = generator.config
    assert isinstance(config, RatingConfig)
    return config.rating_tokens


def _mass(reply: Reply, answers: Sequence[str]) -> dict[str, float]:
    """Probability of each answer at the first token; spellings that differ by white space are added up."""
    mass = dict.fromkeys(answers, 0.0)
    first = reply.logprobs[0] if reply.logprobs and not reply.reasoning else {}
    for token, logprob in first.items():
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
            max_tokens=_tokens(generator),
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
        else:
            ask.unread = unread(reply)
    return ratings


def unread(reply: Reply) -> str:
    """Why a rating or comparison cannot be read, in a few words."""
    if reply.state != "ok":
        return reply.error or reply.state
    nothing = silence(reply)
    if nothing is not None:
        return nothing.replace("max_tokens", "rating_tokens")
    advice = ", cut off: raise rating_tokens" if reply.finish_reason == "length" else ""
    return f"the reply is {reply.text.strip()[:_SHOWN]!r}{advice}"


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
            max_tokens=_tokens(generator),
            logprobs=True,
            top_logprobs=20,
            assumed="A" if (a is first) == (assumed == "first") else "B",
        )
        for a, b in shown
    ]
    replies = await ask.all(requests)
    forward, backward = [read_choice(reply) for reply in replies]
    ask.parsed((forward is not None) + (backward is not None))
    for reply, read in zip(replies, (forward, backward), strict=True):
        if read is None:
            ask.unread = unread(reply)
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
