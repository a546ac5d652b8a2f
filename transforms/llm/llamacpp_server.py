"""`python -m transforms.llm.llamacpp_server PORT JSON`: serve a GGUF file with xllamacpp on 127.0.0.1.

A process of its own, so that a crash of native code does not take a worker with it and its threads do not
compete inside the worker's interpreter.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from typing import Any


def serve(port: int, options: dict[str, Any]) -> None:
    """Serve until SIGTERM.

    Args:
        port: TCP port on 127.0.0.1.
        options: `model` (path), `alias`, `n_ctx` (tokens of cache, all slots), `n_seq_ctx` (tokens of one request),
            `n_parallel`, `n_threads`, `n_batch`, `n_ubatch`.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.model_alias = {options["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = options["n_ctx"]
    params.n_parallel = options["n_parallel"]
    params.n_batch = options["n_batch"]
    params.n_ubatch = options["n_ubatch"]
    # One cache for all slots: a long request may use what short ones leave, and both orders of a pair share a prefix.
    params.kv_unified = True
    params.kv_unified_per_slot = options["n_seq_ctx"]
    params.cpuparams.n_threads = options["n_threads"]
    params.cpuparams_batch.n_threads = options["n_threads"]
    params.endpoint_metrics = True
    params.ui = False
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = xllamacpp.Server(params)
    stop.wait()
    del server


if __name__ == "__main__":
    serve(int(sys.argv[1]), json.loads(sys.argv[2]))
