"""Many slices and many buckets: dealing slices into files of several buckets changes no row and no byte."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pipelines.runtime.shuffle
import pipelines.stages.ingest
from pipelines.runtime.job import prepared
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.shuffle import Group, groups_of
from pipelines.runtime.stage import Run, Stage
from pipelines.stages.ingest import INGEST
from schemas.errors import WorkspaceError
from schemas.recipe import Recipe
from transforms.sources.slices import slices
from transforms.storage.workspace import Workspace

BUCKETS = 7
TABLES = ("pairs", "votes", "rejects")


def pending(stage: Stage[Any], run: Run) -> list[int]:
    job, keys = prepared(stage, run)
    return [bucket for bucket, _ in job.pending(keys)]


def rows(start: int, n: int) -> list[dict[str, Any]]:
    """Some say the same, so that it counts which comes first; some are no pairs."""
    made = []
    for i in range(start, start + n):
        row = {"prompt": f"question {i % 60}", "a": f"one {i % 90}", "b": f"two {i % 90}", "label": "ab"[i % 2]}
        judged = [{"voter": f"judge {j}", "label": "ab"[(i + j) % 2]} for j in range(3)]
        made.append({**row, "judged": judged} | ({"prompt": ""} if i % 17 == 0 else {}))
    return made


def stage(folder: Path, monkeypatch: pytest.MonkeyPatch, opened: int) -> Run:
    monkeypatch.setattr(pipelines.runtime.shuffle, "_READ_DIRECTLY", opened)
    monkeypatch.setattr(pipelines.stages.ingest, "slices", partial(slices, rows_per_slice=10))
    vote = {"kind": "judge", "column": "judged", "voter": "voter", "label": "label"}
    source = {"name": "rows", "kind": "pairs", "path": "in", "votes": [vote], "max_reject_share": 0.5}
    source |= {"columns": {"prompt": "prompt", "response_a": "a", "response_b": "b", "label": "label"}}
    recipe = Recipe.model_validate({"name": "c", "buckets": BUCKETS, "sources": [source]})
    root = folder / f"w{opened}"
    workspace = Workspace.open(str(root)) if root.exists() else Workspace.create(str(root), BUCKETS)
    return Run(workspace, recipe, folder)


def write(folder: Path, name: str, found: list[dict[str, Any]]) -> None:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_text("".join(json.dumps(row) + "\n" for row in found))


def parts(ingest: Run) -> dict[tuple[str, int], list[bytes]]:
    workspace = ingest.workspace
    return {
        (table, bucket): [
            Path(workspace.bucket_dir(table, bucket), part).read_bytes()
            for part in workspace.parts(table, bucket, ("ingest",))
        ]
        for table in TABLES
        for bucket in workspace.buckets
    }


def groups(ingest: Run) -> tuple[Group, ...]:
    return INGEST.setup(replace(ingest, observed=INGEST.observe(ingest))).groups


def staged_files(ingest: Run, folder: str, table: str = "") -> list[Path]:
    return sorted(
        ingest.workspace.local_path("stages", "ingest", folder).glob(f"*.{table}*.parquet" if table else "*.parquet")
    )


@pytest.fixture
def pair_of_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """The same input gathered directly and by groups."""
    write(tmp_path, "1.jsonl", rows(0, 200))
    direct, grouped = stage(tmp_path, monkeypatch, 10_000), stage(tmp_path, monkeypatch, 0)
    with monkeypatch.context() as patch:
        patch.setattr(pipelines.runtime.shuffle, "_READ_DIRECTLY", 10_000)
        run_stage(INGEST, direct, quiet=True)
        assert not groups(direct)
    return direct, grouped


def test_groups_change_no_byte_and_hold_the_input_once(pair_of_ways: tuple[Run, Run]) -> None:
    direct, grouped = pair_of_ways
    summary = run_stage(INGEST, grouped, quiet=True).summary
    assert len(groups(grouped)) == 7  # 20 slices, three at a time
    assert parts(grouped) == parts(direct)
    assert summary.rows_in == summary.rows_out + sum(summary.rejects.values())
    assert not staged_files(grouped, "slices", "pairs")
    assert not staged_files(grouped, "slices", "votes")
    assert staged_files(grouped, "groups", "pairs")
    assert not pending(INGEST, grouped)


def test_more_input_keeps_the_groups_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pair_of_ways: tuple[Run, Run]
) -> None:
    run_stage(INGEST, pair_of_ways[1], quiet=True)
    before = {path: path.stat().st_mtime_ns for path in staged_files(pair_of_ways[1], "groups")}
    write(tmp_path, "2.jsonl", rows(150, 55))
    grouped = stage(tmp_path, monkeypatch, 0)
    run_stage(INGEST, grouped, quiet=True)
    after = {path: path.stat().st_mtime_ns for path in staged_files(grouped, "groups")}
    assert before.items() < after.items()
    direct = stage(tmp_path, monkeypatch, 10_000)
    run_stage(INGEST, direct, quiet=True)
    assert parts(grouped) == parts(direct)


@pytest.mark.parametrize("where", ["slices", "groups"])
def test_a_damaged_file_is_named_and_made_anew(pair_of_ways: tuple[Run, Run], where: str) -> None:
    direct, grouped = pair_of_ways
    if where == "slices":  # read, not yet dealt
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipelines.stages.ingest, "deal", interrupted)
            with pytest.raises(RuntimeError, match="killed"):
                run_stage(INGEST, grouped, quiet=True)
    else:
        run_stage(INGEST, grouped, quiet=True)
        for bucket in range(BUCKETS):
            grouped.workspace.local_path("stages", "ingest", f"bucket={bucket:04d}.json").unlink()
        assert pending(INGEST, grouped)
    bad = staged_files(grouped, where, "pairs")[0]
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(WorkspaceError, match=bad.name):
        run_stage(INGEST, grouped, quiet=True)
    bad.unlink()
    run_stage(INGEST, grouped, quiet=True)
    assert parts(grouped) == parts(direct)


def interrupted(_: Workspace, group: Group) -> None:
    raise RuntimeError(f"killed before {len(group.slices)} slices were dealt")


def test_files_opened_grow_with_the_rows_and_the_root_of_the_buckets() -> None:
    """At 10,000 rows a slice and 16,000 a bucket, from 10 to 40 million rows."""

    def opened(million: int) -> int:
        keys, n_buckets = [f"{i}" for i in range(100 * million)], 1000 * million // 16
        groups = groups_of(keys, n_buckets)
        assert [key for group in groups for key in group.slices] == keys
        ranges = -(-n_buckets // groups[0].width)
        return len(keys) * ranges + n_buckets * len(groups)

    assert opened(40) <= 1.1 * 4**1.5 * opened(10)
    assert groups_of([f"{i}" for i in range(100)], 62) == []


def test_a_run_with_nothing_to_do_does_not_look_into_the_slices(pair_of_ways: tuple[Run, Run]) -> None:
    direct, _ = pair_of_ways
    for manifest in direct.workspace.local_path("stages", "ingest", "slices").glob("*.json"):
        manifest.unlink()
    assert run_stage(INGEST, direct, quiet=True).summary.rows_in > 0
