"""The picture of docs/decisions.md: `python -m tests.decisions` draws docs/decisions.svg.

Three panels: what voters add to the log-odds of the page's example pairs, the probabilities that follow, and what the
policy `posterior` does with every combination of the three. Numbers are read from the page's table.
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from scipy.special import expit

from transforms.policies.posterior import PosteriorPolicy
from transforms.report.plots import ACTION_COLOURS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "decisions.md"
PICTURE = PAGE.with_suffix(".svg")
DOUBT = ACTION_COLOURS["drop"]
_OUTCOMES = {"a": "#2f6f9f", "tie": "#b9a0cb", "b": "#c2703f"}
_HEIGHT = 3**0.5 / 2  # of an equilateral triangle
_INK = "#222222"

Point = tuple[float, float, float]  # P(the source's label is right), P(the other response is better), P(tie)


class Example(NamedTuple):
    """A pair of the page's table; `added` is what each voter adds to the log-odds of a, in order."""

    pair: str
    added: dict[str, float]
    p_tie: float
    printed: dict[str, float]  # log-odds, P(a), P(b) as the page gives them
    action: str

    @property
    def log_odds(self) -> float:
        """Of "a is better"; the prior is 0."""
        return sum(self.added.values())

    @property
    def outcomes(self) -> Point:
        """P(a), P(b) and P(tie)."""
        p_a, decided = float(expit(self.log_odds)), 1 - self.p_tie
        return p_a * decided, (1 - p_a) * decided, self.p_tie


def examples(page: str) -> list[Example]:
    """The pairs of the table that begins with the column `pair`."""
    table = re.search(r"^\| pair \|.*?(?=^\s*$)", page, re.MULTILINE | re.DOTALL)
    assert table, "docs/decisions.md has no table of pairs"
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()]
    voters = head[1 : head.index("log-odds")]
    made = []
    for cells in rows:
        row = dict(zip(head, cells, strict=True))
        added = {voter: float(row[voter]) for voter in voters if row[voter]}
        printed = {name: float(row[name]) for name in ("log-odds", "P(a)", "P(b)")}
        made.append(Example(row["pair"], added, float(row["P(tie)"]), printed, row["action"]))
    return made


def regions(certainty: float) -> dict[str, list[Point]]:
    """The corners of what the policy keeps, flips and calls a tie; what is left of the triangle is in doubt."""
    rest = 1 - certainty
    return {
        "keep": [(1, 0, 0), (certainty, rest, 0), (certainty, 0, rest)],
        "flip": [(0, 1, 0), (rest, certainty, 0), (0, certainty, rest)],
        "tie": [(0, 0, 1), (0.5, 0, 0.5), (1 / 3, 1 / 3, 1 / 3), (0, 0.5, 0.5)],
    }


def picture(pairs: list[Example]) -> str:
    """The SVG document, on white; equal input gives equal bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {"svg.hashsalt": "prefine", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _INK)
    with mpl.rc_context(style | ink):
        figure = Figure(figsize=(10.4, 4.3), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        votes, chances, triangle = figure.subplots(1, 3, width_ratios=[1.1, 1.0, 1.15])
        _votes(votes, pairs)
        _chances(chances, pairs)
        _triangle(triangle, pairs)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _votes(axes: Any, pairs: list[Example]) -> None:
    """Each pair's voters as arrows that begin where the one before ends, and their sum at the right."""
    for i, pair in enumerate(pairs):
        total, step = 0.0, 0.66 / (len(pair.added) - 1)
        for k, (voter, added) in enumerate(pair.added.items()):
            y = i - 0.33 + k * step
            if added:
                colour = _OUTCOMES["a" if added > 0 else "b"]
                arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
                axes.annotate("", (total + added, y), (total, y), arrowprops=arrow)
            words = f"{voter} {added:+.1f}" if added else f"{voter}: neither"
            axes.text(max(total, total + added) + 0.1, y, words, va="center", size=7.5)
            total += added
        axes.text(3.6, i, f"= {pair.log_odds:+.1f}", va="center", weight="bold")
        axes.axhline(i + 0.5, color="0.9", linewidth=0.8)
    axes.axvline(0, color="0.75", linewidth=0.8, zorder=0)
    axes.set(title="1. Votes add up", xlabel="log-odds of “a is better”", xlim=(-2.5, 4.6))
    axes.set_xticks(range(-2, 4))
    axes.set_yticks(range(len(pairs)), [f"pair {pair.pair}" for pair in pairs])
    _rows(axes, len(pairs))


