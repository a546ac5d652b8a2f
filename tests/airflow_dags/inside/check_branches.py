"""`dag.test()` with a fake CLI: success, retry, exit 2, time limit, deadline, sign-off, nothing new."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
from airflow.api_fastapi.core_api.routes.public.hitl import update_hitl_detail
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.asset import AssetEvent
from airflow.models.dagrun import DagRun
from airflow.models.deadline import Deadline
from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.execution_time.callback_supervisor import execute_callback
from airflow.utils.session import create_session
from conftest import DAGS, FAKE, Run
from sqlalchemy import select

Runs = Callable[..., Run]
BEFORE = ["ingest", "generate", "clean", "judge", "score", "fuse", "route", "push"]
READING = timedelta(seconds=2)
ALL = [*BEFORE, "labels", "pull", "score", "fuse", "materialise", "export", "export"]


def events(dataset: str) -> list[dict[str, Any]]:
    with create_session() as session:
        rows = session.scalars(select(AssetEvent).order_by(AssetEvent.id)).all()
        return [dict(row.extra) for row in rows if row.asset.name == f"prefine/{dataset}"]


@contextmanager
def meanwhile(act: Callable[[Any], None]) -> Iterator[None]:
    """Somebody or something beside the run that looks into the database again and again."""
    stop = Event()

    def watch() -> None:
        while not stop.wait(0.3):
            with create_session() as session:
                act(session)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def answering(task_id: str, choice: str) -> AbstractContextManager[None]:
    """A person who answers the sign-off once it waits, through the handler behind the REST API.

    `dag.test()` writes the state a second time a moment after the task's own process has, and an answer given between
    the two is overwritten: the run then waits for ever. So nobody answers before the task has been left alone a while.
    """

    def answer(session: Any) -> None:
        waiting = session.scalar(
            select(TaskInstance).where(
                TaskInstance.task_id == task_id,
                TaskInstance.state == "awaiting_input",
                TaskInstance.updated_at < datetime.now(UTC) - READING,
            )
        )
        if waiting is not None:
            update_hitl_detail(
                waiting.dag_id,
                waiting.run_id,
                task_id,
                UpdateHITLDetailPayload(chosen_options=[choice]),
                SimpleNamespace(get_id=lambda: "me", get_name=lambda: "me"),  # type: ignore[arg-type]
                session,
            )

    return meanwhile(answer)


def nobody_answers() -> AbstractContextManager[None]:
    """The scheduler's sweep for questions whose time is over; `dag.test()` has no scheduler."""
    scheduler: Any = SimpleNamespace(log=logging.getLogger(__name__))
    return meanwhile(lambda session: SchedulerJobRunner.check_awaiting_input_timeouts(scheduler, session=session))


def test_a_version_is_announced_once_and_a_second_run_says_nothing_new(run: Runs) -> None:
    before = events("plain")
    assert before == []
    first = run("curate_plain", limit=5, budget=7)
    assert first.state == "success"
    assert set(first.states.values()) == {"success"}
    assert [call["name"] for call in first.calls()] == ALL
    assert first.results["wait_for_labels"]["ended_by"] == "enough"
    assert [e["version"] for e in events("plain")] == ["v0001"]
    assert events("plain")[0]["certificate"] == {"low": 0.7}
    assert events("plain")[0]["path"] == "w/datasets/plain/v0001"
    for call in first.calls():
        hidden = [n for n in call["environment"] if n.startswith(("AIRFLOW", "_AIRFLOW", "PYTHONPATH"))]
        assert hidden == []
        if call["words"][0] == "stage":
            assert call["words"][3:6] == ["--workspace", str(FAKE / "plain"), "--json"]
            extra = ["--limit=5", "--budget=7"] if call["name"] == "route" else ["--limit=5"]
            assert call["words"][6:] == extra
    formats = {call["words"][call["words"].index("--format") + 1] for call in first.calls("export")}
    assert formats == {"trl-dpo", "jsonl"}
    second = run("curate_plain", {"materialise": [{"say": {"published": False}}]})
    assert second.state == "success"
    assert second.states["announce"] == "skipped"
    assert [e["version"] for e in events("plain")] == ["v0001"]
    third = run("curate_plain", {"materialise": [{"say": {"version": "v0002"}}]})
    assert third.states["announce"] == "success"
    assert [e["version"] for e in events("plain")] == ["v0001", "v0002"]


