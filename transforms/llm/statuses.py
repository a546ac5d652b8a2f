"""What an HTTP status, or an error in a body, says about asking again. Pure functions; the table is in docs/engines.md.

Where a router answers 200 and puts the error into the body, the error's code counts as the status.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Meaning = Literal["answer", "moved", "transient", "refused", "door", "final"]

MOVED = frozenset({301, 302, 303, 307, 308})
# Time-out, conflict, lock, failed dependency (TGI overloaded), too early, too many requests, capacity (Groq).
TRANSIENT = frozenset({408, 409, 423, 424, 425, 429, 498})
# Key, payment, permission, address, method: as a rule of all requests, now and then (moderation) of one.
DOOR = frozenset({401, 402, 403, 404, 405})
REFUSED = frozenset({451})  # for legal reasons

_FILTERS = frozenset(
    {
        "1301",  # Z.ai
        "blocked_by_content_filter",
        "content_blocked",
        "content_filter",
        "content_filtered",
        "content_moderation",
        "content_policy_violation",
        "data_inspection_failed",  # DashScope
        "moderation_blocked",
        "prohibited_content",
        "responsibleaipolicyviolation",  # Azure
        "safety",
        "sensitive",
    }
)
_STATUS_OF_WORD: Mapping[str, int] = {
    "api_error": 500,
    "authentication_error": 401,
    "bad_request": 400,
    "badrequesterror": 400,
    "context_length_exceeded": 400,
    "insufficient_quota": 402,
    "internal_error": 500,
    "internal_server_error": 500,
    "invalid_api_key": 401,
    "invalid_request_error": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
    "timeout": 504,
}
UNKNOWN = 502  # of an error in a body that gives no code: something behind the server failed


def meaning_of(status: int, error: Mapping[str, Any] | None = None) -> Meaning:
    """What a status means, with what the body says of the error.

    Args:
        error: the error object of the body, if it has one.
    """
    if 200 <= status < 300:
        return "answer"
    if status in REFUSED or (400 <= status < 500 and _is_filter(error or {})):
        return "refused"
    if status in MOVED:
        return "moved"
    if status in TRANSIENT or status >= 500:
        return "transient"
    # Another 3xx says nothing of the request either.
    return "door" if status in DOOR or status < 400 else "final"


def error_object(data: object) -> Mapping[str, Any]:
    """The error in a body: the object under `error`, or the body itself where it is flat; {} if there is none."""
    if not isinstance(data, Mapping):
        return {}
    error = data.get("error")
    if isinstance(error, Mapping):
        return error
    return {**data, "message": error} if isinstance(error, str) else data


def status_in(error: Mapping[str, Any]) -> int:
    """The status that an error in a body stands for."""
    for word in (error.get("code"), error.get("status"), error.get("type")):
        text = str(word).strip().lower()
        if text.isascii() and text.isdigit() and 400 <= int(text[:9]) < 600:
            return int(text)
        if text in _FILTERS:
            return 400
        if text in _STATUS_OF_WORD:
            return _STATUS_OF_WORD[text]
    return UNKNOWN


def _is_filter(error: Mapping[str, Any]) -> bool:
    """Whether a content filter speaks: by a code of its own, or by what OpenRouter says of moderated input."""
    inner, metadata = error.get("innererror"), error.get("metadata")
    words = [error.get("code"), error.get("type"), inner.get("code") if isinstance(inner, Mapping) else None]
    if any(str(word).strip().lower() in _FILTERS for word in words if word is not None):
        return True
    return isinstance(metadata, Mapping) and ("flagged_input" in metadata or bool(metadata.get("reasons")))
