"""The report of a version: its own files, and from the workspace what they do not hold (costs, queue, yields)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipelines.inspect.annotations import outlook, people
from pipelines.inspect.judges import STAGES, stage_usage
from pipelines.runtime.hygiene import embedded
from pipelines.runtime.stage import PAIR_STAGES
from pipelines.runtime.summary import summarise
from schemas.errors import UsageError
from schemas.manifest import Manifest, version_name
from transforms.publish.read import Version
from transforms.publish.store import Datasets
from transforms.report.census import Census
from transforms.report.data import report_data
from transforms.report.render import render
from transforms.report.strategies import sampled_texts, yield_table
from transforms.storage.workspace import Workspace

REPORT = "report.html"
_YIELD_PAIRS = 200_000  # generated pairs up to which the yield table reads their texts


def report_documents(
    workspace: Workspace, manifest: Manifest, folder: Path, census: Census, spread_pairs: int = 0
) -> Mapping[str, bytes]:
    """The report of a version whose files are staged in `folder`; `spread_pairs` of each generator are embedded."""
    queue = [workspace.read("queue", bucket, ("route",)) for bucket in workspace.buckets]
    data = report_data(
        Version(manifest, str(folder)),
        census=census,
        costs=_costs(workspace),
        queue=pl.concat(queue).sort("rank"),
        asked=_asked(workspace, spread_pairs),
        people=people(workspace),
        outlook=outlook(workspace),
    )
    return {REPORT: render(data).encode()}


def write_report(root: str, dataset: str, out: Path | None) -> str:
    """Copy a version's report to `out`, or just say where it is.

    Raises:
        UsageError: no such version, or `out` cannot be written.
    """
    store = Datasets(Workspace.open(root).datasets)
    name, version = store.resolve(dataset)
    path = store.path(name, version_name(version), REPORT)
    if not store.fs.exists(path):
        raise UsageError(f"{name}@{version_name(version)} has no report")
    if out is None:
        return store.url(name, version_name(version), REPORT)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with store.fs.open(path, "rb") as source, out.open("wb") as target:
            shutil.copyfileobj(source, target)
    except OSError as error:
        reason = error.strerror or error
        raise UsageError(f"cannot write the report to {out}: {reason}; name another file with --out") from None
    return str(out)


def _costs(workspace: Workspace) -> pl.DataFrame:
    """Per engine and who asked it: requests and tokens, whether paid in this run or known from an earlier one.

    What differs from run to run (seconds, retries, what the memo spared) is in `prefine status`: a version
    made again from the same inputs has the same bytes.
    """
    rows = []
    for stage in STAGES:
        rows += [
            {
                "stage": stage,
                "who": who,
                "requests": int(sum(numbers.get(k, 0) for k in ("calls", "memo_hits", "joined"))),
                "tokens_in": int(sum(numbers.get(k, 0) for k in ("tokens_in", "recalled_in"))),
                "tokens_out": int(sum(numbers.get(k, 0) for k in ("tokens_out", "recalled_out"))),
            }
            for who, numbers in sorted(stage_usage(workspace, stage).items())
        ]
    return pl.DataFrame(rows)


def _asked(workspace: Workspace, spread_pairs: int) -> pl.DataFrame:
    """Per generator: what it asked, parsed and made, what hygiene kept and how sure the voters are of it."""
    counts: dict[str, dict[str, int]] = {}
    made = 0
    for stage in ("evolve", "generate"):
        summary = summarise(stage, list(workspace.checkpoints(stage).values()))
        made += summary.rows_out
        for name, n in summary.counts.items():
            generator, dot, key = name.rpartition(".")
            if dot:
                counts.setdefault(generator, {})[key] = int(n)
    if not counts:
        return pl.DataFrame()
    if made > _YIELD_PAIRS:
        return pl.DataFrame([{"generator": name, **numbers} for name, numbers in sorted(counts.items())])
    columns = ("origin", "response_a", "response_b", "context_kind", "user_id", "meta")
    kept = pl.concat([workspace.read("pairs", bucket, PAIR_STAGES, columns) for bucket in workspace.buckets])
    verdicts = pl.concat([workspace.read("verdicts", bucket, ("fuse",)) for bucket in workspace.buckets])
    vectors = {
        name: embedded(workspace, texts) for name in counts if (texts := sampled_texts(kept, name, spread_pairs))
    }
    table = yield_table(counts, kept, verdicts, vectors, prompts=_evolved(workspace))
    return table.select(c for c in table.columns if not table[c].is_null().all())


def _evolved(workspace: Workspace) -> dict[str, int]:
    """Per generator of prompts: how many of its prompts were kept."""
    maker = pl.col("meta").str.json_path_match("$.evolution.name")
    metas = [workspace.read("prompts", bucket, ("screen",), ("meta",)).select(maker) for bucket in workspace.buckets]
    return dict(pl.concat(metas).drop_nulls().group_by("meta").len().iter_rows())
