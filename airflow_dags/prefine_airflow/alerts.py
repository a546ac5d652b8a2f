"""Telling people: a failed task with its stage's status, a run that is late.

Alerts go to the log and, if the connection `prefine_alerts` exists, as JSON `{"text": ...}` to the URL in its
password (a chat's incoming webhook is a secret). An alert that cannot be delivered is logged and breaks nothing.
"""

from __future__ import annotations

import json
import logging
import urllib.request
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseHook, Context

CONNECTION = "prefine_alerts"
_LOG = logging.getLogger("airflow.task")
STATUS_SECONDS = 120.0  # an image may have to be fetched
_SECONDS = 60


def task_failed(context: Context) -> None:
    """What failed, why, and how far its stage had come."""
    ti, task = context["ti"], context["task"]
    lines = [f"{ti.dag_id}: {ti.task_id} failed in run {ti.run_id}", str(context.get("exception") or "")]
    if "--workspace" in (words := getattr(task, "words", [])):
        lines.append(f"status: {stage_status(task, context, words)}")
    tell("\n".join(line for line in lines if line))


def run_late(dag_id: str, hours: float, **kwargs: Any) -> None:
    """A run missed its deadline; Airflow calls this with what it knows of the run in `context`."""
    run = (kwargs.get("context") or {}).get("dag_run", {})
    tell(f"{dag_id}: run {run.get('dag_run_id', '')} has not ended after {hours:g} hours; state {run.get('state', '')}")


def stage_status(task: Any, context: Context, words: Sequence[str]) -> str:
    """The line of `prefine status` on the stage that these words run, as JSON; the reason if there is none.

    Args:
        task: the operator that failed; asked in the place where its calls run, for at most a minute or two.
        context: its context.
        words: its words; all lines if they run no stage.
    """
    workspace = words[words.index("--workspace") + 1]
    if "{{" in workspace:  # Airflow renders nothing where it calls for a worker that is gone
        return "unknown (the worker is gone)"
    stage = words[1] if words[0] == "stage" else words[0]
    try:
        rows = task.ask(["status", "--workspace", workspace, "--json"], context, STATUS_SECONDS)
        return json.dumps([row for row in rows if row.get("stage") == stage] or rows)
    except Exception as error:  # a container's engine has errors of its own; an alert must be sent whatever they are
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
