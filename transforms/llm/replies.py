"""From the bytes a server sent to a `Reply`. Pure functions.

Formats: OpenAI chat/completions and completions, with the additions of vLLM (`reasoning`,
`reasoning_content`, the numbers of `/pooling`) and llama.cpp (`timings.cache_n`, `tokens` of `/tokenize`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from transforms.llm.bodies import MalformedReplyError, read_body, read_json
from transforms.llm.request import Reply, Request
from transforms.llm.statuses import Meaning, error_object, meaning_of, status_in
from transforms.llm.usage import TOKENIZE

UNVERSIONED = frozenset({"tokenize", "pooling"})  # paths beside /v1, not below it
LOGPROB_FLOOR = -100.0  # log-probability given to a token the server calls impossible (-inf, -9999)
ERROR_LIMIT = 500
_BYTES_PER_TOKEN = 4  # where a server counts no tokens

# How a reply ended, by what servers call it. Whatever else one says (abort, error, ...) is no end of an answer.
FINISHES: Mapping[str, str] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete", "completed"), "stop"),
    **dict.fromkeys(
        ("length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "model_length", "token_limit"),
        "length",
    ),
    **dict.fromkeys(("tool_call", "tool_calls", "function_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(
        [
            "blocklist",
            "content-filter",
            "content_filter",
            "error_toxic",
            "prohibited_content",
            "recitation",
            "refusal",
            "safety",
            "sensitive",
            "spii",
        ],
        "content_filter",
    ),
}


class BodyError(Exception):
    """A successful status with an error in its body, whose code counts as the status.

    Attributes:
        status: what the code stands for.
        meaning: what that status, and the error, mean.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error_line(status_in(error), error))
        self.status = status_in(error)
        self.meaning = meaning_of(self.status, error)


def parse_reply(request: Request, body: bytes, ms: float = 0.0, retries: int = 0, *, content_type: str = "") -> Reply:
    """Read the body of a successful response, which took `ms` milliseconds and `retries` repeated attempts.

    Raises:
        MalformedReplyError: truncated or otherwise not the reply of `request.path`, or one that did not end well.
        BodyError: it is an error under a status that says otherwise.
    """
    data = read_body(body, content_type)
    if data.get("error") or data.get("object") == "error":
        raise BodyError(error_object(data))
    if request.path == TOKENIZE:
        return Reply(request.request_id, "ok", text=str(_token_count(data)), ms=ms, retries=retries)
    if request.path == "pooling":
        used = _count(_mapping(data.get("usage")).get("prompt_tokens"))
        return Reply(request.request_id, "ok", text=_last_number(data), tokens_in=used, ms=ms, retries=retries)
    choice = _first_choice(data)
    if choice.get("error"):
        raise BodyError(error_object({"error": choice["error"]}))
    finish = _finish(choice.get("finish_reason"))
    text, reasoning, refusal = _texts(choice)
    usage = _mapping(data.get("usage"))
    timings = _mapping(data.get("timings"))
    cached = _count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")) or _count(timings.get("cache_n"))
    refused = bool(refusal) or finish == "content_filter"
    tokens_in, tokens_out = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    said = text or (refusal or "")
    is_counted = tokens_in > 0 and (tokens_out > 0 or not said)
    return Reply(
        request_id=request.request_id,
        state="refused" if refused else "ok",
        text=said,
        reasoning=reasoning,
        finish_reason=finish,
        logprobs=_logprobs(choice.get("logprobs")),
        error=(refusal or "stopped by the content filter") if refused else None,
        tokens_in=tokens_in or _estimate(_asked(request)),
        tokens_cached=min(cached, tokens_in),
        tokens_out=tokens_out or _estimate(said + (reasoning or "")),
        estimated=not is_counted,
        ms=ms,
        retries=retries,
    )


def read_error(status: int, body: bytes, content_type: str = "") -> tuple[str, Meaning]:
    """The server's reason for a failure as one line (`400: maximum context length is ...`), and what it means.

    The line is not shortened.
    """
    try:
        data = read_json(body, content_type)
    except MalformedReplyError:
        return f"{status}: {' '.join(body.decode('utf-8', 'replace').split())}", meaning_of(status)
    error = error_object(data)
    return error_line(status, error or data), meaning_of(status, error)


def error_line(status: int, error: Any) -> str:
    """An error as one line, its message if it has one."""
    message = (error.get("message") or error.get("detail")) if isinstance(error, Mapping) else error
    # Written without more escapes than there must be, so that a secret in it is found.
    text = message if isinstance(message, str) else json.dumps(message or error, ensure_ascii=False, default=str)
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


def _finish(value: Any) -> str | None:
    """How the reply ended, in OpenAI's words.

    Raises:
        MalformedReplyError: something broke it off: what there is of it is no answer.
    """
    if not isinstance(value, str) or not value:
        return None
    finish = FINISHES.get(value.lower())
    if finish is None:
        raise MalformedReplyError(
            f"the reply was broken off: its finish_reason is {value[:40]!r}", f"finish_reason {value[:40]}"
        )
    return finish


def _asked(request: Request) -> str:
    """What was asked, as text."""
    messages = request.body.get("messages")
    if not isinstance(messages, list):
        return str(request.body.get("prompt", ""))
    return "\n".join(str(message.get("content", "")) for message in messages if isinstance(message, dict))


def _estimate(text: str) -> int:
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


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
    """{token: log-probability}; tokens that are spelled alike (other bytes, other ids) add up."""
    top = item.get("top_logprobs")
    row: dict[str, float] = {}
    for entry in top if isinstance(top, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("token"), str):
            number = _number(entry.get("logprob"))
            if number is not None:
                token = entry["token"]
                row[token] = number if token not in row else _sum(number, row[token])
    chosen, number = item.get("token"), _number(item.get("logprob"))
    if isinstance(chosen, str) and number is not None:
        # Among the alternatives it is counted already; servers that list none give it alone.
        row[chosen] = max(number, row.get(chosen, LOGPROB_FLOOR))
    return row


def _sum(first: float, second: float) -> float:
    """Logarithm of the sum of two probabilities, at most 0."""
    high, low = max(first, second), min(first, second)
    return min(0.0, high + math.log1p(math.exp(low - high)))


def _number(value: Any) -> float | None:
    """A log-probability in [LOGPROB_FLOOR, 0]; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if value != value or value == math.inf:  # NaN; integers of any size are compared as they are
        return None
    return float(max(LOGPROB_FLOOR, min(0.0, value)))


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
