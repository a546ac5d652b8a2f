"""What a stage's checkpoints say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transforms.llm.usage import Failures
from transforms.storage.workspace import Checkpoint

# Artefacts of stages that ask engines:
CACHES = "prefix-caches.json"  # engine -> tokens looked up and found in its servers' prefix caches, by the last run
FIT_USAGE = "fit-usage.json"  # what the last fit asked, as checkpoints keep usage


@dataclass(frozen=True)
class Summary:
    """A stage's checkpoints added up."""

    stage: str
    buckets: int = 0
    rows_in: int = 0
    rows_out: int = 0
    rejects: dict[str, int] = field(default_factory=dict)
    usage: dict[str, dict[str, float]] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    failures: Failures = field(default_factory=Failures)


def summarise(stage: str, checkpoints: Sequence[Checkpoint]) -> Summary:
    """Add up what a stage's buckets counted."""
    usage: dict[str, dict[str, float]] = {}
    rejects: dict[str, float] = {}
    counts: dict[str, float] = {}
    failures = Failures()
    for checkpoint in checkpoints:
        failures.add(checkpoint.failures)
        _add(rejects, checkpoint.rejects)
        _add(counts, checkpoint.counts)
        for who, numbers in checkpoint.usage.items():
            _add(usage.setdefault(who, {}), numbers)
    return Summary(
        stage=stage,
        buckets=len(checkpoints),
        rows_in=sum(c.rows_in for c in checkpoints),
        rows_out=sum(c.rows_out for c in checkpoints),
        rejects={reason: int(n) for reason, n in sorted(rejects.items())},
        usage=usage,
        counts=dict(sorted(counts.items())),
        seconds=sum(c.seconds for c in checkpoints),
        failures=failures,
    )


def _add(total: dict[str, float], numbers: dict[str, Any]) -> None:
    for name, number in numbers.items():
        total[name] = total.get(name, 0) + number
