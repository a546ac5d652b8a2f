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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipelines.conftest import Project, version_bytes

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
    out, err = process.communicate(timeout=400)
    if lose is None:
        assert process.returncode == 0, out + err
    return process.returncode


def assert_complete(project: Project, workspace: str) -> None:
    """The version of an ordinary run that follows is that of a local run, byte for byte, at no further call."""
    asked = set(project.stats()["answered"])
    project.run(workspace)
    project.run("local")
    assert version_bytes(project.folder / workspace) == version_bytes(project.folder / "local")
    assert set(project.stats()["answered"]) >= asked


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


@pytest.mark.parametrize("lose_one", [False, True])
def test_beams_job_service_with_outside_worker_pools(project: Project, lose_one: bool) -> None:
    jobs, pool = free_port(), free_port()
    service = ["-m", "apache_beam.runners.portability.local_job_service_main", "--port", str(jobs)]
    workers = ["-m", "apache_beam.runners.worker.worker_pool_main", "--service_port", str(pool)]
    with processes(project, service, workers) as (_, pools):
        wait_for(jobs)
        wait_for(pool)
        flags = [
            "--runner=PortableRunner",
            f"--job_endpoint=127.0.0.1:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=127.0.0.1:{pool}",
        ]
        if lose_one:
            lose_a_worker(project, flags, pools.pid)
        assert run_there(project, "portable", flags) == 0
    assert_complete(project, "portable")


def lose_a_worker(project: Project, flags: list[str], pool: int) -> None:
    """A run whose worker process is killed. This job service waits for it for ever, so the run is stopped, too."""
    words = ("run", str(project.recipe_path), "-w", str(project.folder / "portable"), "--quiet", "--", *flags)
    process = project.start(*words)
    while project.calls() < 10:
        assert process.poll() is None
        time.sleep(0.05)
    listed = subprocess.run(["pgrep", "-P", str(pool)], capture_output=True, text=True, check=True)
    os.kill(int(listed.stdout.split()[0]), signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
