"""Starts and owns `vllm serve`: one server per host, shared by all worker processes, stopped with the run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from schemas.errors import EngineError, MissingExtra
from schemas.ids import hash_json
from schemas.secrets import Address
from transforms.engines.base import Engine, EngineConfig, api_key, wait_until_answers
from transforms.llm.supervisor import PORT, ServerSpec, shared_server
from transforms.plugins.registry import register
from transforms.storage.files import file_sha256

# What prefine asks for unless the recipe says otherwise: how many tokens of each prompt came from the prefix cache.
DEFAULT_FLAGS: Mapping[str, bool] = {"enable-prompt-tokens-details": True}

# Flags that say where and how fast a model runs, not what it answers.
NEUTRAL_FLAGS = frozenset(
    {
        "tensor-parallel-size",
        "pipeline-parallel-size",
        "data-parallel-size",
        "gpu-memory-utilization",
        "max-num-seqs",
        "max-num-batched-tokens",
        "enable-prefix-caching",
        "no-enable-prefix-caching",
        "enable-prompt-tokens-details",
        "enforce-eager",
        "swap-space",
        "disable-log-requests",
        "disable-log-stats",
        "uvicorn-log-level",
        "api-server-count",
        "async-scheduling",
    }
)


@register("vllm")
class VLLM(Engine):
    """`vllm serve MODEL` from any environment; or, with `urls`, servers that are already there."""

    class Config(EngineConfig):
        """Settings of the server."""

        unhashed: ClassVar[frozenset[str]] = EngineConfig.unhashed | {
            "urls",
            "api_key_env",
            "executable",
            "max_restarts",
        }

        model: str = Field(description="Hugging Face name or folder of the weights")
        revision: str | None = Field(None, description="commit of the weights on the Hub")
        executable: str = Field("vllm", description="the vllm command, of another environment if need be")
        tensor_parallel: int = Field(1, ge=1, description="GPUs one copy of the model spreads over")
        flags: dict[str, str | int | float | bool] = Field(
            {}, description="further flags of `vllm serve` without dashes; true: the bare flag, false: left out"
        )
        environment: dict[str, str] = Field({}, description="environment variables of the server (no secrets)")
        served_name: str | None = Field(None, description="name in requests; default: the model's")
        urls: list[Address] = Field(
            [], description="base URLs (…/v1) of servers already there; nothing is started then"
        )
        api_key_env: str | None = Field(None, description="environment variable with the key of servers already there")
        start_timeout_s: float = Field(1200.0, gt=0, description="how long loading may take")
        max_restarts: int = Field(5, ge=0, description="crashes in a row after which the run stops")

    config: Config

    @property
    def served_model(self) -> str:
        """The setting `served_name`, else the model's name."""
        return self.config.served_name or self.config.model

    @cached_property
    def model(self) -> str:
        """The model's name, its weights' revision or hash, and the hash of the flags that can change a reply."""
        config = self.config
        telling = {flag: value for flag, value in config.flags.items() if flag not in NEUTRAL_FLAGS}
        weights = config.revision or _folder_hash(Path(config.model))
        return f"{config.model}@{weights or 'unpinned'}" + (f",{hash_json(telling)[:8]}" if telling else "")

    def command(self) -> list[str]:
        """The command line, with `{port}` for the port."""
        config = self.config
        command = [*shlex.split(config.executable), "serve", config.model, "--host", "127.0.0.1", "--port", PORT]
        command += ["--served-model-name", self.served_model]
        if config.revision:
            command += ["--revision", config.revision]
        if config.tensor_parallel > 1:
            command += ["--tensor-parallel-size", str(config.tensor_parallel)]
        for flag, value in sorted({**DEFAULT_FLAGS, **config.flags}.items()):
            if value is True:
                command.append(f"--{flag}")
            elif value is not False:
                command += [f"--{flag}", str(value)]
        return command

    @property
    def server(self) -> ServerSpec | None:
        """`vllm serve`; None if servers are already there."""
        config = self.config
        if config.urls:
            return None
        return ServerSpec(
            self.plugin_name,  # engines of equal settings share a server, whatever recipes call them
            self.command(),
            environment=config.environment,
            start_timeout_s=config.start_timeout_s,
            max_restarts=config.max_restarts,
        )

    @property
    def context_tokens(self) -> int | None:
        """The flag `max-model-len`, if it is given."""
        return _tokens(self.config.flags.get("max-model-len"))

    @property
    def addresses(self) -> list[str]:
        """The setting `urls`."""
        return [url.rstrip("/") for url in self.config.urls]

    @property
    def loading_s(self) -> float:
        """The setting `start_timeout_s` for servers that are already there."""
        return self.config.start_timeout_s if self.config.urls else 0.0

    def headers(self) -> Mapping[str, str]:
        """Authorisation for servers that are already there."""
        key = api_key(self.config.api_key_env)
        return {"authorization": f"Bearer {key}"} if key else {}

    @contextmanager
    def serve(self) -> Iterator[list[str]]:
        """Start the server, join the one this host has, or check that any of those already there answers.

        Raises:
            MissingExtra: the executable is not found.
            EngineError: no server gets ready.
        """
        config = self.config
        if config.urls:
            urls = self.addresses
            wait_until_answers(self.name, urls, self.headers(), config.start_timeout_s)
            yield urls
            return
        server = self.server
        assert server is not None
        if shutil.which(server.command[0]) is None:
            raise MissingExtra(
                f"engine {self.name!r}: no executable {server.command[0]!r}. vLLM needs an environment of its own: "
                "see README (GPU), then set `executable` to its vllm, or `urls` to running servers"
            )
        with shared_server(server) as url:
            yield [f"{url}/v1"]


def _tokens(flag: str | float | bool | None) -> int | None:
    """A length as vLLM reads it: 8192, "8192", "8k" (thousands) or "8K" (1024s); None if it is neither."""
    number = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", str(flag))
    if number is None:
        return None
    return int(float(number[1]) * {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20}[number[2]])


def _folder_hash(folder: Path) -> str | None:
    """Content hash of a folder of weights; None for a name on the Hub."""
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not any(path.suffix in {".safetensors", ".bin", ".gguf"} for path in files):
        raise EngineError(f"{folder} holds no weights (.safetensors, .bin or .gguf)")
    return hash_json([[path.name, file_sha256(path)] for path in files])[:16]
