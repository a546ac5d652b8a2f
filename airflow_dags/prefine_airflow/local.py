"""Airflow on this machine for one person or a test: `airflow standalone` in a throw-away home.

    python -m prefine_airflow.local FOLDER [--port 8081]

Needs no package but those of Airflow's environment, whose `airflow` must stand beside the running Python or be named by
`--tools`. SIGINT stops everything; SIGTERM to `airflow standalone` would orphan its processes.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DAGS = Path(__file__).resolve().parent.parent
USER = "admin"
POOLS = {"prefine_gpu": (1, "stages that ask models"), "prefine_cpu": (2, "everything else")}
_STARTING, _STOPPING = 600.0, 60.0  # seconds


@dataclass
class Standalone:
    """A standalone Airflow; it may be stopped or killed and started again on the same home.

    Attributes:
        home: AIRFLOW_HOME; made if it is missing.
        tools: folder of Airflow's executables.
        port: of the web server; two more free ports serve logs.
        settings: environment variables beside our own, which win.
    """

    home: Path
    tools: Path
    port: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Address of the web server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def password(self) -> str:
        """The user's password, drawn once for a home."""
        path = self.home / "passwords.json"
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)
            path.write_text(json.dumps({USER: secrets.token_urlsafe(12)}))
        return str(json.loads(path.read_text())[USER])

    @property
    def log(self) -> Path:
        """Everything the processes print."""
        return self.home / "standalone.log"

    def environment(self) -> dict[str, str]:
        """Environment of every Airflow process."""
        self.port = self.port or free_port()
        self.password  # noqa: B018  drawn before the server looks for it
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR", "PREFINE_CURATION") if name in os.environ}
        return {
            **kept,
            "PATH": f"{self.tools}:{os.environ.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "180",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "60",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            **self.settings,
        }

    def start(self) -> None:
        """Start, wait until every component is healthy, make the pools.

        Raises:
            RuntimeError: it ended or did not become healthy in time; the text quotes its log.
        """
        environment = self.environment()
        self.command("db", "migrate")
        for name, (slots, why) in POOLS.items():
            self.command("pools", "set", name, str(slots), why)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.tools / "airflow", "standalone"],
                env=environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a ctrl-c in the terminal reaches us, and we pass it on once
                preexec_fn=_hear_interrupts,
            )
        deadline = time.monotonic() + _STARTING
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"airflow standalone ended:\n{self.tail()}")
            if self.healthy():
                return
            time.sleep(0.5)
        raise RuntimeError(f"airflow standalone is not healthy after {_STARTING:.0f} s:\n{self.tail()}")

    def command(self, *words: str) -> str:
        """Run an `airflow` command to its end; what it printed.

        Raises:
            RuntimeError: it failed.
        """
        done = subprocess.run(
            [self.tools / "airflow", *words], env=self.environment(), cwd=self.home, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"airflow {' '.join(words)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def healthy(self) -> bool:
        """Whether scheduler, triggerer, DAG processor and database all report to be."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=10) as reply:  # noqa: S310
                parts: dict[str, Any] = json.load(reply)
        except (OSError, ValueError):
            return False
        names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all((parts.get(name) or {}).get("status") == "healthy" for name in names)

    def stop(self) -> None:
        """End everything as ctrl-c would; what has not ended after a while is killed."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOPPING)
        self.kill()

    def kill(self) -> None:
        """End everything at once, as a power cut would."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def _hear_interrupts() -> None:
    """What a shell starts in the background ignores SIGINT, and so would every process below it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Start, say where, wait for ctrl-c, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--tools", type=Path, default=Path(sys.executable).parent)
    parser.add_argument("--port", type=int, default=8081)
    given = parser.parse_args()
    airflow = Standalone(given.home.resolve(), given.tools.resolve(), given.port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        print("starting Airflow; this takes about half a minute", flush=True)
        airflow.start()
        print(f"open {airflow.url} and log in as {USER} with password {airflow.password}")
        print(f"log: {airflow.log}; stop with ctrl-c", flush=True)
        while airflow.process is not None and airflow.process.poll() is None:
            time.sleep(0.5)
        print(f"Airflow ended by itself:\n{airflow.tail()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopping", flush=True)
        return 0
    finally:
        airflow.stop()


if __name__ == "__main__":
    sys.exit(main())
