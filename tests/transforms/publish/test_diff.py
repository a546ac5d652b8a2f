"""A difference names every changed row once, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest
from rich.console import Console

from schemas.errors import UsageError
from tests.transforms.publish import frames
from transforms.publish.diff import REFIT, SLICES, diff, render
from transforms.publish.read import Version, open_version
from transforms.publish.recompute import POLICY, StoredPlugin
from transforms.publish.version import Provenance, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


def make(
    root: Path,
    pairs: pl.DataFrame,
    votes: pl.DataFrame,
    verdicts: pl.DataFrame,
    seed: int | None = None,
    evidence: dict[str, bytes] | None = None,
) -> Version:
    """The next version; with a `seed` it forgets the splits before it."""
    parent, memory = frames.split_memory(root, "demo")
    content, splits = frames.buckets(pairs, votes, verdicts, memory=None if seed else memory, seed=seed or 0)
    done = publish(root, "demo", content, splits, PROVENANCE, parent=parent, evidence=evidence)
    return open_version(root, f"demo@{done.version}")


def test_every_kind_of_change_has_its_reason(tmp_path: Path) -> None:
    pairs, votes, verdicts = frames.workspace(60)
    old = make(tmp_path, pairs, votes, verdicts)
    by_action = {a: verdicts.filter(pl.col("action") == a)["pair_id"].to_list() for a in ("keep", "drop")}
    flipped, moved, refit, now_rejected, gone = by_action["keep"][:5]
    recovered = by_action["drop"][0]
    ids = pl.col("pair_id")
    contributions = pl.col("contributions")
    doubled = contributions.list.eval(
        pl.struct(
            *(pl.element().struct.field(f) for f in ("voter", "n_votes", "label")),
            (pl.element().struct.field("log_odds") * 2).alias("log_odds"),
        )
    )
    changed = verdicts.with_columns(
        label=pl.when(ids == flipped).then(pl.col("label").replace({"a": "b", "b": "a"})).otherwise("label"),
        margin=pl.when(ids.is_in([moved, refit])).then(pl.col("margin") * 2).otherwise("margin"),
        contributions=pl.when(ids.is_in([moved, refit])).then(doubled).otherwise(contributions),
        action=pl.when(ids == now_rejected)
        .then(pl.lit("drop"))
        .when(ids == recovered)
        .then(pl.lit("keep"))
        .otherwise("action"),
        reasons=pl.when(ids == now_rejected).then(pl.lit(["doubtful"])).otherwise("reasons"),
    ).filter(ids != gone)
    more, more_votes, more_verdicts = frames.workspace(3, offset=60)
    extra = frames.vote(flipped, "newcomer", "a")
    new_votes = pl.concat(
        [votes, more_votes, pl.DataFrame([extra], schema=None).select(pl.all())], how="diagonal_relaxed"
    )
    new_votes = new_votes.select(votes.columns).with_columns(
        label=pl.when((ids == moved) & (pl.col("voter") == "rm")).then(pl.lit("tie")).otherwise("label")
    )
    new = make(
        tmp_path,
        pl.concat([pairs.filter(ids != gone), more]),
        new_votes.cast(dict(votes.schema)),
        pl.concat([changed, more_verdicts]),
    )
    found = diff(old, new)
    said = {r["pair_id"]: (r["change"], r["reason"]) for r in found.changes.iter_rows(named=True)}
    rejected_then = verdicts.filter(ids == recovered)["reasons"][0][0]
    expected = {
        flipped: ("flipped", "votes added: newcomer"),
        moved: ("margin", "votes changed: rm"),
        refit: ("margin", REFIT),
        now_rejected: ("removed", "is rejected: doubtful"),
        gone: ("removed", "pair is gone"),
        recovered: ("added", f"was rejected: {rejected_then}"),
    }
    assert {k: said[k] for k in expected} == expected
    others = {k: v for k, v in said.items() if k not in expected}
    published = set(new.scan("rows").collect()["pair_id"])
    assert others == {i: ("added", "new pair") for i in more["pair_id"] if i in published}
    assert found.unchanged + sum(c != "added" for c, _ in said.values()) == old.manifest.n_rows


def test_nothing_changed(tmp_path: Path) -> None:
    version = make(tmp_path, *frames.workspace(20))
    found = diff(version, version)
    assert found.changes.is_empty()
    assert found.unchanged == version.manifest.n_rows


def test_both_directions_mirror_each_other(tmp_path: Path) -> None:
    old = make(tmp_path, *frames.workspace(20))
    new = make(tmp_path, *frames.workspace(26, offset=4))
    there, back = diff(old, new), diff(new, old)
    swap = {"added": "removed", "removed": "added"}
    mirrored = {(i, swap.get(c, c)) for i, c in back.changes.select("pair_id", "change").iter_rows()}
    assert mirrored == set(there.changes.select("pair_id", "change").iter_rows())
    assert there.summary()["rows"].sum() == there.by_slice()["rows"].sum() == there.changes.height


def test_it_can_be_read_by_people_and_programs(tmp_path: Path) -> None:
    old, new = make(tmp_path, *frames.workspace(20)), make(tmp_path, *frames.workspace(26))
    found = diff(old, new)
    data = orjson.loads(orjson.dumps(found.to_dict()))
    assert data["changed"] == len(data["rows"]) == found.changes.height
    console = Console(record=True, width=140)
    console.print(render(found))
    text = console.export_text()
    assert "demo@v0001 → demo@v0002" in text
    assert "new pair" in text


def said(old: Version, new: Version, slice_by: str = "kind") -> dict[str, tuple[str, str]]:
    return {r["pair_id"]: (r["change"], r["reason"]) for r in diff(old, new, slice_by=slice_by).changes.to_dicts()}


def policy(**settings: float) -> dict[str, bytes]:
    fields = {"plugin": "posterior", "name": "posterior", "seed": 0, "identity": [], "model": {}}
    return {POLICY: StoredPlugin.model_validate({**fields, "settings": settings}).to_bytes()}


def test_a_split_that_moved_is_explained_by_the_memories(tmp_path: Path) -> None:
    old = make(tmp_path, *frames.workspace(60))
    new = make(tmp_path, *frames.workspace(60), seed=5)
    rows = [v.scan("rows").collect().rows_by_key("pair_id", named=True, unique=True) for v in (old, new)]
    moved = {
        i: (rows[0][i]["split"], rows[1][i]["split"]) for i in rows[0] if rows[0][i]["split"] != rows[1][i]["split"]
    }
    assert moved
    assert said(old, new) == {
        i: ("split", f"split moved: demo@v0001 says {a}, demo@v0002 says {b}") for i, (a, b) in moved.items()
    }


def test_votes_that_went_are_the_reason(tmp_path: Path) -> None:
    pairs, votes, verdicts = frames.workspace(30)
    old = make(tmp_path, pairs, votes, verdicts)
    rows = old.scan("rows").collect()
    one = rows["pair_id"][0]
    changed = verdicts.with_columns(
        margin=pl.when(pl.col("pair_id") == one).then(pl.col("margin") * 2).otherwise("margin")
    )
    fewer = votes.filter((pl.col("pair_id") != one) | (pl.col("voter") == "rm"))
    assert said(old, make(tmp_path, pairs, fewer, changed)) == {one: ("margin", "votes removed: judge-1, judge-2")}


def test_a_changed_policy_is_no_refit(tmp_path: Path) -> None:
    pairs, votes, verdicts = frames.workspace(60)
    old = make(tmp_path, pairs, votes, verdicts, evidence=policy(certainty=0.6))
    kept = verdicts.filter(action="keep")["pair_id"].to_list()
    dropped = verdicts.filter(action="drop")["pair_id"][0]
    action = (
        pl.when(pl.col("pair_id") == kept[0])
        .then(pl.lit("flip"))
        .when(pl.col("pair_id") == kept[1])
        .then(pl.lit("drop"))
        .when(pl.col("pair_id") == dropped)
        .then(pl.lit("keep"))
        .otherwise("action")
    )
    other = verdicts.with_columns(action=action)
    text = "policy changed: certainty 0.6 → 0.7"
    found = said(old, make(tmp_path, pairs, votes, other, evidence=policy(certainty=0.7)))
    assert set(found) == {kept[0], kept[1], dropped}
    assert found[kept[0]] == ("other", text)
    assert found[kept[1]][0] == "removed"
    assert found[kept[1]][1].startswith("is rejected: ")
    assert found[dropped][1].startswith("was rejected: ")
    assert all(reason.endswith(text) for _, reason in found.values())


@pytest.mark.parametrize(
    ("table", "change", "reason"),
    [
        ("verdicts", {"action": "flip"}, "posterior unchanged; policy fitted anew"),
        ("verdicts", {"p_tie": 0.11, "action": "flip"}, REFIT),
        ("pairs", {"source_label": "tie"}, "the source's label changed"),
    ],
)
def test_other_changes_have_true_reasons(tmp_path: Path, table: str, change: dict[str, Any], reason: str) -> None:
    tables = dict(zip(("pairs", "votes", "verdicts"), frames.workspace(60), strict=True))
    old = make(tmp_path, **tables)
    one = tables["verdicts"].filter(action="keep")["pair_id"][0]
    chosen = pl.col("pair_id") == one
    tables["verdicts"] = tables["verdicts"].with_columns(
        action=pl.when(chosen).then(pl.lit("flip")).otherwise("action")
    )
    tables[table] = tables[table].with_columns(
        **{c: pl.when(chosen).then(pl.lit(v)).otherwise(pl.col(c)) for c, v in change.items()}
    )
    assert said(old, make(tmp_path, **tables)) == {one: ("other", reason)}


@pytest.mark.parametrize("slice_by", SLICES)
def test_every_slice_has_its_values(tmp_path: Path, slice_by: str) -> None:
    old, new = make(tmp_path, *frames.workspace(20)), make(tmp_path, *frames.workspace(26))
    found = diff(old, new, slice_by=slice_by)
    rows = new.scan("rows").select("pair_id", pl.col(slice_by).fill_null("unknown")).collect()
    values = dict(rows.iter_rows())
    assert found.changes.height > 0
    assert {i: values[i] for i in found.changes["pair_id"]} == dict(
        found.changes.select("pair_id", "slice").iter_rows()
    )
    assert found.by_slice()["rows"].sum() == found.changes.height


def test_an_unknown_slice_is_wrong_usage(tmp_path: Path) -> None:
    version = make(tmp_path, *frames.workspace(4))
    with pytest.raises(UsageError, match="'foo'; known: kind, language, origin"):
        diff(version, version, slice_by="foo")
