"""Telling people: a failed task with its stage's status, a run that is late.

Alerts go to the log and, where the connection `prefine_alerts` exists, as JSON `{"text": ...}` to the URL in its
password (a chat's incoming webhook is a secret). An alert that cannot be delivered is logged and breaks nothing.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import urllib.request
from typing import Any

from airflow.sdk import BaseHook, Context

from prefine_airflow.calls import LocalCall, child_environment

CONNECTION = "prefine_alerts"
_LOG = logging.getLogger("airflow.task")
_SECONDS = 60


def task_failed(context: Context) -> None:
    """What failed, why, and how far its stage had come."""
    ti, task = context["ti"], context["task"]
    lines = [f"{ti.dag_id}: {ti.task_id} failed in run {ti.run_id}", str(context.get("exception") or "")]
    if isinstance(task, LocalCall) and "--workspace" in task.words:
        workspace = str(task.words[task.words.index("--workspace") + 1])
        lines.append(f"status: {stage_status(task, workspace, stage_of(task))}")
    tell("\n".join(line for line in lines if line))


def run_late(dag_id: str, hours: float, **kwargs: Any) -> None:
    """A run missed its deadline; Airflow calls this with what it knows of the run in `context`."""
    run = (kwargs.get("context") or {}).get("dag_run", {})
    tell(f"{dag_id}: run {run.get('dag_run_id', '')} has not ended after {hours:g} hours; state {run.get('state', '')}")


def stage_of(task: LocalCall) -> str:
    """The stage a task runs, or the command where it runs none."""
    words = [*task.words, "", ""]
    return str(words[1] if words[0] == "stage" else words[0])


def stage_status(task: LocalCall, workspace: str, stage: str) -> str:
    """The stage's line of `prefine status`, as JSON; the reason where there is none."""
    words = [*task.prefine, "status", "--workspace", workspace, "--json"]
    try:
        done = subprocess.run(
            words,
            env=child_environment(os.environ, task.env),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        rows = json.loads(done.stdout.splitlines()[-1])
        return json.dumps([row for row in rows if row.get("stage") == stage] or rows)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        return f"unknown ({type(error).__name__})"


def tell(text: str) -> None:
    """Log, and post where a connection says where to."""
    _LOG.error("ALERT %s", text)
    try:
        url = BaseHook.get_connection(CONNECTION).password
    except Exception:  # every secrets backend has its own error for "no such connection"
        return
    request = urllib.request.Request(  # noqa: S310
        str(url), json.dumps({"text": text}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS):  # noqa: S310
            pass
    except OSError as error:
        _LOG.warning("the alert could not be delivered: %s", error)
