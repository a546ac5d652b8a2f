"""What can go wrong around a run: it ends complete, or with a clear error from which the next run recovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import harness
from tests.pipelines.conftest import PROMPTS, Project, recipe_of, version_bytes
from tests.stub_llm import Options, StubServer

pytestmark = pytest.mark.slow

Disturbed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def calm(project: Project) -> dict[str, bytes]:
    """The bytes of an undisturbed run's version."""
    project.run("calm")
    return version_bytes(project.folder / "calm")


def run(project: Project, *before: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`prefine run` in workspace w, started through the words `before`."""
    words = [*before, *project.command("run", str(project.recipe_path), "--workspace", "w", "--quiet")]
    return subprocess.run(
        words,
        cwd=project.folder,
        env=project.environment() | (env or {}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_recovers(project: Project, calm: dict[str, bytes]) -> None:
    assert project.run("w")["version"] == "v0001"
    assert version_bytes(project.folder / "w") == calm
    project.prefine("verify", "small", "-w", "w")


def only(paths: Any) -> Path:
    """The largest of the files found: the one that matters."""
    return max((Path(path) for path in paths), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("blocks", [1, 8, 40])
def test_a_disk_that_takes_no_more_stops_the_run_with_the_files_name(
    project: Project, calm: dict[str, bytes], blocks: int
) -> None:
    """`ulimit -f` lets no file grow beyond so many kB: writes fail as on a full disk, at another place each time."""
    done = run(project, "bash", "-c", f'ulimit -f {blocks}; exec "$@"', "limited")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert_recovers(project, calm)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_read_only_workspace_is_named(project: Project, calm: dict[str, bytes]) -> None:
    project.prefine("run", str(project.recipe_path), "--workspace", "w", "--until", "generate", "--quiet")
    folders = [path for path in (project.folder / "w").rglob("*") if path.is_dir()] + [project.folder / "w"]
    try:
        for folder in folders:
            folder.chmod(0o555)
        # root may write anywhere unless it gives that up
        drop = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override") if os.geteuid() == 0 else ()
        done = run(project, *drop)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert_recovers(project, calm)


@pytest.mark.parametrize(
    "pattern",
    ["tables/pairs/*/*.parquet", "tables/votes/*/*.parquet", "stages/ingest/slices/*.parquet", "stages/judge/*.json"],
)
@pytest.mark.parametrize("damage", ["truncated", "gone", "garbage"])
def test_a_damaged_file_is_named_and_made_anew(
    project: Project, calm: dict[str, bytes], pattern: str, damage: str
) -> None:
    """The stages after it are out of date, so that the file must be read again."""
    project.run("w", "--until", "judge")
    bad = only((project.folder / "w").glob(pattern))
    if damage == "gone":
        bad.unlink()
    else:
        data = bad.read_bytes()
        bad.write_bytes(data[: len(data) // 2] if damage == "truncated" else os.urandom(len(data)))
    done = run(project)
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert bad.name in done.stderr
        assert "delete it and run again" in done.stderr
        bad.unlink()
    assert_recovers(project, calm)


def test_a_corrupted_manifest_is_named_and_never_taken_for_a_version(project: Project) -> None:
    project.run("w")
    manifest = project.folder / "w" / "datasets" / "small" / "v0001" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:100])
    for words in (("show", "small", "-w", "w"), ("verify", "small", "-w", "w")):
        error = project.prefine(*words, expect=1)
        assert "manifest" in error
        assert "Traceback" not in error
    manifest.write_bytes(whole)
    project.prefine("verify", "small", "-w", "w")


def test_a_clock_that_runs_backwards_changes_nothing(project: Project, calm: dict[str, bytes]) -> None:
    project.run("w", "--until", "judge")
    (project.folder / "shifted").mkdir()
    (project.folder / "shifted" / "sitecustomize.py").write_text(
        "import time\nnow, mono = time.time, time.monotonic\ntime.time = lambda: now() - 86400 - 50 * mono()\n"
    )
    path = f"{project.folder / 'shifted'}{os.pathsep}{project.environment()['PYTHONPATH']}"
    done = run(project, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert version_bytes(project.folder / "w") == calm


def test_two_runs_at_once_are_one_run_and_one_clear_error(tmp_path: Path, stub: Callable[..., str]) -> None:
    project = slow_project(tmp_path, stub)
    words = ("run", str(project.recipe_path), "--workspace", "w", "--quiet")
    first = project.start(*words)
    while not (tmp_path / "w" / "stages" / "ingest").exists():
        time.sleep(0.05)
    error = project.prefine(*words, expect=1)
    assert "another prefine is running" in error
    out, err = first.communicate(timeout=300)
    assert first.returncode == 0, out + err
    assert all(n == 1 for n in project.stats()["answered"].values())


def test_a_worker_killed_by_the_system_ends_the_run_and_the_next_one_completes_it(
    tmp_path: Path, stub: Callable[..., str]
) -> None:
    project = slow_project(tmp_path, stub)
    words = ("run", str(project.recipe_path), "--workspace", "w", "--quiet")
    process = project.start(*words, "--", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
    while project.calls() < 10:
        assert process.poll() is None
        time.sleep(0.1)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "a worker process was killed" in err
    assert project.run("w")["version"] == "v0001"
    before = len(project.stats()["answered"])
    project.run("calm")
    assert version_bytes(tmp_path / "w") == version_bytes(tmp_path / "calm")
    assert len(project.stats()["answered"]) == before


def test_an_llm_server_that_goes_away_ends_the_run_and_the_next_one_buys_only_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    with StubServer(Options(latency_s=0.1, slots=4)) as server:
        project = Project(tmp_path, server.url, recipe_of(server.url))
        project.recipe["engines"]["stub"] |= {"outage_s": 2.0}
        process = project.start("run", str(project.recipe_path), "--workspace", "w", "--quiet")
        while server.stub.answered.total() < 10:
            assert process.poll() is None
            time.sleep(0.05)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert server.url.removesuffix("/v1") in err
    assert "Traceback" not in err
    with StubServer(port=server.port) as back:
        assert project.run("w")["version"] == "v0001"
        again = {key: n for key, n in back.stub.answered.items() if key in server.stub.answered}
        assert len(again) <= 16  # those in flight when it went
        assert project.run("calm")["version"] == "v0001"
    assert version_bytes(tmp_path / "w") == version_bytes(tmp_path / "calm")


def test_killed_at_random_moments_with_people_in_the_loop_nothing_shows(tmp_path: Path) -> None:
    """The short form of `make faults`."""
    result = harness(tmp_path, kills=8, seed=0, quiet=True)
    assert result["kills"] == 8
    assert result["answers bought twice"] <= result["allowed"]


def slow_project(folder: Path, stub: Callable[..., str]) -> Project:
    """A project whose LLM takes its time."""
    url = stub(latency_s=0.2, slots=2)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return Project(folder, url, recipe_of(url))


def workers_of(leader: int) -> list[int]:
    """Beam's worker processes in a process group."""
    listed = subprocess.run(["pgrep", "-g", str(leader), "-f", "sdk_worker_main"], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]
