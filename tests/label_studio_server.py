"""A real Label Studio server for tests: started on a free port of this machine, with its own data, and killed at will.

Its executable is `$PREFINE_LABEL_STUDIO`, or `.venv-labelstudio/bin/label-studio` beside this checkout's
pyproject.toml (made with `python -m venv .venv-labelstudio` and
`.venv-labelstudio/bin/pip install -c constraints-labelstudio.txt label-studio`).
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
ADMIN = "admin@example.com"
PASSWORD = "correct-horse-battery-1"
LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


def executable() -> Path | None:
    """Where Label Studio is installed, or None."""
    path = Path(os.environ.get("PREFINE_LABEL_STUDIO", ROOT / ".venv-labelstudio" / "bin" / "label-studio"))
    return path if path.is_file() else None


@dataclass
class Server:
    """A server process with its data folder; it can be killed and started again on the same data."""

    data: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _personal: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, patience: float = 300.0) -> None:
        """Start and wait until it answers."""
        path = executable()
        assert path is not None, "Label Studio is not installed"
        self.port = self.port or _free_port()
        self.data.mkdir(parents=True, exist_ok=True)
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ} | {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.data),
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
            "COLLECT_ANALYTICS": "0",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "0",
        }
        command = [str(path), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        command += ["--username", ADMIN, "--password", PASSWORD, "--user-token", LEGACY_TOKEN]
        with (self.data / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.data, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"Label Studio stopped:\n{self.log()}"
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"Label Studio did not answer in {patience:.0f} s:\n{self.log()}")

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        process = self.process
        if process is not None and process.poll() is None:
            with suppress(ProcessLookupError):  # another thread of the test was faster
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.process = None

    def log(self) -> str:
        """The end of the server's output."""
        return (self.data / "server.log").read_text(errors="replace")[-3000:]

    @contextmanager
    def session(self, email: str = ADMIN) -> Iterator[httpx.Client]:
        """A browser session of a user, logged in through the form."""
        with httpx.Client(base_url=self.url, timeout=60, follow_redirects=True) as client:
            _post_form(client, "/user/login/", {"email": email, "password": PASSWORD})
            assert client.get("/api/current-user/whoami").status_code == 200, f"{email} cannot log in"
            yield client

    def add_user(self, email: str) -> tuple[int, str]:
        """Sign a user up through the invitation link; returns user id and legacy token."""
        with self.session() as admin:
            link = admin.get("/api/invite").json()["invite_url"]
        with httpx.Client(base_url=self.url, timeout=60, follow_redirects=True) as client:
            _post_form(client, link, {"email": email, "password": PASSWORD, "allow_newsletters": "false"})
        with self.session(email) as client:
            user = client.get("/api/current-user/whoami").json()
            return int(user["id"]), str(client.get("/api/current-user/token").json()["token"])

    def personal_token(self) -> str:
        """The administrator's personal access token; the server shows it once, so it is made once."""
        if self._personal:
            return self._personal
        with self.session() as admin:
            settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
            headers = {"X-CSRFToken": admin.cookies.get("csrftoken", ""), "Referer": self.url}
            admin.post("/api/jwt/settings", json=settings, headers=headers).raise_for_status()
            answer = admin.post("/api/token/", headers=headers)
            answer.raise_for_status()
            self._personal = str(answer.json()["token"])
            return self._personal


def _post_form(client: httpx.Client, path: str, fields: dict[str, str]) -> None:
    page = client.get(path)
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    token = found.group(1) if found else client.cookies.get("csrftoken", "")
    answer = client.post(path, data={**fields, "csrfmiddlewaretoken": token}, headers={"Referer": str(client.base_url)})
    answer.raise_for_status()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
