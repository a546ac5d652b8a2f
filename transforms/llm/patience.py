"""How long and how often a request is tried."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """How long and how often a client tries. All times in seconds."""

    attempt_s: float = 300.0  # one attempt
    deadline_s: float = 900.0  # one request, all attempts and waits together
    retries: int = 6
    backoff_s: float = 0.5  # first wait; doubled each time, up to backoff_max_s, times a jitter in [0.5, 1)
    backoff_max_s: float = 30.0
    outage_s: float = 120.0  # the run stops if no server answers for this long
    breaker_failures: int = 32  # failures in a row, spread over outage_s at least, that stop the run
    loading_s: float = 0.0  # how long a server that never answered may say 503
