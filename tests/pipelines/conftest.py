"""A whole small project: prompts, a stub LLM in a process of its own, a recipe, and `prefine` as users run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import forked
from tests.conftest import ROOT

PROMPTS = [
    {"prompt": f"Explain item {i} of the list in a few words.", "kind": "chat" if i % 2 else "instruction"}
    for i in range(24)
]


@dataclass
class Project:
    """A folder with a recipe and the address of a stub LLM."""

    folder: Path
    url: str
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def recipe_path(self) -> Path:
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        return path

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "prefine.cli.main", *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin a command that the test is to watch or to kill."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def attempt(self, *words: str) -> forked.Done:
        """Run a command to its end, whatever that is."""
        return forked.prefine(*words, folder=self.folder, environment=self.environment())

    def prefine(self, *words: str, expect: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        done = self.attempt(*words)
        out, err = done.stdout, done.stderr
        assert done.returncode == expect, f"prefine {' '.join(words)} exited {done.returncode}\n{out}\n{err}"
        return out if expect == 0 else err

    def run(self, workspace: str, *words: str) -> dict[str, Any]:
        """`prefine run`, its summary as JSON."""
        out = self.prefine("run", str(self.recipe_path), "--workspace", workspace, "--json", *words)
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        return result

    def stats(self) -> dict[str, Any]:
        """How often the stub received and answered each request."""
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/stats", timeout=10) as reply:
            stats: dict[str, Any] = json.load(reply)
        return stats

    def calls(self) -> int:
        return sum(self.stats()["answered"].values())


def version_bytes(workspace: Path, dataset: str = "small", version: str = "v0001") -> dict[str, bytes]:
    """Every file of a version, the manifest and the report too."""
    folder = workspace / "datasets" / dataset / version
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def recipe_of(url: str) -> dict[str, Any]:
    """Prompts to a published version: two generators, a judge in both orders, two rule voters."""
    return {
        "name": "small",
        "seed": 3,
        "buckets": 4,
        "sources": [{"name": "prompts", "kind": "prompts", "path": "prompts.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub"}},
        "generate": {
            "generators": [
                {"name": "sample", "plugin": "sample_n", "engines": ["stub"], "n": 2, "max_tokens": 32},
                {
                    "name": "twins",
                    "plugin": "context_reversal",
                    "engines": ["stub"],
                    "n": 2,
                    "max_tokens": 32,
                    "verify": False,  # the stub draws its opinions
                },
            ]
        },
        "judge": {"judges": [{"name": "judge", "plugin": "logprob", "engine": "stub"}]},
        "score": {"scorers": [{"plugin": "length"}, {"plugin": "repetition"}]},
        "route": {"queue": {"budget": 10, "audit_share": 0.2}},
        "materialise": {"splits": {"fractions": {"train": 0.5, "validation": 0.25, "test": 0.25}}},
    }


@contextmanager
def stub_processes() -> Iterator[Callable[..., str]]:
    """Start stub LLM servers in processes of their own: `stub(latency_s=...)` gives a base URL."""
    processes: list[subprocess.Popen[str]] = []

    def start(**options: Any) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.stub_llm", "--port", "0", "--options", json.dumps(options)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@pytest.fixture
def stub() -> Iterator[Callable[..., str]]:
    """Stub LLM servers of the test's own."""
    with stub_processes() as start:
        yield start


def project_in(folder: Path, url: str) -> Project:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return Project(folder, url, recipe_of(url))


@pytest.fixture
def project(tmp_path: Path, stub: Callable[..., str]) -> Project:
    """A project on a fast stub."""
    return project_in(tmp_path, stub())


@dataclass
class Published(Project):
    """A project whose workspace `w` holds a version already, with what the run said that made it."""

    first: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def ran_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with stub_processes() as start:
        project = project_in(tmp_path_factory.mktemp("ran-once"), start())
        yield Published(project.folder, project.url, project.recipe, project.run("w"))


@pytest.fixture
def published(tmp_path: Path, ran_once: Published) -> Published:
    """A copy of a project that has run, for tests that begin there. Its stub has answered other tests as well."""
    shutil.copytree(ran_once.folder, tmp_path, dirs_exist_ok=True)
    return replace(ran_once, folder=tmp_path, recipe=deepcopy(ran_once.recipe))
