"""The report as one HTML page that needs no network: styles and plots are inline, there is no script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from schemas.tables import SPLITS
from transforms.publish.calibration_source import BELIEFS, is_uncalibrated
from transforms.report import plots
from transforms.report.census import BINS
from transforms.report.data import ReportData
from transforms.report.people import people_context
from transforms.report.sankey import sankey
from transforms.report.voters import MOST_VOTERS
from transforms.report.yields import yield_panels
from transforms.stats.calibration import calibration_error

_TEMPLATES = Path(__file__).parent / "templates"
_SECTIONS = {
    "flow": "Flow",
    "voters": "Voters",
    "calibration": "Calibration",
    "noise": "Noise",
    "strength": "Strength",
    "bias": "Bias",
    "judges": "Judges",
    "yield": "Yield",
    "slices": "Slices",
    "routing": "Routing",
    "people": "People",
    "cost": "Cost",
    "examples": "Examples",
    "proof": "Provenance",
}


def render(data: ReportData) -> str:
    """The whole page. All text from the data is escaped; a Content-Security-Policy forbids scripts and requests."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = Markup((_TEMPLATES / "report.css").read_text())  # noqa: S704 - our own file
    drawn = {name: Markup(svg) for name, svg in _plots(data).items()}  # noqa: S704 - drawn by us, names escaped
    html = environment.get_template("report.html.jinja2").render(css=css, plots=drawn, **_context(data))
    return html + "\n"


def _context(data: ReportData) -> dict[str, Any]:
    m = data.manifest
    queue = data.queue
    purposes = (
        queue["purpose"].value_counts().sort("count", "purpose", descending=[True, False]).rows() if queue.width else []
    )
    sampled = (
        f"Agreement and weights come from a random {data.n_sampled:,} pairs." if data.n_sampled < m.n_pairs else ""
    )
    context = {
        "m": m,
        "tiles": _tiles(data),
        "splits": [(s, m.rows_by_split[s]) for s in SPLITS if s in m.rows_by_split],
        "rejects": sorted(m.rejects_by_reason.items(), key=lambda r: (-r[1], r[0])),
        "voters": data.voters.to_dicts(),
        "shown_voters": MOST_VOTERS,
        "more_voters": data.voters.height > MOST_VOTERS,
        "sampled": sampled,
        "n_human": int(data.reliability["n"].sum()) if data.reliability.height else 0,
        "ece": calibration_error(data.reliability.to_dicts()),
        "estimates": m.estimates,
        "uncalibrated": BELIEFS if is_uncalibrated(m.estimates) else "",
        "shares": data.shares.to_dicts(),
        "strength": data.strength.to_dicts(),
        "strength_people": bool(data.strength.height and data.strength["n_people"].sum()),
        "judges": data.judges.to_dicts(),
        "yields": data.yields.to_dicts(),
        "asked": data.asked.to_dicts(),
        "slices": data.slices.to_dicts(),
        "routing": data.routing.to_dicts(),
        "people": people_context(data.people, m),
        "outlook": data.outlook,
        "n_queue": queue.height,
        "purposes": purposes,
        "costs": data.costs.to_dicts(),
        "examples": data.examples,
        "colours": plots.ACTION_COLOURS,
    }
    return {**context, "toc": [(k, v) for k, v in _SECTIONS.items() if _present(k, data)]}


def _present(section: str, data: ReportData) -> bool:
    frames = {
        "voters": [data.voters],
        "calibration": [data.reliability, data.out_of_fold],
        "noise": [data.noise, data.ensemble, data.shares],
        "strength": [data.strength],
        "bias": [data.length, data.judges.drop_nulls("first_rate")],
        "judges": [data.judges],
        "yield": [data.yields],
        "slices": [data.slices],
        "routing": [data.routing, data.queue],
        "cost": [data.costs],
    }
    if section == "people":
        return data.people is not None
    if section == "examples":
        return bool(data.examples)
    return any(f.height for f in frames[section]) if section in frames else True


def _tiles(data: ReportData) -> list[tuple[str, str]]:
    m = data.manifest
    share = f"{m.n_rows / m.n_pairs:.0%}" if m.n_pairs else "–"
    tiles = [
        (f"{m.n_rows:,}", f"rows published, {share} of the pairs"),
        (f"{m.actions.get('flip', 0):,}", "labels flipped"),
        (f"{m.actions.get('route', 0):,}", "pairs sent to humans"),
        (f"{m.n_rejects:,}", "records left out, each with its reason"),
        (f"{data.voters.height:,}", "voters"),
    ]
    noise, calibration = ((m.estimates or {}).get(name) for name in ("noise", "calibration"))
    if noise is not None:
        how = noise.get("how", "the posterior")
        tiles.append((f"{noise['rate']:.1%}", f"of the sources' labels are wrong, known by {how}"))
    if calibration is not None:
        tiles.append((f"{calibration['ece']:.3f}", "calibration error against people, out of fold"))
    return tiles


def _plots(data: ReportData) -> dict[str, str]:
    """Every plot by its name in the template; empty if there is nothing to draw."""
    length = data.length
    ordered = data.judges.drop_nulls("first_rate")
    agreeing = data.agreement.filter(pl.col("voter") != pl.col("other"))
    actions = [a for a in plots.ACTION_COLOURS if data.yields.height and data.yields[a].sum()]
    return {
        "flow": sankey(data.flow) if data.flow.height else "",
        "agreement": plots.agreement_matrix(data.agreement) if agreeing.height else "",
        "out_of_fold": plots.reliability_diagram(data.out_of_fold) if data.out_of_fold.height else "",
        "reliability": plots.reliability_diagram(data.reliability) if data.reliability.height else "",
        "noise": plots.noise_histogram(data.noise, 1 / BINS) if data.noise.height else "",
        "ensemble": plots.ensemble_scatter(data.ensemble) if data.ensemble.height else "",
        "strength": plots.strength_curve(data.strength) if data.strength.height > 1 else "",
        "position": plots.bias_bars(
            ordered["voter"].to_list(),
            ordered["first_rate"].to_list(),
            [0.5] * ordered.height,
            "votes for the first response",
        )
        if ordered.height
        else "",
        "length": plots.bias_bars(
            length["voter"].to_list(),
            length["longer"].to_list(),
            length["longer_fused"].to_list(),
            "votes for the longer response",
        )
        if length.height
        else "",
        "yields": plots.stacked_shares(data.yields["origin"].to_list(), {a: data.yields[a].to_list() for a in actions})
        if data.yields.height
        else "",
        "routing": plots.routing_curve(data.queue["overlap"].to_list(), data.queue["value"].to_list())
        if data.queue.height
        else "",
        "asked": yield_panels(data.asked) if data.asked.height else "",
    }
