"""What to say, and when to stop, where requests of a stage got no answer."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.errors import EngineError
from transforms.llm.usage import TOKENIZE, Failures

Usages = Mapping[str, Mapping[str, float]]
Counted = Mapping[str, tuple[int, str]]


def check_failures(who: str, failures: Failures, usage: Usages, max_share: float) -> None:
    """Stop where more than `max_share` of the requests got no answer, for now or for good.

    Args:
        who: who asked, for the message.
        usage: by `engine/purpose`, as checkpoints keep it.
        max_share: in [0, 1].

    Raises:
        EngineError: with counts by cause and an example.
    """
    asked, lost = requests(usage), _number(failures.gave_up) + _number(failures.final)
    if not asked or lost / asked <= max_share:
        return
    causes = "; ".join(_causes(counted) for counted in (failures.gave_up, failures.final) if counted)
    advice = "Every answer is kept: run again, and only these are asked."
    if failures.final:
        advice += (
            f" Of these, {_number(failures.final)} were turned away for good: they are asked in two runs, then only "
            "where the engine's address, model or abilities changed, or with --retry-errors."
        )
    raise EngineError(
        f"{who}: {_share(lost, asked)} got no answer, more than max_failed_share ({max_share:.1%}) allows: "
        f"{causes}. {advice}"
    )


def failure_notes(who: str, failures: Failures, usage: Usages) -> list[str]:
    """A sentence on what gave up, one on what was turned away for good, and one on tokens that nobody counted."""
    asked, notes = requests(usage), []
    if failures.gave_up:
        share = _share(_number(failures.gave_up), asked)
        notes.append(f"{who}: {share} got no answer: {_causes(failures.gave_up)}; run again, and only these are asked")
    if failures.final:
        share = _share(_number(failures.final), asked)
        notes.append(f"{who}: {share} were turned away for good: {_causes(failures.final)}")
    estimated = int(sum(numbers.get("estimated", 0) for numbers in usage.values()))
    if estimated:
        notes.append(
            f"{who}: servers counted no tokens of {estimated:,} replies; these are estimated from their lengths"
        )
    return notes


def requests(usage: Usages) -> int:
    """Requests that were sent, joined or known; counting tokens is none."""
    kinds = ("calls", "joined", "memo_hits")
    asked = (numbers for key, numbers in usage.items() if key.rpartition("/")[2] != TOKENIZE)
    return int(sum(numbers.get(kind, 0) for numbers in asked for kind in kinds))


def _number(counted: Counted) -> int:
    return sum(n for n, _ in counted.values())


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} requests ({part / whole:.1%})" if whole else f"{part} requests"


def _causes(counted: Counted) -> str:
    by_number = sorted(counted.items(), key=lambda item: (-item[1][0], item[0]))
    listed = ", ".join(f"{n} x {cause}" for cause, (n, _) in by_number)
    return f"{listed} (for example: {by_number[0][1][1]})"
