"""Rankings through a real Label Studio: raters rank four translations at once, and every pair is answered."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from pipelines.runtime.annotation import ledger, rankings
from schemas.messages import text_of
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.pipelines.conftest import Project
from tests.transforms.annotate.replay import Person, choices
from transforms.annotate.label_studio import LabelStudioServer
from transforms.annotate.ranking import rankings_by_id
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

PROMPTS, RESPONSES = 5, 4

Said = dict[tuple[str, str], list[str]]  # (text, text) -> what each rater prefers, a the first


def segments(data: Path) -> tuple[pl.DataFrame, Said]:
    """Rows among the first four translations of five sentences, and what three raters said of every two."""
    rows = pl.read_parquet(data / "wmt23_mqm_sxs_ende.parquet")
    kept, said = [], {}
    for prompt in rows["prompt"].unique(maintain_order=True):
        mine = rows.filter(pl.col("prompt") == prompt)
        texts = sorted({*mine["response_a"], *mine["response_b"]})[:RESPONSES]
        mine = mine.filter(pl.col("response_a").is_in(texts), pl.col("response_b").is_in(texts))
        raters = {tuple(names) for names in mine["human_annotators"]}
        if mine.height != RESPONSES * (RESPONSES - 1) // 2 or len(raters) != 1:
            continue
        kept.append(mine)
        for a, b, labels in mine.select("response_a", "response_b", "human_labels").iter_rows():
            said[a, b] = labels
            said[b, a] = [{"a": "b", "b": "a", "tie": "tie"}[label] for label in labels]
        if len(kept) == PROMPTS:
            return pl.concat(kept), said
    raise AssertionError("too few sentences with four translations")


def ranked(texts: list[str], who: int, said: Said) -> list[dict[str, Any]]:
    """What a rater answers: a translation's place is how many are better, from 1."""
    places = [1 + sum(said[other, text][who] == "a" for other in texts if other != text) for text in texts]
    return [choices(f"place_{i}", str(place)) for i, place in enumerate(places, start=1)]


def test_rankings_answer_every_pair_they_show(
    tmp_path: Path, label_studio: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFINE_TEST_TOKEN", LEGACY_TOKEN)
    rows, said = segments(shared_data)
    rows.select("prompt", "response_a", "response_b").write_parquet(tmp_path / "pairs.parquet")
    recipe = {
        "name": "ranked",
        "buckets": 2,
        "sources": [{"name": "wmt", "kind": "pairs", "path": "pairs.parquet", "columns": {"label": None}}],
        "route": {"queue": {"audit_share": 0, "control_share": 0, "overlap_min": 3, "overlap_max": 3}},
        "annotate": {
            "plugin": "label_studio", "url": label_studio.url, "token_env": "PREFINE_TEST_TOKEN", "ranking": RESPONSES
        },
        "materialise": {"splits": {"fractions": {"train": 1.0}}},
    }  # fmt: skip
    project = Project(tmp_path, "", recipe)
    words = ("run", str(project.recipe_path), "--workspace", "w")
    nothing = project.prefine(*words, expect=1)  # nobody has said anything yet: asked, but not published
    assert "pairs wait for people's answers" in nothing
    workspace = Workspace.open(str(tmp_path / "w"))
    groups, tasks = rankings_by_id(rankings(workspace)), ledger(workspace)
    assert set(tasks["pair_id"]) == set(groups)
    assert [group.n for group in groups.values()] == [RESPONSES] * PROMPTS
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    (project_id,) = tasks["project_id"].unique()
    shown = {
        t.id: [t.data[f"response_{i}"] for i in range(1, RESPONSES + 1)] for t in admin.tasks(project_id, data=True)
    }
    assert set(shown) == set(tasks["task_id"])
    project.prefine(*words, expect=1)
    assert ledger(workspace).equals(tasks)

    people = [Person(label_studio.url, *label_studio.add_user(f"rater{i}@example.com")) for i in range(3)]
    first, second = sorted(shown)[:2]
    for (task, texts), who in itertools.product(shown.items(), range(3)):
        if (task, who) == (first, 0):
            people[who].post(task, [], was_cancelled=True)
        elif (task, who) == (second, 1):
            people[who].post(task, ranked(texts, who, said)[1:])
        else:
            people[who].post(task, ranked(texts, who, said))
    number = {f"ls-user-{person.user_id}": who for who, person in enumerate(people)}
    for person in people:
        person.close()

    assert project.run("w")["version"] == "v0001"
    pairs = {row["pair_id"]: row for row in table_frame(workspace, "pairs").collect().iter_rows(named=True)}
    found = table_frame(workspace, "annotations").collect()
    per_ranking = RESPONSES * (RESPONSES - 1) // 2
    assert found.height == per_ranking * (PROMPTS * 3 - 1)
    assert found["cancelled"].sum() == per_ranking
    for row in found.filter(~pl.col("cancelled")).iter_rows(named=True):
        a, b = (text_of(pairs[row["pair_id"]][f"response_{side}"]) for side in "ab")
        assert row["label"] == said[a, b][number[row["annotator"]]]
        assert row["seconds"] == pytest.approx(12.5 / per_ranking)
    rejects = table_frame(workspace, "rejects").filter(pl.col("stage") == "pull").collect()
    assert rejects["reason"].to_list() == ["off_schema"]
    votes = table_frame(workspace, "votes").filter(pl.col("kind") == "human").collect()
    assert votes.height == per_ranking * (PROMPTS * 3 - 2)
    again = project.run("w")
    assert (again["version"], again["published"]) == ("v0001", False)
    assert ledger(workspace).equals(tasks)
