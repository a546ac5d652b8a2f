"""`prefine init`: every template is a recipe that runs as printed; those without a model run here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import get_args

import pytest

from prefine.cli.main import main
from prefine.cli.setup import Template


def prefine(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["prefine", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def next_command(printed: str) -> list[str]:
    """The words after `prefine` of the command that init ends with."""
    command = printed.rpartition("next:")[2].strip()
    program, *words = shlex.split(command)
    assert program == "prefine"
    return words


@pytest.mark.parametrize("template", get_args(Template))
def test_what_init_prints_works(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prefine(monkeypatch, "init", "mine", "--template", template) == 0
    words = next_command(capsys.readouterr().out)
    asks_models = template == "prompts"
    assert prefine(monkeypatch, *words, "--json", *(("--dry-run",) if asks_models else ())) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    if asks_models:
        assert printed["expected_pairs"] > 0
        return
    assert printed["published"]
    assert printed["stages"][-1]["rows_out"] > 0
    assert Path(printed["exports"]["trl-dpo"]).is_dir()
    capsys.readouterr()
    assert prefine(monkeypatch, "queue", "-w", "mine") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(len(line) <= 80 for line in lines)
    assert prefine(monkeypatch, "init", "mine") == 2


def test_answers_become_votes_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prefine(monkeypatch, "init", "mine", "--template", "people") == 0
    run = ("run", "mine/recipe.yaml", "-w", "mine", "--json")
    assert prefine(monkeypatch, *run) == 0
    keys = iter(["a", "b", "t"])

    def typed(_: str) -> str:
        key = next(keys, None)
        if key is None:
            raise KeyboardInterrupt
        return key

    monkeypatch.setattr("builtins.input", typed)
    out = ("--annotator", "me", "--out", "mine/answers.jsonl", "--rows", "5")
    assert prefine(monkeypatch, "annotate", "-w", "mine", *out) == 0
    assert len(Path("mine/answers.jsonl").read_text().splitlines()) == 3
    capsys.readouterr()
    assert prefine(monkeypatch, *run) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    pulled = next(stage for stage in result["stages"] if stage["stage"] == "pull")
    assert (pulled["rows_in"], pulled["rows_out"]) == (3, 3)
