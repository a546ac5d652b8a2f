"""From the bytes a server sent to a `Reply`, and from a status to what to do about it. Pure functions.

Formats: OpenAI chat/completions and completions, with the additions of vLLM (`reasoning`,
`reasoning_content`, the numbers of `/pooling`) and llama.cpp (`timings.cache_n`, `tokens` of `/tokenize`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from transforms.llm.request import Reply, Request
from transforms.llm.usage import TOKENIZE

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
UNVERSIONED = frozenset({"tokenize", "pooling"})  # paths beside /v1, not below it
MISCONFIGURED = frozenset({401, 402, 403, 404, 405})
LOGPROB_FLOOR = -100.0  # log-probability given to a token the server calls impossible (-inf, -9999)
ERROR_LIMIT = 500


class MalformedReplyError(ValueError):
    """A successful status with a body that is not a reply; asking again may cure it."""


def parse_reply(request: Request, body: bytes, ms: float = 0.0, retries: int = 0) -> Reply:
    """Read the body of a successful response, which took `ms` milliseconds and `retries` repeated attempts.

    Raises:
        MalformedReplyError: truncated or otherwise not the reply of `request.path`.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedReplyError(f"reply is not JSON ({len(body)} bytes): {error}") from None
    if not isinstance(data, dict):
        raise MalformedReplyError(f"reply is {type(data).__name__}, not an object")
    if request.path == TOKENIZE:
        return Reply(request.request_id, "ok", text=str(_token_count(data)), ms=ms, retries=retries)
    if request.path == "pooling":
        used = _count(_mapping(data.get("usage")).get("prompt_tokens"))
        return Reply(request.request_id, "ok", text=_last_number(data), tokens_in=used, ms=ms, retries=retries)
    choice = _first_choice(data)
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else None
    text, reasoning, refusal = _texts(choice)
    usage = _mapping(data.get("usage"))
    timings = _mapping(data.get("timings"))
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")) or _count(timings.get("cache_n"))
    refused = bool(refusal) or finish == "content_filter"
    tokens_in = _count(usage.get("prompt_tokens"))
    return Reply(
        request_id=request.request_id,
        state="refused" if refused else "ok",
        text=text or (refusal or ""),
        reasoning=reasoning,
        finish_reason=finish,
        logprobs=_logprobs(choice.get("logprobs")),
        error=(refusal or "stopped by the content filter") if refused else None,
        tokens_in=tokens_in,
        tokens_cached=min(cached, tokens_in),
        tokens_out=_count(usage.get("completion_tokens")),
        ms=ms,
        retries=retries,
    )


def error_text(status: int, body: bytes) -> str:
    """The server's reason for a failure as one line: `400: maximum context length is ...`; not shortened."""
    message: Any = None
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    if isinstance(data, dict):
        error = data.get("error", data)
        message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    raw = body if data is None else orjson.dumps(data)  # which escapes no more than it must
    text = str(message) if message else raw.decode("utf-8", "replace")
    return f"{status}: {' '.join(text.split())}"


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds a `Retry-After` header (seconds or an HTTP date) asks to wait; None if absent or unreadable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _first_choice(data: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise MalformedReplyError(f"reply has no choices; it has {sorted(data)[:8]}")
    return choices[0]


def _texts(choice: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Text, reasoning and refusal of a choice of either API."""
    if "message" not in choice:
        text = choice.get("text")
        if not isinstance(text, str):
            raise MalformedReplyError("choice has neither message nor text")
        return text, None, None
    message = choice["message"]
    if not isinstance(message, dict):
        raise MalformedReplyError(f"message is {type(message).__name__}, not an object")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part["text"]) for part in content if isinstance(part, dict) and "text" in part)
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    reasoning = reasoning if isinstance(reasoning, str) else None
    refusal = message.get("refusal")
    refusal = refusal if isinstance(refusal, str) and refusal else None
    if content is None and ("content" in message or reasoning or refusal or message.get("tool_calls")):
        content = ""
    if not isinstance(content, str):
        raise MalformedReplyError(f"content is {type(content).__name__}, not text")
    return content, reasoning, refusal


def _logprobs(value: Any) -> list[dict[str, float]] | None:
    """Log-probabilities per token as {token: value}; the chosen token is always among them."""
    if not isinstance(value, dict):
        return None
    content = value.get("content")
    if isinstance(content, list):
        return [_alternatives(item) for item in content if isinstance(item, dict)]
    tokens, chosen, top = value.get("tokens"), value.get("token_logprobs"), value.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(chosen, list):
        return None
    rows: list[dict[str, float]] = []
    for index, (token, logprob) in enumerate(zip(tokens, chosen, strict=False)):
        others = top[index] if isinstance(top, list) and index < len(top) and isinstance(top[index], dict) else {}
        row = {str(key): number for key, raw in others.items() if (number := _number(raw)) is not None}
        if (number := _number(logprob)) is not None:
            row.setdefault(str(token), number)
        rows.append(row)
    return rows


def _alternatives(item: Mapping[str, Any]) -> dict[str, float]:
    top = item.get("top_logprobs")
    row: dict[str, float] = {}
    for entry in [item, *(top if isinstance(top, list) else [])]:
        if isinstance(entry, dict) and isinstance(entry.get("token"), str):
            number = _number(entry.get("logprob"))
            if number is not None:
                token = entry["token"]
                row[token] = max(number, row.get(token, LOGPROB_FLOOR))
    return row


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return min(0.0, max(LOGPROB_FLOOR, float(value)))


def _token_count(data: Mapping[str, Any]) -> int:
    tokens = data.get("tokens")
    if isinstance(data.get("count"), int):
        return _count(data["count"])
    if isinstance(tokens, list):
        return len(tokens)
    raise MalformedReplyError("tokenize reply has neither count nor tokens")


def _last_number(data: Mapping[str, Any]) -> str:
    """The reward: models that pool every token give one number a token, and the last one is the text's."""
    try:
        value: Any = data["data"][0]["data"]
        while isinstance(value, list):
            value = value[-1]
        number = float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise MalformedReplyError("pooling reply holds no number where a reward should be")
    return repr(number)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else 0
