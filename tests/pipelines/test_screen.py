"""Prompts are cleaned before anything is generated from them: nothing lost, nothing twice, whatever the buckets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.runtime.job import prepared
from pipelines.runtime.order import RUN_ORDER
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.stage import Run, Stage
from pipelines.runtime.summary import Summary
from pipelines.stages.evolve import EVOLVE
from pipelines.stages.generate import GENERATE
from pipelines.stages.ingest import INGEST
from pipelines.stages.screen import SCREEN
from schemas.ids import bucket_of
from schemas.messages import message, messages_id
from schemas.recipe import Recipe
from schemas.tables import Prompts, rows_frame
from tests.pipelines.conftest import Project
from transforms.storage.workspace import Output, Workspace

TIDES = (
    "Explain to a child in simple words why the sea at our harbour rises and falls twice on almost every single day."
)
BENCHMARK = "A ship leaves the harbour at noon and sails north at twelve knots for three hours; how far has it come?"
GIVEN = [
    TIDES,
    TIDES + " Please.",
    f"Solve this. {BENCHMARK} Show your steps.",
    "Write to anna@example.org about the harbour.",
    "What do gulls eat in the winter when the boats stay at home?",
    *(f"Name {i} things that a sailor of rank {i * i} keeps in box number {i + 7}." for i in range(12)),
]
EVOLVED = [
    (GIVEN[4], TIDES + " Thank you."),  # a given prompt goes before an evolved one, whichever id is smaller
    (GIVEN[5], "Describe the work of a harbour master on a foggy morning in late autumn."),
    (GIVEN[6], "Describe the work of a harbour master on a foggy morning in late autumn."),
    (
        GIVEN[7],
        f"Read this with care, since a clerk of the port will ask you about it twice before you go home: {BENCHMARK}",
    ),
    (GIVEN[8], "How would you teach a landsman to tie five knots in an hour?"),
]
HYGIENE = {"duplicates": {"threshold": 0.7}, "personal": {"policy": "drop"}}


def pending(stage: Stage[Any], run: Run) -> list[int]:
    job, keys = prepared(stage, run)
    return [bucket for bucket, _ in job.pending(keys)]


def prompt_id(text: str) -> str:
    return messages_id([message("user", text)])


def evolved_row(seed: str, text: str) -> dict[str, Any]:
    meta = json.dumps({"evolution": {"evolved_from": prompt_id(seed)}})
    row = {"prompt_id": prompt_id(text), "prompt": [message("user", text)], "group_id": prompt_id(seed), "meta": meta}
    return {**dict.fromkeys(Prompts.columns()), **row}


def recipe_in(folder: Path, buckets: int, hygiene: dict[str, Any], evolves: bool) -> Recipe:
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in GIVEN))
    (folder / "benchmark.txt").write_text(BENCHMARK + "\n")
    generators = [{"plugin": "prompt_evolve", "engine": "e"}] if evolves else []
    return Recipe.model_validate(
        {
            "name": "screened",
            "buckets": buckets,
            "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
            "engines": {"e": {"plugin": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}},
            "hygiene": hygiene,
            "generate": {"generators": generators},
        }
    )


def screened(folder: Path, buckets: int, hygiene: dict[str, Any], evolves: bool = True) -> tuple[Workspace, Summary]:
    recipe = recipe_in(folder, buckets, hygiene, evolves)
    workspace = Workspace.create(str(folder / f"w{buckets}"), buckets)
    run = Run(workspace, recipe, folder)
    run_stage(INGEST, run, quiet=True)
    for bucket in workspace.buckets if evolves else ():
        rows: dict[str, dict[str, Any]] = {}
        for seed, text in sorted(EVOLVED, key=lambda item: prompt_id(item[0])):
            if bucket_of(prompt_id(seed), buckets) == bucket:
                rows.setdefault(prompt_id(text), evolved_row(seed, text))
        output = Output({"prompts": rows_frame(list(rows.values()), Prompts)})
        workspace.commit("evolve", bucket, "made by the test", output, 0.0)
    return workspace, run_stage(SCREEN, run, quiet=True).summary


def texts(workspace: Workspace) -> set[str]:
    frames = [workspace.read("prompts", bucket, ("screen",)) for bucket in workspace.buckets]
    found = [prompt[0]["content"] for frame in frames for prompt in frame["prompt"]]
    assert len(found) == len(set(found))
    return set(found)


def rejected(workspace: Workspace) -> pl.DataFrame:
    return pl.concat([workspace.read("rejects", bucket, ("screen",)) for bucket in workspace.buckets])


@pytest.mark.parametrize("buckets", [1, 3, 8])
def test_what_stays_does_not_depend_on_the_buckets(tmp_path: Path, buckets: int) -> None:
    hygiene = {**HYGIENE, "decontamination": {"benchmarks": [str(tmp_path / "benchmark.txt")]}}
    workspace, summary = screened(tmp_path, buckets, hygiene)
    left, gone = texts(workspace), rejected(workspace)
    assert left == {min(TIDES, TIDES + " Please.", key=prompt_id), *GIVEN[4:], EVOLVED[1][1], EVOLVED[4][1]}
    reasons = dict(gone["reason"].value_counts().iter_rows())
    twice = bucket_of(prompt_id(EVOLVED[1][0]), buckets) != bucket_of(prompt_id(EVOLVED[2][0]), buckets)
    expected = {"near_duplicate": 2, "contaminated": 2, "personal_data": 1, "exact_duplicate": int(twice)}
    assert reasons == {reason: n for reason, n in expected.items() if n}
    assert summary.rows_in == summary.rows_out + gone.height
    assert set(gone["record_id"]).isdisjoint({prompt_id(t) for t in left} - {prompt_id(EVOLVED[1][1])})


def test_of_equal_evolved_prompts_that_of_the_smallest_seed_stays(tmp_path: Path) -> None:
    seeds = min(prompt_id(EVOLVED[1][0]), prompt_id(EVOLVED[2][0]))
    workspace, _ = screened(tmp_path, 64, {})
    found = pl.concat([workspace.read("prompts", bucket, ("screen",)) for bucket in workspace.buckets])
    assert found.filter(pl.col("prompt_id") == prompt_id(EVOLVED[1][1]))["group_id"].to_list() == [seeds]


def test_without_hygiene_and_evolution_nothing_is_copied(tmp_path: Path) -> None:
    workspace, summary = screened(tmp_path, 2, {}, evolves=False)
    assert texts(workspace) == set(GIVEN)
    assert summary.rows_in == summary.rows_out == len(GIVEN)
    for bucket in workspace.buckets:
        assert workspace.parts("prompts", bucket, ("screen",)) == workspace.parts("prompts", bucket, ("ingest",))


def test_a_changed_benchmark_is_read_again(tmp_path: Path) -> None:
    hygiene = {"decontamination": {"benchmarks": [str(tmp_path / "benchmark.txt")]}}
    workspace, _ = screened(tmp_path, 2, hygiene, evolves=False)
    recipe = recipe_in(tmp_path, 2, hygiene, evolves=False)
    assert pending(SCREEN, Run(workspace, recipe, tmp_path)) == []
    (tmp_path / "benchmark.txt").write_text("What do gulls eat in the winter when the boats stay at home?\n")
    assert pending(SCREEN, Run(workspace, recipe, tmp_path)) == [0, 1]


def test_nobody_is_asked_about_a_prompt_that_goes_and_evolved_ones_are_asked_about(project: Project) -> None:
    lines = [{"prompt": TIDES}, {"prompt": TIDES + " Please."}, {"prompt": GIVEN[4]}]
    (project.folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    project.recipe["hygiene"] = {"duplicates": {"threshold": 0.7}}
    sample = {"plugin": "sample_n", "engines": ["stub"], "n": 2, "max_tokens": 16}
    project.recipe["generate"] = {"generators": [sample, {"plugin": "prompt_evolve", "engine": "stub", "k": 1}]}
    result = project.run("w", "--until", "generate")
    assert [stage["stage"] for stage in result["stages"]] == list(RUN_ORDER[: RUN_ORDER.index("generate") + 1])
    for stage in result["stages"]:
        assert stage["rows_in"] == stage["rows_out"] + sum(stage["rejects"].values()), stage
    workspace = Workspace.open(str(project.folder / "w"))
    kept = {row["prompt_id"] for b in workspace.buckets for row in workspace.read("prompts", b, ("screen",)).to_dicts()}
    assert len(kept & {prompt_id(line["prompt"]) for line in lines}) == 2
    pairs = pl.concat([workspace.read("pairs", bucket, ("generate",)) for bucket in workspace.buckets])
    assert set(pairs["prompt_id"]) == kept


def test_generate_alone_brings_the_prompts_up_to_date(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, 2, {"duplicates": {"threshold": 0.7}}, evolves=False)
    workspace = Workspace.create(str(tmp_path / "w"), 2)
    run = Run(workspace, recipe, tmp_path)
    run_stage(INGEST, run, quiet=True)
    run_stage(GENERATE, run, quiet=True)
    assert len(texts(workspace)) == len(GIVEN) - 1
    assert pending(EVOLVE, run) == []
