"""Stages as values: their functions on frames, without a workspace, and the one way in which all of them are run."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runtime.hygiene import DROPS_FILE, Hygiene, row_keys
from pipelines.runtime.job import prepared
from pipelines.runtime.order import RUN_ORDER, STAGES
from pipelines.runtime.run_stage import run_stage
from pipelines.runtime.stage import CURRENT, Fit, Inputs, PerBucket, Run, Stage, pass_name
from pipelines.stages.clean import PAIRS, clean_pairs
from pipelines.stages.evolve import new_prompts
from pipelines.stages.fuse import FUSED_COLUMNS, Fusion, fit_fusion, verdicts
from pipelines.stages.generate import new_pairs
from pipelines.stages.ingest import deduplicated
from pipelines.stages.judge import Judges, all_votes, panel_from_labels, panel_labels, prompt_units
from pipelines.stages.materialise import Materials, split_rows
from pipelines.stages.pull import Answered, bucket_answers
from pipelines.stages.push import Asked, pairs_asked
from pipelines.stages.score import Scorers, scores
from schemas.errors import WorkspaceError
from schemas.ids import hash_fields
from schemas.messages import message
from schemas.pairs import make_pair
from schemas.recipe import FuseSection, PanelSection, PluginUse, Recipe
from schemas.rows import vote_row
from schemas.tables import (
    TABLES,
    Annotations,
    Pairs,
    Prompts,
    Queue,
    Rejects,
    Row,
    Votes,
    polars_schema,
    primary_key,
    rows_frame,
)
from transforms.annotate.checked import Answers
from transforms.fusers.base import Fuser
from transforms.generators.base import Yield
from transforms.hygiene.config import HygieneConfig
from transforms.hygiene.duplicates import DROPS
from transforms.judges.base import Judge
from transforms.judges.panel.sequential import PanelModel
from transforms.llm.request import Reply, Request
from transforms.plugins.build import build
from transforms.policies.base import Policy
from transforms.publish.rows import RowsConfig
from transforms.publish.splits import SplitsConfig, assign_parts, prompt_keys, remembered
from transforms.scorers.base import Scorer
from transforms.storage.files import parquet_bytes
from transforms.storage.workspace import Output, Workspace


def pending(stage: Stage[Any], run: Run) -> list[int]:
    job, keys = prepared(stage, run)
    return [bucket for bucket, _ in job.pending(keys)]


class Frames(Inputs):
    """Tables of a bucket that a test gives, each read by the stages that the reader says."""

    def __init__(self, reads: Mapping[str, tuple[str, ...]], bucket: int = 0, **tables: pl.DataFrame) -> None:
        super().__init__(bucket, reads)
        self.tables = tables

    def read(self, table: str, columns: Sequence[str] | None = None, stage: str | None = None) -> pl.DataFrame:
        key, stages = primary_key(TABLES[table]), self.stages(table, stage)
        frame = self.tables[table].sort(key)
        frame = frame if columns is None else frame.select(list(dict.fromkeys([key, *columns])))
        return frame if stages[0] == self.reads[table][0] else frame.clear()

    def parts(self, table: str) -> list[str]:
        return [f"{table}.parquet"] if self.stages(table) else []


def pair(n: int, prompt: str = "How do tides work?") -> Row:
    """The first response is the longer one."""
    made, _ = make_pair(
        [message("user", prompt)],
        [message("assistant", f"The moon pulls, says {n}.")],
        [message("assistant", f"Wind {n}.")],
    )
    return {**made, "origin": "source", "group_id": made["prompt_id"], "source_label": "a"}


def vote(row: Row, voter: str, label: str, kind: str = "human") -> Row:
    return vote_row(hash_fields(row["pair_id"], voter), row["pair_id"], voter, kind, label)


def of(stage: str, bucket: int = 0, **tables: pl.DataFrame) -> Frames:
    return Frames(STAGES[stage].reads, bucket, **tables)


def pairs_of(*numbers: int) -> pl.DataFrame:
    return rows_frame([pair(n) for n in numbers], Pairs)


def built(kind: Any, name: str, **settings: Any) -> Any:
    return build(kind, PluginUse.model_validate({"plugin": name, **settings}), 0, Path())


def fusion() -> Fusion:
    section = FuseSection()
    return Fusion(build(Fuser, section.fuser, 0, Path()), build(Policy, section.policy, 0, Path()), 1000)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_travels_by_the_names_of_its_functions(name: str) -> None:
    travelled = pickle.loads(pickle.dumps(STAGES[name]))
    assert (travelled.name, travelled.reads) == (name, STAGES[name].reads)
    assert travelled.setup is STAGES[name].setup


def test_every_stage_runs_and_reads_what_earlier_stages_make() -> None:
    assert sorted(RUN_ORDER) == sorted(STAGES)
    earlier: set[str] = set()
    for name in RUN_ORDER:
        read = {stage for stages in STAGES[name].reads.values() for stage in stages}
        # A vote of a judge of the run before may be an input of pull's successors, never of itself.
        assert read <= earlier | {"judge", "score", "pull"}, name
        earlier.add(name)


def test_a_table_that_a_stage_does_not_name_cannot_be_read() -> None:
    with pytest.raises(KeyError):
        of("judge", votes=pl.DataFrame()).read("votes")


def test_ingest_keeps_one_of_equal_rows_and_counts_every_row() -> None:
    rows = rows_frame([pair(1), pair(1), pair(2)], Pairs)
    empty = {"prompts": rows_frame([], Prompts), "votes": rows_frame([], Votes), "rejects": rows_frame([], Rejects)}
    output = deduplicated({**empty, "pairs": rows})
    assert output.tables["pairs"]["pair_id"].to_list() == sorted({pair(1)["pair_id"], pair(2)["pair_id"]})
    assert output.rows_in == output.rows_out + output.tables["rejects"].height == 3


def test_generators_keep_the_first_of_equal_rows_and_reject_the_others() -> None:
    made = new_pairs([("one", Yield(pairs=[pair(1)])), ("two", Yield(pairs=[pair(1), pair(2)]))])
    assert made.rows_in == 3 == made.rows_out + made.tables["rejects"].height
    assert made.tables["rejects"]["stage"].to_list() == ["generate/two"]
    assert set(made.tables["votes"]["label"]) == {"a"}
    prompt = {"prompt_id": "0" * 32, "prompt": [message("user", "Why?")], "meta": None}
    evolved = new_prompts([("one", Yield(prompts=[prompt, prompt]))])
    assert (evolved.rows_in, evolved.rows_out) == (2, 1)


def hygiene(**config: Any) -> Hygiene:
    given = HygieneConfig.model_validate(config)
    return Hygiene(PAIRS, given, given, gains=False, embed=lambda texts: pytest.fail("nobody wants vectors"))


def test_without_hygiene_a_bucket_names_the_parts_of_its_input() -> None:
    output = clean_pairs(hygiene(), of("clean", pairs=pairs_of(1, 2)), {})
    assert output.parts == {"pairs": ["pairs.parquet"]}
    assert output.rows == {"pairs": 2}
    assert not output.tables


def test_what_duplicates_something_is_rejected_and_the_rest_stays() -> None:
    both, inputs = hygiene(duplicates={}), of("clean", pairs=pairs_of(1, 2), votes=rows_frame([], Votes))
    keys = row_keys(both, inputs, {})
    first, second = keys["record"].to_list()
    duplicate = {"id": second, "reason": "near_duplicate", "kept_id": first, "similarity": 0.9}
    drops = pl.DataFrame([duplicate], schema=DROPS)
    artefacts = {DROPS_FILE: parquet_bytes(drops), pass_name(0): parquet_bytes(keys)}
    output = clean_pairs(both, inputs, artefacts)
    assert output.tables["pairs"].height == 1
    assert output.tables["rejects"]["reason"].to_list() == ["near_duplicate"]
    nothing = {DROPS_FILE: parquet_bytes(drops.clear()), pass_name(0): parquet_bytes(keys)}
    assert clean_pairs(both, inputs, nothing).rows == {"pairs": 2}


async def says_a(request: Request) -> Reply:
    return Reply(request.request_id, "ok", "A", finish_reason="stop", logprobs=[{"A": -0.1, "B": -2.4}])


def judges(**panel: Any) -> Judges:
    made = (built(Judge, "logprob", engine="e"),)
    for judge in made:
        judge.bind({"e": "m"}, {"e": 4096})
    return Judges(made, {}, PanelSection(**panel), None, 0)


def test_a_judge_s_units_are_its_prompts_and_give_a_vote_in_both_orders() -> None:
    rows = rows_frame([pair(1), pair(2), pair(3, "Why is the sea salt?")], Pairs)
    inputs, panel = of("judge", pairs=rows), judges()
    units = prompt_units(panel, inputs, {}, says_a)
    assert len(units) == 2
    output = all_votes(panel, inputs, [asyncio.run(unit()) for unit in units])  # type: ignore[arg-type]
    assert output.rows_in == output.rows_out == 3
    assert output.tables["votes"].group_by("pair_id").len()["len"].to_list() == [2, 2, 2]
    assert set(output.tables["votes"]["order"]) == {"ab", "ba"}


LABELS = st.lists(st.sampled_from(["a", "b", "tie"]), min_size=1, max_size=5)


@given(st.lists(LABELS, min_size=20, max_size=25), st.randoms())
def test_labels_for_a_panel_depend_on_the_votes_alone(labels: list[list[str]], random: Any) -> None:
    rows = [{"pair_id": f"{n:032}", "kind": "human", "label": label} for n, own in enumerate(labels) for label in own]
    found = panel_labels(pl.DataFrame(rows), 1000)
    random.shuffle(rows)
    assert panel_labels(pl.DataFrame(rows), 1000) == found
    swapped = [{**row, "label": {"a": "b", "b": "a"}.get(row["label"], row["label"])} for row in rows]
    mirrored = panel_labels(pl.DataFrame(swapped), 1000)
    assert (mirrored is None) == (found is None)
    if found is not None and mirrored is not None:
        assert {pair_id: 1.0 - label for pair_id, label in found.items()} == mirrored


def test_a_panel_is_fitted_on_labelled_pairs_and_read_again_to_the_bit() -> None:
    rows = [pair(n) for n in range(40)]
    setup = judges(stop_certainty=0.9)._replace(labels={row["pair_id"]: float(n % 2) for n, row in enumerate(rows)})
    results = [
        (row["prompt_id"], [vote(row, setup.names[0], "ab"[n % 2], "judge") | {"p_a": 0.2 + 0.6 * (n % 3 > 0)}])
        for n, row in enumerate(rows)
    ]
    stored = panel_from_labels(setup, results)
    assert PanelModel.from_json(stored).to_json() == stored
    assert panel_from_labels(setup, results[:5]) == b""


def test_scorers_see_only_what_they_ask_for() -> None:
    length = built(Scorer, "length")
    inputs = of("score", pairs=pairs_of(1, 2), votes=rows_frame([], Votes))
    output = scores(Scorers((length,), 10), inputs, {"length": length.fit(inputs.read("pairs"), inputs.read("votes"))})
    assert output.counts["votes"] == output.rows_in == 2


def test_fusing_frames_gives_every_pair_one_verdict() -> None:
    rows = [pair(n) for n in range(12)]
    pairs = rows_frame(rows, Pairs)
    votes = rows_frame([vote(row, f"h{i}", "ab"[n % 2]) for n, row in enumerate(rows) for i in range(3)], Votes)
    both = fusion()
    artefacts = fit_fusion(both, pairs.select("pair_id", *FUSED_COLUMNS).with_columns(drawn=True), votes)
    output = verdicts(both, of("fuse", pairs=pairs, votes=votes), artefacts)
    assert output.tables["verdicts"]["pair_id"].to_list() == sorted(row["pair_id"] for row in rows)
    assert output.rows_in == output.rows_out == 12
    assert not verdicts(both, of("fuse", pairs=pairs.clear(), votes=votes), artefacts).tables


def test_materialising_frames_gives_rows_or_rejects() -> None:
    rows = [pair(n) for n in range(6)]
    pairs, both = rows_frame(rows, Pairs), fusion()
    votes = rows_frame([vote(row, f"h{i}", "a") for row in rows for i in range(3)], Votes)
    artefacts = fit_fusion(both, pairs.select("pair_id", *FUSED_COLUMNS).with_columns(drawn=True), votes)
    fused = verdicts(both, of("fuse", pairs=pairs, votes=votes), artefacts).tables["verdicts"]
    splits, inputs = SplitsConfig(), of("materialise", pairs=pairs, verdicts=fused)
    keys = prompt_keys(pairs, fused.select("pair_id", "action"), splits)
    (part,) = assign_parts(lambda: [remembered(keys, None)], splits, 0)
    output = split_rows(Materials(splits, RowsConfig(), 0, {}), inputs, {"splits-0000.parquet": parquet_bytes(part)})
    assert output.rows_in == 6 == output.rows_out + output.tables["rejects"].height


def test_answers_lie_with_their_pairs_and_rejects_in_the_first_bucket() -> None:
    answer = {
        "annotation_id": "1" * 32,
        "task_id": "7",
        "pair_id": pair(1)["pair_id"],
        "annotator": "ada",
        "label": "a",
        "control": False,
        "cancelled": False,
        "updated_at": "2026-01-01T00:00:00Z",
    }
    reject = {"reject_id": "2" * 32, "stage": "pull", "reason": "unknown_pair", "record_id": "x", "payload": "{}"}
    answers = Answers(rows_frame([answer], Annotations), rows_frame([reject], Rejects))
    setup = Answered(answers, [], pl.DataFrame(schema=polars_schema(Queue)))
    first = bucket_answers(setup, of("pull", 0, pairs=pairs_of(1)), {})
    second = bucket_answers(setup, of("pull", 1, pairs=pairs_of(2)), {})
    assert (first.tables["annotations"].height, first.tables["rejects"].height) == (1, 1)
    assert (second.tables["annotations"].height, second.tables["rejects"].height) == (0, 0)


def test_a_pair_is_asked_about_if_it_has_a_task() -> None:
    queue = pl.DataFrame({"pair_id": ["1"], "rank": [0]})
    inputs = of("push", queue=queue)
    assert pairs_asked(Asked([], pl.DataFrame({"pair_id": ["1", "2"]})), inputs, {}).counts == {"asked": 1}
    assert pairs_asked(Asked([], pl.DataFrame({"pair_id": ["2"]})), inputs, {}).counts == {"asked": 0}


class Nothing:
    """A setup without plug-ins."""

    identity = None


def recipe(name: str, buckets: int) -> Recipe:
    source = {"name": "s", "kind": "pairs", "path": "s.jsonl"}
    return Recipe.model_validate({"name": name, "buckets": buckets, "sources": [source]})


def _nothing(_: Run) -> Nothing:
    return Nothing()


def _drops_a_row(_: Nothing, inputs: Inputs, __: Mapping[str, bytes]) -> Output:
    n = inputs.read("pairs", []).height - 1
    return Output(rows_in=n, rows_out=n)


def test_rows_that_are_lost_between_two_stages_end_the_run(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), 1)
    workspace.commit("clean", 0, "key", Output({"pairs": pairs_of(1, 2)}, rows_in=2, rows_out=2), 0.0)
    run = Run(workspace, recipe("r", 1), tmp_path)
    losing = Stage("fuse", 1, {"pairs": ("clean",)}, _nothing, PerBucket(_drops_a_row), conserves="pairs")
    with pytest.raises(WorkspaceError, match="gave 2 rows of pairs and 1 were taken"):
        run_stage(losing, run, quiet=True)
    assert workspace.checkpoint("fuse", 0) is None
    assert pending(losing, run) == [0]


def _names(_: Run, __: Nothing) -> tuple[str, ...]:
    return ("one", "two")


def _make(run: Run, _: Nothing, artefacts: Any) -> Iterator[tuple[str, bytes]]:
    assert "one" not in artefacts
    yield "one", b"1"
    yield "two", str(len(run.recipe.name)).encode()


def _adds_up(_: Nothing, inputs: Inputs, artefacts: Mapping[str, bytes]) -> Output:
    n = inputs.read("pairs", []).height
    return Output(rows_in=n, rows_out=n, counts={"sum": int(artefacts["one"]) + int(artefacts["two"])})


def test_a_fit_is_made_once_and_every_bucket_depends_on_all_inputs(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), 2)
    for bucket in workspace.buckets:
        workspace.commit("clean", bucket, "key", Output({"pairs": pairs_of(bucket)}, rows_in=1, rows_out=1), 0.0)
    run = Run(workspace, recipe("four", 2), tmp_path)
    stage = Stage("fuse", 1, {"pairs": ("clean",)}, _nothing, PerBucket(_adds_up), steps=(Fit(_names, _make),))
    assert run_stage(stage, run, quiet=True).summary.counts == {"sum": 10}
    assert pending(stage, run) == []
    workspace.commit("clean", 1, "key", Output({"pairs": pairs_of(7, 8)}, rows_in=2, rows_out=2), 0.0)
    assert pending(stage, run) == [0, 1]


def test_a_fit_of_other_settings_that_broke_off_is_not_behind_the_checkpoints(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"), 1)
    workspace.commit("clean", 0, "key", Output({"pairs": pairs_of(1)}, rows_in=1, rows_out=1), 0.0)
    run = Run(workspace, recipe("four", 1), tmp_path)
    stage = Stage("fuse", 1, {"pairs": ("clean",)}, _nothing, PerBucket(_adds_up), steps=(Fit(_names, _make),))
    run_stage(stage, run, quiet=True)
    current = workspace.read_artefact("fuse", CURRENT)
    workspace.write_artefact("fuse", CURRENT, b"the fit of a run that was killed")
    run_stage(stage, run, quiet=True)
    assert workspace.read_artefact("fuse", CURRENT) == current
