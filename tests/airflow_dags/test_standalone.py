"""Everything real: Airflow, Label Studio, the CLI, the embedded LLM; people answer while the scheduler is dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import polars as pl
import psutil
import pytest
import yaml
from datasets import load_dataset

from airflow_dags.prefine_airflow.local import USER, Standalone, free_port
from pipelines.inspect.tables import table_frame
from pipelines.runtime.annotation import asked, ledger
from tests.airflow_dags.environment import airflow_bin
from tests.conftest import ROOT
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.transforms.annotate.replay import Person, answer
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

PATIENCE = 1200.0  # seconds for one thing to happen; a busy machine is no failure
READING = 5.0  # seconds a person takes before signing off
N_PROMPTS = 6


@dataclass
class Api:
    """Airflow's REST API as a person's browser uses it."""

    airflow: Standalone
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    def login(self) -> None:
        words = {"username": USER, "password": self.airflow.password}
        token = self.client.post(f"{self.airflow.url}/auth/token", json=words).raise_for_status().json()["access_token"]
        self.client.headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, **body: Any) -> Any:
        reply = self.client.request(method, f"{self.airflow.url}/api/v2/{path}", json=body or None)
        assert reply.is_success, f"{method} {path}: {reply.status_code} {reply.text[:2000]}"
        return reply.json() if reply.content else None

    def tasks(self, dag: str, run: str) -> dict[str, str]:
        rows = self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {f"{r['task_id']}[{r['map_index']}]" if r["map_index"] >= 0 else r["task_id"]: r["state"] for r in rows}

    def until(self, what: str, found: Callable[[], Any]) -> Any:
        """Wait for something that is true."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                value = found()
            except (AssertionError, httpx.TransportError):
                value = None
            if value:
                return value
            time.sleep(1)
        raise AssertionError(f"{what}: not within {PATIENCE:.0f} s\n{self.airflow.tail()}")

    def start(self, dag: str, conf: dict[str, Any]) -> str:
        return str(self.ask("POST", f"dags/{dag}/dagRuns", logical_date=None, conf=conf)["dag_run_id"])

    def approve(self, dag: str, run: str) -> None:
        """Sign off, and again where Airflow asks again.

        Airflow 3.3 forgets an answer given before its scheduler has heard that the task waits, and asks again.
        """
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/sign_off/-1/hitlDetails"

        def signed() -> bool:
            state = self.state(dag, run, "sign_off")
            if state == "awaiting_input" and not self.ask("GET", path)["response_received"]:
                time.sleep(READING)
                self.ask("PATCH", path, chosen_options=["Approve"], params_input={})
            return state == "success"

        self.until("sign-off", signed)

    def state(self, dag: str, run: str, task: str) -> str:
        """State of a task.

        Raises:
            RuntimeError: the run has failed.
        """
        states = self.tasks(dag, run)
        if self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"] == "failed":
            raise RuntimeError(f"{run} failed: {states}\n{failure_logs(self.airflow.home, states)}")
        return states[task]

    def finished(self, dag: str, run: str) -> dict[str, str]:
        def over() -> bool:
            return bool(self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"] in ("success", "failed"))

        self.until(f"end of {dag}", over)
        states = self.tasks(dag, run)
        state = self.ask("GET", f"dags/{dag}/dagRuns/{run}")["state"]
        assert state == "success", f"{states}\n{failure_logs(self.airflow.home, states)}"
        return states

    def result(self, dag: str, run: str, task: str) -> Any:
        value = self.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value")["value"]
        return json.loads(value) if isinstance(value, str) and value[:1] in "{[" else value


def failure_logs(home: Path, states: dict[str, str]) -> str:
    names = [name.split("[")[0] for name, state in states.items() if state in ("failed", "up_for_retry")]
    logs = [p for name in names for p in sorted((home / "logs").glob(f"*/*/task_id={name}/**/*.log"))]
    return "\n".join(f"{p}:\n{p.read_text()[-3000:]}" for p in logs)


@dataclass
class Project:
    """Settings, recipe and workspace of the test."""

    folder: Path
    server: Server

    def __post_init__(self) -> None:
        prompts = (ROOT / "recipes" / "prompts" / "demo.jsonl").read_text().splitlines()[: 2 * N_PROMPTS]
        (self.folder / "prompts.jsonl").write_text("".join(f"{line}\n" for line in prompts))
        recipe = {
            "name": "nightly",
            "seed": 7,
            "buckets": 2,
            "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
            "engines": {"llm": {"plugin": "llamacpp", "context": 2048, "slots": 4}},
            "generate": {
                "generators": [{"name": "sample", "plugin": "sample_n", "engines": ["llm"], "n": 2, "max_tokens": 24}]
            },
            "judge": {"judges": [{"name": "smollm", "plugin": "logprob", "engine": "llm"}]},
            "score": {"scorers": [{"plugin": "length"}, {"plugin": "repetition"}]},
            "route": {"queue": {"budget": 40, "audit_share": 0.5, "audit_overlap": 1}},
            "annotate": {"plugin": "label_studio", "url": self.server.url, "token_env": "LABELS_TOKEN"},
            "materialise": {"splits": {"fractions": {"train": 0.7, "validation": 0.3}}},
        }
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        curation = {
            "place": {"prefine": [sys.executable, "-m", "prefine.cli.main"]},
            "env": {"LABELS_TOKEN": "{{ conn.label_studio.password }}", "PYTHONPATH": str(ROOT)},
            "recipes": [
                {
                    "name": "nightly",
                    "recipe": "recipe.yaml",
                    "workspace": "w",
                    "schedule": None,
                    "formats": ["trl-dpo", "jsonl"],
                    "budget": 8,
                    "labels": {"enough": 1.0, "hours": 2, "poll_minutes": 0.2},
                    "sign_off": True,
                    "late_hours": 0.005,
                    "retry_minutes": 0.05,
                }
            ],
        }
        (self.folder / "curation.yaml").write_text(yaml.safe_dump(curation, sort_keys=False))

    @property
    def workspace(self) -> Workspace:
        return Workspace.open(str(self.folder / "w"))

    def answer_everything(self) -> int:
        """People prefer the longer response and answer every task as often as was asked; how many answers that is."""
        overlaps = dict(asked(self.workspace).select("pair_id", "overlap").iter_rows())
        numbers = range(max(overlaps.values()))
        people = [Person(self.server.url, *self.server.add_user(f"nightly{i}@example.com")) for i in numbers]
        pairs = {row["pair_id"]: row for row in table_frame(self.workspace, "pairs").collect().to_dicts()}
        for task in ledger(self.workspace).to_dicts():
            lengths = [len(pairs[task["pair_id"]][side][-1]["content"]) for side in ("response_a", "response_b")]
            said = answer("a" if lengths[0] >= lengths[1] else "b", task["shown"])
            for person in people[: overlaps[task["pair_id"]]]:
                person.post(task["task_id"], said)
        for person in people:
            person.close()
        return sum(overlaps.values())

    def snapshot(self) -> dict[str, Any]:
        """What a run that repeats nothing leaves as it is: versions and exports byte by byte, calls, tasks."""
        root = self.folder / "w"
        folders = (root / "datasets", root / "exports")
        files = {str(p): p.read_bytes() for f in folders for p in sorted(f.rglob("*")) if p.is_file()}
        journals = [p.read_bytes() for p in sorted((root / "tables" / "generations").rglob("*.*"))]
        headers = {"Authorization": f"Token {LEGACY_TOKEN}"}
        projects = httpx.get(f"{self.server.url}/api/projects", headers=headers, timeout=60).json()["results"]
        return {"files": files, "answers": journals, "tasks": {p["id"]: p["task_number"] for p in projects}}


@pytest.fixture
def alerts() -> Iterator[tuple[str, list[str]]]:
    """A URL for alerts, and the texts that arrived there."""
    arrived: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", arrived
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def airflow(tmp_path: Path, alerts: tuple[str, list[str]]) -> Iterator[Standalone]:
    settings = {
        "PREFINE_CURATION": str(tmp_path / "curation.yaml"),
        "AIRFLOW_CONN_PREFINE_ALERTS": json.dumps({"conn_type": "generic", "password": alerts[0]}),
        "AIRFLOW_CONN_LABEL_STUDIO": json.dumps({"conn_type": "generic", "password": LEGACY_TOKEN}),
    }
    standalone = Standalone(tmp_path / "airflow", airflow_bin(), settings=settings)
    try:
        yield standalone
    finally:
        standalone.stop()


def kill_scheduler(airflow: Standalone) -> None:
    """End the scheduler with its workers at once, as running out of memory would."""
    assert airflow.process is not None
    children = psutil.Process(airflow.process.pid).children()
    (scheduler,) = [p for p in children if "scheduler" in p.cmdline()]
    for process in [scheduler, *scheduler.children(recursive=True)]:
        process.kill()


def test_from_prompts_to_a_version_that_starts_its_consumer(
    tmp_path: Path, airflow: Standalone, label_studio: Server, alerts: tuple[str, list[str]]
) -> None:
    project = Project(tmp_path, label_studio)
    airflow.start()
    api = Api(airflow)
    api.login()
    dag, consumer, conf = "curate_nightly", "train_on_nightly", {"limit": N_PROMPTS}
    for name in (dag, consumer):
        api.until(f"{name} is parsed", lambda name=name: api.ask("PATCH", f"dags/{name}", is_paused=False))
    first = api.start(dag, conf)
    api.until("people are waited for", lambda: api.state(dag, first, "wait_for_labels") == "deferred")
    assert api.tasks(dag, first)["pull"] in ("None", None, "no_status")

    kill_scheduler(airflow)
    wanted = int(asked(project.workspace)["overlap"].sum())
    assert project.answer_everything() == wanted > 0
    assert api.tasks(dag, first)["wait_for_labels"] in ("deferred", "scheduled")  # nobody is there to take it up
    airflow.stop()
    airflow.start()
    api.login()

    api.approve(dag, first)
    states = api.finished(dag, first)
    assert set(states.values()) == {"success"}
    waited = api.result(dag, first, "wait_for_labels")
    assert (waited["ended_by"], waited["answered"]) == ("enough", wanted)
    published = api.result(dag, first, "materialise")
    assert (published["version"], published["published"]) == ("v0001", True)
    assert published["certificate"] is not None
    assert table_frame(project.workspace, "annotations").collect().height == wanted

    (followed,) = api.until("the consumer starts", lambda: api.ask("GET", f"dags/{consumer}/dagRuns")["dag_runs"])
    assert followed["run_type"] == "asset_triggered"
    api.finished(consumer, followed["dag_run_id"])
    ready = api.result(consumer, followed["dag_run_id"], "check_split")
    assert ready["version"] == "v0001"
    loaded = load_dataset(ready["train_on"], cache_dir=str(tmp_path / "cache"))
    likely = table_frame(project.workspace, "rows").filter(pl.col("p_chosen") >= 2 / 3).collect()
    assert sum(len(split) for split in loaded.values()) == likely.height > 0
    assert {"prompt", "chosen", "rejected"} <= set(loaded["train"].column_names)
    (event,) = api.ask("GET", "assets/events")["asset_events"]
    assert event["extra"]["path"] == published["path"]
    assert event["extra"]["certificate"] == published["certificate"]

    late = f"curate_nightly: run {first} has not ended after 0.005 hours"
    api.until("the alert", lambda: any(text.startswith(late) for text in alerts[1]))

    before = project.snapshot()
    second = api.start(dag, conf)
    api.approve(dag, second)
    states = api.finished(dag, second)
    assert {name for name, state in states.items() if state == "skipped"} == {"announce"}
    assert project.snapshot() == before
    words = {"dry_run": False, "dag_run_id": first, "task_ids": ["judge"], "reset_dag_runs": True}
    api.ask("POST", f"dags/{dag}/clearTaskInstances", **words)
    api.until("the cleared task", lambda: api.state(dag, first, "judge") == "success")
    assert set(api.finished(dag, first).values()) == {"success"}
    assert project.snapshot() == before
    assert len(api.ask("GET", "assets/events")["asset_events"]) == 1
    assert len(api.ask("GET", f"dags/{consumer}/dagRuns")["dag_runs"]) == 1
    logs = (airflow.home / "logs").rglob("*.log")
    assert not [str(path) for path in logs if LEGACY_TOKEN in path.read_text(errors="replace")]


def test_one_command_starts_it_for_a_person_and_an_interrupt_stops_it_all(tmp_path: Path) -> None:
    Project(tmp_path, Server(tmp_path, port=9))
    tools, port = airflow_bin(), free_port()
    command = [str(tools / "python"), "-m", "prefine_airflow.local", str(tmp_path / "home"), "--port", str(port)]
    environment = {**os.environ, "PREFINE_CURATION": str(tmp_path / "curation.yaml")}
    with subprocess.Popen(
        command, cwd=ROOT / "airflow_dags", env=environment, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        for line in started.stdout:
            if line.startswith("open "):
                break
        words = line.split()
        password = words[words.index("password") + 1]
        assert words[1] == f"http://127.0.0.1:{port}"
        login = httpx.post(f"{words[1]}/auth/token", json={"username": USER, "password": password}, timeout=60)
        assert login.is_success
        processes = psutil.Process(started.pid).children(recursive=True)
        assert len(processes) >= 5
        mine = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == "LISTEN" and c.laddr]
        assert "127.0.0.1" in mine
        started.send_signal(signal.SIGINT)
        assert started.wait(300) == 0
    assert psutil.wait_procs(processes, timeout=60)[1] == []
