"""One task is one call of the `prefine` command in the pipeline's own environment.

The call prints one line of JSON last on standard output, which becomes the task's XCom, and logs on standard error.
Exit 2 (wrong usage or recipe) fails the task at once; any other failure may be retried.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from importlib import import_module
from threading import Thread
from typing import IO, Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

WRONG_WORDS = 2
_PATIENCE = 10.0  # seconds a call gets to end after it was asked to
_PR_SET_PDEATHSIG = 1
TAIL = 20  # lines of standard error that a failure quotes
_HIDDEN = ("AIRFLOW", "_AIRFLOW", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
_MODULES = {
    "docker": ("prefine_airflow.docker_call", "DockerCall", "apache-airflow-providers-docker"),
    "kubernetes": ("prefine_airflow.kubernetes_call", "KubernetesCall", "apache-airflow-providers-cncf-kubernetes"),
}


def call_class(kind: str) -> type[BaseOperator]:
    """The operator for a place (see `settings.Place`).

    Raises:
        ImportError: its provider is not installed; the text names the package.
    """
    if kind == "local":
        return LocalCall
    module, name, package = _MODULES[kind]
    try:
        operator: type[BaseOperator] = getattr(import_module(module), name)
    except ImportError as error:
        raise ImportError(f"place.kind: {kind} needs the package {package} in Airflow's environment: {error}") from None
    return operator


def child_environment(ours: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Our environment without what is Airflow's own, plus `extra` if it has a value."""
    kept = {name: value for name, value in ours.items() if not name.startswith(_HIDDEN)}
    return kept | {name: value for name, value in extra.items() if value}


def given(words: Sequence[str]) -> list[str]:
    """The words that are not empty: an option that is not set renders as an empty word."""
    return [word for word in words if word]


def last_json(lines: Sequence[str]) -> Any:
    """The value of the last line that is a JSON object or array, with the time it was read if it is an object.

    Raises:
        AirflowException: there is none.
    """
    for line in reversed(lines):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            return {**value, "ended": datetime.now(UTC).isoformat()}
        if isinstance(value, list):
            return value
    raise AirflowException("the call printed no line of JSON; is it prefine, and was --json given?")


def failure(code: int, words: Sequence[str], quoted: str) -> Exception:
    """What a failed call raises."""
    text = f"prefine {' '.join(words[:2])} ended with exit code {code}\n{quoted}"
    return AirflowFailException(text) if code == WRONG_WORDS else AirflowException(text)


def bounded(ask: Callable[[], Any], seconds: float, stop: Callable[[], None]) -> Any:
    """What `ask` returns or raises, for at most so long.

    Raises:
        TimeoutError: it took longer, and was told to `stop`.
    """
    done: list[tuple[Any, Exception | None]] = []

    def run() -> None:
        try:
            done.append((ask(), None))
        except Exception as error:
            done.append((None, error))

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not done:
        stop()
        raise TimeoutError(f"no answer within {seconds:g} s")
    value, error = done[0]
    if error:
        raise error
    return value


def _end_with_parent() -> None:
    """Let the kernel end a call whose task was killed, or the next try would run beside it (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class LocalCall(BaseOperator):
    """A call on the worker itself.

    Args:
        words: words of the command line after `prefine`; empty ones are left out.
        prefine: the words before them.
        env: environment variables of the call, beside the worker's own.
    """

    template_fields = ("words", "env")
    ui_color = "#e8f0fa"

    def __init__(
        self, *, words: Sequence[str], prefine: Sequence[str], env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.words, self.prefine, self.env = list(words), list(prefine), dict(env or {})
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Context) -> Any:
        """Run the call; its last line is the result."""
        return self.call(context)

    def call(self, context: Context) -> Any:
        """Run the call to its end.

        Raises:
            AirflowFailException: exit code 2.
            AirflowException: any other failure.
        """
        words = given(self.words)
        self.log.info("prefine %s", " ".join(words))
        try:
            self._process = subprocess.Popen(
                [*self.prefine, *words],
                env=child_environment(os.environ, self.env),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        except FileNotFoundError:
            raise AirflowFailException(f"no executable {self.prefine[0]}; set place.prefine in the settings") from None
        lines: list[str] = []
        errors: list[str] = []
        readers = [
            Thread(target=self._read, args=(self._process.stdout, lines, False), daemon=True),
            Thread(target=self._read, args=(self._process.stderr, errors, True), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            code = self._process.wait()
        finally:  # a time limit or a stop ends the call too
            self.on_kill()
        for reader in readers:  # what the call left running may keep a pipe open
            reader.join(_PATIENCE)
        if code:
            raise failure(code, words, "\n".join(errors[-TAIL:]))
        return last_json(lines)

    def ask(self, words: Sequence[str], context: Context, seconds: float) -> Any:
        """The result of another, short call in the same place, after this one.

        Raises:
            AirflowException: it failed.
            TimeoutError: it took longer than so many seconds.
        """
        other = copy(self)
        other.words, other._process = list(words), None
        return bounded(lambda: other.call(context), seconds, other.on_kill)

    def on_kill(self) -> None:
        """End the call and all it started."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(_PATIENCE)
                return
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                return

    def _read(self, stream: IO[str], kept: list[str], is_log: bool) -> None:
        for line in stream:
            kept.append(line.rstrip("\n"))
            if is_log:
                self.log.info("%s", kept[-1])
