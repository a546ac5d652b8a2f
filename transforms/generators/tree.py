"""Leaves of a prefix tree: responses that agree up to a branch and differ after it.

A tree of depth D and branching B gives B^D leaves for (B^(D+1) - B) / (B - 1) generated segments; two leaves
under one node share its text, so what has to be read and generated twice is only what comes after the branch.

A pair holds whole leaves, for judges, people and trainers read whole responses and `pair_id` is the hash of them. A
segment is bought and stored once: it is one reply in the memo, and a pair names its segments by request id and length,
so shared prefixes are recognised, and checked, without comparing texts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import Field

from schemas.messages import Message, message, text_of
from schemas.tables import Row
from transforms.generators._sampling import drawer
from transforms.generators._templates import render
from transforms.generators.base import Generator, OneEngine, Tally, Yield, written
from transforms.plugins.registry import register
from transforms.text.similarity import normalised

_CONTINUE = "continue.v1"


@dataclass
class Node:
    """A prefix of the response; `path` names the choices that led here, the root's is ().

    `trail` names for each segment down to here the request whose reply it is, and where in the text it ends.
    """

    path: tuple[int, ...]
    text: str
    finished: bool = False
    children: list[Node] = field(default_factory=list)
    trail: tuple[tuple[str, int], ...] = ()

    def leaves(self) -> list[Node]:
        """The nodes without children, left to right."""
        return [leaf for child in self.children for leaf in child.leaves()] if self.children else [self]

    def inner(self) -> list[Node]:
        """The nodes with two children or more, parents before children."""
        own = [self] if len(self.children) > 1 else []
        return own + [node for child in self.children for node in child.inner()]


@register("tree")
class Tree(Generator):
    """Segments of `segment_tokens` tokens, `branching` continuations of each, `depth` levels.

    Every node with two distinct continuations gives up to `pairs_per_node` pairs, each of two leaves below
    different children. Each segment is asked for once and stored once, as a reply in the memo; a pair holds whole
    responses, and its `origin_ref` names of each the `segments` from the root: [request id, end in characters]. Two
    leaves share the first `prefix_segments` of them, which are the first `prefix_chars` characters.
    `continuation`: `prefill` ends the request with the assistant's text so far (llama.cpp, vLLM); `instructed` asks
    for a continuation in words (any endpoint).
    """

    version: ClassVar[int] = 3
    templates = (_CONTINUE,)

    class Config(OneEngine):
        """Settings of `tree`; `max_tokens` bounds the last segment."""

        depth: int = Field(default=2, ge=1, le=8)
        branching: int = Field(default=2, ge=2, le=8)
        segment_tokens: int = Field(default=48, ge=1)
        pairs_per_node: int = Field(default=1, ge=1)
        continuation: Literal["prefill", "instructed"] = "prefill"

    config: Config

    async def _make(self, row: Row, ask: Tally, out: Yield) -> None:
        root = Node((), "")
        await self._grow(root, row, ask, out)
        draw = drawer(self, row)
        for node in root.inner():
            sides = [child.leaves() for child in node.children]
            meetings = [(x, y) for i, left in enumerate(sides) for right in sides[i + 1 :] for x in left for y in right]
            for x, y in sorted(meetings, key=lambda xy: draw(str(xy[0].path), str(xy[1].path)))[
                : self.config.pairs_per_node
            ]:
                self._pair(row, node, x, y, out)
        if not root.inner():
            self.reject(out, "no_branch", row["prompt_id"], "no node has two distinct continuations", _sketch(root))

    async def _grow(self, node: Node, row: Row, ask: Tally, out: Yield) -> None:
        """Add the node's distinct continuations, and theirs."""
        if node.finished or len(node.path) == self.config.depth:
            return
        last = len(node.path) + 1 == self.config.depth
        requests = [
            self.request(
                self.config.engine,
                self._messages(row, node.text),
                (row["prompt_id"], "tree", *map(str, (*node.path, i))),
                temperature=self.config.temperature,
                max_tokens=self.config.max_tokens if last else self.config.segment_tokens,
                top_p=self.config.top_p,
                **self._flags(node.text),
            )
            for i in range(self.config.branching)
        ]
        seen: set[str] = set()
        for i, (request, reply) in enumerate(zip(requests, await ask.all(requests), strict=True)):
            path = (*node.path, i)
            if not self.usable(reply, row, out, {"node": list(path)}):
                continue
            ask.parsed()
            if normalised(reply.text) in seen:
                payload = {"prompt_id": row["prompt_id"], "node": list(path), "text": reply.text}
                detail = "the continuation repeats an earlier one of the same node"
                self.reject(out, "near_identical_candidate", request.request_id, detail, payload)
                continue
            seen.add(normalised(reply.text))
            text = continued(node.text, reply.text, self.config.continuation)
            trail = (*node.trail, (request.request_id, len(text)))
            node.children.append(Node(path, text, reply.finish_reason == "stop", trail=trail))
        await asyncio.gather(*(self._grow(child, row, ask, out) for child in node.children))

    def _messages(self, row: Row, prefix: str) -> list[Message]:
        if not prefix:
            return list(row["prompt"])
        if self.config.continuation == "prefill":
            return [*row["prompt"], message("assistant", prefix)]
        return [message("user", render(_CONTINUE, prompt=text_of(row["prompt"]), prefix=prefix))]

    def _flags(self, prefix: str) -> dict[str, Any]:
        # vLLM closes the last assistant message and opens a new turn unless it is told not to.
        if prefix and self.config.continuation == "prefill":
            return {"continue_final_message": True, "add_generation_prompt": False}
        return {}

    def _pair(self, row: Row, node: Node, x: Node, y: Node, out: Yield) -> None:
        model = self.models[self.config.engine]
        first, second = (
            written(leaf.text, model, node=list(leaf.path), request_id=leaf.trail[-1][0], segments=leaf.trail)
            for leaf in (x, y)
        )
        self.pair(
            row,
            out,
            first,
            second,
            tags=["tree"],
            ref={"depth": self.config.depth, "branching": self.config.branching},
            meta={"branch": list(node.path), "prefix_chars": len(node.text), "prefix_segments": len(node.trail)},
        )


def continued(prefix: str, text: str, continuation: str) -> str:
    """The response up to the end of a reply that goes on from `prefix`.

    Given a prefilled turn, vLLM replies with what comes after the prefix, llama.cpp with the whole turn. A
    continuation asked for in words gets a blank if it would otherwise run into the prefix.
    """
    if continuation == "prefill":
        return text if prefix and text.startswith(prefix) else prefix + text
    glued = prefix and not prefix[-1].isspace() and text[:1].isalnum()
    return prefix + (" " if glued else "") + text


def _sketch(node: Node) -> dict[str, object]:
    return {"node": list(node.path), "text": node.text, "children": [_sketch(c) for c in node.children]}
