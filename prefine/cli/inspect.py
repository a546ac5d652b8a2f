"""Commands that read: status, judges, datasets, show, explain, rejects, queue, export, report, sql."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefine.cli.options import LOOK, VERSIONS, AsJson, Wide, WorkspaceRoot
from prefine.cli.output import console, print_json, print_table, say
from schemas.errors import UsageError
from transforms.publish.calibration_source import UNCALIBRATED, is_uncalibrated

if TYPE_CHECKING:
    from transforms.publish.store import Datasets

Dataset = Annotated[str, typer.Argument(help="NAME, or NAME@V for another version than the latest")]
_STATUS = (
    *("stage", "buckets", "rows in", "rows out", "rejects", "why"),
    *("calls", "memo hits", "tokens in", "tokens out", "seconds", "ETA s"),
)
_STATUS_WIDE = ("why", "memo hits", "tokens in", "tokens out")
_REQUESTS = (
    *("engine", "who", "calls", "from memo", "failed", "retries", "tokens in", "cached"),
    *("tokens out", "ms/call", "calls/s", "tokens/s"),
)
_JUDGES = (
    *("judge", "votes", "ties", "read", "refused", "errors", "flips", "for the first", "for the longer"),
    *("humans: longer", "agrees", "compared", "Brier", "with / without context"),
)
_REQUESTS_WIDE = ("from memo", "retries", "cached", "calls/s", "tokens/s")
_JUDGES_WIDE = ("refused", "errors", "humans: longer", "Brier", "with / without context")
_ROWS = Annotated[int, typer.Option("--rows", min=1, help="at most this many rows")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (status, judges, queue, explain, rejects, sql, datasets, show, report):
        app.command(rich_help_panel=LOOK)(command)
    app.command(rich_help_panel=VERSIONS)(export)


def status(workspace: WorkspaceRoot, as_json: AsJson = False, wide: Wide = False) -> None:
    """Per stage: rows, rejects by reason, calls, tokens, seconds of work, ETA."""
    from pipelines.inspect.status import fusion_notes
    from pipelines.inspect.status import status as stage_status

    stages = stage_status(workspace)
    if as_json:
        print_json(stages)
        return
    rows = []
    for s in stages:
        usage: dict[str, dict[str, float]] = s["usage"]
        total = {
            k: int(sum(u.get(k, 0) for u in usage.values())) for k in ("calls", "memo_hits", "tokens_in", "tokens_out")
        }
        reasons = _counts(s["rejects"])
        eta = s["eta_seconds"] if s["buckets"] < s["n_buckets"] else None
        done = f"{s['buckets']}/{s['n_buckets']}"
        lost = sum(s["rejects"].values())
        rows.append((s["stage"], done, s["rows_in"], s["rows_out"], lost, reasons, *total.values(), s["seconds"], eta))
    print_table(f"Workspace {workspace}", _STATUS, rows, wide=wide, wide_only=_STATUS_WIDE)
    for s in () if wide else stages:
        if s["rejects"]:
            say(f"rejects of {s['stage']}: {_counts(s['rejects'])}")
    asked = [(s["stage"], *_request_cells(row)) for s in stages for row in s["requests"]]
    if asked:
        print_table("Requests", ("stage", *_REQUESTS), asked, wide=wide, wide_only=_REQUESTS_WIDE)
    for s in stages:
        for engine, share in s["prefix_caches"].items():
            say(f"{s['stage']}: the servers of {engine} took {share:.1%} of prompt tokens from their prefix cache")
    for note in fusion_notes(workspace):
        say(note)


def judges(workspace: WorkspaceRoot, as_json: AsJson = False, wide: Wide = False) -> None:
    """Per judge: ties, failures, order flips, biases of position and length, agreement with humans."""
    from pipelines.inspect.judges import judges as judge_statistics

    statistics = judge_statistics(workspace)
    if as_json:
        print_json(statistics)
        return
    rows = [
        (
            row["voter"],
            row["n_votes"],
            *(_share(row[name]) for name in ("tie_rate", "parse_rate", "refused_rate", "error_rate", "flip_rate")),
            *(_share(row[name]) for name in ("first_rate", "longer_rate", "human_longer_rate", "agreement")),
            row["n_compared"],
            row["brier"],
            None if row["with_context"] is None else f"{row['with_context']:.1%} / {row['without_context']:.1%}",
        )
        for row in statistics
    ]
    print_table("Judges", _JUDGES, rows, wide=wide, wide_only=_JUDGES_WIDE)


def datasets(workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """Every published dataset and its versions."""
    from pipelines.inspect.versions import published
    from schemas.manifest import version_name

    rows: list[dict[str, Any]] = [
        {
            "name": m.name,
            "version": version_name(m.version),
            "rows": m.n_rows,
            "splits": m.rows_by_split,
            "path": path,
        }
        for m, path in published(workspace)
    ]
    if as_json:
        print_json(rows)
        return
    cells = [(r["name"], r["version"], r["rows"], _counts(r["splits"]), r["path"]) for r in rows]
    print_table("Datasets", ("name", "version", "rows", "splits", "path"), cells)


def show(dataset: Dataset, workspace: WorkspaceRoot, as_json: AsJson = False) -> None:
    """What a version was made of and holds."""
    store = _store(workspace)
    manifest = store.manifest(*store.resolve(dataset))
    if as_json:
        print_json(manifest.model_dump(mode="json"))
        return
    rows = [
        ("version", manifest.label),
        ("parent", "" if manifest.parent is None else f"v{manifest.parent:04d}"),
        ("pairs", manifest.n_pairs),
        ("rows", f"{manifest.n_rows} ({_counts(manifest.rows_by_split)})"),
        ("actions", _counts(manifest.actions)),
        *_estimated(manifest.estimates),
        ("rejects", f"{manifest.n_rejects} ({_counts(manifest.rejects_by_reason)})"),
        ("voters", _voters(manifest.voters)),
        *_certified(manifest.certificate),
        ("code", manifest.code_version),
        ("row hash", manifest.row_hash),
        ("path", store.url(manifest.name, f"v{manifest.version:04d}")),
    ]
    print_table(manifest.label, ("what", "value"), [(name, str(value)) for name, value in rows])


def _voters(voters: dict[str, Any], most: int = 20) -> str:
    """The busiest voters with their votes, and how many more there are."""
    busiest = sorted(voters.items(), key=lambda v: (-v[1].get("votes", 0), v[0]))
    names = [f"{name} {voter['votes']:,}" if "votes" in voter else name for name, voter in busiest[:most]]
    return ", ".join(names) + (f" and {len(busiest) - most:,} more" if len(busiest) > most else "")


def explain(
    pair_id: Annotated[str, typer.Argument(help="the pair's id, or as many of its hex digits as name no other")],
    workspace: WorkspaceRoot,
    dataset: Annotated[str | None, typer.Option(help="explain from this version's evidence alone")] = None,
    as_json: AsJson = False,
    wide: Wide = False,
) -> None:
    """Every vote on a pair and the arithmetic to its label."""
    from pipelines.inspect.explain import explain_pair
    from transforms.publish.explain import render

    explanation = explain_pair(workspace, pair_id, dataset)
    if as_json:
        print_json(explanation.model_dump(mode="json"))
    else:
        console(wide).print(render(explanation, wide))


def rejects(workspace: WorkspaceRoot, rows: _ROWS = 50, as_json: AsJson = False, wide: Wide = False) -> None:
    """Records that left the pipeline, with reason and detail."""
    from pipelines.inspect import tables
    from transforms.text.table import short

    frame = tables.rejects(workspace, rows)
    if as_json:
        print_json(frame.to_dicts())
        return
    cells = [
        (stage, reason, record if ":" in record else short(record, wide), detail)
        for stage, reason, record, detail in frame.select("stage", "reason", "record_id", "detail").iter_rows()
    ]
    print_table("Rejects", ("stage", "reason", "record", "detail"), cells, wide=wide)


def queue(workspace: WorkspaceRoot, rows: _ROWS = 50, as_json: AsJson = False, wide: Wide = False) -> None:
    """Pairs waiting for a human, best first."""
    from pipelines.inspect import tables
    from transforms.text.table import TEXT, short

    frame = tables.queue(workspace, rows)
    if as_json:
        print_json(frame.to_dicts())
        return
    texts = tables.beginnings(workspace, frame["pair_id"].to_list())
    columns = [name for name in frame.columns if name != "pair_id"]
    cells = [
        (short(row["pair_id"], wide), *(row[name] for name in columns), "\n".join(texts.get(row["pair_id"], ())))
        for row in frame.iter_rows(named=True)
    ]
    only = [name for name in columns if name not in ("rank", "value", "purpose")]
    print_table("Queue", ("pair", *columns, TEXT), cells, wide=wide, wide_only=only)


def export(
    dataset: Dataset,
    workspace: WorkspaceRoot,
    form: Annotated[str, typer.Option("--format", help="an exporter: trl-dpo, trl-reward, jsonl, ...")],
    out: Annotated[Path, typer.Option(help="folder to write to")],
    option: Annotated[
        list[str] | None, typer.Option("--option", help="a setting of the exporter, as NAME=VALUE")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="if OUT exists, leave it unchanged and succeed")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version in a trainer's format."""
    from pipelines.publish.export import export_version

    options = dict(_option(text) for text in option or [])
    if keep and out.exists():
        print_json({"out": str(out), "format": form, "kept": True}) if as_json else say(f"{out}: there already")
        return
    exported = export_version(workspace, dataset, form, out, options)
    if as_json:
        print_json({"out": str(out), "format": form, "rows": exported.rows, "notes": exported.notes})
        return
    say(f"{out}: {_counts(exported.rows)}")
    for note in exported.notes:
        say(note)


