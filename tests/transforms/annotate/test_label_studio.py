"""The human loop against a real Label Studio: replayed humans, crashes, and doing everything twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import polars as pl
import pytest

from schemas.errors import AnnotationServerError
from schemas.tables import Annotations, Rejects, Votes
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.transforms.annotate.replay import Pairs, Person, answer, choices, pandalm_pairs, queue_of, span, tasks_of
from transforms.annotate import label_studio as module
from transforms.annotate.answers import read_answers
from transforms.annotate.display import page_text
from transforms.annotate.label_studio import LabelStudioServer, Pulled, pull, push
from transforms.annotate.page import PageConfig
from transforms.annotate.tasks import empty_ledger, waiting
from transforms.annotate.votes import held_out_answers, votes_of

pytestmark = pytest.mark.slow

CONFIG = PageConfig()
N_PAIRS = 200


class Ledger:
    """A ledger file: what would survive a crash."""

    def __init__(self) -> None:
        self.saved = empty_ledger()

    def save(self, ledger: pl.DataFrame) -> None:
        self.saved = ledger


@pytest.fixture
def admin(label_studio: Server) -> LabelStudioServer:
    return LabelStudioServer(label_studio.url, LEGACY_TOKEN)


@pytest.fixture(scope="session")
def people(label_studio: Server) -> Iterator[list[Person]]:
    made = [Person(label_studio.url, *label_studio.add_user(f"annotator{i}@example.com")) for i in range(3)]
    yield made
    for person in made:
        person.close()


def server_tasks(admin: LabelStudioServer, project_id: int) -> list[str]:
    return [t.data["pair_id"] for t in admin.tasks(project_id, data=True)]


def read(raw: Pulled, ledger: pl.DataFrame, pairs: Pairs, people: list[Person], controls: Any = ()) -> Any:
    names = {p.user_id: f"person-{i}" for i, p in enumerate(people)}
    return read_answers(raw.records(), ledger, pairs, CONFIG, names, controls)


def test_replayed_humans_come_home_exactly(
    label_studio: Server, admin: LabelStudioServer, people: list[Person], shared_data: Path
) -> None:
    pairs, humans = pandalm_pairs(shared_data, N_PAIRS)
    queue = queue_of(pairs, audit_share=0.2, audit_overlap=1, overlap_min=2, overlap_max=2)
    ledger = Ledger()
    steps: list[tuple[int, int]] = []
    pushed = push(
        admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="replay", owner="tests",
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert (pushed.created, pushed.recovered, pushed.gone) == (N_PAIRS, 0, 0)
    assert steps[-1] == (N_PAIRS, N_PAIRS)
    tasks = {r["pair_id"]: r for r in ledger.saved.iter_rows(named=True)}
    assert set(tasks) == set(pairs)
    overlap = dict(queue.select("pair_id", "overlap").iter_rows())
    assert {p: t["overlap"] for p, t in tasks.items()} == overlap
    assert set(queue["overlap"]) == {2, 3}
    project = ledger.saved["project_id"][0]
    stored = {t.data["pair_id"]: t for t in admin.tasks(project, data=True)}
    one = next(iter(pairs))
    assert set(stored[one].data) == {"pair_id", "conversation", "response_a", "response_b"}

    expected: dict[tuple[str, int], str | None] = {}
    order = sorted(pairs)

    def replay(who: int) -> None:
        person = people[who]
        for n, pair_id in enumerate(order):
            task, label = tasks[pair_id], humans[pair_id][who]
            result = answer(label, task["shown"])
            if who == 0 and n % 25 == 3:
                person.post(task["task_id"], [], was_cancelled=True)
                expected[pair_id, who] = None
                continue
            if who == 1 and n % 20 == 5:
                wrong = "a" if label != "a" else "b"
                person.edit(person.post(task["task_id"], answer(wrong, task["shown"])), result)
            else:
                person.post(task["task_id"], result)
            expected[pair_id, who] = label

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(replay, range(3)))
    first = pull(admin, ledger.saved, Pulled())
    before = read(first, ledger.saved, pairs, people)
    assert found(before.annotations) == expected
    # Where its database is locked, the server tries again and may store one answer twice.
    stored_twice = first.fetched - 3 * N_PAIRS
    assert before.rejects["reason"].to_list() == ["superseded"] * stored_twice

    withdrawn, twice, forged, empty, off, spanned, reviewed = (tasks[p] for p in order[30:37])
    people[2].delete(answer_id(first, withdrawn["task_id"], people[2]))
    del expected[withdrawn["pair_id"], 2]
    people[2].post(twice["task_id"], answer("tie", twice["shown"]))
    expected[twice["pair_id"], 2] = "tie"
    people[0].post(forged["task_id"], answer("a", forged["shown"]), completed_by=people[1].user_id)
    # The person whose answer a reviewer changed has no vote any more, and neither has the reviewer.
    people[0].edit(answer_id(first, reviewed["task_id"], people[2]), answer("tie", reviewed["shown"]))
    del expected[reviewed["pair_id"], 2]
    people[1].post(empty["task_id"], [])
    people[1].post(off["task_id"], [choices("preference", "definitely A")])
    text = page_text(pairs[spanned["pair_id"]]["response_a"])
    side = "a" if spanned["shown"] == "ab" else "b"
    marked = [*answer("a", spanned["shown"]), span(side, 1, 4, text[1:4], "good")]
    people[2].post(spanned["task_id"], marked)
    expected[spanned["pair_id"], 2] = "a"
    people[1].post(spanned["task_id"], [*answer("a", spanned["shown"]), span(side, 1, 4, "not it", "good")])

    second = pull(admin, ledger.saved, first)
    assert second.deleted == 1
    after = read(second, ledger.saved, pairs, people)
    assert found(after.annotations) == expected
    reasons = dict(after.rejects["reason"].value_counts().iter_rows())
    assert reasons == {
        "superseded": 1 + 1 + stored_twice,
        "forged_annotator": 1,
        "edited_by_another": 1,
        "empty_result": 1,
        "off_schema": 1,
        "bad_span": 1,
    }
    Annotations.validate(after.annotations)
    Rejects.validate(after.rejects)
    spans = after.annotations.filter(pl.col("spans").is_not_null())
    assert spans["spans"].str.json_decode(pl.List(pl.Struct({"start": pl.Int64, "text": pl.String})))[0][0] == {
        "start": 1,
        "text": text[1:4],
    }
    assert set(waiting(queue, after.annotations)["pair_id"]) == {
        p for p in pairs if sum(label is not None for (q, _), label in expected.items() if q == p) < overlap[p]
    }

    votes = votes_of(after.annotations, queue)
    Votes.validate(votes)
    held = held_out_answers(after.annotations, queue)
    assert held.height == queue["held_out"].sum()
    answered = sum(label is not None for label in expected.values())
    assert votes.height + held.height == answered

    again = push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="replay", owner="tests")
    assert (again.created, again.recovered, again.gone, again.overlaps_changed) == (0, 0, 0, 0)
    assert sorted(server_tasks(admin, project)) == sorted(pairs)
    third = pull(admin, ledger.saved, second)
    assert third.raw.equals(second.raw)
    assert (third.fetched, third.deleted) == (0, 0)
    assert read(third, ledger.saved, pairs, people).annotations.equals(after.annotations)
    fresh = pull(admin, ledger.saved, Pulled())
    assert fresh.raw.equals(second.raw)


def answer_id(pulled: Pulled, task_id: int, person: Person) -> int:
    """The id of the person's answer to the task."""
    theirs = [r for r in pulled.records() if r["task"] == task_id and r["completed_by"] == person.user_id]
    return int(theirs[0]["id"])


