"""Any OpenAI-compatible endpoint that is already there: a provider, a proxy, a vLLM somebody started."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from schemas.secrets import Address, secret
from transforms.engines.base import Engine, EngineConfig, api_key, wait_until_answers
from transforms.plugins.registry import register

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.1


@register("openai")
class OpenAI(Engine):
    """One model behind one or several base URLs; several share the load, a prompt's requests stay together."""

    class Config(EngineConfig):
        """Settings of an endpoint."""

        unhashed: ClassVar[frozenset[str]] = EngineConfig.unhashed | {"base_url", "api_key_env", "headers_env"}

        base_url: Address | list[Address] = Field(
            description="base URL(s): what stands before /chat/completions, with the query if there is one"
        )
        model: str = Field(description="model name the server knows")
        revision: str | None = Field(None, description="version of the weights, if the name does not say it")
        api_key_env: str | None = Field(None, description="name of the environment variable that holds the API key")
        headers_env: dict[str, str] = Field({}, description="further headers: name -> environment variable")
        start_timeout_s: float = Field(
            10.0, gt=0, description="how long the endpoint may take to answer, and then say 503, before its first reply"
        )

        @field_validator("base_url")
        @classmethod
        def _addresses(cls, value: str | list[str]) -> str | list[str]:
            urls = [value] if isinstance(value, str) else value
            for url in urls:
                parts = urlsplit(url)
                is_web = parts.scheme in ("http", "https") and parts.hostname
                if not is_web or not parts.path.strip("/") or parts.fragment:
                    raise ValueError(f"{url!r} is not a base URL; it must be http(s)://HOST/PATH, mostly with path /v1")
                if parts.path.rstrip("/").endswith("/completions"):
                    raise ValueError(f"{url!r} is the address of one kind of request; leave out /chat/completions")
            if not urls:
                raise ValueError("no base URL given")
            return value

        @field_validator("headers_env")
        @classmethod
        def _header_names(cls, value: dict[str, str]) -> dict[str, str]:
            for header in value:
                if not _HEADER.fullmatch(header):
                    raise ValueError(f"{header!r} is no name of an HTTP header: use letters, digits and '-'")
            return value

    config: Config

    @property
    def served_model(self) -> str:
        """The setting `model`."""
        return self.config.model

    @property
    def model(self) -> str:
        """The model's name, and its revision if one is given."""
        return f"{self.config.model}@{self.config.revision}" if self.config.revision else self.config.model

    @property
    def addresses(self) -> list[str]:
        """The setting `base_url`."""
        given = self.config.base_url
        return [given] if isinstance(given, str) else list(given)

    @property
    def loading_s(self) -> float:
        """The setting `start_timeout_s`: servers list their models while they load them."""
        return self.config.start_timeout_s

    def headers(self) -> Mapping[str, str]:
        """Authorisation and further headers, read from the environment when needed and never stored."""
        key = api_key(self.config.api_key_env)
        headers = {header: secret(variable) for header, variable in self.config.headers_env.items()}
        return {"authorization": f"Bearer {key}", **headers} if key else headers

    @contextmanager
    def serve(self) -> Iterator[list[str]]:
        """Check that somebody answers at any of the addresses.

        Raises:
            EngineError: none does within `start_timeout_s`.
            UsageError: a named environment variable is not set, or is no header.
        """
        urls = self.addresses
        wait_until_answers(self.name, urls, self.headers(), self.config.start_timeout_s)
        yield urls
