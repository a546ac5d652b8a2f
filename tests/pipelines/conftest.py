"""A whole small project: prompts, a stub LLM in a process of its own, a recipe, and `prefine` as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

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
        return subprocess.Popen(
            self.command(*words),
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def prefine(self, *words: str, expect: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == expect, f"prefine {' '.join(words)} exited {process.returncode}\n{out}\n{err}"
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


@pytest.fixture
def stub() -> Iterator[Callable[..., str]]:
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

    yield start
    for process in processes:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@pytest.fixture
def project(tmp_path: Path, stub: Callable[..., str]) -> Project:
    """A project on a fast stub."""
    url = stub()
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return Project(tmp_path, url, recipe_of(url))
