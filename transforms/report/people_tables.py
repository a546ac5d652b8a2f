"""The statistics of people as tables for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transforms.stats.alpha import Alpha
from transforms.stats.people import People
from transforms.text.plain import cell

if TYPE_CHECKING:
    from rich.console import RenderableType


def render(people: People) -> RenderableType:
    """Everything there is to say, most important first."""
    from rich.console import Group

    from transforms.text.table import text_table

    parts: list[RenderableType] = [cell(line) for line in sentences(people)]
    for title, frame in (
        ("Annotators", people.annotators),
        ("Suspicions", people.suspicions),
        ("Drift", people.drift),
        ("Agreement of every two", people.agreeing),
        ("Judges and people", people.judges),
    ):
        if frame.height:
            rows = [[_cell(value) for value in row] for row in frame.iter_rows()]
            parts.append(text_table([name.replace("_", " ") for name in frame.columns], rows, title=title))
    return Group(*parts)


def sentences(people: People) -> list[str]:
    """What the figures say, in words."""
    seconds = "" if people.seconds is None else f", {people.seconds:.0f} s each"
    lines = [
        f"{people.answers:,} answers to {people.pairs:,} pairs by {people.annotators.height} people{seconds}; "
        f"{people.skips:,} skipped; {people.waiting:,} pairs still wait for answers."
    ]
    for alpha, of in ((people.alpha, "a, b and tie"), (people.alpha_strength, "how much better")):
        if not math.isnan(alpha.alpha):
            lines.append(f"Krippendorff's alpha of {of}: {interval(alpha)} on {alpha.items:,} pairs.")
    if not math.isnan(people.agreement):
        lines.append(f"Two people give the same answer in {people.agreement:.1%} of comparisons.")
    if people.outlook:
        gain, labels = people.outlook["gain"], people.outlook["labels"]
        lines.append(f"The next {labels} labels are expected to fix {gain:.1f} published labels.")
        if "regret" in people.outlook:
            lines.append(
                f"Regret of the bandit: the best slice alone would have turned over {people.outlook['regret']:.1f} "
                "labels more."
            )
    return lines


def interval(alpha: Alpha) -> str:
    """Point and bootstrap interval; `undefined` if all answers are equal or nobody shares a pair."""
    if math.isnan(alpha.alpha):
        return "undefined"
    if math.isnan(alpha.low):
        return f"{alpha.alpha:.3f}"
    return f"{alpha.alpha:.3f} [{alpha.low:.3f}, {alpha.high:.3f}]"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
