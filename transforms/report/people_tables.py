"""The statistics of people as tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transforms.stats.alpha import Alpha
from transforms.stats.people import People
from transforms.text.plain import cell

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(found: People) -> RenderableType:
    """Everything there is to say, most important first."""
    from rich.console import Group
    from rich.table import Table

    parts: list[RenderableType] = [cell(line) for line in sentences(found)]
    for title, frame in (
        ("Annotators", found.annotators),
        ("Suspicions", found.suspicions),
        ("Drift", found.drift),
        ("Agreement of every two", found.agreeing),
        ("Judges and people", found.judges),
    ):
        if frame.height:
            table = Table(*frame.columns, title=title)
            for row in frame.iter_rows():
                table.add_row(*(cell(_cell(value)) for value in row))
            parts.append(table)
    return Group(*parts)


def sentences(found: People) -> list[str]:
    """What the figures say, in words."""
    seconds = "" if found.seconds is None else f", {found.seconds:.0f} s each"
    lines = [
        f"{found.answers:,} answers to {found.pairs:,} pairs by {found.annotators.height} people{seconds}; "
        f"{found.skips:,} skipped; {found.waiting:,} pairs still wait for answers."
    ]
    for alpha, of in ((found.alpha, "a, b and tie"), (found.alpha_strength, "how much better")):
        if not math.isnan(alpha.alpha):
            lines.append(f"Krippendorff's alpha of {of}: {interval(alpha)} on {alpha.items:,} pairs.")
    if not math.isnan(found.agreement):
        lines.append(f"Two people give the same answer in {found.agreement:.1%} of comparisons.")
    if found.outlook:
        gain, labels = found.outlook["gain"], found.outlook["labels"]
        lines.append(f"The next {labels} labels are expected to mend {gain:.1f} published labels.")
        if "regret" in found.outlook:
            lines.append(
                f"Regret of the bandit: the best slice alone would have turned over {found.outlook['regret']:.1f} "
                "labels more."
            )
    return lines


def interval(alpha: Alpha) -> str:
    """Point and bootstrap interval; `undefined` where all answers are equal or nobody shares a pair."""
    if math.isnan(alpha.alpha):
        return "undefined"
    if math.isnan(alpha.low):
        return f"{alpha.alpha:.3f}"
    return f"{alpha.alpha:.3f} [{alpha.low:.3f}, {alpha.high:.3f}]"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
