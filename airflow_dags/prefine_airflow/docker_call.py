"""A call in a container on the worker's Docker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedSkipException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context

from prefine_airflow.calls import WRONG_WORDS, failure, given, last_json


class DockerCall(DockerOperator):
    """`prefine` in an image; further arguments are `DockerOperator`'s."""

    template_fields = (*DockerOperator.template_fields, "words")

    def __init__(
        self, *, words: Sequence[str], prefine: Sequence[str], env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        usual = {"auto_remove": "force", "mount_tmp_dir": False, "xcom_all": True}
        environment = {**kwargs.pop("environment", {}), **(env or {})}
        super().__init__(environment=environment, skip_on_exit_code=WRONG_WORDS, **{**usual, **kwargs})
        self.words, self.prefine = list(words), list(prefine)

    def execute(self, context: Context) -> Any:
        """Run the call; its last line is the result."""
        return self.call(context)

    def call(self, context: Context) -> Any:
        """Run the container to its end; see `LocalCall.call`."""
        words = given(self.words)
        self.command = [*self.prefine, *words]
        try:
            lines = super().execute(context)
        except DockerContainerFailedSkipException as error:
            quoted = "\n".join(str(line) for line in error.logs or [])
            raise failure(WRONG_WORDS, words, quoted) from None
        return last_json([str(line) for line in lines or []])
