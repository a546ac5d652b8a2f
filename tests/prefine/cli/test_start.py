"""What a command imports: nobody waits for what the command does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

LIBRARIES = (
    *("apache_beam", "torch", "transformers", "sentence_transformers", "sklearn", "pandas", "datasets", "airflow"),
    *("scipy.special", "scipy.stats", "scipy.optimize", "scipy.sparse", "scipy.linalg", "matplotlib"),
    *("pyarrow", "duckdb", "huggingface_hub", "aiohttp", "tqdm", "jinja2"),
)
DATA = ("polars", "numpy", "dataframely", "fsspec", "yaml")  # Typer imports pydantic for the words of a command
OURS = ("pipelines.stages", "pipelines.publish", "transforms.generators", "transforms.judges", "transforms.scorers")
PROGRAM = """
import sys
sys.argv[0] = "prefine"
from prefine.cli.main import main
try:
    main()
finally:
    print("imported", *sys.modules, file=sys.stderr)
"""


def imported(folder: Path, *words: str) -> set[str]:
    """The modules that a command has imported when it ends, and the packages they are in."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return set(done.stderr.rpartition("imported ")[2].split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace `w` of a recipe without models, run to the end."""
    folder = tmp_path_factory.mktemp("start")
    imported(folder, "init", "w", "--template", "pairs")
    assert "apache_beam" in imported(folder, "run", "w/recipe.yaml", "-w", "w", "--quiet")
    return folder


@pytest.mark.parametrize("words", [("--help",), ("--version",), ("run", "--help"), ("sql", "--help")])
def test_help_and_version_read_no_data(folder: Path, words: tuple[str, ...]) -> None:
    there = imported(folder, *words)
    assert there & {*LIBRARIES, *DATA, *OURS} == set()


READING = {
    "status": (),
    "queue": (),
    "rejects": (),
    "judges": (),
    "datasets": (),
    "show": ("my-preferences",),
    "diff": ("my-preferences@1", "my-preferences@1"),
    "explain": ("{pair}",),
    "sql": ("SELECT count(*) FROM pairs",),
}
NEEDED = {"sql": {"duckdb", "pyarrow"}}


@pytest.mark.parametrize("command", READING)
def test_reading_commands_import_what_they_read_with(folder: Path, command: str) -> None:
    pair = next(path for path in (folder / "w" / "tables" / "pairs").rglob("*.parquet"))
    import polars as pl

    words = [word.format(pair=pl.read_parquet(pair)["pair_id"][0]) for word in READING[command]]
    there = imported(folder, command, *words, "-w", "w")
    assert there & {*LIBRARIES, *OURS} == NEEDED.get(command, set())


@pytest.mark.slow
def test_heads_with_nothing_to_score_load_no_model(tmp_path: Path) -> None:
    imported(tmp_path, "init", "w", "--template", "pairs")
    recipe = tmp_path / "w" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("    # - {name: heads", "    - {name: heads"))
    run = ("run", "w/recipe.yaml", "-w", "w", "--quiet")
    assert "torch" in imported(tmp_path, *run)
    assert not imported(tmp_path, *run) & {"torch", "transformers", "sentence_transformers", "apache_beam"}


def test_a_run_with_nothing_to_do_starts_no_runner_and_loads_no_model(folder: Path) -> None:
    there = imported(folder, "run", "w/recipe.yaml", "-w", "w", "--quiet")
    assert not there & {"apache_beam", "torch", "sentence_transformers", "transformers", "sklearn", "duckdb", "pandas"}
    assert not there & {"scipy.stats", "scipy.optimize", "matplotlib"}
