"""Static plots as inline SVG, with colours that follow the page's light or dark theme.

Matplotlib draws in stand-in colours; `_svg` replaces them by CSS variables. Ids are salted and the date is left out, so
equal data gives equal bytes. It is matplotlib, not plotly: the page's Content-Security-Policy forbids scripts, and an
inlined plotly.js alone takes 4 MB where the whole report stays below 1 MB.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl

from transforms.text.plain import escaped

INK, FAINT, ACCENT = "#010203", "#040506", "#070809"
_THEMED = {INK: "var(--ink)", FAINT: "var(--line)", ACCENT: "var(--accent)"}
ACTION_COLOURS = {
    "keep": "#3d85b0",
    "flip": "#d2603a",
    "soften": "#dba42c",
    "drop": "#8d949c",
    "tie": "#9a70b5",
    "route": "#3e9b74",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prefine",
    "text.parse_math": False,  # names are data: a dollar is a dollar
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "patch.linewidth": 0.0,
}


def noise_histogram(noise: pl.DataFrame, width: float) -> str:
    """Pairs by P(source label is wrong), stacked by action; `width` is that of a bin."""
    with _figure(6.4, 2.9) as (figure, axes):
        bottom: dict[float, int] = {}
        for action, colour in ACTION_COLOURS.items():
            part = noise.filter(pl.col("action") == action)
            if part.is_empty():
                continue
            bins = part["bin"].to_list()
            base = [bottom.get(b, 0) for b in bins]
            axes.bar([b + width / 2 for b in bins], part["n"].to_list(), width * 0.92, base, color=colour, label=action)
            bottom.update({b: s + n for b, s, n in zip(bins, base, part["n"].to_list(), strict=True)})
        axes.set(xlabel="P(source label is wrong)", ylabel="pairs", xlim=(0, 1))
        axes.grid(visible=False, axis="x")
        axes.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, 1.16), handlelength=0.9, columnspacing=1.2)
        return _svg(figure, "Histogram of the probability that the source label is wrong, by action")


def reliability_diagram(table: pl.DataFrame) -> str:
    """Observed agreement with humans against predicted probability, with the number of pairs below."""
    with _figure(4.2, 3.9, rows=2, ratios=[3, 1]) as (figure, (top, below)):
        top.plot([0.5, 1], [0.5, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        top.plot(table["confidence"], table["accuracy"], color=ACCENT, linewidth=1.6, marker="o", markersize=4.5)
        lowest = min(0.4, *table["accuracy"].to_list())
        top.set(xlim=(0.49, 1.01), ylim=(lowest - 0.02, 1.02))
        top.set(ylabel="humans agree", xticklabels=[])
        below.bar(table["confidence"], table["n"], 0.035, color=ACCENT)
        below.set(xlim=(0.49, 1.01), xlabel="predicted probability of the label", ylabel="pairs")
        below.grid(visible=False, axis="x")
        return _svg(figure, "Reliability diagram of the fused posterior against human majorities")


def ensemble_scatter(points: pl.DataFrame) -> str:
    """Mean against standard deviation of the reward ensemble's margins, seen from the source's label."""
    with _figure(6.4, 3.4) as (figure, axes):
        for action, colour in ACTION_COLOURS.items():
            part = points.filter(pl.col("action") == action)
            if part.height:
                size, alpha = (9, 0.75) if points.height < 1000 else (4, 0.5)
                axes.scatter(part["mu"], part["sigma"], s=size, color=colour, alpha=alpha, linewidths=0, label=action)
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(
            xlabel="μ: mean margin towards the source's label", ylabel="σ: disagreement of the heads", ylim=(0, None)
        )
        axes.legend(ncols=6, loc="upper center", bbox_to_anchor=(0.5, 1.14), handletextpad=0.1, columnspacing=1.2)
        return _svg(figure, "Mean and standard deviation of the reward ensemble's margins by action")


def strength_curve(bands: pl.DataFrame) -> str:
    """Agreement with people by band of strength, with intervals; dashed: what the posterior expects."""
    x = list(range(1, bands.height + 1))
    side = "source's label" if bands["has_source"][0] else "voters' side"
    with _figure(6.4, 3.1) as (figure, axes):
        axes.plot(
            x, bands["expected"], color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"{side}, by the posterior"
        )
        for name, colour, shift, label in (
            ("agree", ACTION_COLOURS["flip"], -0.07, f"{side}, by people"),
            ("agree_published", ACTION_COLOURS["keep"], 0.07, "published label, by people"),
        ):
            share, low, high = (bands[column].to_numpy() for column in (name, f"{name}_low", f"{name}_high"))
            if bands[name].null_count() < bands.height:  # a gap in the line where people labelled nothing
                moved = [i + shift for i in x]
                axes.vlines(moved, low, high, color=colour, linewidth=1.2)
                axes.plot(moved, share, color=colour, marker="o", markersize=4.5, linewidth=1.4, label=label)
        axes.set(xlabel="lowest strength of each band", ylabel="share that is right", ylim=(-0.02, 1.02))
        axes.set_xticks(x, [f"{value:+.1f}" for value in bands["low"]])
        axes.grid(visible=False, axis="x")
        axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.45, 1.0), handlelength=1.4, columnspacing=1.0)
        return _svg(figure, "Agreement with people by strength of the preference")


def agreement_matrix(table: pl.DataFrame) -> str:
    """Pairwise agreement of the voters."""
    names = table["voter"].unique().sort().to_list()
    n = len(names)
    index = {name: i for i, name in enumerate(names)}
    side = max(2.6, 0.42 * n + 1.9)
    with _figure(side, side * 0.9) as (figure, axes):
        for voter, other, _, value in table.iter_rows():
            i, j = index[voter], index[other]
            if value is None or i == j:
                continue
            strength = abs(value - 0.5) * 2
            colour = ACTION_COLOURS["keep"] if value >= 0.5 else ACTION_COLOURS["flip"]
            axes.add_patch(_rectangle(j, i, colour, 0.08 + 0.85 * strength))
            if n <= 14:
                axes.text(j, i, f"{value * 100:.0f}", ha="center", va="center", fontsize=8)
        axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5), aspect="equal")
        axes.set_xticks(range(n), [short(x) for x in names], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), [short(x) for x in names])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return _svg(figure, "Agreement of every two voters in percent")


def bias_bars(names: list[str], values: list[float], reference: list[float], label: str) -> str:
    """One bar a voter from its reference (a line) to its value, both shares."""
    with _figure(4.6, 0.62 + 0.3 * len(names)) as (figure, axes):
        for i, (value, ref) in enumerate(zip(values, reference, strict=True)):
            axes.plot([ref, value], [i, i], color=ACCENT, linewidth=5, solid_capstyle="butt", alpha=0.45)
            axes.plot([value], [i], marker="o", markersize=5.5, color=ACCENT)
            axes.plot([ref], [i], marker="|", markersize=11, markeredgewidth=1.4, color=INK)
        axes.axvline(0.5, color=INK, linewidth=0.7, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(names)), [short(x) for x in names])
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel=label)
        axes.grid(visible=False, axis="y")
        return _svg(figure, label)


def stacked_shares(names: list[str], counts: dict[str, list[int]]) -> str:
    """Share of each action, one bar a name."""
    with _figure(6.4, 0.75 + 0.32 * len(names)) as (figure, axes):
        totals = [max(1, sum(column[i] for column in counts.values())) for i in range(len(names))]
        left = [0.0] * len(names)
        for action, column in counts.items():
            share = [n / t for n, t in zip(column, totals, strict=True)]
            axes.barh(range(len(names)), share, 0.7, left, color=ACTION_COLOURS[action], label=action)
            left = [x + s for x, s in zip(left, share, strict=True)]
        axes.set_yticks(range(len(names)), [short(x) for x in names])
        axes.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="share of pairs")
        axes.grid(visible=False, axis="y")
        axes.legend(ncols=6, loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=0.9, columnspacing=1.2)
        return _svg(figure, "Share of each action by origin")


def routing_curve(answers: list[int], values: list[float]) -> str:
    """Expected gain of the queue against the answers bought, best first; dashed: the same pairs in any order.

    Args:
        answers: how many people are asked about each pair.
        values: what the pair's label is expected to buy, in the router's unit.
    """
    order = sorted(range(len(values)), key=lambda i: (-values[i] / answers[i], i))
    bought, gained = [0], [0.0]
    for i in order:
        bought.append(bought[-1] + answers[i])
        gained.append(gained[-1] + values[i])
    step = max(1, len(order) // 400)
    shown = sorted({*range(0, len(bought), step), len(order)})
    with _figure(4.6, 2.9) as (figure, axes):
        axes.plot([0, bought[-1]], [0, gained[-1]], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot([bought[i] for i in shown], [gained[i] for i in shown], color=ACCENT, linewidth=1.8)
        axes.set(xlabel="answers bought, best first", ylabel="expected gain", xlim=(0, None), ylim=(0, None))
        return _svg(figure, "Expected gain against answers bought")


@contextmanager
def panels(width: float, height: float, columns: int) -> Iterator[tuple[list[Any], Callable[[str], str]]]:
    """Axes side by side that share their vertical axis, and what makes an <svg> of them, given a title."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, columns, sharey=True, squeeze=False)
        yield list(axes[0]), lambda title: _svg(figure, title)