def report(
    dataset: Dataset,
    workspace: WorkspaceRoot,
    out: Annotated[
        Path | None, typer.Option(help="file to write; without it, print where the version's report is")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A version's report as one HTML file."""
    from pipelines.publish.report import write_report

    where = write_report(workspace, dataset, out)
    if as_json:
        print_json({"report": where})
    else:
        say(where)


def sql(
    query: Annotated[str, typer.Argument(help="one SQL statement")],
    workspace: WorkspaceRoot,
    rows: _ROWS = 1000,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=86_400, help="stop the query after this many seconds; five minutes if left out"),
    ] = None,
    as_json: AsJson = False,
    wide: Wide = False,
) -> None:
    """Run one read-only SQL query on the workspace's tables and the dataset versions."""
    from pipelines.inspect.sql import sql as run_sql

    columns, answer = run_sql(workspace, query, rows, seconds)
    if not as_json:
        print_table("", columns, answer, wide=wide)
        return
    again = [name for name, n in Counter(columns).items() if n > 1]
    if again:
        raise UsageError(f"SQL: several columns are named {again[0]!r}; give each a name of its own (AS)")
    print_json([dict(zip(columns, row, strict=True)) for row in answer])


def _certified(certificate: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What the audit says of the labels, what that rests on, and which slices it says nothing of."""
    from transforms.stats.certificate_text import notes_of

    if certificate is None:
        return [("certificate", "NOT_AUDITED")]
    slices = [
        (f"{column}: {value}", figures) for column, of in certificate["slices"].items() for value, figures in of.items()
    ]
    unaudited = [name for name, figures in slices if figures["accuracy"] is None]
    audited = [(name, _accuracy(figures)) for name, figures in slices if figures["accuracy"] is not None]
    rows = [("certificate", _accuracy(certificate)), *(("", note) for note in notes_of(certificate)), *audited]
    return [*rows, *([("NOT_AUDITED", ", ".join(unaudited))] if unaudited else [])]


def _accuracy(figures: dict[str, Any]) -> str:
    if figures["accuracy"] is None:
        return "NOT_AUDITED"
    interval = f"{figures['level']:.0%} interval {figures['low']:.1%} to {figures['high']:.1%}"
    return f"{figures['accuracy']:.1%} right ({interval}, {figures['audited']:,} pairs audited)"


def _estimated(estimates: dict[str, Any] | None) -> list[tuple[str, str]]:
    """What fusion estimated of the whole data set."""
    if estimates is None:
        return []
    rows = [("actions, predicted", ", ".join(f"{a} {share:.1%}" for a, share in estimates["predicted"].items()))]
    for name, estimate in (("wrong source labels", estimates["noise"]), ("by the audit", estimates["audited_noise"])):
        if estimate is not None:
            interval = f"{estimate['level']:.0%} interval {estimate['low']:.1%} to {estimate['high']:.1%}"
            how = f", known by {estimate['how']}" if "how" in estimate else ""
            rows.append((name, f"{estimate['rate']:.1%} ({interval}{how})"))
    if estimates.get("unknown"):
        rows.append(("wrong source labels", f"not known: {estimates['unknown']}"))
    if is_uncalibrated(estimates):
        rows.append(("probabilities", UNCALIBRATED))
    return rows


def _store(workspace: str) -> Datasets:
    from transforms.publish.store import Datasets
    from transforms.storage.workspace import Workspace

    Workspace.open(workspace)
    return Datasets(f"{workspace.rstrip('/')}/datasets")


def _request_cells(row: dict[str, Any]) -> list[Any]:
    rounded = {name: value if value is None else round(value) for name, value in row.items() if name.endswith("_call")}
    per_second = {name: None if row[name] is None else f"{row[name]:,.1f}" for name in ("calls_per_s", "tokens_per_s")}
    return list((row | rounded | per_second | {"cached": _share(row["cached"])}).values())


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.1%}"


def _counts(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in numbers.items())


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--option {text!r}: write NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
