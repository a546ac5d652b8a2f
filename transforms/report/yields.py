"""What generators yield, as one figure: what became of their requests, what a pair costs, how sure, how diverse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from transforms.report.plots import ACCENT, ACTION_COLOURS, INK, panels, short

FUNNEL = ("asked", "answered", "parsed", "valid", "kept")
DIVERSITY = {"distinct_1": "o", "distinct_2": "s", "spread": "D", "persona_spread": "^"}
_LEGEND: Any = {"fontsize": 7.5, "handlelength": 1.0, "handletextpad": 0.4, "columnspacing": 0.8, "borderpad": 0.2}
_COLOURS = list(ACTION_COLOURS.values())
_STEPS = ("#c9d6df", "#97b5c9", "#5f93b5", "#2f6f9f", "#d2603a")


def yield_panels(table: pl.DataFrame) -> str:
    """One row a generator; panels without a figure in `transforms.report.strategies.yield_table` are left out.

    Counts; tokens per kept pair or prompt; |log-odds| of the verdicts as median, quartiles and the 10th
    and 90th percentile; distinct-1, distinct-2 and mean cosine distance of the responses.
    """
    have = {name for name in table.columns if table[name].null_count() < table.height}
    drawn: list[tuple[str, Callable[[Any, list[dict[str, Any]]], None]]] = []
    if have & set(FUNNEL):
        drawn.append(("count", _funnel))
    if "tokens_per_kept" in have:
        drawn.append(("tokens per kept", _tokens))
    if "margin_p50" in have:
        drawn.append(("|log-odds|", _margins))
    if have & set(DIVERSITY):
        drawn.append(("diversity", _diversity))
    rows = table.to_dicts()
    if not drawn or not rows:
        return ""
    with panels(9.4, 1.25 + 0.34 * len(rows), len(drawn)) as (axes, finish):
        for one, (label, draw) in zip(axes, drawn, strict=True):
            draw(one, rows)
            one.set_xlabel(label)
            one.grid(visible=False, axis="y")
            if one.get_legend_handles_labels()[0]:
                one.legend(ncols=3, loc="lower left", bbox_to_anchor=(-0.05, 1.0), **_LEGEND)
        axes[0].set_yticks(range(len(rows)), [short(row["generator"]) for row in rows])
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        return finish("Counts, tokens per kept pair, margins and diversity by generator")


def _funnel(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Bars within bars, the thinnest what was kept: equal counts do not hide one another."""
    for k, (colour, name) in enumerate(zip(_STEPS, FUNNEL, strict=True)):
        if any(row.get(name) is not None for row in rows):
            widths = [row.get(name) or 0 for row in rows]
            axes.barh(range(len(rows)), widths, 0.84 - 0.17 * k, color=colour, label=name, zorder=2 + k)
    axes.set_xlim(0, None)


def _tokens(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.barh(range(len(rows)), [row["tokens_per_kept"] or 0.0 for row in rows], 0.6, color=ACCENT)


def _margins(axes: Any, rows: list[dict[str, Any]]) -> None:
    for i, row in enumerate(rows):
        p10, p25, p50, p75, p90 = (row[f"margin_p{q}"] for q in (10, 25, 50, 75, 90))
        if p50 is not None:
            axes.plot([p10, p90], [i, i], color=INK, linewidth=0.8)
            axes.plot([p25, p75], [i, i], color=ACCENT, linewidth=6, alpha=0.5, solid_capstyle="butt")
            axes.plot([p50], [i], color=ACCENT, marker="o", markersize=5)
    axes.set_xlim(0, None)


def _diversity(axes: Any, rows: list[dict[str, Any]]) -> None:
    for colour, (name, marker) in zip(_COLOURS, DIVERSITY.items(), strict=False):
        points = [(row[name], i) for i, row in enumerate(rows) if row.get(name) is not None]
        if points:
            label = name.replace("_", "-")
            axes.scatter(*zip(*points, strict=True), s=26, color=colour, marker=marker, label=label, zorder=3)
    axes.set_xlim(0, None)
