"""No secret and no escape: keys stay in the environment, names stay in the workspace and out of the SQL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.runtime.run import checked_recipe
from schemas.errors import RecipeError
from tests.pipelines.conftest import Project

pytestmark = pytest.mark.slow

SECRET = "sk-very-secret-0123456789"


def files_with(folder: Path, text: str) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_key_is_sent_and_stands_nowhere(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    project.recipe["engines"]["stub"]["api_key_env"] = "A_KEY"
    process = project.start("run", str(project.recipe_path), "-w", "w", "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert SECRET not in out + err
    assert not files_with(project.folder, SECRET)
    for words in (
        ("status", "-w", "w"),
        ("show", "small", "-w", "w"),
        ("report", "small", "-w", "w", "--out", "r.html"),
    ):
        assert SECRET not in project.prefine(*words)
    assert not files_with(project.folder, SECRET)


def test_a_key_stands_in_no_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    project.recipe["engines"]["stub"] |= {"api_key_env": "A_KEY", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    project.recipe["engines"]["stub"]["outage_s"] = 1
    error = project.prefine("run", str(project.recipe_path), "-w", "w", "--quiet", expect=1)
    assert SECRET not in error
    assert not files_with(project.folder, SECRET)


@pytest.mark.parametrize("name", ["../outside", "a/b", "/etc/x", "..", 'q"uote', "semi;colon", "nul\0", ""])
@pytest.mark.parametrize("field", ["materialise.dataset", "name"])
def test_a_dataset_name_cannot_leave_the_workspace(tmp_path: Path, field: str, name: str) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "x"}\n')
    recipe = {"name": "small", "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}]}
    checked_recipe(written(tmp_path, recipe))
    named = {**recipe, "name": name} if field == "name" else {**recipe, "materialise": {"dataset": name}}
    with pytest.raises(RecipeError, match=rf"recipe.yaml:\d+: {field}: ") as error:
        checked_recipe(written(tmp_path, named))
    assert error.value.exit_code == 2


def written(folder: Path, recipe: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


@pytest.mark.parametrize(
    "query",
    [
        "EXPLAIN ANALYZE COPY (SELECT 42) TO 'w/datasets/small/v0001/manifest.json'",
        "COPY (SELECT 1) TO 'out.csv'",
        "ATTACH 'other.duckdb'",
        "INSTALL httpfs",
        "CREATE TABLE t AS SELECT 1",
        "SELECT * FROM read_text('/etc/hostname')",
        "SET enable_external_access = true",
    ],
)
def test_sql_reads_the_workspace_and_nothing_else(finished: Project, query: str) -> None:
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    error = finished.prefine("sql", query, "-w", "w", expect=2)
    assert "Traceback" not in error
    counted = finished.prefine("sql", "SELECT count(*) AS n FROM verdicts", "-w", "w", "--json")
    assert json.loads(counted)[0]["n"] > 0
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A workspace with every table and no LLM."""
    folder = tmp_path_factory.mktemp("sql")
    rows = [{"prompt": f"p{i}", "response_a": "x", "response_b": f"y{i}", "label": "a"} for i in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "small",
        "buckets": 2,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
        "score": {"scorers": [{"plugin": "length"}]},
    }
    project = Project(folder, "", recipe)
    project.run("w")
    return project
