"""The one Beam shape of prefine: Create -> Reshuffle -> ParDo over names of work.

Elements are bucket numbers or source slices, never rows: text is read where it is needed and results
go to the workspace as files, so no runner ever holds the data, and a pipeline is linear, which every
runner gets right.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import apache_beam as beam
import orjson

from schemas import errors
from schemas.errors import PrefineError

E = TypeVar("E", contravariant=True)


class Work(Protocol[E]):
    """Something to do for one element: idempotent, picklable, defined in an installed module."""

    def __call__(self, element: E, /) -> str:
        """Do it and return a short name of what was done."""
        ...


class _Do(beam.DoFn):
    def __init__(self, work: Work[Any]) -> None:
        self._work = work

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
        pipeline.run().wait_until_finish()
    except Exception as error:
        ours = _read(str(error))
        if ours is None:
            raise
        raise ours from None


class _WorkerError(RuntimeError):
    """An error of ours as text: of an exception, every runner brings at least the text to the driver."""


def _written(error: PrefineError) -> str:
    value = orjson.dumps([type(error).__name__, str(error)])
    return f"{error} <prefine:{base64.b64encode(value).decode()}>"


def _read(text: str) -> PrefineError | None:
    found = re.search(r"<prefine:([A-Za-z0-9+/=]+)>", text)
    if found is None:
        return None
    name, message = orjson.loads(base64.b64decode(found[1]))
    kind = getattr(errors, name, PrefineError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, PrefineError) else PrefineError(message)
