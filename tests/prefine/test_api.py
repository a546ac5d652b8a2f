"""`import prefine`: the notebook of the docs runs, answers are the command line's, and a wrong folder is named."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefine
from pipelines.inspect.explain import explain_pair
from tests.conftest import ROOT

RECIPE = ROOT / "recipes" / "pairs.yaml"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> prefine.Workspace:
    """A workspace with two versions: the second was made without one of the rules."""
    folder = tmp_path_factory.mktemp("api")
    first = prefine.run(RECIPE, folder / "w", quiet=True)
    assert (first.published, first.version) == (True, "v0001")
    text = RECIPE.read_text().replace("    - {plugin: length}\n", "")
    (folder / "second.yaml").write_text(text.replace("pairs/answers.jsonl", str(RECIPE.parent / "pairs/answers.jsonl")))
    assert prefine.run(folder / "second.yaml", str(folder / "w"), quiet=True).version == "v0002"
    return prefine.open(folder / "w")


def command(*words: str) -> Any:
    """What `prefine WORDS --json` prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefine.cli.main", *words, "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def test_frames_are_what_the_command_line_shows(workspace: prefine.Workspace) -> None:
    pairs, votes, verdicts = workspace.pairs(), workspace.votes(), workspace.verdicts()
    assert pairs.height == verdicts.height == 60
    assert set(votes["pair_id"]) == set(pairs["pair_id"]) == set(verdicts["pair_id"])
    assert workspace.queue()["pair_id"].to_list() == [row["pair_id"] for row in command("queue", "-w", workspace.root)]
    shown = {row["stage"]: (row["rows_in"], row["rows_out"]) for row in command("status", "-w", workspace.root)}
    status = workspace.status()
    assert dict(zip(status["stage"], status.select("rows_in", "rows_out").rows(), strict=True)) == shown
    assert workspace.rejects().height == len(command("rejects", "-w", workspace.root))
    listed = [(row["name"], row["version"], row["rows"]) for row in command("datasets", "-w", workspace.root)]
    assert [(n, f"v{v:04d}", rows) for n, v, rows, *_ in workspace.datasets().rows()] == listed


def test_a_pair_is_explained_from_workspace_and_version(workspace: prefine.Workspace) -> None:
    pair = workspace.verdicts()["pair_id"][0]
    assert workspace.explain(pair) == explain_pair(workspace.root, pair)
    assert workspace.explain(pair, "labelled-pairs@1").pair_id == pair
    with pytest.raises(prefine.PrefineError, match="no pair"):
        workspace.explain("0" * 32)


def test_versions_are_read_and_compared(workspace: prefine.Workspace) -> None:
    latest, first = workspace.dataset("labelled-pairs"), workspace.dataset("labelled-pairs", 1)
    assert (latest.label, first.label) == ("labelled-pairs@v0002", "labelled-pairs@v0001")
    assert first.manifest["n_rows"] == first.rows().height
    assert sum(first.rows(split).height for split in ("train", "validation", "test")) == first.rows().height
    assert "length" in set(first.evidence("votes")["voter"])
    assert "length" not in set(latest.evidence("votes")["voter"])
    found = workspace.diff("labelled-pairs@1", "labelled-pairs@2")
    assert found.to_dict() == command("diff", "labelled-pairs@1", "labelled-pairs@2", "-w", workspace.root)
    with pytest.raises(prefine.PrefineError, match="published: v0001, v0002"):
        workspace.dataset("labelled-pairs", 7)


def test_a_notebook_shows_html_in_which_data_are_text(workspace: prefine.Workspace, tmp_path: Path) -> None:
    pair = workspace.verdicts()["pair_id"][0]
    shown = [workspace, workspace.dataset("labelled-pairs"), workspace.explain(pair)]
    shown.append(workspace.diff("labelled-pairs@1", "labelled-pairs@2"))
    for each in shown:
        assert each._repr_html_().startswith("<")
    assert all(stage in workspace._repr_html_() for stage in workspace.status()["stage"])
    hostile = workspace.explain(pair).model_copy(update={"model_a": "<script>alert(1)</script>"})
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()


def test_a_run_where_an_event_loop_runs_already(tmp_path: Path) -> None:
    async def cell() -> prefine.RunResult:
        return prefine.run(RECIPE, tmp_path / "w", quiet=True)

    result = asyncio.run(cell())
    assert result.published
    assert "published labelled-pairs@v0001" in result._repr_html_()


def test_a_workspace_that_is_none_and_a_wrong_recipe(tmp_path: Path) -> None:
    with pytest.raises(prefine.PrefineError, match="no workspace"):
        prefine.open(tmp_path)
    with pytest.raises(prefine.PrefineError, match="no recipe at"):
        prefine.run(tmp_path / "recipe.yaml", tmp_path / "w")
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        _ = prefine.opne


def test_the_notebook_of_the_docs_runs(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 5
    # As in a notebook: an event loop runs, and a cell that ends in an expression shows it.
    script = """
import ast, asyncio, json, sys

async def run(cells, space):
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            print((getattr(value, "_repr_html_", None) or value.__repr__)()[:40].replace("\\n", " "))

asyncio.run(run(json.load(sys.stdin), {}))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        input=json.dumps(cells),
        cwd=ROOT / "docs",
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "'v0002'" in done.stdout.splitlines()
    assert done.stdout.count("<") >= 7


@pytest.mark.parametrize("room", ["schemas", "pipelines"])
@pytest.mark.parametrize("has_init", [True, False])
def test_a_folder_that_stands_in_the_way_is_named(tmp_path: Path, room: str, has_init: bool) -> None:
    (tmp_path / room).mkdir()
    if has_init:
        (tmp_path / room / "__init__.py").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {str(ROOT)!r}); import prefine; prefine.run"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if has_init:
        assert done.returncode == 1
        assert f"ImportError: {tmp_path / room} stands in the way of prefine's own {room!r}" in done.stderr
    else:  # a folder without __init__.py gives way to a package of that name
        assert done.returncode == 0, done.stderr


def test_the_frames_are_polars_frames(workspace: prefine.Workspace) -> None:
    for frame in (workspace.prompts(), workspace.pairs(), workspace.queue(), workspace.datasets(), workspace.status()):
        assert isinstance(frame, pl.DataFrame)
