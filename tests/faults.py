"""Kill a whole run again and again, at seeded random moments, and see that nothing shows.

    python -m tests.faults --kills 100 --seed 0 --folder DIR        (`make faults`)

A life is: `prefine run` from prompts to version 1 with tasks pushed to a real Label Studio, scripted people answer
every task, `prefine run` again to version 2. Every command runs in a process group of its own that is killed with
SIGKILL after a random time, and is started again until it ends by itself. Lives follow one another until the kills
are spent.
The LLM is the stub of tests/stub_llm.py, which counts what it answered; without Label Studio on this machine the
people answer through a file instead.

After every life: version 1 is byte-identical to that of an undisturbed life, and so is version 2 (with a real Label
Studio its data files are: answers carry the server's ids and the time they were given); no request was answered twice
beyond those in flight at a kill; every pair of the queue is one task on the server; nothing half published lies about;
`prefine verify` finds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from pipelines.inspect.tables import table_frame
from pipelines.runtime.annotation import ledger
from tests.label_studio_server import LEGACY_TOKEN, Server, executable
from tests.pipelines.conftest import PROMPTS, Project, recipe_of, version_bytes
from tests.stub_llm import Options, StubServer
from tests.transforms.annotate.replay import Person, answer
from transforms.storage.files import TEMPORARY
from transforms.storage.workspace import Workspace

TOKEN_ENV = "PREFINE_FAULTS_TOKEN"
ANSWERS = "answers.jsonl"
CONCURRENCY = 8


class Broken(AssertionError):
    """A promise was broken; the text says which, in which life."""


@dataclass
class Lives:
    """Lives of one project: what kills them and what they left.

    Attributes:
        label_studio: the people's server; None: they answer through a file.
        quickest: no kill comes before so many seconds; about what the interpreter needs to start.
    """

    folder: Path
    stub: StubServer
    label_studio: Server | None
    seed: int
    quickest: float = 1.0
    kills: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        (self.folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
        recipe = recipe_of(self.stub.url)
        recipe["engines"]["stub"]["concurrency"] = CONCURRENCY
        recipe["route"]["queue"] = {"budget": 20, "audit_share": 0.3, "audit_overlap": 1}
        recipe["annotate"] = {"files": [ANSWERS]}
        if self.label_studio is not None:
            settings = {"plugin": "label_studio", "url": self.label_studio.url, "token_env": TOKEN_ENV}
            recipe["annotate"] |= settings
        self.project = Project(self.folder, self.stub.url, recipe)

    def live(self, name: str, kills: int) -> None:
        """A whole life in the workspace `name`, killed at most so many times."""
        limit = self.kills + kills
        self._forget_tasks()
        words = ("run", str(self.project.recipe_path), "--workspace", name, "--quiet")
        self._until_done(f"{name} 1", words, limit)
        self._answer(name)
        self._until_done(f"{name} 2", words, limit)

    def _until_done(self, what: str, words: tuple[str, ...], limit: int) -> None:
        """Run a command; kill it at a random moment and start it again until it ends by itself."""
        usual = self.seconds.get(what.split()[-1], 0.0)
        started = time.monotonic()
        while True:
            process = self.project.start(*words)
            patience = self.random.uniform(self.quickest, max(usual, self.quickest + 1)) if self.kills < limit else 600
            try:
                out, err = process.communicate(timeout=patience)
            except subprocess.TimeoutExpired:
                if self.kills >= limit:
                    raise Broken(f"{what}: {' '.join(words)} hangs") from None
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                self.kills += 1
                continue
            if process.returncode:
                raise Broken(f"{what}: {' '.join(words)} exited {process.returncode} after a kill\n{out}\n{err}")
            self.seconds.setdefault(what.split()[-1], time.monotonic() - started)
            return

    def _answer(self, name: str) -> None:
        workspace = Workspace.open(str(self.folder / name))
        queue = table_frame(workspace, "queue").collect()
        if self.label_studio is None:
            rows = queue.sort("pair_id").select("pair_id", label=_label("pair_id"), annotator=pl.lit("ann"))
            rows.with_columns(updated_at=pl.lit("2026-01-01T00:00:00Z")).write_ndjson(self.folder / ANSWERS)
            return
        tasks = ledger(workspace)
        self._tasks_are(set(queue["pair_id"]), dict(tasks.select("task_id", "pair_id").iter_rows()), name)
        person = Person(self.label_studio.url, *self.person)
        for task in tasks.with_columns(label=_label("pair_id")).iter_rows(named=True):
            person.post(task["task_id"], answer(task["label"], task["shown"]))
        person.close()

    @property
    def person(self) -> tuple[int, str]:
        """A scripted annotator's id and token."""
        if not hasattr(self, "_person"):
            assert self.label_studio is not None
            self._person = self.label_studio.add_user("faults@example.com")
        return self._person

    def _server(self, method: str, path: str, **params: Any) -> Any:
        assert self.label_studio is not None
        headers = {"Authorization": f"Token {LEGACY_TOKEN}"}
        reply = httpx.request(method, f"{self.label_studio.url}{path}", headers=headers, params=params, timeout=120)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def _forget_tasks(self) -> None:
        """A life starts with an empty server and no answers, or it would find those of the one before."""
        (self.folder / ANSWERS).write_text("")
        if self.label_studio is not None:
            for project in self._server("GET", "/api/projects", page_size=100)["results"]:
                self._server("DELETE", f"/api/projects/{project['id']}/")

    def _tasks_are(self, asked: set[str], ledger_tasks: dict[int, str], name: str) -> None:
        projects = self._server("GET", "/api/projects", page_size=100)["results"]
        titles = [project["title"] for project in projects]
        if len(set(titles)) != len(titles):
            raise Broken(f"{name}: a project was made twice: {titles}")
        tasks = [
            task
            for project in projects
            for task in self._server("GET", "/api/tasks", project=project["id"], page_size=1000)["tasks"]
        ]
        if {t["id"] for t in tasks} != set(ledger_tasks):
            raise Broken(f"{name}: {len(tasks)} tasks on the server, {len(ledger_tasks)} in the ledger")
        if set(ledger_tasks.values()) != asked or len(ledger_tasks) != len(asked):
            raise Broken(f"{name}: the ledger's pairs are not the queue's, each once")

    def _second(self, workspace: Path) -> dict[str, bytes]:
        """What is the same in every life of version 2."""
        files = version_bytes(workspace, version="v0002")
        people_are_real = self.label_studio is not None
        return {path: data for path, data in files.items() if path.startswith("data/") or not people_are_real}

    def check(self, name: str, paid: Counter[str], before: Counter[str], kills: int) -> None:
        """Compare a disturbed life with the undisturbed one; `paid` is what that one was answered."""
        folder, calm = self.folder / name, self.folder / "calm"
        if version_bytes(folder) != version_bytes(calm):
            raise Broken(f"{name}: version 1 differs from the undisturbed one")
        mine, undisturbed = (self._second(w) for w in (folder, calm))
        if mine != undisturbed:
            differ = sorted(p for p in mine.keys() | undisturbed.keys() if mine.get(p) != undisturbed.get(p))
            raise Broken(f"{name}: version 2 differs from the undisturbed one in {', '.join(differ)}")
        now = self.stub.stub.answered - before
        missing = paid.keys() - now.keys()
        if missing:
            raise Broken(f"{name}: {len(missing)} requests were never asked")
        twice = sum(n - paid[key] for key, n in now.items())
        if twice > kills * CONCURRENCY:
            raise Broken(f"{name}: {twice} answers were bought again after {kills} kills, {CONCURRENCY} in flight each")
        versions = sorted(p.name for p in (folder / "datasets" / "small").iterdir() if not p.name.startswith("."))
        if [v for v in versions if v.startswith("v")] != ["v0001", "v0002"]:
            raise Broken(f"{name}: versions {versions}")
        half = [p for p in (folder / "datasets").rglob("*") if p.name.startswith(TEMPORARY)]
        if half:
            raise Broken(f"{name}: half-written files in datasets: {half}")
        for version in ("small@1", "small@2"):
            self.project.prefine("verify", version, "-w", name)


