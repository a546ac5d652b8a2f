"""A difference names every changed row once, with the reason."""

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl
from rich.console import Console

from tests.transforms.publish import frames
from transforms.publish.diff import REFIT, diff, render
from transforms.publish.read import Version, open_version
from transforms.publish.version import Provenance, publish, split_memory

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


def make(root: Path, pairs: pl.DataFrame, votes: pl.DataFrame, verdicts: pl.DataFrame) -> Version:
    parent, memory = split_memory(root, "demo")
    content, splits = frames.buckets(pairs, votes, verdicts, memory=memory)
    done = publish(root, "demo", content, splits, PROVENANCE, parent=parent)
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
        reasons=pl.when(ids == now_rejected).then(pl.lit(["uncertain"])).otherwise("reasons"),
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
        now_rejected: ("removed", "is rejected: uncertain"),
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
