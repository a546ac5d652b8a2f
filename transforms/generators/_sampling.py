"""Candidates for a prompt, and which of them become pairs.

Requests depend on the recipe's seed, the prompt and the sampling settings only, not on who asks: two
generators with the same settings get the same candidates, the second from the memo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from schemas.ids import unit_interval
from schemas.messages import message
from schemas.tables import Row
from transforms.generators.base import Generator, Response, Tally, Yield, written
from transforms.plugins.base import PluginConfig
from transforms.text.similarity import jaccard, normalised, shingles

Draw = Callable[..., float]
Policy = Literal["all", "adjacent", "random", "best_worst", "random_of_top"]
RANKED = ("best_worst", "random_of_top")


class SamplingConfig(PluginConfig):
    """How candidates are sampled.

    `n` candidates are dealt round-robin over every (engine, temperature). `near_identical` is the
    Jaccard similarity of word trigrams from which a later candidate is dropped.
    """

    engine_fields: ClassVar[tuple[str, ...]] = ("engines",)

    engines: tuple[str, ...] = Field(min_length=1)
    n: int = Field(default=4, ge=1, le=256)
    temperatures: tuple[float, ...] = Field(default=(0.8,), min_length=1)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    max_tokens: int = Field(default=512, ge=1)
    system: str | None = None
    near_identical: float = Field(default=0.9, gt=0.0, le=1.0)
    drop_truncated: bool = False
    keep_reasoning: bool = Field(
        default=False, description="leave what the model thought in the response, between <think> and </think>"
    )

    @field_validator("engines", "temperatures", mode="before")
    @classmethod
    def _one_is_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, int, float)) else value


async def sample(generator: Generator, config: SamplingConfig, row: Row, ask: Tally, out: Yield) -> list[Response]:
    """Distinct candidates for the row's prompt, in sampling order; unusable and repeated ones are rejects."""
    prompt = [message("system", config.system), *row["prompt"]] if config.system else row["prompt"]
    settings = [(engine, t) for t in config.temperatures for engine in config.engines]
    plan = [(*settings[i % len(settings)], i) for i in range(config.n)]
    requests = [
        generator.request(
            engine,
            prompt,
            (row["prompt_id"], "sample", str(i)),
            temperature=temperature,
            max_tokens=config.max_tokens,
            top_p=config.top_p,
        )
        for engine, temperature, i in plan
    ]
    candidates = []
    for request, reply, (engine, temperature, i) in zip(requests, await ask.all(requests), plan, strict=True):
        details = {"engine": engine, "temperature": temperature, "sample": i, "request_id": request.request_id}
        if not generator.usable(reply, row, out, details):
            continue
        if config.drop_truncated and reply.finish_reason == "length":
            detail = f"the reply was cut at max_tokens={config.max_tokens}"
            generator.reject(out, "truncated", request.request_id, detail, {**details, "text": reply.text})
            continue
        ask.parsed()
        details |= {"finish_reason": reply.finish_reason, "tokens_out": reply.tokens_out}
        thought = f"<think>\n{reply.reasoning}\n</think>\n\n" if config.keep_reasoning and reply.reasoning else ""
        candidates.append(written(thought + reply.text, generator.models[engine], **details))
    return distinct(generator, candidates, row, out, config.near_identical)


def distinct(
    generator: Generator, candidates: Sequence[Response], row: Row, out: Yield, threshold: float
) -> list[Response]:
    """The candidates without those nearly identical to an earlier one; each dropped one is a reject."""
    kept: list[tuple[Response, str, frozenset[tuple[str, ...]]]] = []
    for candidate in candidates:
        text, pieces = normalised(candidate.text), shingles(candidate.text)
        twin = next((k for k, t, p in kept if t == text or jaccard(p, pieces) >= threshold), None)
        if twin is None:
            kept.append((candidate, text, pieces))
            continue
        payload = {"prompt_id": row["prompt_id"], "text": candidate.text, **candidate.details, "like": twin.details}
        record = str(candidate.details.get("request_id", row["prompt_id"]))
        detail = f"shares at least {threshold:g} of its word trigrams with an earlier candidate"
        generator.reject(out, "near_identical_candidate", record, detail, payload)
    return [candidate for candidate, _, _ in kept]


def pairings(
    n: int,
    policy: Policy,
    k: int,
    draw: Draw,
    scores: Sequence[float] | None = None,
    top: float = 0.5,
) -> list[tuple[int, int]]:
    """Index pairs (first, second) among `n` candidates.

    Args:
        policy: `all` pairs; `adjacent` (0-1, 1-2, ...); `random`: `k` of all, without replacement;
            `best_worst`: highest against lowest score; `random_of_top`: the best against `k` drawn from the
            rest of the best `top` share (at least two candidates): hard pairs. The last two put the better first.
        draw: a reproducible draw in [0, 1) for a named pair.
        scores: one per candidate, needed by the last two; equal extremes give no pair.

    Raises:
        ValueError: scores are needed and absent.
    """
    if n < 2:
        return []
    if policy == "adjacent":
        return [(i, i + 1) for i in range(n - 1)]
    every = list(combinations(range(n), 2))
    if policy == "all":
        return every
    if policy == "random":
        return sorted(sorted(every, key=lambda pair: draw("pair", str(pair[0]), str(pair[1])))[:k])
    if scores is None:
        raise ValueError(f"policy {policy!r} needs scores")
    ranked = sorted(range(n), key=lambda i: (-scores[i], i))
    if policy == "best_worst":
        chosen = [(ranked[0], ranked[-1])]
    else:
        rest = ranked[1 : max(2, round(n * top))]
        chosen = [(ranked[0], i) for i in sorted(rest, key=lambda i: draw("top", str(i)))[:k]]
    return [(i, j) for i, j in chosen if scores[i] > scores[j]]


def drawer(generator: Generator, row: Row, *names: str) -> Draw:
    """Reproducible draws in [0, 1) named by (seed, generator use, prompt, ...)."""

    def draw(*fields: str) -> float:
        return unit_interval(str(generator.seed), generator.name, row["prompt_id"], *names, *fields)

    return draw
