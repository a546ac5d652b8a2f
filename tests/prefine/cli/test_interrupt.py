"""Ctrl-C in a run: it says what stands, leaves at once, and the same command goes on without paying twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.stub_llm import Options, StubServer

PAIRS = 16
RUN = [sys.executable, "-m", "prefine.cli.main", "run", "recipe.yaml", "-w", "w"]


def project(folder: Path, url: str, mode: str) -> None:
    rows = [{"prompt": f"Say {n}.", "chosen": f"{n}", "rejected": f"{n} or {n + 1}"} for n in range(PAIRS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "small",
        "buckets": 4,
        "sources": [{"name": "rows", "kind": "pairs", "path": "rows.jsonl"}],
        "engines": {"stub": {"plugin": "openai", "base_url": url, "model": "stub", "concurrency": 2}},
        "judge": {"judges": [{"plugin": "logprob", "engine": "stub"}]},
        "beam": {"mode": mode},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.mark.parametrize("mode", ["in_memory", pytest.param("multi_processing", marks=pytest.mark.slow)])
def test_ctrl_c_says_what_stands_and_the_same_command_goes_on(tmp_path: Path, mode: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with StubServer(Options(latency_s=0.2)) as server:
        project(tmp_path, server.url, mode)
        # A group of its own: a terminal sends ctrl-C to the workers too.
        process = subprocess.Popen(
            RUN, cwd=tmp_path, env=environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline = time.monotonic() + 240
        while sum(server.stub.answered.values()) < 6:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no request came"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        pressed = time.monotonic()
        _, said = process.communicate(timeout=120)
        assert time.monotonic() - pressed < 20
        assert process.returncode == 130
        assert "Traceback" not in said
        for words in ("stopped in stage judge", "finished stages: ingest, evolve", "go on with the same command"):
            assert words in said, said
        again = subprocess.run(RUN, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert again.returncode in (0, 1), again.stderr  # this judge's votes may leave every label in doubt
        assert len(server.stub.answered) == 2 * PAIRS
        twice = [n for n in server.stub.received.values() if n > 1]
        assert len(twice) <= 2 * 2  # what was in flight, of two workers
