"""What can go wrong around a run: it ends complete, or with a clear error from which the next run recovers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults import harness
from tests.pipelines.conftest import PROMPTS, Project, recipe_of, version_bytes
from tests.stub_llm import Options, StubServer

pytestmark = pytest.mark.slow


@dataclass
class Calm:
    """A project on a fast stub, what an undisturbed run of it published, and a workspace to disturb."""

    project: Project
    version: dict[str, bytes]
    workspace: str = ""

    @property
    def folder(self) -> Path:
        return self.project.folder / self.workspace

    def until(self, stage: str) -> None:
        self.project.run(self.workspace, "--until", stage)

    def run(self, *before: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """`prefine run`, started through the words `before`; it may fail."""
        recipe = str(self.project.recipe_path)
        return subprocess.run(
            [*before, *self.project.command("run", recipe, "--workspace", self.workspace, "--quiet")],
            cwd=self.project.folder,
            env=self.project.environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def assert_recovers(self) -> None:
        """The next run ends with the undisturbed run's bytes."""
        assert self.project.run(self.workspace)["version"] == "v0001"
        assert version_bytes(self.folder) == self.version
        self.project.prefine("verify", "small", "-w", self.workspace)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    with StubServer() as server:
        project = Project(folder, server.url, recipe_of(server.url))
        project.run("calm")
        yield Calm(project, version_bytes(folder / "calm"))


@pytest.fixture
def calm(undisturbed: Calm) -> Iterator[Calm]:
    """With a workspace of its own."""
    mine = replace(undisturbed, workspace=f"w{time.monotonic_ns()}")
    yield mine
    shutil.rmtree(mine.folder, ignore_errors=True)


def only(paths: Any) -> Path:
    """The largest of the files found: the one that matters."""
    return max((Path(path) for path in paths), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("blocks", [1, 8, 32])
def test_a_disk_that_takes_no_more_stops_the_run_with_the_files_name(calm: Calm, blocks: int) -> None:
    """`ulimit -f` lets no file grow beyond so many kB: writes fail as on a full disk, at another place each time."""
    done = calm.run("bash", "-c", f'ulimit -f {blocks}; exec "$@"', "limited")
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    calm.assert_recovers()


def test_a_full_disk_stops_the_run_with_the_files_name(calm: Calm) -> None:
    """A file system of its own, with room for the first stages only."""
    calm.folder.mkdir()
    small = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "full", str(calm.folder)], capture_output=True)
    if small.returncode:
        pytest.skip(f"no file system can be mounted here: {small.stderr.decode().strip()}")
    try:
        done = calm.run()
        assert done.returncode == 1
        assert "No space left" in done.stderr
        assert calm.workspace in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=1g", str(calm.folder)], check=True)
        calm.assert_recovers()
    finally:
        subprocess.run(["umount", str(calm.folder)], check=True)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_part_that_may_not_be_read_is_named(calm: Calm) -> None:
    calm.until("judge")
    part = only(calm.folder.glob("tables/votes/*/*.parquet"))
    part.chmod(0o000)
    done = calm.run(*as_anybody())
    part.chmod(0o644)
    assert done.returncode == 1
    assert part.name in done.stderr
    assert "Traceback" not in done.stderr
    calm.assert_recovers()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not installed")
def test_a_read_only_workspace_is_named(calm: Calm) -> None:
    calm.until("generate")
    folders = [path for path in calm.folder.rglob("*") if path.is_dir()] + [calm.folder]
    try:
        for folder in folders:
            folder.chmod(0o555)
        done = calm.run(*as_anybody())
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    calm.assert_recovers()


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("tables/pairs/*/*.parquet", "truncated"),
        ("tables/votes/*/*.parquet", "garbage"),
        ("tables/votes/*/*.parquet", "gone"),
        ("stages/ingest/slices/*.parquet", "truncated"),
        ("stages/judge/*.json", "truncated"),
    ],
)
def test_a_damaged_file_is_named_and_made_anew(calm: Calm, pattern: str, damage: str) -> None:
    """What comes after it is out of date, so that the file must be read again."""
    calm.until("ingest" if "ingest" in pattern else "judge")
    bad = only(calm.folder.glob(pattern))
    if "ingest" in pattern:
        for checkpoint in calm.folder.glob("stages/ingest/*.json"):
            checkpoint.unlink()
    if damage == "gone":
        bad.unlink()
    else:
        data = bad.read_bytes()
        bad.write_bytes(data[: len(data) // 2] if damage == "truncated" else os.urandom(len(data)))
    done = calm.run()
    assert (done.returncode == 0) == (damage == "gone")
    if done.returncode:
        assert "Traceback" not in done.stderr
        assert bad.name in done.stderr
        assert "delete it and run again" in done.stderr
        bad.unlink()
    calm.assert_recovers()


def test_a_corrupted_manifest_is_named_and_never_taken_for_a_version(calm: Calm) -> None:
    calm.project.run(calm.workspace)
    manifest = calm.folder / "datasets" / "small" / "v0001" / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:100])
    for command in ("show", "verify"):
        error = calm.project.prefine(command, "small", "-w", calm.workspace, expect=1)
        assert "manifest" in error
        assert "Traceback" not in error
    done = calm.run()
    assert done.returncode == 1
    assert str(Path("v0001") / "manifest.json") in done.stderr
    assert "Traceback" not in done.stderr
    manifest.unlink()
    calm.assert_recovers()


def test_a_clock_that_runs_backwards_changes_nothing(calm: Calm, tmp_path: Path) -> None:
    calm.until("judge")
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nnow, mono = time.time, time.monotonic\ntime.time = lambda: now() - 86400 - 50 * mono()\n"
    )
    done = calm.run(env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert done.returncode == 0, done.stderr
    assert version_bytes(calm.folder) == calm.version


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


def as_anybody() -> tuple[str, ...]:
    """Words before a command: root may read and write anywhere unless it gives that up."""
    caps = "-dac_override,-dac_read_search"
    return ("setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}") if os.geteuid() == 0 else ()


def slow_project(folder: Path, stub: Callable[..., str]) -> Project:
    """A project whose LLM takes its time."""
    url = stub(latency_s=0.2, slots=2)
    (folder / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in PROMPTS))
    return Project(folder, url, recipe_of(url))


def workers_of(leader: int) -> list[int]:
    """Beam's worker processes in a process group."""
    listed = subprocess.run(["pgrep", "-g", str(leader), "-f", "sdk_worker_main"], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]
