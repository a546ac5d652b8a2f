"""Real preferences with human labels: published, verified, compared, explained, exported and reported."""

from __future__ import annotations

from pathlib import Path

import orjson
import polars as pl

from schemas.messages import message
from schemas.pairs import make_pair, mirrored
from schemas.tables import Pairs, Verdicts, Votes, rows_frame
from tests.transforms.publish import frames
from transforms.plugins.registry import find, names
from transforms.publish.diff import diff
from transforms.publish.explain import explain
from transforms.publish.read import Version, open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish
from transforms.report.data import report_data
from transforms.report.render import render

FILES = ("pandalm_test", "hh_harmless_test", "llmbar")
Tables = tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]


def tables(folder: Path, most: int) -> Tables:
    """Pairs, human votes and verdicts that are the humans' majority."""
    pairs, votes, verdicts = {}, [], []
    for file in FILES:
        for row in pl.read_parquet(folder / f"{file}.parquet").head(most).iter_rows(named=True):
            text = row["prompt"]
            prompt = orjson.loads(text) if text.startswith('[{"role"') else [message("user", text)]
            prompt = [message(m["role"], m["content"]) for m in prompt]
            sides = [[message("assistant", row[f"response_{s}"])] for s in "ab"]
            pair, swapped = make_pair(prompt, *sides, origin=file, kind=file)
            if pair["pair_id"] in pairs:
                continue
            pairs[pair["pair_id"]] = pair
            labels = [mirrored(x) if swapped else x for x in row["human_labels"]]
            weight: dict[str, float] = {}
            for i, label in enumerate(labels):
                votes.append(frames.vote(pair["pair_id"], f"{file}-{i}", label, kind="human"))
                weight[f"{file}-{i}"] = {"a": 1.5, "b": -1.5, "tie": 0.0}[label]
            said = frames.verdict(pair, "keep" if sum(weight.values()) else "tie", weight)
            for piece in said["contributions"]:
                piece["label"] = labels[int(piece["voter"].rpartition("-")[2])]
            verdicts.append({**said, "n_human": len(labels)})
    return rows_frame(list(pairs.values()), Pairs), rows_frame(votes, Votes), rows_frame(verdicts, Verdicts)


def make(root: Path, content: Tables) -> Version:
    parent, memory = frames.split_memory(root, "real")
    buckets, splits = frames.buckets(*content, n_buckets=4, memory=memory)
    provenance = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
    return open_version(root, f"real@{publish(root, 'real', buckets, splits, provenance, parent=parent).version}")


def test_real_preferences(tmp_path: Path, shared_data: Path) -> None:
    old = make(tmp_path / "datasets", tables(shared_data, 250))
    new = make(tmp_path / "datasets", tables(shared_data, 350))
    store = Datasets(tmp_path / "datasets")
    assert [c for v in (old, new) for c in verify(store, v, parent=old) if not c.ok] == []
    changes = diff(old, new).changes
    assert set(changes["change"]) == {"added"}
    assert changes.height == new.manifest.n_rows - old.manifest.n_rows
    evidence = [new.scan(t).collect() for t in ("pairs", "votes", "verdicts")]
    for pair_id in evidence[0]["pair_id"].head(20):
        assert explain(pair_id, *evidence).agrees
    rows = new.scan("rows").with_columns(user_id=pl.format("u{}", pl.col("pair_id").str.slice(0, 1)))
    for name in names("exporters"):
        cls = find("exporters", name)
        counts = cls(name, cls.Config(), 0).export(rows, tmp_path / "exports" / name)
        if name in ("trl-dpo", "trl-reward", "openrlhf", "jsonl", "datasets"):
            assert counts == new.manifest.rows_by_split
    html = render(report_data(new))
    assert "<script" not in html
    assert all(file in html for file in FILES)
