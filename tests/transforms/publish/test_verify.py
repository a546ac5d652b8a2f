"""A sound version passes every check; any single damage is found and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from schemas.manifest import Manifest
from tests.transforms.publish import frames
from transforms.publish.files import Tally, file_entry, row_sum, write_parquet
from transforms.publish.read import Version, open_version
from transforms.publish.store import Datasets
from transforms.publish.verify import verify
from transforms.publish.version import Provenance, publish, split_memory

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")


@pytest.fixture
def version(tmp_path: Path) -> Version:
    for n in (30, 40):
        parent, memory = split_memory(tmp_path, "demo")
        content, splits = frames.buckets(*frames.workspace(n), memory=memory)
        publish(tmp_path, "demo", content, splits, PROVENANCE, parent=parent)
    return open_version(tmp_path, "demo")


def failed(version: Version, **options: object) -> dict[str, str]:
    root = Path(version.base).parent.parent
    fresh = open_version(root, "demo")
    return {c.name: c.detail for c in verify(Datasets(root), fresh, **options) if not c.ok}  # type: ignore[arg-type]


def test_a_sound_version_passes(version: Version) -> None:
    root = Path(version.base).parent.parent
    parent = open_version(root, "demo@1")
    checks = verify(Datasets(root), version, parent=parent, contaminated=lambda text: None)
    assert [c.name for c in checks if not c.ok] == []
    assert {c.name for c in checks} >= {"files", "schema", "conservation", "near-duplicates", "stability", "ids"}


@pytest.mark.parametrize("name", ["data/train-00000.parquet", "README.md", "evidence/votes-00000.parquet"])
def test_a_changed_or_missing_file_is_found(version: Version, name: str) -> None:
    path = Path(version.base, name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert failed(version) == {"files": f"{name} has other bytes than were published"}
    path.unlink()
    assert failed(version) == {"files": f"{name} is missing"}


def test_a_smuggled_file_is_found(version: Version) -> None:
    Path(version.base, "data", "train-99999.parquet").write_bytes(b"x")
    assert failed(version) == {"files": "data/train-99999.parquet is not in the manifest"}


def rewrite(version: Version, file: str, change: Callable[[pl.DataFrame], pl.DataFrame], rehash: bool = True) -> None:
    """Change a file and make the manifest agree, as a careful forger or a bug in the writer would."""
    path = Path(version.base, file)
    frame = change(pl.read_parquet(path))
    entry = write_parquet(frame, path)
    fields = {"files": {**version.manifest.files, file: entry}}
    if rehash:
        rows = [pl.read_parquet(Path(version.base, f)) for f in version.manifest.files if f.startswith("data/")]
        tally = Tally(n_rows=sum(r.height for r in rows), row_sum=sum(map(row_sum, rows)) % 2**256)
        fields |= {"row_hash": tally.row_hash, "n_rows": tally.n_rows}
        fields["rows_by_split"] = dict(pl.concat(rows)["split"].value_counts().iter_rows())
    forged: Manifest = version.manifest.model_copy(update=fields)
    Path(version.base, "manifest.json").write_bytes(forged.to_bytes())


TRAIN = "data/train-00000.parquet"


def test_rows_that_do_not_follow_from_the_evidence_are_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(margin=pl.col("margin") + 1))
    assert set(failed(version)) == {"arithmetic"}


def test_exchanged_responses_are_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(chosen_is=pl.col("chosen_is").replace({"a": "b", "b": "a"})))
    assert set(failed(version)) == {"arithmetic"}


def test_changed_text_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(chosen=pl.col("rejected").list.concat(pl.col("chosen"))))
    assert set(failed(version)) == {"ids"}


def test_a_lost_row_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.slice(1))
    assert set(failed(version)) == {"conservation"}


def test_a_changed_row_is_found_by_the_row_hash(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(decided_by=pl.lit("me")), rehash=False)
    assert set(failed(version)) == {"content hash"}


def test_a_leak_is_found(version: Version) -> None:
    def leak(frame: pl.DataFrame) -> pl.DataFrame:
        pick = frame.filter(pl.len().over("prompt_id") > 1)["prompt_id"][0]
        first = (pl.col("prompt_id") == pick) & (pl.int_range(pl.len()).over("prompt_id") == 0)
        return frame.with_columns(split=pl.when(first).then(pl.lit("test")).otherwise("split"))

    rewrite(version, TRAIN, leak)
    assert set(failed(version)) == {"prompts"}


def test_a_near_duplicate_in_another_split_is_found(version: Version) -> None:
    trained = pl.read_parquet(Path(version.base, TRAIN))["prompt"][0].to_list()
    alike = [{**trained[0], "content": trained[0]["content"].upper() + "!"}]
    wanted = pl.lit(pl.Series([alike], dtype=version.scan("rows").collect_schema()["prompt"]))
    name = next(f for f in version.manifest.files if f.startswith(("data/test", "data/validation")))
    rewrite(version, name, lambda f: f.with_columns(prompt=wanted))
    assert set(failed(version)) == {"ids", "near-duplicates"}


def test_a_broken_rule_is_found(version: Version) -> None:
    rewrite(version, TRAIN, lambda f: f.with_columns(weight=pl.lit(7.0)))
    assert set(failed(version)) == {"schema"}


def test_a_false_posterior_is_found(version: Version) -> None:
    rewrite(version, "evidence/verdicts-00000.parquet", lambda f: f.with_columns(prior=pl.col("prior") + 0.5))
    assert set(failed(version)) == {"arithmetic"}


def test_benchmark_overlap_is_found(version: Version) -> None:
    said = failed(version, contaminated=lambda text: ("bench", "some words"))
    assert set(said) == {"decontamination"}
    assert "bench" in said["decontamination"]


def test_a_prompt_that_moved_is_found(version: Version) -> None:
    root = Path(version.base).parent.parent
    path = root / "demo" / "v0001" / "evidence" / "splits-00000.parquet"
    frame = pl.read_parquet(path).with_columns(split=pl.lit("test"))
    frame.write_parquet(path)
    assert set(failed(version, parent=open_version(root, "demo@1"))) == {"stability"}


def test_entries_are_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert file_entry(path).sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