def found(annotations: pl.DataFrame) -> dict[tuple[str, int], str | None]:
    rows = annotations.select("pair_id", "annotator", "label", "cancelled").iter_rows()
    return {(p, int(a.removeprefix("person-"))): None if c else label for p, a, label, c in rows}


@pytest.mark.parametrize("ends", ["by our clock", "by the server's clock"])
def test_a_personal_token_serves_for_longer_than_its_bearer_lives(
    label_studio: Server, people: list[Person], shared_data: Path, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    """A bearer ends after 300 s: before every request of a push and a pull it is put in the place of one that has."""
    pairs, _ = pandalm_pairs(shared_data, 5)
    queue = queue_of(pairs, audit_share=0, control_share=0)
    ledger = Ledger()
    server = LabelStudioServer(label_studio.url, label_studio.personal_token())
    end = {"by our clock": -300, "by the server's clock": 300}[ends]  # what we still believe in, the server does not
    ended = jwt.encode({"token_type": "access", "exp": int(time.time()) + end}, "not the server's key, but as long")
    requests = 0
    call = server._call

    def later(what: str, ask: Any, **missing: Any) -> Any:
        nonlocal requests
        requests += 1
        server._client._client_wrapper._tokens_client._set_access_token(ended)
        return call(what, ask, **missing)

    monkeypatch.setattr(server, "_call", later)
    made = push(
        server, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name=f"ends {ends}", owner="t", batch_size=2
    )
    assert made.created == 5
    for row in ledger.saved.iter_rows(named=True):
        people[0].post(row["task_id"], answer("a", row["shown"]))
    mine = read(pull(server, ledger.saved, Pulled()), ledger.saved, pairs, people)
    assert found(mine.annotations) == {(pair_id, 0): "a" for pair_id in pairs}
    assert requests > 8


def test_a_wrong_token_is_refused_with_a_hint(label_studio: Server) -> None:
    with pytest.raises(AnnotationServerError, match="token"):
        LabelStudioServer(label_studio.url, "0" * 40).annotators()


def test_two_owners_of_one_name_share_a_server_and_nothing_else(
    admin: LabelStudioServer, people: list[Person], shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, _ = pandalm_pairs(shared_data, 3)
    queue = queue_of(pairs, audit_share=0, control_share=0)
    ledgers = {"here": Ledger(), "there": Ledger()}

    def pushed(who: str) -> None:
        book = ledgers[who]
        push(admin, queue, tasks_of(pairs, CONFIG), book.saved, book.save, name="shared", owner=who)

    with monkeypatch.context() as crash:  # after the project is made, before the ledger knows of it
        crash.setattr(admin, "add_tasks", lambda *_: (_ for _ in ()).throw(AnnotationServerError("cut")))
        with pytest.raises(AnnotationServerError):
            pushed("there")
    made = ledgers["there"].saved["project_id"].unique().to_list()
    ledgers["there"] = Ledger()
    for who in ("here", "there", "here", "there"):
        pushed(who)
    projects = {who: book.saved["project_id"].unique().to_list() for who, book in ledgers.items()}
    assert projects["there"] == made
    assert projects["here"] != made
    for who, book in ledgers.items():
        assert sorted(server_tasks(admin, projects[who][0])) == sorted(pairs)
        people[0].post(book.saved["task_id"][0], answer("a", book.saved["shown"][0]))
    for book in ledgers.values():
        mine = read(pull(admin, book.saved, Pulled()), book.saved, pairs, people)
        assert found(mine.annotations) == {(book.saved["pair_id"][0], 0): "a"}
        assert mine.rejects.height == 0


def test_a_skipped_task_goes_to_somebody_else(
    admin: LabelStudioServer, people: list[Person], shared_data: Path
) -> None:
    pairs, _ = pandalm_pairs(shared_data, 1)
    ledger = Ledger()
    queue = queue_of(pairs, audit_share=0, control_share=0)
    push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="skipping", owner="tests")
    project, task = ledger.saved.select("project_id", "task_id").row(0)
    assert people[0].next_task(project) == task
    people[0].post(task, [], was_cancelled=True)
    assert people[0].next_task(project) is None
    assert people[1].next_task(project) == task
    rows = read(pull(admin, ledger.saved, Pulled()), ledger.saved, pairs, people).annotations
    assert waiting(queue, rows).row(0, named=True)["skipped"] == 1


@pytest.mark.parametrize("moment", ["announced", "imported", "during"])
def test_a_push_interrupted_anywhere_is_finished_without_duplicates(
    label_studio: Server, shared_data: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    pairs, _ = pandalm_pairs(shared_data, 60)
    queue = queue_of(pairs, audit_share=0.1, control_share=0)
    ledger = Ledger()
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    add_tasks, calls = admin.add_tasks, 0

    def interrupted(project_id: int, data: Any) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 2 and moment == "announced":
            label_studio.kill()
        if calls == 2 and moment == "during":
            threading.Timer(0.02, label_studio.kill).start()
        ids = add_tasks(project_id, data)
        if calls == 2:
            label_studio.kill()
            raise AnnotationServerError("the answer never arrived")
        return ids

    monkeypatch.setattr(admin, "add_tasks", interrupted)
    name = f"crash {moment}"
    with pytest.raises(AnnotationServerError):
        push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name=name, owner="tests", batch_size=20)
    label_studio.kill()
    label_studio.start()
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    pushed = push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name=name, owner="tests")
    assert pushed.created + pushed.recovered == 40
    if moment == "imported":
        assert pushed.recovered == 20
    project = ledger.saved["project_id"][0]
    assert sorted(server_tasks(admin, project)) == sorted(pairs)
    confirmed = ledger.saved.filter(pl.col("task_id").is_not_null())
    on_server = {t.id: t.data["pair_id"] for t in admin.tasks(project, data=True)}
    assert dict(confirmed.select("task_id", "pair_id").iter_rows()) == on_server


