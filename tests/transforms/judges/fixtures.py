"""Pairs and an `ask` made of a function, for tests of judges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from schemas.messages import to_messages
from schemas.pairs import make_pair
from schemas.tables import Row
from transforms.llm.request import Reply, Request
from transforms.plugins.registry import find

MODELS = {"llm": "model@1"}


def pair(first: str = "A good answer.", second: str = "A bad answer.", prompt: str = "A question?", **more: Any) -> Row:
    context = more.pop("context", None)
    row, _ = make_pair(
        to_messages(prompt, "user"),
        to_messages(first, "assistant"),
        to_messages(second, "assistant"),
        context=context,
        origin="test",
        **more,
    )
    return row


def judge(plugin: str, name: str = "judge", seed: int = 0, **settings: Any) -> Any:
    cls = find("judges", plugin)
    made = cls(name, cls.Config(engine="llm", **settings), seed)
    made.bind(MODELS)
    return made


def votes_of(made: Any, pairs: Sequence[Row], answer: Callable[[Request], Reply]) -> tuple[list[Row], list[Request]]:
    asked: list[Request] = []

    async def ask(request: Request) -> Reply:
        asked.append(request)
        return answer(request)

    return asyncio.run(made.votes(pairs, ask)), asked


def said(request: Request, text: str, **fields: Any) -> Reply:
    return Reply(request.request_id, "ok", text=text, tokens_in=5, tokens_out=2, ms=1.0, **fields)


def prompt_text(request: Request) -> str:
    return "\n".join(message["content"] for message in request.body["messages"])