def test_a_version_published_before_a_crash_is_announced_by_the_next_try(run: Runs) -> None:
    known = len(events("plain"))
    say = {"version": "v0777", "published": False}
    done = run("curate_plain", {"materialise": [{"exit": 1}, {"say": say}]})
    assert (done.state, done.tries["materialise"]) == ("success", 2)
    assert [e["version"] for e in events("plain")][known:] == ["v0777"]


def test_a_failure_is_retried_a_bounded_number_of_times(run: Runs, alerts: list[str]) -> None:
    mended = run("curate_plain", {"judge": [{"exit": 1}, {}]})
    assert (mended.state, mended.tries["judge"]) == ("success", 2)
    assert alerts == []
    broken = run("curate_plain", {"judge": [{"exit": 1, "log": "the server is down"}]})
    assert (broken.state, broken.states["judge"], broken.tries["judge"]) == ("failed", "failed", 2)
    assert broken.states["score"] == "upstream_failed"
    assert len(broken.calls("judge")) == 2
    assert len(alerts) == 1
    assert "judge failed" in alerts[0]
    assert "the server is down" in alerts[0]
    assert '"stage": "judge", "buckets": 3' in alerts[0]
    assert '"stage": "score"' not in alerts[0]


def test_a_wrong_recipe_is_never_retried(run: Runs, alerts: list[str]) -> None:
    done = run("curate_plain", {"ingest": [{"exit": 2, "log": "recipe.yaml:3: unknown field"}]})
    assert (done.state, done.states["ingest"], done.tries["ingest"]) == ("failed", "failed", 1)
    assert len(done.calls("ingest")) == 1
    assert "unknown field" in alerts[0]


def test_output_that_is_no_result_is_a_failure(run: Runs) -> None:
    done = run("curate_plain", {"clean": [{"say": "not an object"}]})
    assert (done.state, done.tries["clean"]) == ("failed", 2)