def _chances(axes: Any, pairs: list[Example]) -> None:
    """Each pair's three probabilities as a bar, and the bounds that a or b must pass."""
    for i, pair in enumerate(pairs):
        left = 0.0
        for outcome, p in zip(("a", "tie", "b"), (pair.outcomes[k] for k in (0, 2, 1)), strict=True):
            axes.barh(i, p, 0.5, left, color=_OUTCOMES[outcome])
            if p >= 0.09:
                dark = outcome != "tie"
                axes.text(left + p / 2, i, f"{p:.2f}", ha="center", va="center", color="white" if dark else _INK)
            left += p
        colour = ACTION_COLOURS.get(pair.action, "0.35")
        axes.text(1.03, i, pair.action, va="center", weight="bold", color=colour)
    for x, text in ((2 / 3, "a: from here\nkeep"), (1 / 3, "b: from here\nflip")):
        axes.plot([x, x], [-0.45, len(pairs) - 0.55], color=_INK, alpha=0.6, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.text(x, -0.5, text, ha="center", va="bottom", size=7.5)
    for x, outcome in ((0.02, "a"), (0.98, "b")):
        axes.text(x, len(pairs) - 0.64, f"P({outcome})", ha="left" if outcome == "a" else "right", color=_INK, size=7.5)
    axes.set(title="2. Three outcomes", xlabel="probability, from the left: a, tie, b", xlim=(0, 1.32))
    axes.set_xticks([0, 1 / 3, 2 / 3, 1], ["0", "1/3", "2/3", "1"])
    axes.set_yticks([])
    _rows(axes, len(pairs))


def _rows(axes: Any, n: int) -> None:
    axes.set_ylim(n - 0.5, -0.85)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)


def _triangle(axes: Any, pairs: list[Example]) -> None:
    """Every combination of the three probabilities, coloured by the action, with the pairs as dots."""
    from matplotlib.patches import Polygon

    corners: dict[str, list[Point]] = {"in doubt": [(1, 0, 0), (0, 1, 0), (0, 0, 1)]}
    corners |= regions(PosteriorPolicy.Config().certainty)
    for action, points in corners.items():
        colour = ACTION_COLOURS.get(action, DOUBT)
        axes.add_patch(Polygon([_place(point) for point in points], facecolor=colour, alpha=0.35, edgecolor="white"))
    words = {
        "keep": (0.82, 0.145, 0.035),
        "flip": (0.065, 0.795, 0.14),
        "tie": (0.13, 0.13, 0.74),
        "in doubt:": (0.37, 0.37, 0.26),
        "doubtful decides": (0.4, 0.4, 0.2),
    }
    for text, point in words.items():
        x, y = _place(point)
        axes.text(x, y, text, ha="center", va="center", weight="normal" if text.endswith("decides") else "bold")
    for pair in pairs:
        x, y = _place(pair.outcomes)
        axes.plot([x], [y], marker="o", markersize=5, color=_INK)
        axes.text(x + 0.025, y, pair.pair, va="center", size=8)
    names: dict[str, Point] = {
        "the source's label\nis right": (1, 0, 0),
        "the other side\nis better": (0, 1, 0),
        "neither is better": (0, 0, 1),
    }
    for name, point in names.items():
        x, y = _place(point)
        below = y == 0
        axes.text(x, y - 0.03 if below else y + 0.03, name, ha="center", va="top" if below else "bottom", size=8)
    axes.set(title="3. The policy decides", xlim=(-0.14, 1.14), ylim=(-0.16, 0.96), aspect="equal")
    axes.axis("off")


def _place(point: Point) -> tuple[float, float]:
    """Where three probabilities lie in the triangle: the source's label at the left, the other at the right."""
    _, other, tie = point
    return other + tie / 2, tie * _HEIGHT


def main() -> int:
    """Draw the picture anew."""
    PICTURE.write_text(picture(examples(PAGE.read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
