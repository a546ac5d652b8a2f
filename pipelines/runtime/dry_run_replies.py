"""Replies for a plan: what an engine might say, so that the steps that depend on it can be walked."""

from __future__ import annotations

import math
from typing import Any

import orjson

from schemas.ids import hash_fields, unit_interval
from transforms.llm.request import Reply, Request
from transforms.llm.usage import TOKENIZE

CHARACTERS_PER_TOKEN = 4.0
_MESSAGE_TOKENS = 8  # what a chat template adds to each message
_TOKENS_OUT = 256  # where a request sets no limit
_MOST_WORDS = 200
_WORDS = (
    "amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "heron", "islet", "juniper", "knoll", "lagoon",
    "meadow", "nectar", "orchard", "pebble", "quarry", "raven", "sparrow", "thistle", "umbrella", "valley",
    "willow", "yarrow", "zephyr", "anchor", "barrel", "candle", "dancer", "engine", "farmer", "garden", "hammer",
    "insect", "jacket", "kettle", "lantern", "mirror", "needle", "oyster", "pepper", "quilt", "ribbon", "saddle",
    "timber", "uncle", "violin", "window", "autumn", "bridge", "castle", "donkey", "eagle", "forest", "glacier",
    "harbour", "island", "jungle", "kitchen", "ladder", "market", "night", "ocean",
)  # fmt: skip
_JOINTS = (" and the ", " of the ", " with a ", " in the ", " which is a ", " for this ", " under the ", ". Then the ")


def invented_reply(request: Request) -> Reply:
    """A reply with the tokens that the request may cost.

    It is the request's `assumed_reply` if it has one; an object of the schema, if it asks for one; else words that
    differ from request to request, about as many as it allows.
    """
    body = request.body
    texts = [str(m.get("content", "")) for m in body.get("messages", [])] or [str(body.get("prompt", ""))]
    if request.path == TOKENIZE:
        return Reply(request.request_id, "ok", str(round(len(texts[0]) / CHARACTERS_PER_TOKEN)))
    tokens_in = sum(round(len(text) / CHARACTERS_PER_TOKEN) + _MESSAGE_TOKENS for text in texts)
    tokens_out = int(body.get("max_tokens") or body.get("max_completion_tokens") or _TOKENS_OUT)
    schema = ((body.get("response_format") or {}).get("json_schema") or {}).get("schema")
    if request.assumed_reply:
        text = request.assumed_reply
    elif schema:
        text = orjson.dumps(fitting(schema, schema, request.request_id)).decode()
    else:
        text = babble(request.request_id, min(_MOST_WORDS, max(8, tokens_out // 2)))
    logprobs = None
    if body.get("logprobs"):
        p = 0.05 + 0.9 * unit_interval(request.request_id, "first token")
        logprobs = [{text: -0.05}] if request.assumed_reply else [{"A": math.log(p), "B": math.log(1 - p)}]
    return Reply(request.request_id, "ok", text, None, "stop", logprobs, tokens_in=tokens_in, tokens_out=tokens_out)


def babble(draw: str, n: int) -> str:
    """`n` nouns, joined to something that looks like English, by the draw."""
    parts = [_WORDS[int(unit_interval(draw, str(i)) * len(_WORDS))] for i in range(n)]
    joints = [_JOINTS[int(unit_interval(draw, "joint", str(i)) * len(_JOINTS))] for i in range(n - 1)]
    return "The " + "".join(part + joint for part, joint in zip(parts, [*joints, "."], strict=True))


def fitting(schema: Any, root: Any, draw: str) -> Any:
    """A value that a JSON schema allows, by the draw.

    Args:
        root: the whole schema, for references into it.
    """
    if "$ref" in schema:
        node = root
        for name in str(schema["$ref"]).removeprefix("#/").split("/"):
            node = node[name]
        return fitting(node, root, draw)
    for choices in ("enum", "anyOf", "oneOf"):
        if choices in schema:
            chosen = schema[choices][int(unit_interval(draw, choices) * len(schema[choices]))]
            return chosen if choices == "enum" else fitting(chosen, root, draw)
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        return {
            name: fitting(item, root, hash_fields(draw, name)) for name, item in schema.get("properties", {}).items()
        }
    if kind == "array":
        n = int(schema.get("minItems", 3))
        return [fitting(schema.get("items", {}), root, hash_fields(draw, str(i))) for i in range(n)]
    if kind in ("integer", "number"):
        low, high = int(schema.get("minimum", 1)), int(schema.get("maximum", 9))
        return low + int(unit_interval(draw) * (high + 1 - low))
    if kind == "boolean":
        return unit_interval(draw) < 0.5
    if kind == "null":
        return None
    return babble(draw, 12)[: int(schema.get("maxLength", 2000))]
