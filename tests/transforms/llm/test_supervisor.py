"""One server per host: shared by all who want it, restarted when it crashes, gone when nobody is left."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import orjson
import pytest

from schemas.errors import EngineError
from transforms.llm import supervisor
from transforms.llm.supervisor import ServerSpec, private_folder, shared_server, standing

SERVER = """
import http.server, os, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/die": os._exit(3)
        data = str(os.getpid()).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(data))); self.end_headers()
        self.wfile.write(data)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(supervisor.tempfile, "tempdir", None)


def command(tag: str) -> list[str]:
    return [sys.executable, "-c", SERVER, "{port}", tag]


def pid_of(url: str) -> int:
    with urllib.request.urlopen(f"{url}/health", timeout=5) as response:
        return int(response.read())


def gone(pid: int, within_s: float = 10.0) -> bool:
    give_up = time.monotonic() + within_s
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_who_waited_for_a_server_to_stop_finds_it_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one who waited takes the supervisor that is about to end for one that tends a server."""
    spec = {"command": ["sleep", "60"], "environment": {}, "health": "/", "start_timeout_s": 5, "max_restarts": 0}
    (tmp_path / "spec.json").write_bytes(orjson.dumps(spec))
    stopping, stop = threading.Event(), supervisor._stop

    def told(server: subprocess.Popen[bytes]) -> None:
        stopping.set()  # from here on the supervisor holds both locks until it ends
        stop(server)

    monkeypatch.setattr(supervisor, "_stop", told)
    for _ in range(300):
        stopping.clear()
        tending = threading.Thread(target=supervisor.supervise, args=(tmp_path,))  # nobody uses it, so it ends at once
        tending.start()
        assert stopping.wait(30)
        with (tmp_path / "users.lock").open("a") as users:
            fcntl.flock(users, fcntl.LOCK_SH)
            assert supervisor._free(tmp_path / "owner.lock")
        tending.join()


def test_users_share_a_server_that_ends_with_the_last() -> None:
    with shared_server(ServerSpec("s", command("share"))) as one:
        with shared_server(ServerSpec("s", command("share"))) as two:
            assert one == two
            pid = pid_of(one)
        time.sleep(0.6)
        assert pid_of(one) == pid
    assert gone(pid)
    with shared_server(ServerSpec("s", command("share"))) as again:
        assert pid_of(again) != pid


def test_the_folder_is_this_users_alone(tmp_path: Path) -> None:
    folder = private_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)  # readable by others, as an earlier version of ours made it
    assert stat.S_IMODE(private_folder().stat().st_mode) == 0o700


@pytest.mark.parametrize("squatted", ["writable by the group", "writable by all", "another's", "a link", "a file"])
def test_a_folder_that_others_may_have_written_in_runs_nothing(
    squatted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, planted = os.getuid(), tmp_path / "planted"
    folder = tmp_path / f"prefine-{uid}"
    if squatted == "another's":
        monkeypatch.setattr(supervisor.os, "getuid", lambda: uid + 1)
        folder = tmp_path / f"prefine-{uid + 1}"
    if squatted == "a link":
        planted.mkdir(mode=0o700)
        folder.symlink_to(planted)
    elif squatted == "a file":
        folder.touch(mode=0o700)
    else:
        folder.mkdir()
        folder.chmod({"writable by the group": 0o770, "writable by all": 0o777}.get(squatted, 0o700))
    spec = ServerSpec("s", command("squatted"))
    with pytest.raises(EngineError, match=r"is not a folder that only you can write in .* TMPDIR"), shared_server(spec):
        pass
    with pytest.raises(EngineError, match="only you can write in"):
        standing(spec)
    assert [path for path in tmp_path.rglob("*") if path not in (folder, planted)] == []


def test_a_module_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / "here" / "transforms" / "llm"
    planted.mkdir(parents=True)
    for name in ("__init__.py", "../__init__.py", "supervisor.py"):
        (planted / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path / "here")
    with shared_server(ServerSpec("s", command("planted"))) as url:
        assert pid_of(url)
    assert not (tmp_path / "ran").exists()


def test_processes_that_start_at_once_share_one_server_even_if_killed(tmp_path: Path) -> None:
    code = textwrap.dedent(
        f"""
        import sys, time
        from transforms.llm.supervisor import ServerSpec, shared_server
        with shared_server(ServerSpec("s", {command("many")!r})) as url:
            print(url, flush=True)
            time.sleep(60)
        """
    )
    users = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        urls = {user.stdout.readline().strip() for user in users if user.stdout}
        assert len(urls) == 1
        pid = pid_of(urls.pop())
        for user in users[:3]:
            user.kill()
        time.sleep(0.6)
        assert not gone(pid, 0.2)
    finally:
        for user in users:
            user.kill()
            user.communicate()
    assert gone(pid)


def test_a_crashed_server_is_restarted_at_the_same_address() -> None:
    with shared_server(ServerSpec("s", command("crash"))) as url:
        pid = pid_of(url)
        os.kill(pid, signal.SIGKILL)
        give_up = time.monotonic() + 15
        while time.monotonic() < give_up:
            try:
                fresh = pid_of(url)
                break
            except OSError:
                time.sleep(0.1)
        assert fresh != pid


def test_a_server_that_keeps_crashing_is_given_up_with_its_log() -> None:
    broken = [sys.executable, "-c", "import sys; sys.exit('no such model')", "{port}"]
    with (
        pytest.raises(EngineError, match="ended 2 times in a row") as caught,
        shared_server(ServerSpec("s", broken, max_restarts=1)),
    ):
        pass
    assert "no such model" in str(caught.value)


def test_a_command_that_cannot_start_is_named() -> None:
    with (
        pytest.raises(EngineError, match="cannot start '/no/such/vllm'"),
        shared_server(ServerSpec("s", ["/no/such/vllm"])),
    ):
        pass


def test_a_server_that_is_not_ready_in_time_is_reported() -> None:
    idle = [sys.executable, "-c", "import time; time.sleep(60)", "{port}"]
    with (
        pytest.raises(EngineError, match="not ready within 1 s"),
        shared_server(ServerSpec("s", idle, start_timeout_s=1.0)),
    ):
        pass


def test_a_killed_supervisor_takes_the_server_with_it(tmp_path: Path) -> None:
    with shared_server(ServerSpec("s", command("orphan"))) as url:
        pid = pid_of(url)
        parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(parent, signal.SIGKILL)
        assert gone(pid)
    (state,) = tmp_path.glob("prefine-*/s-*/state.json")
    assert orjson.loads(state.read_bytes())["pid"] == pid
