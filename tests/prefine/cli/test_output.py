"""Data is shown as the text it is: no square bracket vanishes or is an error, no character commands the terminal."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefine.cli.main import app, main
from prefine.cli.output import PlainFormatter, print_json, print_table, say
from transforms.text.plain import HIDDEN, escaped

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("[]/\\:!@\x1b\x9b\u202erxbINST\n\r\t ")
MARKS = ["[/x]", "[red]x[/red]", "[/]", "[link=http://x]y", ":smile:", "x[0]", "\\[b]", "[bold"]
HOSTILE = f"{' '.join(MARKS)} \x1b[2J\x1b]0;title\x07 \u202etxet\u202c \x9b31m"
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def is_plain(text: str) -> bool:
    return not HIDDEN.search(text) and "\r" not in text.replace("\r\n", "")


@FIXTURES
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), TEXT, TEXT)
def test_a_table_holds_any_text(
    capsys: pytest.CaptureFixture[str], rows: list[tuple[str, str]], title: str, column: str
) -> None:
    print_table(title, (column, "second"), rows)
    assert is_plain(capsys.readouterr().out)


@pytest.mark.parametrize("mark", [*MARKS, "\x1b[31mred", "a\x07b", "\u202eevil", "over\rwritten"])
def test_every_mark_is_shown(mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(mark, (f"c{mark}", "d"), [(f"x{mark}", 1), ("y", 2)])
    say(f"z{mark}")
    shown = capsys.readouterr().out
    for text in (f"x{escaped(mark)}", f"c{escaped(mark)}", f"z{escaped(mark)}"):
        assert text in shown
    assert is_plain(shown)


@FIXTURES
@given(st.dictionaries(TEXT, TEXT | st.integers(-(2**53), 2**53) | st.none(), max_size=4))
def test_json_says_the_same_in_characters_that_command_nothing(
    capsys: pytest.CaptureFixture[str], value: dict[str, Any]
) -> None:
    print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert is_plain(printed)


def test_log_lines_are_text() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "engine %s", (HOSTILE,), None)
    assert is_plain(PlainFormatter("%(message)s").format(record))


def prefine(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prefine", *words])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_every_command_shows_hostile_data_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    good = {"chosen": f"Blue {HOSTILE}", "rejected": "Seven.", "kind": HOSTILE, "user_id": HOSTILE}
    voted = {"people": ["a", "b"], "names": [HOSTILE, "[/x]"], "judged": [{"judge": HOSTILE, "label": "a"}]}
    rows = [{**good, **voted, "prompt": f"Say {n} marks."} for n in range(6)]
    rows.append({**good, **voted, "prompt": "bad", "chosen": "Blue. [/INST]"})
    rows.append({**good, **voted, "prompt": f"No {HOSTILE}.", "chosen": 7})
    recipe = {
        "name": "small",
        "buckets": 1,
        "sources": [
            {
                **{"name": "[/rows] \x1b[31m", "kind": "pairs", "path": "rows.jsonl", "max_reject_share": 0.9},
                "votes": [
                    {"kind": "human", "labels": "people", "voters": "names"},
                    {"kind": "judge", "column": "judged"},
                ],
            }
        ],
        "hygiene": {"sanity": {}},
        "score": {"scorers": [{"plugin": "length"}]},
        "fuse": {"policy": {"plugin": "posterior", "doubtful": "soften"}},  # so few people leave every label in doubt
        "route": {"queue": {"budget": 3}},
    }
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert prefine(monkeypatch, "run", "recipe.yaml", "-w", "w") == 0
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "seed": 1}))
    assert prefine(monkeypatch, "run", "recipe.yaml", "-w", "w", "-q") == 0
    capsys.readouterr()
    assert prefine(monkeypatch, "sql", "SELECT pair_id FROM pairs ORDER BY ALL LIMIT 1", "-w", "w", "--json") == 0
    pair = json.loads(capsys.readouterr().out)[0]["pair_id"]
    texts = 'SELECT prompt[1].content AS "[/p]", response_a[1].content AS "[red]a", kind FROM pairs'
    commands: dict[str, tuple[str, ...]] = {
        "status": (),
        "judges": (),
        "datasets": (),
        "show": ("small",),
        "explain": (pair,),
        "rejects": (),
        "queue": (),
        "sql": (texts,),
        "diff": ("small@1", "small@2", "--slice-by", "kind"),
        "verify": ("small",),
        "annotations": (),
        "labels": ("recipe.yaml",),
        "catalog": (),
    }
    for command, words in commands.items():
        for form in ((), ("--json",)):
            assert prefine(monkeypatch, command, *words, "-w", "w", *form) == 0, command
            out, err = capsys.readouterr()
            assert is_plain(out + err), command
            if command == "rejects":
                assert "[/INST]" in out
            if command == "sql" and not form:
                assert all(mark in out for mark in [*MARKS, "[/p]", "[red]a", "\\u001b[2J"])
            if command == "explain" or (command == "judges" and form):
                assert "[/x]" in out, command
    for words in (
        ("explain", HOSTILE, "-w", "w"),
        ("show", HOSTILE, "-w", "w"),
        ("sql", 'SELECT "[/x]\x1b[2J" FROM pairs', "-w", "w"),
        ("stage", HOSTILE, "recipe.yaml", "-w", "w"),
        ("run", f"{HOSTILE}.yaml", "-w", "w"),
        ("diff", "small@1", "small@2", "--slice-by", HOSTILE, "-w", "w"),
    ):
        assert prefine(monkeypatch, *words) == 2, words
        out, err = capsys.readouterr()
        assert is_plain(out + err), words
        assert "[/x]" in out + err, words


def test_the_help_shows_its_square_brackets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        assert prefine(monkeypatch, name, "--help") == 0
        shown = "".join(capsys.readouterr().out.split())
        for parameter in command.params:
            for word in (getattr(parameter, "help", None) or "").split():
                if "[" in word:
                    assert word in shown, (name, word)
