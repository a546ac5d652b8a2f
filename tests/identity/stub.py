"""The LLM and the reward model of every case: each reply is a function of the request's body alone.

`tests.stub_llm` with replies that can be read: what a JSON schema asks for, a digit where a rating is asked for, a
letter where two responses are compared, else words. One reply in twenty cannot be read and one in fifty is refused, so
that rejects and invalid votes are compared too. Bodies are hashed with sorted keys: code that only writes a
request's fields in another order gets the same reply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.stub_llm import Options, Stub, StubServer, draw

_TEXT = (
    "river stone winter you might don't example I because twelve quickly perhaps under theory practical steps engine "
    "harbour careful reader number seven table morning question answer people water light history small"
)
WORDS = _TEXT.split()
EXTRAS = (" It took {n} days.", "\n- first\n- second", " Really!", " For example, rain.")
UNREADABLE = 0.05
REFUSED = 0.02


@dataclass
class SameReplies(Stub):
    """The stub, counting requests by the hash of what they say."""

    asked: Counter[str] = field(default_factory=Counter)

    def app(self) -> web.Application:
        app = super().app()
        app.router.add_post("/pooling", self.reward)
        app.router.add_post("/v1/pooling", self.reward)
        return app

    def completion(self, key: str, body: dict[str, Any], chat: bool) -> dict[str, Any]:
        key = key_of(body)
        self.asked[key] += 1
        self.reply = lambda body: reply_to(body, key)  # one loop, and no await until it is used
        return super().completion(key, body, chat)

    async def reward(self, request: web.Request) -> web.Response:
        body = await request.json()
        key = key_of(body)
        self.asked[key] += 1
        return web.json_response({"data": [{"data": [4 * draw(key, "reward") - 2]}]})

    @property
    def calls(self) -> int:
        """How many requests were answered so far."""
        return self.asked.total()


def serve() -> StubServer:
    """A server to be entered; `server.stub.asked` holds what it was asked."""
    server = StubServer()
    server.stub = SameReplies(Options(refuse=REFUSED))
    return server


def key_of(body: dict[str, Any]) -> str:
    """Hash of what a body says."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def reply_to(body: dict[str, Any], key: str) -> str:
    """What the model says."""
    prompt = "\n".join(str(message["content"]) for message in body["messages"])
    letter = "A" if draw(key, "p") > 0.5 else "B"
    if body.get("max_tokens") == 1 or "Answer with one letter, A or B, and nothing else" in prompt:
        return letter
    if "one digit from 1 to 9" in prompt:
        return str(1 + int(draw(key, "digit") * 9))
    text = babble(key)
    if "response_format" in body:
        schema = body["response_format"].get("json_schema", {}).get("schema", _VERDICT)
        labels = re.search(r"of exactly (\d+) labels", prompt)
        text = json.dumps(value_of(schema, schema, key, items=int(labels[1]) if labels else 0))
    elif "best-to-worst" in prompt:
        text = ranking(key, len(re.findall(r"^# Response of model-\d+$", prompt, re.MULTILINE)))
    elif "<answer>[[A]]</answer>" in prompt:
        kind = "<type>Chat</type><rubric>Use 60, tone 40</rubric><justify>Both matter.</justify>"
        text = f"{kind}<eval>{text}</eval><answer>[[{'ABC'[int(draw(key, 'verdict') * 3)]}]]</answer>"
    return text[: len(text) // 2] if draw(key, "unreadable") < UNREADABLE else text


_VERDICT = {"properties": {"reasoning": {"type": "string"}, "verdict": {"enum": ["A", "B", "C"]}}}


def babble(*key: str) -> str:
    """Some words, sometimes figures, a list, an exclamation."""
    length = 4 + int(draw(*key, "length") * 40)
    sentence = " ".join(WORDS[int(draw(*key, str(i)) * len(WORDS))] for i in range(length)).capitalize() + "."
    extras = (extra.format(n=int(draw(*key, "n") * 900)) for extra in EXTRAS if draw(*key, extra) < 0.5)
    return sentence + "".join(extras)


def ranking(key: str, n: int) -> str:
    """Scores of `model-1` to `model-n` and the order that follows from them."""
    scores = {f"model-{i}": 1 + int(draw(key, str(i)) * 5) for i in range(1, n + 1)}
    order = sorted(scores, key=lambda name: -scores[name])
    return json.dumps({"thoughts": babble(key), "scores": scores, "best-to-worst": order})


def value_of(schema: dict[str, Any], root: dict[str, Any], *key: str, items: int = 0) -> Any:
    """A value that a JSON schema admits; arrays have `items` items where that is given."""
    if "$ref" in schema:
        return value_of(root["$defs"][schema["$ref"].rpartition("/")[2]], root, *key, items=items)
    if "enum" in schema:
        return schema["enum"][int(draw(*key) * len(schema["enum"]))]
    if "properties" in schema:
        return {name: value_of(part, root, *key, name, items=items) for name, part in schema["properties"].items()}
    kind = schema.get("type")
    if kind == "array":
        n = items or max(schema.get("minItems", 0), 1 + int(draw(*key, "n") * 3))
        return [value_of(schema["items"], root, *key, str(i)) for i in range(n)]
    if kind == "integer":
        low, high = schema.get("minimum", 0), schema.get("maximum", 10)
        return low + int(draw(*key) * (high - low + 1))
    if kind == "number":
        return draw(*key)
    if kind == "boolean":
        return draw(*key) < 0.5
    return babble(*key)[: schema.get("maxLength", 400)]
