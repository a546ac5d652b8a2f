"""A deterministic stand-in for the engines, and rows to feed the generators."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

from schemas.ids import hash_fields, unit_interval
from schemas.messages import Message, message, messages_id
from schemas.pairs import make_pair
from schemas.tables import Pairs, Prompts, Rejects, rows_frame
from transforms.generators.base import Yield
from transforms.llm.request import Reply, Request
from transforms.plugins.registry import find

# fmt: off
WORDS = [
    "river", "stone", "winter", "you", "might", "don't", "example", "I", "because", "twelve",
    "quickly", "perhaps", "under", "theory", "practical", "steps", "engine", "harbour", "careful",
    "reader", "number", "seven", "table", "morning", "question", "answer", "people", "water",
    "light", "history", "small",
]
# fmt: on


def babble(request: Request) -> str:
    """Text that depends on the request alone: some words, sometimes lists, figures and exclamations."""
    draws = [unit_interval(request.request_id, str(i)) for i in range(64)]
    length = 4 + int(draws[0] * 40)
    sentence = " ".join(WORDS[int(d * len(WORDS))] for d in draws[1 : 1 + length])
    extras = [f" It took {int(draws[60] * 900)} days.", "\n- first\n- second", " Really!", " Is it so?"]
    return sentence.capitalize() + "." + "".join(e for e, d in zip(extras, draws[56:60], strict=True) if d < 0.5)


def from_schema(request: Request) -> str:
    """An object that satisfies the request's JSON schema, with babble in every field."""
    schema = request.body["response_format"]["json_schema"]["schema"]
    fields = {
        name: babble(Request(request.engine, request.model, {**request.body, "field": name}))
        for name in schema["required"]
    }
    return json.dumps(fields)


def first_token(request: Request) -> list[dict[str, float]] | None:
    """Log-probabilities of the first token when asked for: a draw over A/B or over the digits."""
    if not request.body.get("logprobs"):
        return None
    p = 0.05 + 0.9 * unit_interval(request.request_id, "p")
    content = request.body["messages"][-1]["content"]
    if "A or B" in content:
        return [{"A": math.log(p), "B": math.log(1 - p)}]
    digit = 1 + int(p * 8)
    return [{str(digit): math.log(0.75), str(digit + 1): math.log(0.25)}]


class FakeEngine:
    """`ask` that answers by a function of the request; records what it was asked."""

    def __init__(self, answer: Callable[[Request], str | Reply | None] | None = None) -> None:
        self._answer = answer
        self.requests: list[Request] = []

    async def __call__(self, request: Request) -> Reply:
        self.requests.append(request)
        # Replies arrive in an order of their own: nothing may depend on who answers first.
        for _ in range(int(unit_interval(request.request_id, "delay") * 5)):
            await asyncio.sleep(0)
        given = self._answer(request) if self._answer else None
        if isinstance(given, Reply):
            return given
        if given is not None:
            text = given
        elif "response_format" in request.body:
            text = from_schema(request)
        else:
            text = babble(request)
        logprobs = first_token(request) if given is None else None
        if logprobs:
            text = max(logprobs[0], key=lambda token: logprobs[0][token])
        return Reply(
            request.request_id, "ok", text, finish_reason="stop", logprobs=logprobs, tokens_in=10, tokens_out=len(text)
        )


def failed(request: Request, state: str = "error", text: str = "") -> Reply:
    return Reply(request.request_id, state, text, error="no answer" if state == "error" else None)


def prompt_row(text: str = "How do tides work?", **fields: Any) -> dict[str, Any]:
    """A valid row of the `prompts` table."""
    prompt = [message("user", text)]
    row = dict.fromkeys(Prompts.columns())
    return {**row, "prompt_id": messages_id(prompt), "prompt": prompt, **fields}


def pair_row(text: str = "How do tides work?", first: str = "", second: str = "", **fields: Any) -> dict[str, Any]:
    """A valid row of the `pairs` table; `first_label` is in terms of `first` and `second`."""
    first = first or "The moon pulls the sea. It takes 12 hours and 25 minutes from one high tide to the next."
    second = second or "Because of wind, mostly."
    pair, _ = make_pair(
        [message("user", text)], [message("assistant", first)], [message("assistant", second)], **fields
    )
    return {**dict.fromkeys(Pairs.columns()), "origin": "test", **pair}


def build(plugin: str, name: str = "", seed: int = 7, **config: Any) -> Any:
    """A bound generator; every engine it names has the model `<name>-weights`."""
    cls = find("generators", plugin)
    generator = cls(name or plugin, cls.Config(**config), seed)
    generator.bind({engine: f"{engine}-weights" for engine in generator.config.engine_names()})
    return generator


def run(generator: Any, row: dict[str, Any], ask: Callable[[Request], Any] | None = None) -> Yield:
    """What the generator makes of a row; checks what every strategy promises."""
    result: Yield = asyncio.run(generator.pairs(row, ask or FakeEngine()))
    check_yield(result, generator)
    return result


def check_yield(result: Yield, generator: Any) -> None:
    pairs = rows_frame(result.pairs, Pairs)
    Pairs.validate(pairs)
    Prompts.validate(rows_frame(result.prompts, Prompts))
    Rejects.validate(rows_frame(result.rejects, Rejects).unique("reject_id"))
    for pair in result.pairs:
        ids = [messages_id(pair["response_a"]), messages_id(pair["response_b"])]
        assert ids == sorted(ids)
        assert pair["prompt_id"] == messages_id(pair["prompt"])
        assert pair["pair_id"] == hash_fields(pair["prompt_id"], pair["context"] or "", *ids)
        reference = json.loads(pair["origin_ref"])
        assert pair["origin"] == generator.name
        assert reference["generator"] == generator.plugin_name
        assert reference["prompt_version"] == generator.prompt_version
        assert reference["seed"] == generator.seed
        assert pair["group_id"]


def meta(row: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(row["meta"])
    return value


def text(messages: Sequence[Message]) -> str:
    assert len(messages) == 1
    return messages[0]["content"]
