"""Whatever a workspace looks like, a command says in a sentence what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.main import get_command

from prefine.cli.main import app, main

WORDS: dict[str, tuple[str, ...]] = {
    "status": (),
    "judges": (),
    "queue": (),
    "rejects": (),
    "datasets": (),
    "annotations": (),
    "catalog": (),
    "compact": (),
    "sql": ("SELECT count(*) FROM votes",),
    "show": ("my-preferences",),
    "report": ("my-preferences",),
    "verify": ("my-preferences",),
    "audit": ("my-preferences",),
    "diff": ("my-preferences@1", "my-preferences@1"),
    "explain": ("0123",),
    "export": ("my-preferences", "--format", "jsonl", "--out", "out"),
    "prune": ("my-preferences", "--keep", "1", "--dry-run"),
    "labels": ("recipe.yaml",),
    "annotate": ("--annotator", "me", "--out", "answers.jsonl"),
    "run": ("recipe.yaml", "--quiet"),
    "stage": ("fuse", "recipe.yaml", "--quiet"),
}
ELSEWHERE = {"init", "doctor", "schema", "hub-push", "hub-pull"}  # without a workspace, or with a server


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (["init", "w", "--template", "pairs"], ["run", "w/recipe.yaml", "-w", "w", "-q"]):
            patch.setattr("sys.argv", ["prefine", *words])
            with pytest.raises(SystemExit) as stop:
                main()
            assert not stop.value.code
    return folder / "w"


def break_it(how: str, workspace: Path) -> None:
    settings = {
        "list": "[1]",
        "empty object": "{}",
        "no JSON": "not json",
        "word": '{"layout": 1, "n_buckets": "many"}',
    }
    if how in settings:
        (workspace / "workspace.json").write_text(settings[how])
    elif how == "newer layout":
        (workspace / "workspace.json").write_text('{"layout": 99, "n_buckets": 4}')
    elif how == "file":
        shutil.rmtree(workspace)
        workspace.write_text("x")
    elif how == "newer checkpoints":
        for path in (workspace / "stages").glob("*/bucket=*.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    elif how == "checkpoints that are lists":
        for path in (workspace / "stages").glob("*/bucket=*.json"):
            path.write_text("[1]")
    elif how == "newer manifests":
        for path in workspace.glob("datasets/*/*/manifest.json"):
            path.write_text(json.dumps({**json.loads(path.read_text()), "from_the_future": 1}))
    elif how == "parts that are no Parquet":
        for path in (workspace / "tables").rglob("*.parquet"):
            path.write_text("x")
    elif how == "parts that are gone":
        for path in (workspace / "tables").rglob("*.parquet"):
            path.unlink()


BROKEN = (
    *("list", "empty object", "no JSON", "word", "newer layout", "file", "newer checkpoints"),
    *("checkpoints that are lists", "newer manifests", "parts that are no Parquet", "parts that are gone", "nothing"),
)


def test_every_command_is_tried() -> None:
    assert WORDS.keys() | ELSEWHERE == get_command(app).commands.keys()  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_workspace_gets_a_sentence(
    how: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda _: "q")
    for name in ("recipe.yaml", "pairs.jsonl"):
        shutil.copy(good / name, tmp_path / name)
    for number, (command, words) in enumerate(WORDS.items()):
        workspace = tmp_path / f"w{number}"
        if how != "nothing":
            shutil.copytree(good, workspace)
            break_it(how, workspace)
        monkeypatch.setattr("sys.argv", ["prefine", command, *words, "-w", workspace.name])
        with pytest.raises(SystemExit) as stop:  # any other exception would be a traceback
            main()
        code, error = int(stop.value.code or 0), capsys.readouterr().err
        assert code in (0, 1, 2), command
        assert "Traceback" not in error, command
        assert code == 0 or error.startswith("error: ") or command == "verify", (command, error)
        if how == "newer layout":
            assert "layout 99" in error, command


@pytest.mark.parametrize("form", ["file", "dangling link"])
def test_an_export_to_what_is_no_folder_is_wrong_usage(
    form: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("x") if form == "file" else out.symlink_to(tmp_path / "gone")
    words = ("export", "my-preferences", "-w", str(good), "--format", "jsonl", "--out", str(out))
    monkeypatch.setattr("sys.argv", ["prefine", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert str(out) in capsys.readouterr().err


def test_an_empty_workspace_name_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["prefine", "status", "-w", ""])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "--workspace is empty" in capsys.readouterr().err
