"""The same run on other engines gives the same bytes: a Dask cluster, and Beam's job service with outside workers.

Workers are processes of their own, started in another directory, and share nothing with the driver but the workspace.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import polars as pl
import psutil
import pytest

from pipelines.inspect.status import status
from pipelines.inspect.tables import table_frame
from tests.pipelines.conftest import PROMPTS, Project, recipe_of, version_bytes
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow


@contextmanager
def processes(project: Project, *commands: list[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The commands, running in a directory of their own for the duration of the block."""
    folder = project.folder / "elsewhere"
    folder.mkdir()
    environment = project.environment()
    # Beam's worker pool starts whatever `python` it finds on its path.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    started = []
    try:
        for index, words in enumerate(commands):
            with (folder / f"{index}.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        [sys.executable, *words],
                        cwd=folder,
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )
        yield started
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"nothing listens on port {port}")


def run_there(project: Project, workspace: str, flags: list[str], lose: int | None = None) -> int:
    """`prefine run` with Beam flags; `lose` is a process to kill once calls are under way. Returns the exit code."""
    words = ("run", str(project.recipe_path), "--workspace", str(project.folder / workspace), "--quiet", "--", *flags)
    process = project.start(*words)
    if lose is not None:
        before = project.calls()
        while project.calls() < before + 10 and process.poll() is None:
            time.sleep(0.05)
        os.kill(lose, signal.SIGKILL)
    out, err = process.communicate(timeout=900)
    if lose is None:
        assert process.returncode == 0, out + err
    return process.returncode


def assert_complete(project: Project, workspace: str) -> None:
    """Every row is there, and the version is that of a local run, byte for byte; running again asks nothing."""
    assert_rows(project.folder / workspace)
    there, calls = version_bytes(project.folder / workspace), project.calls()
    project.run(workspace)
    assert version_bytes(project.folder / workspace) == there
    assert project.calls() == calls
    project.run("local")
    assert_rows(project.folder / "local")
    assert version_bytes(project.folder / "local") == there


def assert_rows(root: Path) -> None:
    """The counts that the recipe implies: runners have lost rows in silence."""
    workspace = Workspace.open(str(root))
    frames = {
        name: table_frame(workspace, name).collect() for name in ("pairs", "votes", "verdicts", "rows", "rejects")
    }
    n_pairs = 3 * len(PROMPTS)  # one of two samples, a pair of twins
    judged = frames["votes"].filter(pl.col("kind") == "judge")
    rules = frames["votes"].filter(pl.col("kind") == "rule")
    assert frames["pairs"].height == frames["pairs"]["pair_id"].n_unique() == n_pairs
    assert judged.group_by("pair_id", "order").len()["len"].to_list() == [1] * (2 * n_pairs)
    assert rules.group_by("pair_id", "voter").len()["len"].to_list() == [1] * (2 * n_pairs)
    assert frames["verdicts"].height == frames["verdicts"]["pair_id"].n_unique() == n_pairs
    assert frames["rows"].height + frames["rejects"].filter(pl.col("stage") == "materialise").height == n_pairs
    for row in status(str(root)):
        assert row["rows_in"] == row["rows_out"] + sum(row["rejects"].values()), row["stage"]
        assert row["buckets"] == row["n_buckets"], row["stage"]


@pytest.mark.parametrize("lose_one", [False, True])
def test_a_dask_cluster_of_several_workers(project: Project, lose_one: bool) -> None:
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
    with processes(project, scheduler, worker, worker, worker) as (_, *workers):
        wait_for(port)
        wait_for_workers(project.folder / "elsewhere" / "0.log", len(workers))
        flags = ["--runner=DaskRunner", f"--dask_client_address={address}", "--dask_npartitions=4"]
        lost = workers[0].pid if lose_one else None
        code = run_there(project, "dask", flags, lost)
        if code:  # without a nanny nobody restarts a worker, but two of three go on
            code = run_there(project, "dask", flags)
        assert code == 0
    assert_complete(project, "dask")


def wait_for_workers(log: Path, n: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if len(re.findall(r"Register worker", log.read_text())) >= n:
            return
        time.sleep(0.2)
    raise AssertionError(f"not {n} workers at the scheduler:\n{log.read_text()}")


N_POOLS = 2
WORKERS_A_POOL = 1


@contextmanager
def job_service(project: Project) -> Iterator[tuple[list[str], list[psutil.Process]]]:
    """Beam's job service with several worker pools behind a balancer: the flags to use it, and the pools."""
    jobs, front, *ports = (free_port() for _ in range(2 + N_POOLS))
    here = ["-m", "tests.pipelines.worker_pools"]
    service = [*here, "jobs", str(jobs)]
    balancer = [*here, "balance", str(front), *map(str, ports)]
    pools = [["-m", "apache_beam.runners.worker.worker_pool_main", "--service_port", str(port)] for port in ports]
    with processes(project, service, balancer, *pools) as (_, _, *started):
        for port in (jobs, front, *ports):
            wait_for(port)
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{front}",
            f"--direct_num_workers={N_POOLS * WORKERS_A_POOL}",
        ]
        yield flags, [psutil.Process(pool.pid) for pool in started]


def asking(pool: psutil.Process, llm: int) -> list[int]:
    """The worker processes of a pool that hold a connection to the LLM."""
    found = []
    for worker in pool.children():
        with suppress(psutil.Error):
            if any(c.raddr and c.raddr.port == llm for c in worker.net_connections("tcp")):
                found.append(worker.pid)
    return found


@pytest.fixture
def slow_project(project: Project, stub: Callable[..., str]) -> Project:
    """A project whose LLM takes long enough to look at who asks it."""
    url = stub(latency_s=0.2, slots=8)
    return Project(project.folder, url, recipe_of(url))


@pytest.mark.parametrize("lose_one", [False, True])
def test_beams_job_service_with_several_worker_pools(slow_project: Project, lose_one: bool) -> None:
    project = slow_project
    llm = int(re.findall(r":(\d+)/", project.url)[0])
    with job_service(project) as (flags, pools):
        words = ("run", str(project.recipe_path), "-w", str(project.folder / "portable"), "--quiet", "--", *flags)
        run = project.start(*words)
        together = 0
        while run.poll() is None and together < N_POOLS:
            time.sleep(0.1)
            workers = [asking(pool, llm) for pool in pools]
            together = max(together, sum(bool(found) for found in workers))
        assert together == N_POOLS, (project.folder / "elsewhere" / "0.log").read_text()[-3000:]
        if lose_one:
            os.kill(workers[0][0], signal.SIGKILL)
            if not finishes(run):  # this job service waits for a lost worker for ever
                os.killpg(run.pid, signal.SIGKILL)
        out, err = run.communicate(timeout=900)
        if lose_one and run.returncode:
            run_there(project, "portable", flags)
        else:
            assert run.returncode == 0, out + err
    assert_complete(project, "portable")


def finishes(process: subprocess.Popen[str], seconds: float = 30) -> bool:
    """Whether a process ends within so long."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False