def test_a_time_limit_ends_the_call_and_its_process(run: Runs) -> None:
    started = time.monotonic()
    done = run("curate_people", {"generate": [{"sleep": 600}]})
    assert time.monotonic() - started < 300
    assert (done.states["generate"], done.tries["generate"]) == ("failed", 2)
    pid = int((FAKE / "sleeping.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_wait_sleeps_until_enough_labels_have_come(run: Runs) -> None:
    looks = [{"say": {"answered": n}} for n in (0, 7)] + [{"exit": 1, "log": "Label Studio is down"}]
    with answering("sign_off", "Approve"):
        done = run("curate_people", {"labels": [*looks, {"say": {"answered": 9}}]})
    assert done.state == "success"
    assert len(done.calls("labels")) == 4
    assert done.results["wait_for_labels"] == {
        **done.results["wait_for_labels"],
        "ended_by": "enough",
        "answered": 9,
        "wanted": 10,
    }
    assert done.tries["wait_for_labels"] == 1
    names = [call["name"] for call in done.calls()]
    assert names[-3:] == ["fuse", "materialise", "export"]


def test_the_wait_outlives_a_server_that_is_away_for_several_looks(run: Runs, alerts: list[str]) -> None:
    away = [{"exit": 1, "log": "connection refused"}] * 4  # twice what a task's retries would bear
    with answering("sign_off", "Approve"):
        done = run("curate_people", {"labels": [{"say": {"answered": 0}}, *away, {"say": {"answered": 9}}]})
    assert (done.state, alerts) == ("success", [])
    assert (done.results["wait_for_labels"]["ended_by"], done.tries["wait_for_labels"]) == ("enough", 1)
    assert len(done.calls("labels")) == 6
    assert len(done.calls("push")) == 1


def test_the_wait_ends_at_the_deadline_and_goes_on_with_what_there_is(run: Runs) -> None:
    with answering("sign_off", "Approve"):
        done = run("curate_people", {"labels": [{"say": {"answered": 3}}]})
    assert done.state == "success"
    ended = done.results["wait_for_labels"]
    assert (ended["ended_by"], ended["answered"]) == ("deadline", 3)
    assert len(done.calls("labels")) >= 2
    assert done.states["materialise"] == "success"


def test_a_run_that_asked_nobody_does_not_wait(run: Runs) -> None:
    with answering("sign_off", "Approve"):
        done = run("curate_people", {"labels": [{"say": {"wanted": 0, "answered": 0}}]})
    assert done.results["wait_for_labels"]["ended_by"] == "nothing_asked"
    assert len(done.calls("labels")) == 1


def test_a_rejected_release_publishes_nothing(run: Runs) -> None:
    known = events("people")
    with answering("sign_off", "Reject"):
        done = run("curate_people")
    assert done.state == "success"
    assert done.states["sign_off"] == "success"
    after = ("materialise", "announce", "export")
    assert {state for name, state in done.states.items() if name.startswith(after)} == {"skipped"}
    assert done.calls("materialise") == []
    assert events("people") == known


def test_no_answer_in_time_publishes_nothing(
    run: Runs, bag: BundleDagBag, monkeypatch: pytest.MonkeyPatch, alerts: list[str]
) -> None:
    known = events("people")
    monkeypatch.setattr(bag.dags["curate_people"].get_task("sign_off"), "response_timeout", timedelta(seconds=2))
    with nobody_answers():
        done = run("curate_people")
    assert (done.state, alerts) == ("success", [])
    with create_session() as session:
        asked = session.scalars(select(HITLDetail).order_by(HITLDetail.created_at)).all()[-1]
        assert (asked.chosen_options, asked.responded_by) == (["Reject"], None)
    after = ("materialise", "announce", "export")
    assert {state for name, state in done.states.items() if name.startswith(after)} == {"skipped"}
    assert done.calls("materialise") == []
    assert events("people") == known


def test_a_missed_deadline_is_told_as_airflow_tells_it(run: Runs, bag: BundleDagBag, alerts: list[str]) -> None:
    """From the DAG's alert through the database to the call, all but the scheduler's clock."""
    run("curate_plain")
    (alert,) = bag.dags["curate_plain"].deadline
    assert alert.interval == timedelta(hours=24)
    assert type(alert.reference).__name__ == "DagRunQueuedAtDeadline"
    with create_session() as session:
        ran = session.scalars(select(DagRun).where(DagRun.dag_id == "curate_plain").order_by(DagRun.id)).all()[-1]
        missed = Deadline(datetime.now(UTC), alert.callback, ran.id, None, dag_id=ran.dag_id)
        session.add(missed)
        session.flush()
        missed.handle_miss(session)
        data = missed.callback.data
    path = DAGS / "curate_preferences.py"
    told = execute_callback(data["path"], data["kwargs"], path.relative_to(DAGS), DAGS, structlog.get_logger())
    assert told == (True, None)
    (text,) = alerts
    assert all(word in text for word in ("curate_plain", ran.run_id, "24 hours", "success"))


def test_the_consumer_exports_and_checks_what_was_announced(run: Runs) -> None:
    done = run("train_on_plain")
    assert done.state == "success"
    (export,) = done.calls("export")
    assert export["words"][1].startswith("plain@v")
    assert done.results["check_split"]["train_on"] == export["words"][export["words"].index("--out") + 1]
    broken = run("train_on_plain", {"verify": [{"say": [{"name": "splits", "ok": False, "detail": ""}]}]})
    assert (broken.states["check_split"], broken.tries["check_split"]) == ("failed", 1)


def test_upkeep_waits_for_a_version_and_alerts_when_labels_got_worse(run: Runs, alerts: list[str]) -> None:
    done = run("maintain_prefine", {"audit": [{"exit": 1, "log": "worse than published"}]})
    assert done.states["plain.published"] == "success"
    assert done.states["plain.audit"] == "failed"
    assert {done.states[f"people.{name}"] for name in ("published", "verify", "prune", "audit")} == {"skipped"}
    assert done.states["people.compact"] == "success"
    assert len(alerts) == 1
    assert "worse than published" in alerts[0]
    (prune,) = done.calls("prune")
    assert prune["words"][:4] == ["prune", "plain", "--keep", "5"]