def test_a_pull_interrupted_is_finished(
    label_studio: Server, people: list[Person], shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, humans = pandalm_pairs(shared_data, 40)
    queue = queue_of(pairs, audit_share=0, control_share=0)
    ledger = Ledger()
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="pulling", owner="tests")
    for row in ledger.saved.iter_rows(named=True):
        people[0].post(row["task_id"], answer(humans[row["pair_id"]][0], row["shown"]))
    whole = pull(admin, ledger.saved, Pulled())
    listed = admin._client.tasks.list

    def interrupted(**query: Any) -> Any:
        for n, task in enumerate(listed(**query)):
            if n == 15:
                label_studio.kill()
            yield task

    monkeypatch.setattr(module, "_PAGE_SIZE", 10)
    monkeypatch.setattr(admin, "last_change", lambda project_id: None)
    monkeypatch.setattr(admin._client.tasks, "list", interrupted)
    with pytest.raises(AnnotationServerError, match="Run again"):
        pull(admin, ledger.saved, Pulled())
    label_studio.start()
    assert pull(LabelStudioServer(label_studio.url, LEGACY_TOKEN), ledger.saved, Pulled()).raw.equals(whole.raw)


def test_what_others_delete_is_asked_again_and_answers_survive(
    admin: LabelStudioServer, people: list[Person], shared_data: Path
) -> None:
    pairs, _ = pandalm_pairs(shared_data, 5)
    queue = queue_of(pairs, audit_share=0, control_share=0)
    ledger = Ledger()
    push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="deleting", owner="tests")
    project = ledger.saved["project_id"][0]
    victim = ledger.saved.row(0, named=True)
    people[0].post(victim["task_id"], answer("a", victim["shown"]))
    before = pull(admin, ledger.saved, Pulled())
    admin._client.tasks.delete(str(victim["task_id"]))
    pushed = push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="deleting", owner="tests")
    assert (pushed.created, pushed.gone) == (1, 1)
    assert sorted(server_tasks(admin, project)) == sorted(pairs)
    after = pull(admin, ledger.saved, before)
    assert found(read(after, ledger.saved, pairs, people).annotations) == {(victim["pair_id"], 0): "a"}
    admin._client.projects.delete(project)
    pushed = push(admin, queue, tasks_of(pairs, CONFIG), ledger.saved, ledger.save, name="deleting", owner="tests")
    assert pushed.created == 5
    assert found(read(pull(admin, ledger.saved, after), ledger.saved, pairs, people).annotations) == {
        (victim["pair_id"], 0): "a"
    }
