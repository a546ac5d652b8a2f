"""The parts by themselves: calls, the end of the wait, alerts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from prefine_airflow import alerts as alerting
from prefine_airflow.calls import LocalCall, call_class, child_environment, failure, given, last_json
from prefine_airflow.labels import ended_by


def test_a_call_sees_nothing_of_airflow() -> None:
    ours = {"AIRFLOW_HOME": "x", "AIRFLOW__CORE__X": "y", "_AIRFLOW_Z": "z", "PYTHONPATH": "p", "PATH": "/bin"}
    assert child_environment(ours, {"TOKEN": "t", "EMPTY": ""}) == {"PATH": "/bin", "TOKEN": "t"}
    assert given(["a", "", "b"]) == ["a", "b"]


def test_the_result_is_the_last_line_that_is_json() -> None:
    assert last_json(['{"a": 1}', "warning", ""])["a"] == 1
    assert last_json(["[1]"]) == [1]
    with pytest.raises(AirflowException, match="--json"):
        last_json(["nothing", "3"])


def test_only_exit_2_is_final() -> None:
    assert isinstance(failure(2, ["stage", "x"], ""), AirflowFailException)
    assert not isinstance(failure(1, ["stage", "x"], ""), AirflowFailException)


@pytest.mark.parametrize(
    ("wanted", "answered", "late", "why"),
    [
        (10, 9, False, "enough"),
        (10, 8, False, None),
        (10, 8, True, "deadline"),
        (10, 9, True, "enough"),
        (0, 0, False, "nothing_asked"),
        (1, 0, False, None),
    ],
)
def test_when_the_wait_ends(wanted: int, answered: int, late: bool, why: str | None) -> None:
    assert ended_by({"wanted": wanted, "answered": answered}, 0.9, late) == why


@pytest.mark.parametrize(("late", "why"), [(False, None), (True, "deadline")])
def test_not_knowing_is_no_reason_to_stop_before_the_deadline(late: bool, why: str | None) -> None:
    assert ended_by({}, 0.9, late) == why


def test_a_late_run_is_told(alerts: list[str]) -> None:
    context = {"dag_run": {"dag_run_id": "r1", "state": "running"}}
    alerting.run_late(dag_id="curate_plain", hours=2.0, context=context)
    assert len(alerts) == 1
    assert all(word in alerts[0] for word in ("curate_plain", "r1", "2 hours", "running"))


def test_an_alert_that_cannot_be_delivered_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PREFINE_ALERTS", '{"conn_type": "http", "password": "http://127.0.0.1:9/"}')
    alerting.tell("nobody hears this")


def test_a_status_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    words = ["stage", "judge", "--workspace", "w"]
    task = LocalCall(task_id="x", words=words, prefine=[str(tmp_path / "nothing")])
    assert alerting.stage_status(task, {}, words) == "unknown (AirflowFailException)"
    unrendered = ["stage", "judge", "--workspace", "{{ params.workspace }}"]
    assert alerting.stage_status(task, {}, unrendered) == "unknown (the worker is gone)"


def test_a_status_is_asked_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerting, "STATUS_SECONDS", 0.5)
    words = ["stage", "judge", "--workspace", "w"]
    task = LocalCall(task_id="x", words=words, prefine=[sys.executable, "-c", "import time; time.sleep(600)"])
    started = time.monotonic()
    assert alerting.stage_status(task, {}, words) == "unknown (TimeoutError)"
    assert time.monotonic() - started < 60


def test_a_call_ends_when_its_task_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    sleeper = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    task = (
        "import sys; from prefine_airflow.calls import LocalCall;"
        "LocalCall(task_id='x', words=[], prefine=[sys.executable, '-c', sys.argv[1]]).call({})"
    )
    path = os.environ["AIRFLOW__CORE__DAGS_FOLDER"]
    with subprocess.Popen([sys.executable, "-c", task, sleeper], env={**os.environ, "PYTHONPATH": path}) as running:
        deadline = time.monotonic() + 300
        while not (pid.exists() and pid.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        running.kill()
    while time.monotonic() < deadline:
        try:
            if psutil.Process(int(pid.read_text())).status() == psutil.STATUS_ZOMBIE:
                return  # ended; where nobody collects orphans it stays listed
        except psutil.NoSuchProcess:
            return
        time.sleep(0.1)
    pytest.fail("the call lives on")


def test_a_missing_provider_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.startswith(("airflow.providers.docker", "prefine_airflow.docker"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "airflow.providers.docker.operators.docker", None)
    with pytest.raises(ImportError, match="apache-airflow-providers-docker"):
        call_class("docker")
