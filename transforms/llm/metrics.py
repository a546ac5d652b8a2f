"""What a server counts of itself: the prefix cache of vLLM, from its `/metrics` in Prometheus' text format.

The cached tokens of one request come with its reply, if the server tells them (vLLM is asked to).
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transforms.llm.redirects import fetch

TIMEOUT_S = 5.0
_SAMPLE = re.compile(r"^vllm:(?:gpu_)?prefix_cache_(hits|queries)(?:_total)?(?:\{[^}]*\})?\s+(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class PrefixCache:
    """Prompt tokens looked up in the prefix cache, and found there, since the server started."""

    queries: float = 0.0
    hits: float = 0.0

    def since(self, earlier: PrefixCache) -> PrefixCache:
        """What was counted after `earlier`; a restarted server counts from 0."""
        if self.queries < earlier.queries:
            return self
        return PrefixCache(self.queries - earlier.queries, self.hits - earlier.hits)


def read_prefix_cache(text: str) -> PrefixCache | None:
    """The counters summed over models and engines of a server, or None if there are none.

    Args:
        text: Prometheus' text format.
    """
    sums = {"hits": 0.0, "queries": 0.0}
    samples = _SAMPLE.findall(text)
    for name, value in samples:
        try:
            sums[name] += float(value)
        except ValueError:
            return None
    return PrefixCache(sums["queries"], sums["hits"]) if samples else None


def prefix_cache(urls: Sequence[str], headers: Mapping[str, str]) -> PrefixCache | None:
    """The counters of all servers together; None if no server tells (only vLLM does).

    Args:
        urls: base URLs.
        headers: sent along (authorisation).
    """
    caches = [cache for url in urls if (cache := _of_one(url, headers)) is not None]
    if not caches:
        return None
    return PrefixCache(sum(cache.queries for cache in caches), sum(cache.hits for cache in caches))


def _of_one(url: str, headers: Mapping[str, str]) -> PrefixCache | None:
    if not url.endswith("/v1"):  # only there is known where it would be
        return None
    try:
        text = fetch(f"{url.removesuffix('/v1')}/metrics", headers, TIMEOUT_S).decode("utf-8", "replace")
    except (http.client.HTTPException, OSError, ValueError):
        return None
    return read_prefix_cache(text)
