"""A three-level flow diagram as inline SVG: where pairs came from, what was decided, where they ended."""

from __future__ import annotations

from collections import defaultdict
from html import escape

import polars as pl

from transforms.report.plots import ACTION_COLOURS

WIDTH, BAR, GAP, LABEL = 1000.0, 12.0, 9.0, 13.0
HEIGHT = 360.0
MOST = 9
_COLUMNS = (240.0, 510.0 - BAR / 2, WIDTH - 250.0)
_OTHER_COLOUR = "#8d949c"


def sankey(flow: pl.DataFrame) -> str:
    """Draw links (level, source, target, n); the smallest nodes beyond `MOST` a column become one."""
    flow = _folded(flow)
    columns = _columns(flow)
    height = max(HEIGHT, max(len(nodes) for nodes in columns) * (GAP + LABEL) * 2)
    total = max(sum(nodes.values()) for nodes in columns) or 1
    most = max(len(nodes) for nodes in columns)
    scale = (height - 10 - most * (GAP + LABEL)) / total
    places = [_placed(nodes, scale, height) for nodes in columns]
    shapes: list[str] = []
    used: dict[tuple[int, str], float] = defaultdict(float)
    arrived: dict[tuple[int, str], float] = defaultdict(float)
    for level, source, target, n in flow.sort("level", "source", "target").iter_rows():
        thickness = n * scale
        y0 = places[level][source] + used[level, source]
        y1 = places[level + 1][target] + arrived[level + 1, target]
        used[level, source] += thickness
        arrived[level + 1, target] += thickness
        colour = ACTION_COLOURS.get(target if level == 0 else source, _OTHER_COLOUR)
        shapes.append(_link(level, y0, y1, thickness, colour, f"{source} → {target}: {n:,}"))
    for level, nodes in enumerate(columns):
        for name, n in nodes.items():
            shapes.append(_node(level, name, n, places[level][name], n * scale))
    label = "Flow of pairs from origin through action to outcome"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {WIDTH:g} {height:g}" class="flow">{"".join(shapes)}</svg>'
    )


def _folded(flow: pl.DataFrame) -> pl.DataFrame:
    """Replace the smallest origins and outcomes by one node each."""
    names = {0: "source", 1: "target"}
    for level, column in names.items():
        sizes = flow.filter(pl.col("level") == level).group_by(column).agg(pl.col("n").sum())
        small = sizes.sort("n", column, descending=[True, False])[column].to_list()[MOST:]
        if small:
            replaced = pl.when((pl.col("level") == level) & pl.col(column).is_in(small)).then(
                pl.lit(f"{len(small)} others")
            )
            flow = flow.with_columns(replaced.otherwise(pl.col(column)).alias(column))
    return flow.group_by("level", "source", "target").agg(pl.col("n").sum())


def _columns(flow: pl.DataFrame) -> list[dict[str, int]]:
    order = {name: i for i, name in enumerate([*ACTION_COLOURS, "no verdict", "not a pair"])}

    def sizes(level: int, column: str) -> dict[str, int]:
        rows = flow.filter(pl.col("level") == level).group_by(column).agg(pl.col("n").sum()).rows()
        return dict(sorted(rows, key=lambda r: (order.get(r[0], -1), not r[0].startswith("published"), -r[1], r[0])))

    middle = sizes(0, "target") | {k: v for k, v in sizes(1, "source").items() if k not in sizes(0, "target")}
    return [sizes(0, "source"), middle, sizes(1, "target")]


def _placed(nodes: dict[str, int], scale: float, height: float) -> dict[str, float]:
    """Top of every node, with room for its label."""
    need = sum(max(n * scale, LABEL) + GAP for n in nodes.values()) - GAP
    y, places = max(5.0, (height - need) / 2), {}
    for name, n in nodes.items():
        places[name] = y
        y += max(n * scale, LABEL) + GAP
    return places


def _link(level: int, y0: float, y1: float, thickness: float, colour: str, title: str) -> str:
    x0, x1 = _COLUMNS[level] + BAR, _COLUMNS[level + 1]
    middle, thickness = (x0 + x1) / 2, max(thickness, 0.6)
    z0, z1 = y0 + thickness, y1 + thickness
    path = (
        f"M{x0:g} {y0:.1f}C{middle:g} {y0:.1f} {middle:g} {y1:.1f} {x1:g} {y1:.1f}"
        f"V{z1:.1f}C{middle:g} {z1:.1f} {middle:g} {z0:.1f} {x0:g} {z0:.1f}Z"
    )
    return f'<path d="{path}" fill="{colour}" opacity=".38"><title>{escape(title)}</title></path>'


def _node(level: int, name: str, n: int, y: float, thickness: float) -> str:
    x, thickness = _COLUMNS[level], max(thickness, 1.5)
    colour = ACTION_COLOURS.get(name, "var(--ink)") if level == 1 else "var(--ink)"
    anchor, text_x = ("end", x - 8) if level == 0 else ("start", x + BAR + 8)
    shown = name if len(name) <= 26 else name[:25] + "…"
    return (
        f'<rect x="{x:g}" y="{y:.1f}" width="{BAR:g}" height="{thickness:.1f}" fill="{colour}"/>'
        f'<text x="{text_x:g}" y="{y + max(thickness, LABEL) / 2:.1f}" text-anchor="{anchor}" dy=".35em">'
        f'{escape(shown)} <tspan class="n">{n:,}</tspan></text>'
    )
