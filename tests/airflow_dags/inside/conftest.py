"""Runs in Airflow's environment, started by tests/airflow_dags/test_in_airflow.py, which sets AIRFLOW_HOME first."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from airflow.dag_processing.dagbag import BundleDagBag

DAGS = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
FAKE = Path(os.environ["FAKE"])
sys.path.append(str(DAGS))
pytest_plugins = ["containers"]


@dataclass
class Run:
    """What a DAG run left."""

    state: str
    states: dict[str, str]
    tries: dict[str, int]
    results: dict[str, Any]

    def calls(self, name: str | None = None) -> list[dict[str, Any]]:
        """The CLI calls, in order."""
        path = FAKE / "calls.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [row for row in rows if name in (None, row["name"])]


@pytest.fixture(scope="session")
def bag() -> BundleDagBag:
    """The DAGs as the DAG processor loads them."""
    return BundleDagBag(DAGS, bundle_path=DAGS, bundle_name="dags-folder")


@pytest.fixture
def run_dag() -> Callable[..., Run]:
    """Run a DAG to its end with a fake CLI that follows the plan."""

    def start(dag: Any, plan: dict[str, list[dict[str, Any]]] | None = None, **conf: Any) -> Run:
        FAKE.mkdir(exist_ok=True)
        (FAKE / "calls.jsonl").unlink(missing_ok=True)
        (FAKE / "plan.json").write_text(json.dumps(plan or {}))
        dag = copy(dag)
        dag.deadline = (
            None  # Airflow 3.3.2: at the end of `dag.test()` the scheduler looks a deadline up by its content
        )
        done = dag.test(run_conf=conf or None)
        instances = done.get_task_instances()
        named = {f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: ti for ti in instances}
        return Run(
            str(done.state),
            {name: str(ti.state) for name, ti in named.items()},
            {name: ti.try_number for name, ti in named.items()},
            {name: ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index) for name, ti in named.items()},
        )

    return start


@pytest.fixture
def run(bag: BundleDagBag, run_dag: Callable[..., Run]) -> Callable[..., Run]:
    """Run one of the DAGs by its id."""
    return lambda dag_id, plan=None, **conf: run_dag(bag.dags[dag_id], plan, **conf)


@pytest.fixture
def alerts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What arrives at the URL of the connection for alerts."""
    arrived: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word on standard error."""

    with served(Handler) as url:
        monkeypatch.setenv("AIRFLOW_CONN_PREFINE_ALERTS", json.dumps({"conn_type": "http", "password": url}))
        yield arrived


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """An HTTP server on this machine."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