def _label(column: str) -> pl.Expr:
    """What the scripted people say of a pair: a function of its id."""
    return pl.when(pl.col(column).str.slice(0, 1) < "8").then(pl.lit("a")).otherwise(pl.lit("b"))


@contextmanager
def people(folder: Path) -> Iterator[Server | None]:
    """A Label Studio for the duration of the block, where it is installed."""
    if executable() is None:
        yield None
        return
    server = Server(folder / "label-studio")
    os.environ[TOKEN_ENV] = LEGACY_TOKEN
    server.start()
    try:
        yield server
    finally:
        server.kill()


def harness(folder: Path, kills: int, seed: int, kills_a_life: int = 10, quiet: bool = False) -> dict[str, Any]:
    """Live until so many kills are spent.

    Raises:
        Broken: with what did not hold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with people(folder) as server, StubServer(Options(latency_s=0.05, slots=CONCURRENCY)) as stub:
        lives = Lives(folder, stub, server, seed)
        lives.live("calm", 0)
        paid = Counter(stub.stub.answered)
        lived, twice = 0, 0
        while lives.kills < kills:
            name, before, killed = f"life{lived}", Counter(stub.stub.answered), lives.kills
            lives.live(name, min(kills_a_life, kills - lives.kills))
            lives.check(name, paid, before, lives.kills - killed)
            twice += (stub.stub.answered - before).total() - paid.total()
            shutil.rmtree(folder / name)
            lived += 1
            if not quiet:
                print(f"{name}: {lives.kills - killed} kills, all held", flush=True)
        return {
            "kills": lives.kills,
            "lives": lived,
            "calls of a life": paid.total(),
            "answers bought twice": twice,
            "allowed": lives.kills * CONCURRENCY,
            "label studio": server is not None,
        }


def main() -> int:
    """Print what was done; fail where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            print(json.dumps(harness(options.folder or Path(scratch), options.kills, options.seed)))
        except Broken as broken:
            print(broken, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
