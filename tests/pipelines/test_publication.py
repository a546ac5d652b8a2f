"""What a version says of itself, what verifies it, and what is written after it: small runs without an LLM."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipelines.inspect.explain import explain_pair
from pipelines.inspect.sql import rebuild_catalog, sql
from pipelines.inspect.versions import check, compare, prune_versions
from pipelines.publish import publication as publish_module
from pipelines.publish.export import export_version
from pipelines.publish.publication import code_version
from pipelines.runtime.run import RunResult, run_recipe
from prefine.cli.main import main
from schemas.errors import RecipeError, UsageError
from tests.transforms.publish.frames import plain_text
from transforms.hygiene.decontamination import index_of
from transforms.publish.read import Version, open_version

BENCHMARK = "How many apples are left when seven of the twelve apples have been eaten by the hungry children?"


class Small:
    """A folder with a recipe over pairs with a source's label and the votes of two people."""

    def __init__(self, folder: Path, root: str | None = None) -> None:
        self.folder, self.root = folder, root or str(folder / "w")
        self.rows = [self.row(i) for i in range(40)]
        self.recipe: dict[str, Any] = {
            "name": "small",
            "buckets": 3,
            "sources": [
                {
                    "name": "mine",
                    "kind": "pairs",
                    "path": "pairs.jsonl",
                    "votes": [{"kind": "human", "labels": "labels", "voters": "people"}],
                }
            ],
            "score": {"scorers": [{"plugin": "length"}, {"plugin": "repetition"}]},
        }

    @staticmethod
    def row(i: int) -> dict[str, Any]:
        rng = random.Random(i)
        words = [f"{rng.choice(['amber', 'brook', 'cedar', 'delta'])}{rng.randrange(10**6)}" for _ in range(12)]
        return {
            "prompt": f"Explain {' '.join(words)}.",
            "response_a": f"First answer {i}. " * rng.randrange(1, 5),
            "response_b": f"Second answer {i}.",
            "label": rng.choice("ab"),
            "labels": [rng.choice(["a", "b", "tie"]) for _ in range(2)],
            "people": ["ann", "bob"],
        }

    def run(self, **options: Any) -> RunResult:
        (self.folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(self.recipe))
        return run_recipe(self.folder / "recipe.yaml", self.root, None, None, (), quiet=True, **options)

    def version(self, number: int) -> Version:
        return open_version(f"{self.root}/datasets", f"small@{number}")

    def broken(self, number: int = 1, benchmarks: tuple[str, ...] = ()) -> list[str]:
        return [c.name for c in check(self.root, f"small@{number}", benchmarks) if not c.ok]

    def detail(self, name: str, number: int = 1) -> str:
        return next(c.detail for c in check(self.root, f"small@{number}", []) if c.name == name)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def test_the_manifest_says_what_was_read_who_voted_and_with_which_code(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.recipe["sources"].append({"name": "others", "kind": "pairs", "path": "others.jsonl"})
    fields = ("prompt", "response_a", "response_b", "label")
    (small.folder / "others.jsonl").write_text(json.dumps({k: Small.row(1000)[k] for k in fields}) + "\n")
    small.run()
    first = small.version(1).manifest
    votes = small.version(1).scan("votes").collect()
    cast = dict(votes["voter"].value_counts().iter_rows())
    assert {name: voter["votes"] for name, voter in first.voters.items()} == cast
    assert first.voters["mine/ann"]["kind"] == "human"
    assert first.voters["length"]["plugin"] == "length"
    assert {"source", "human", "rule"} == {voter["kind"] for voter in first.voters.values()}
    assert first.code_version == code_version()
    assert set(first.inputs) == {"mine", "others"}
    assert small.run().published is False
    small.rows.append(Small.row(40))
    assert small.run().version == "v0002"
    second = small.version(2).manifest
    assert second.inputs["mine"] != first.inputs["mine"]
    assert second.inputs["others"] == first.inputs["others"]
    monkeypatch.setattr(publish_module, "code_version", lambda: "0+other")
    assert small.run().published is False


def test_the_code_version_depends_on_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(name: str, text: str) -> str:
        for room in ("schemas", "transforms", "pipelines"):
            (tmp_path / name / room / "publish").mkdir(parents=True)
        file = tmp_path / name / "pipelines" / "publish" / "publication.py"
        file.write_text(text)
        monkeypatch.setattr(publish_module, "__file__", str(file))
        return code_version.__wrapped__()

    assert at("one", "x = 1\n") == at("two", "x = 1\n") != at("three", "x = 2\n")


def test_verify_after_the_parent_is_gone_says_what_it_could_not_check(small: Small) -> None:
    small.run()
    small.rows.append(Small.row(40))
    small.run()
    assert small.broken(2) == []
    assert "kept its split" in small.detail("stability", 2)
    assert prune_versions(small.root, "small", keep=1, pinned=(), dry_run=False) == [1]
    assert small.broken(2) == []
    assert "not checked: v0001" in small.detail("stability", 2)


@pytest.mark.parametrize("fuser", ["posterior", "majority", "stack"])
def test_every_verdict_is_made_again_from_the_version_alone(small: Small, fuser: str) -> None:
    small.recipe["fuse"] = {"fuser": {"plugin": fuser}}
    known = {"name": "known", "kind": "pairs", "path": "known.jsonl", "constants": {"tags": ["control"]}}
    small.recipe["sources"].append(known)
    fields = ("prompt", "response_a", "response_b", "label")
    lines = [json.dumps({k: Small.row(i)[k] for k in fields}) + "\n" for i in range(100, 108)]
    (small.folder / "known.jsonl").write_text("".join(lines))
    small.run()
    assert small.broken() == []
    assert "every verdict follows" in small.detail("recomputation")


def test_an_explanation_from_the_version_has_weights_and_thresholds(small: Small) -> None:
    small.recipe["fuse"] = {"policy": {"plugin": "posterior", "certainty": 0.6}}
    small.run()
    verdicts = small.version(1).scan("verdicts").collect()
    for action in verdicts["action"].unique():
        pair = verdicts.filter(pl.col("action") == action)["pair_id"][0]
        published, here = (explain_pair(small.root, pair, dataset) for dataset in ("small", None))
        assert published == here
        assert published.thresholds["certainty"] == 0.6
        assert all(c.reliability for c in published.contributions)
        text = " ".join(plain_text(published, 400).split())
        assert "decided by posterior: " in text
        assert "certainty 0.6" in text
        comparison = {"keep": ">= certainty 0.6", "flip": ">= certainty 0.6", "tie": "at least 1/3"}
        assert comparison.get(action, "< certainty 0.6, so `doubtful: drop` decides") in published.rule


def test_exports_of_the_recipe_are_written_after_each_version_once(small: Small, tmp_path: Path) -> None:
    exports: list[dict[str, Any]] = [{"format": "trl-dpo"}, {"format": "jsonl", "options": {"name": "lines"}}]
    small.recipe["materialise"] = {"exports": exports}
    first = small.run()
    folders = {name: Path(path) for name, path in first.exports.items()}
    assert folders == {n: Path(small.root, "exports", "small", "v0001", n) for n in ("trl-dpo", "lines")}
    export_version(small.root, "small@1", "trl-dpo", tmp_path / "by-hand", {})
    written = {p.name: p.read_bytes() for p in folders["trl-dpo"].iterdir()}
    assert written == {p.name: p.read_bytes() for p in (tmp_path / "by-hand").iterdir()}
    stamps = {p: p.stat().st_mtime_ns for f in folders.values() for p in f.iterdir()}
    # What a killed run left is made anew, what is whole stays.
    (folders["lines"] / "README.md").unlink()
    (folders["lines"] / "half.jsonl").write_text("{")
    again = small.run()
    assert (again.published, again.exports) == (False, first.exports)
    assert not (folders["lines"] / "half.jsonl").exists()
    assert (folders["lines"] / "README.md").exists()
    assert {p: p.stat().st_mtime_ns for p in folders["trl-dpo"].iterdir()}.items() <= stamps.items()
    # Another export is no other dataset.
    exports.append({"format": "trl-kto"})
    third = small.run()
    assert (third.published, set(third.exports)) == (False, {"trl-dpo", "lines", "trl-kto"})
    small.rows.append(Small.row(40))
    assert Path(small.run().exports["trl-kto"]).parent.name == "v0002"


def test_a_whole_workspace_on_an_object_store(tmp_path: Path, s3: str) -> None:
    there, here = Small(tmp_path, f"{s3}/{uuid.uuid4().hex}/w"), Small(tmp_path)
    for small in (there, here):
        small.recipe["materialise"] = {"exports": [{"format": "jsonl"}]}
    results = [small.run() for small in (there, here)]
    assert there.version(1).manifest == here.version(1).manifest
    assert there.broken() == []
    exported = [pl.read_ndjson(f"{r.exports['jsonl']}/train-00000.jsonl") for r in results]
    assert exported[0].equals(exported[1])
    assert there.run().published is False
    there.rows.append(Small.row(40))
    assert there.run().version == "v0002"
    assert compare(there.root, "small@1", "small@2", "kind").changes.height >= 0
    for query in (
        'SELECT count(*) FROM "small@v0001"',
        "SELECT count(*) FROM votes",
        'SELECT count(*) FROM "small@v0001/verdicts"',
    ):
        n = sql(there.root, query)[1][0][0]
        assert n > 0
        assert n == sql(here.root, query)[1][0][0] or "FROM votes" in query
    with pytest.raises(UsageError, match="SQL"):
        sql(there.root, "SELECT * FROM read_csv('/etc/passwd')")
    with pytest.raises(UsageError, match="prefine sql"):
        rebuild_catalog(there.root)
    pair = there.version(1).scan("pairs").collect()["pair_id"][0]
    assert explain_pair(there.root, pair, "small@1").agrees
    assert prune_versions(there.root, "small", keep=1, pinned=(), dry_run=False) == [1]
    assert there.broken(2) == []


def test_two_exports_of_one_name_are_wrong(small: Small) -> None:
    small.recipe["materialise"] = {"exports": [{"format": "jsonl"}, {"format": "jsonl"}]}
    with pytest.raises(RecipeError, match="'jsonl' is used twice"):
        small.run()


def test_verify_reads_the_recipes_own_benchmarks(
    small: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (small.folder / "bench.txt").write_text("Nothing that anybody in this folder has ever asked or ever will ask.\n")
    small.recipe["hygiene"] = {"decontamination": {"benchmarks": ["bench.txt"], "ngram": 10}}
    small.rows[0] |= {"prompt": BENCHMARK, "label": "a", "labels": ["a", "a"]}
    small.run()
    assert small.broken() == []
    assert "no prompt overlaps" in small.detail("decontamination")
    # The benchmark grew since: the version's prompt is in it now.
    (small.folder / "bench.txt").write_text(f"{BENCHMARK}\n")
    index_of.cache_clear()
    assert small.broken() == ["decontamination"]

    def verify(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["prefine", "verify", "small", "-w", small.root, "--json", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    assert verify() == 1
    (small.folder / "bench.txt").rename(small.folder / "elsewhere.txt")
    assert small.broken() == []
    assert "bench.txt of the recipe is not here" in small.detail("decontamination")
    capsys.readouterr()
    assert verify("--benchmarks", str(small.folder / "elsewhere.txt")) == 1
    said = {c["name"]: c for c in json.loads(capsys.readouterr().out)}
    assert "elsewhere.txt" in said["decontamination"]["detail"]
    assert verify() == 0
