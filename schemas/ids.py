"""Content hashes: the only kind of id in prefine.

Every id is the first 32 hex digits (128 bits) of a SHA-256, so the same content has the same id on
every machine and in every run, and a repeated write is harmless.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import orjson

ID_LENGTH = 32
ID_PATTERN = r"^[0-9a-f]{32}$"
_FIELD = b"\x1f"


def canonical_json(value: Any) -> bytes:
    """Serialise to JSON with sorted keys and no white space: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def hash_bytes(data: bytes) -> str:
    """Id of a byte string."""
    return hashlib.sha256(data).hexdigest()[:ID_LENGTH]


def hash_json(value: Any) -> str:
    """Id of any JSON-serialisable value."""
    return hash_bytes(canonical_json(value))


def hash_fields(*fields: str) -> str:
    """Id of a tuple of strings; lengths are part of the hash, so ("ab", "c") differs from ("a", "bc")."""
    digest = hashlib.sha256()
    for field in fields:
        data = field.encode("utf-8", "surrogatepass")
        digest.update(str(len(data)).encode() + _FIELD + data)
    return digest.hexdigest()[:ID_LENGTH]


def bucket_of(prompt_id: str, n_buckets: int) -> int:
    """Bucket in [0, n_buckets) of a prompt: its id modulo the number of buckets."""
    return int(prompt_id[:15], 16) % n_buckets


def unit_interval(*fields: str) -> float:
    """A reproducible draw, uniform in [0, 1), named by `fields` (seed first): a seeded coin per record."""
    return int(hash_fields(*fields)[:13], 16) / 16**13


def fingerprint(names: Iterable[str]) -> str:
    """Id of a set of names: order and repetition do not count."""
    return hash_json(sorted(set(names)))
