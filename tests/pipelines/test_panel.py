"""A sequential panel in a whole run: what it does before people have answered, and what it learns when they have."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import RunResult, run_recipe
from tests.pipelines.conftest import Project
from tests.stub_llm import StubServer
from transforms.storage.workspace import Workspace

PAIRS = 40
PAIR = ("pair_id", "source_label")
CAREFUL = 500  # max_tokens of the judge that is always right; the other one guesses


def answer(body: dict[str, Any]) -> str:
    text = str(body["messages"][-1]["content"])
    right = "A" if "fine" in text.split("# Response A")[1].split("# Response B")[0] else "B"
    guess = "AB"[hashlib.sha256(text.encode()).digest()[0] % 2]
    return json.dumps({"reasoning": "", "verdict": right if body["max_tokens"] == CAREFUL else guess})


def project_of(folder: Path, url: str) -> Project:
    rows = [{"prompt": f"question {n}", "chosen": f"a fine answer {n}", "rejected": f"none {n}"} for n in range(PAIRS)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answers.jsonl").write_text("")
    judges = [{"name": "guessing", "max_tokens": 100}, {"name": "careful", "max_tokens": CAREFUL}]
    recipe = {
        "name": "small",
        "buckets": 2,
        "sources": [{"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub"}},
        "judge": {
            "judges": [{**judge, "plugin": "json_verdict", "engine": "stub"} for judge in judges],
            "panel": {"stop_certainty": 0.85},
        },
        "annotate": {"files": ["answers.jsonl"]},
    }
    return Project(folder, url, recipe)


def run(project: Project) -> RunResult:
    return run_recipe(project.recipe_path, str(project.folder / "w"), None, None, (), quiet=True)


def judged(project: Project) -> dict[str, int]:
    """Pairs with a vote, by judge."""
    votes = table_frame(Workspace.open(str(project.folder / "w")), "votes").collect()
    by_judge = votes.filter(pl.col("kind") == "judge").group_by("voter").agg(pl.col("pair_id").n_unique())
    return dict(by_judge.iter_rows())


def people_answer(project: Project, count: int) -> None:
    """Right answers to the pairs with the lowest ids."""
    pairs = table_frame(Workspace.open(str(project.folder / "w")), "pairs").collect().sort("pair_id").head(count)
    who = {"annotator": "ann", "updated_at": "2026-01-01T00:00:00Z"}
    lines = [{"pair_id": pair_id, "label": label, **who} for pair_id, label in pairs.select(PAIR).iter_rows()]
    (project.folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_panel_without_answers_says_so_and_one_with_them_learns_whom_to_ask(tmp_path: Path) -> None:
    with StubServer(reply=answer) as stub:
        project = project_of(tmp_path, stub.url)
        first = run(project)
        assert any("panel is untrained" in note and "0.70 at most" in note for note in first.notes)
        assert judged(project) == {"careful": PAIRS, "guessing": PAIRS}
        asked = sum(stub.stub.received.values())

        people_answer(project, 5)  # too few to learn from: nobody is asked again
        few = run(project)
        assert any("panel is untrained" in note for note in few.notes)
        assert judged(project) == {"careful": PAIRS, "guessing": PAIRS}

        people_answer(project, 30)
        second = run(project)
        assert not any("untrained" in note for note in second.notes)
        assert judged(project) == {"careful": PAIRS}
        assert second.published

        third = run(project)
        assert not third.published
        assert judged(project) == {"careful": PAIRS}
        assert sum(stub.stub.received.values()) == asked, "the panel bought an answer again"
