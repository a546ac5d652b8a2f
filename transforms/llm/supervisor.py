"""Keeps one server process alive for all its users on a host, and stops it after the last one.

`shared_server(spec)` may be entered by any number of processes and threads at once. The first
starts a supervisor (`python -m transforms.llm.supervisor`), which starts the server, restarts it on a crash
with bounded back-off, gives up one that is not ready in time, and ends it when nobody uses it any more. Users hold a
shared `flock`, which the kernel drops however a process dies; the supervisor leaves once it gets that lock for itself.
`standing(spec)` tells a client whose server does not answer whether somebody is about to bring it back.

A server listens on its host alone, so it is started where it is asked: if workers are on several hosts, each has one.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import orjson

from schemas.errors import EngineError
from schemas.ids import hash_json

PORT = "{port}"  # stands for the port in a command
_PR_SET_PDEATHSIG = 1
_STEADY_S = 300.0  # a server that lived so long has its count of restarts forgotten
_LOG_TAIL = 2000
_PRIVATE, _WRITABLE_BY_OTHERS = 0o700, 0o022


@dataclass(frozen=True)
class ServerSpec:
    """A server to keep alive; all who name an equal one on a host share it.

    Attributes:
        name: the engine's name, for messages.
        command: argument list; `{port}` is replaced by a free port.
        environment: added to the current environment.
        health_path: answers 200 when the server is ready.
        start_timeout_s: how long the server may take to get ready, at first and after each crash.
        max_restarts: crashes in a row after which the server is given up.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/health"
    start_timeout_s: float = 300.0
    max_restarts: int = 5

    @property
    def settings(self) -> dict[str, Any]:
        """What the supervisor is told."""
        return {
            "command": list(self.command),
            "environment": dict(self.environment),
            "health": self.health_path,
            "start_timeout_s": self.start_timeout_s,
            "max_restarts": self.max_restarts,
        }

    @property
    def folder(self) -> Path:
        """Where the server's locks, state and log lie on this host.

        Raises:
            EngineError: somebody else could write there.
        """
        return private_folder() / f"{self.name}-{hash_json(self.settings)[:16]}"


def private_folder() -> Path:
    """A folder of this user alone in the host's temporary folder, the same for all of the user's processes.

    The command of a server is read from it, so whoever can write in it can run code as this user. It is not in
    XDG_RUNTIME_DIR, which is removed when the user logs out, perhaps with a run still under way.

    Raises:
        EngineError: it belongs to another user, others may write in it, or it is no folder.
    """
    folder = Path(tempfile.gettempdir()) / f"prefine-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        state = folder.lstat()  # of a link itself, not of what it leads to
    except OSError as error:
        raise EngineError(f"cannot make {folder}: {error.strerror}; set TMPDIR to a folder of your own") from None
    mode = stat.S_IMODE(state.st_mode)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or mode & _WRITABLE_BY_OTHERS:
        raise EngineError(
            f"{folder} is not a folder that only you can write in (owner {state.st_uid}, mode {mode:o}): others could "
            "have prefine run their code as you. Remove it, or set TMPDIR to a folder of your own"
        )
    if mode != _PRIVATE:
        folder.chmod(_PRIVATE)
    return folder


@dataclass(frozen=True)
class Standing:
    """How it stands with a server that does not answer."""

    tended: bool = False  # a supervisor is there, which starts it again
    failed: str | None = None  # why the supervisor gave it up, with the end of the server's log