@contextmanager
def _figure(width: float, height: float, rows: int = 1, ratios: list[int] | None = None) -> Iterator[tuple[Any, Any]]:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(rows, 1, height_ratios=ratios) if rows > 1 else figure.subplots()
        yield figure, axes


def _rectangle(x: int, y: int, colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.47, y - 0.47), 0.94, 0.94, facecolor=colour, alpha=alpha)


def _svg(figure: Any, title: str) -> str:
    """The figure as an <svg> element that scales with the page."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text in the SVG: the reader's fonts show it, whatever ours lack.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _THEMED.items():
        text = text.replace(colour, variable)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font(-family)?: ?[^;\"]*sans-serif[^;\"]*", _font_size, text)
    width = float(re.search(r'width="([\d.]+)pt"', text)[1])  # type: ignore[index]
    text = re.sub(r' width="[\d.]+pt"', "", text, count=1)
    text = re.sub(r' height="[\d.]+pt"', "", text, count=1)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}" style="width: {width * 1.34:.0f}px"', 1)


def _font_size(match: re.Match[str]) -> str:
    size = re.search(r"([\d.]+)px", match[0])
    return f"font-size: {size[1]}px" if size else "font-style: normal"


def short(name: str, most: int = 22) -> str:
    """The name as an axis label: at most `most` characters, none of which XML forbids."""
    name = escaped(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"
