"""A server of ours is started on the host whose workers ask it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.runtime.asking import AskingLane, serving
from pipelines.runtime.beam_options import beam_flags, is_local
from pipelines.runtime.job import prepared
from pipelines.runtime.run import run_recipe
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.stage import PerUnit, Run
from pipelines.stages.evolve import EVOLVE
from pipelines.stages.generate import GENERATE
from pipelines.stages.ingest import INGEST
from pipelines.stages.judge import JUDGE
from pipelines.stages.screen import SCREEN
from schemas.recipe import BeamSection, Recipe
from schemas.recipe_file import load_recipe
from tests.pipelines.test_failing_servers import STATES, judging, votes_of
from tests.transforms.engines.test_engines import slow_vllm
from transforms.storage.workspace import Workspace


@pytest.mark.parametrize("given", [[], ["--direct_num_workers=4"], ["--runner=FnApiRunner"]])
def test_workers_are_here_unless_a_runner_says_otherwise(given: list[str]) -> None:
    assert is_local(beam_flags(BeamSection(), given))


@pytest.mark.parametrize("runner", ["DaskRunner", "PortableRunner", "FlinkRunner", "DataflowRunner"])
def test_workers_of_other_runners_may_be_elsewhere(runner: str) -> None:
    assert not is_local(beam_flags(BeamSection(), [f"--runner={runner}"]))


@pytest.mark.parametrize("flags", [("--runner=FnApiRunner",), ("--runner=DaskRunner",)])
def test_a_vllm_of_ours_answers_workers_wherever_they_are(tmp_path: Path, flags: tuple[str, ...]) -> None:
    project = judging(tmp_path, "http://127.0.0.1:1/v1", {}, pairs=4)
    script = slow_vllm(tmp_path, loading_s=0.0)
    vllm = {"plugin": "vllm", "model": "stub", "revision": "r", "executable": str(script)}
    project.recipe["engines"] = {"stub": vllm}
    project.recipe["judge"]["judges"] = [{"plugin": "logprob", "engine": "stub"}]
    run_recipe(project.recipe_path, str(tmp_path / "w"), "clean", None, (), quiet=True)
    recipe = load_recipe(project.recipe_path).recipe
    run = Run(Workspace.open(str(tmp_path / "w")), recipe, tmp_path, None, flags)
    (job, keys), work = prepared(JUDGE, run), JUDGE.work
    assert isinstance(work, PerUnit)
    pending = job.pending(keys)
    with serving(job, work, [bucket for bucket, _ in pending]) as served:
        is_here = is_local(flags)
        assert (tmp_path / "pid").exists() == is_here, "started on the wrong host"
        assert bool(served.endpoints["stub"]) == is_here
        AskingLane(job, work, served)(pending)
    votes = votes_of(project)
    assert votes.height == 8
    assert not votes["label"].is_in(STATES).any()


def test_generators_that_ask_nobody_are_spread_over_the_workers_too(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "Why {n}?"}}\n' for n in range(40)))
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "buckets": 4,
            "beam": {"workers": 3},
            "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
            "generate": {"generators": [{"plugin": "demonstrations", "name": "d", "engines": ["e"]}]},
            "engines": {"e": {"plugin": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}},
        }
    )
    run = Run(Workspace.create(str(tmp_path / "w"), 4), recipe, tmp_path)
    for stage in (INGEST, EVOLVE, SCREEN):
        run_stage(stage, run, quiet=True)
    (job, keys), work = prepared(GENERATE, run), GENERATE.work
    assert isinstance(work, PerUnit)
    vars(job)["setup"] = job.setup._replace(engines={})
    with serving(job, work, [bucket for bucket, _ in job.pending(keys)]) as served:
        assert (served.n_lanes, served.endpoints) == (3, {})