@contextlib.contextmanager
def shared_server(spec: ServerSpec) -> Iterator[str]:
    """Address (`http://127.0.0.1:PORT`) of the server, ready and alive as long as the block lasts.

    Raises:
        EngineError: the server does not get ready; the text holds the end of its log.
    """
    folder = spec.folder
    folder.mkdir(exist_ok=True, mode=0o700)
    with (folder / "users.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with (folder / "start.lock").open("a") as start:
            fcntl.flock(start, fcntl.LOCK_EX)
            if _free(folder / "owner.lock"):
                (folder / "state.json").unlink(missing_ok=True)
                _spawn(folder, spec.settings)
        yield _wait_until_up(spec.name, folder, spec.health_path, spec.start_timeout_s)


def standing(spec: ServerSpec) -> Standing:
    """Whether the server's supervisor is there, or why it gave the server up."""
    folder = spec.folder
    reason = _read_state(folder).get("failed")
    if reason:
        return Standing(failed=f"{reason}. End of its log:\n{_tail(folder / 'server.log')}\n")
    return Standing(tended=folder.is_dir() and not _free(folder / "owner.lock"))


def _spawn(folder: Path, spec: dict[str, Any]) -> None:
    """Start a supervisor that outlives this process and wait until it has tried to start the server.

    Python's -P keeps modules that lie in the current folder, which may be anybody's, from standing in for ours.
    """
    (folder / "spec.json").write_bytes(orjson.dumps(spec))
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    with (folder / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "transforms.llm.supervisor", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": path},
        )
    give_up = time.monotonic() + 60
    while not _read_state(folder):
        if process.poll() is not None or time.monotonic() > give_up:
            raise EngineError(f"the supervisor of a model server did not start; see {folder / 'supervisor.log'}")
        time.sleep(0.05)


def _wait_until_up(name: str, folder: Path, health_path: str, timeout_s: float) -> str:
    give_up = time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        state = _read_state(folder)
        if state.get("failed"):
            raise EngineError(f"engine {name!r}: {state['failed']}. End of its log:\n{_tail(folder / 'server.log')}")
        if state.get("url") and _healthy(state["url"] + health_path):
            return str(state["url"])
        time.sleep(0.1)
    raise EngineError(
        f"engine {name!r}: its server was not ready within {timeout_s:.0f} s. "
        f"End of its log:\n{_tail(folder / 'server.log')}"
    )


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = orjson.loads((folder / "state.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: Path, **state: Any) -> None:
    temporary = folder / "state.json.tmp"
    temporary.write_bytes(orjson.dumps(state))
    temporary.replace(folder / "state.json")


def _free(lock: Path) -> bool:
    """True when nobody holds the lock file."""
    with lock.open("a") as file:
        return _try_lock(file)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 the address is our own
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _tail(path: Path) -> str:
    if not path.exists():
        return "(no log)"
    return path.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace").strip()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent dies (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def supervise(folder: Path) -> None:
    """Run the server named in `folder/spec.json` until nobody uses it or it crashes too often."""
    # `owner` is opened last and so let go first: whoever waited for `users` while the server stopped must find it free.
    with (folder / "users.lock").open("a") as users, (folder / "owner.lock").open("a") as owner:
        if not _try_lock(owner):
            time.sleep(0.2)  # somebody may just have looked whether it is held
            if not _try_lock(owner):
                return
        spec = orjson.loads((folder / "spec.json").read_bytes())
        restarts, port = 0, free_port()
        url = f"http://127.0.0.1:{port}"
        while True:
            born = time.monotonic()
            try:
                server = _start(folder, spec, port)
            except OSError as error:
                _write_state(folder, failed=f"cannot start {spec['command'][0]!r}: {error.strerror}")
                return
            _write_state(folder, url=url, pid=server.pid, restarts=restarts)
            try:
                ending = _watch(server, users, url + spec["health"], spec["start_timeout_s"])
            finally:
                _stop(server)
            if ending == "abandoned":
                return
            if ending == "late":
                _write_state(folder, failed=f"its server was not ready within {spec['start_timeout_s']:.0f} s")
                return
            restarts = 0 if time.monotonic() - born > _STEADY_S else restarts + 1
            if restarts > spec["max_restarts"]:
                failed = f"its server ended {restarts} times in a row, last with exit status {server.returncode}"
                _write_state(folder, failed=failed)
                return
            time.sleep(min(30.0, 0.5 * 2.0**restarts))


def _start(folder: Path, spec: dict[str, Any], port: int) -> subprocess.Popen[bytes]:
    command = [part.replace(PORT, str(port)) for part in spec["command"]]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
            env={**os.environ, **spec["environment"]},
        )


def _watch(server: subprocess.Popen[bytes], users: IO[str], health: str, start_timeout_s: float) -> str:
    """Wait until the server has "ended", its last user "abandoned" it, or it is too "late" to get ready."""
    give_up, is_up = time.monotonic() + start_timeout_s, False
    while server.poll() is None:
        if _try_lock(users):
            return "abandoned"
        is_up = is_up or _healthy(health)
        if not is_up and time.monotonic() > give_up:
            return "late"
        time.sleep(0.25)
    return "ended"


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and all it started: politely, then by force."""
    for sign, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience_s)
            if sign is signal.SIGTERM:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(server.pid, signal.SIGKILL)
            return


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    supervise(Path(sys.argv[1]))
