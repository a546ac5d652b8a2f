"""Several worker pools for one job: what Beam's local job service lacks, and a balancer as a cluster has one.

    python -m tests.pipelines.worker_pools jobs PORT
    python -m tests.pipelines.worker_pools balance PORT POOL_PORT POOL_PORT ...

Beam's job service starts one worker a job, whatever `--direct_num_workers` says: here runs Beam's own service with
Beam's own runner, told how many. Every worker is asked for on a connection of its own, at the one address that
`--environment_config` takes; the balancer behind it hands connections to the pools in turn, as a Kubernetes service
or HAProxy would.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from contextlib import suppress
from typing import Any

from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.portability.api import beam_job_api_pb2
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.local_job_service import BeamJob, LocalJobServicer


class _Job(BeamJob):
    """A job on as many workers as its options say."""

    def _invoke_runner(self) -> Any:
        self.set_state(beam_job_api_pb2.JobState.RUNNING)
        options = self.pipeline_options()
        runner = fn_runner.FnApiRunner(provision_info=self._provision_info)
        runner._num_workers = int(options.view_as(DirectOptions).direct_num_workers or 1)
        return runner.run_via_runner_api(self._pipeline_proto, options)


def serve_jobs(port: int) -> None:
    """Serve until killed."""
    LocalJobServicer(beam_job_type=_Job).start_grpc_server(port)
    while True:
        time.sleep(3600)


async def balance(port: int, pools: list[int]) -> None:
    """Hand every connection to the next pool, until killed."""
    turns = itertools.cycle(pools)

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", next(turns))
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async with await asyncio.start_server(connected, "127.0.0.1", port) as server:
        await server.serve_forever()


if __name__ == "__main__":
    what, port, *pools = sys.argv[1:]
    if what == "jobs":
        serve_jobs(int(port))
    asyncio.run(balance(int(port), [int(pool) for pool in pools]))
