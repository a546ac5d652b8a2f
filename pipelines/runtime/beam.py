"""The one Beam shape of prefine: Create -> Reshuffle -> ParDo over names of work.

Elements are bucket numbers or source slices, never rows: text is read where it is needed and results
go to the workspace as files, so no runner ever holds the data, and a pipeline is linear, which every
runner gets right.
"""

from __future__ import annotations

import base64
import ctypes
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import orjson
import psutil

from schemas import errors
from schemas.errors import PrefineError, WorkspaceError

_LAST_WORDS = 0.3  # seconds in which threads notice that their worker is gone
_LOST = "Worker subprocess exited"  # how Beam's SubprocessSdkWorker says it

E = TypeVar("E", contravariant=True)


class Work(Protocol[E]):
    """Something to do for one element: idempotent, picklable, defined in an installed module."""

    def __call__(self, element: E, /) -> str:
        """Do it and return a short name of what was done."""
        ...


class _Do(beam.DoFn):
    def __init__(self, work: Work[Any]) -> None:
        self._work = work

    def setup(self) -> None:
        _ignore_ctrl_c()

    def process(self, element: Any) -> Iterator[str]:
        try:
            done = self._work(element)
        except PrefineError as error:
            raise _WorkerError(_written(error)) from error
        yield done


class DoAll(beam.PTransform):
    """Do a piece of work for every element, spread over the workers.

    Args:
        work: what to do.
        elements: names of work, few and small.
    """

    def __init__(self, work: Work[Any], elements: Sequence[Any]) -> None:
        super().__init__()
        self._work = work
        self._elements = list(elements)

    def expand(self, pbegin: Any) -> Any:
        """Wire the three steps."""
        return (
            pbegin
            | "Elements" >> beam.Create(self._elements, reshuffle=False)
            | "Spread" >> beam.Reshuffle()
            | "Work" >> beam.ParDo(_Do(self._work)).with_output_types(str)
        )


def run(work: Work[Any], elements: Iterable[Any], flags: Sequence[str]) -> None:
    """Run `work` for all elements as a Beam pipeline with the given flags and wait for its end.

    Raises:
        PrefineError: what the work raised, on whatever worker.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
    _ = pipeline | DoAll(work, list(elements))
    try:
        with _noticing_lost_workers():
            if any(flag.endswith("=multi_processing") for flag in flags):
                _in_thread(lambda: pipeline.run().wait_until_finish())
            else:
                pipeline.run().wait_until_finish()
    except Exception as error:
        ours = _read(str(error))
        if ours is None:
            raise
        raise ours from None


def _ignore_ctrl_c() -> None:
    """In a worker process: ctrl-C goes to every process of the terminal, and is the driver's to answer.

    By the C library: Python's own `signal` refuses it outside the main thread, where Beam's worker waits.
    """
    if "CONTROL_API_SERVICE_DESCRIPTOR" in os.environ:  # how Beam's SubprocessSdkWorker tells a process what it is
        ctypes.CDLL(None).signal(int(signal.SIGINT), ctypes.c_void_p(int(signal.SIG_IGN)))


def _in_thread(work: Callable[[], object]) -> None:
    """Do the work in a thread and wait for it here: Beam, interrupted, would first wait for all of its workers."""
    ended: Future[None] = Future()

    def do() -> None:
        try:
            work()
            ended.set_result(None)
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    ended.result()


def _stop_workers() -> None:
    """Kill the worker processes that this process started."""
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any("sdk_worker" in word for word in process.cmdline()):
                process.kill()


@contextmanager
def _noticing_lost_workers() -> Iterator[None]:
    """Turn the death of a local worker process into an error.

    Beam waits for ever for a worker that the system killed; only the thread that watches the process fails. Where the
    caller is the main thread, that failure interrupts it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, lost, stopped = threading.excepthook, threading.Event(), threading.Event()

    def noticed(args: threading.ExceptHookArgs) -> None:
        if stopped.is_set():  # whatever misses the workers now
            return
        if isinstance(args.exc_value, RuntimeError) and _LOST in str(args.exc_value):
            lost.set()
            os.kill(os.getpid(), signal.SIGINT)  # to the process: the main thread is the one that waits
        else:
            before(args)

    threading.excepthook = noticed
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            stopped.set()
            _stop_workers()
            time.sleep(_LAST_WORDS)
            raise
        raise WorkspaceError(
            "a worker process was killed, most likely because memory ran out; what it had finished is kept. "
            "Run again, with fewer workers (beam.workers in the recipe) or more buckets in a new workspace"
        ) from None
    finally:
        threading.excepthook = before


class _WorkerError(RuntimeError):
    """An error of ours as text: of an exception, every runner brings at least the text to the driver."""


def _written(error: PrefineError) -> str:
    value = orjson.dumps([type(error).__name__, str(error)])
    return f"{error} <prefine:{base64.b64encode(value).decode()}>"


def _read(text: str) -> PrefineError | None:
    match = re.search(r"<prefine:([A-Za-z0-9+/=]+)>", text)
    if match is None:
        return None
    name, message = orjson.loads(base64.b64decode(match[1]))
    kind = getattr(errors, name, PrefineError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, PrefineError) else PrefineError(message)
