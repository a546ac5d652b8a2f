"""A call in a container on the worker's Docker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from airflow.providers.docker.exceptions import DockerContainerFailedException, DockerContainerFailedSkipException
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException
from docker.errors import DockerException
from requests.exceptions import RequestException

from prefine_airflow.calls import TAIL, WRONG_WORDS, bounded, failure, given, last_json


class DockerCall(DockerOperator):
    """`prefine` in an image, whatever the image's entry point; further arguments are `DockerOperator`'s."""

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
        self.entrypoint, self.command = self.prefine, words
        try:
            lines = super().execute(context)
        except DockerContainerFailedSkipException as error:
            raise failure(WRONG_WORDS, words, _end(error.logs)) from None
        except DockerContainerFailedException as error:
            raise AirflowException(f"prefine {' '.join(words[:2])}: {error}\n{_end(error.logs)}") from None
        except (DockerException, RequestException) as error:
            raise AirflowException(f"Docker: {error}") from error
        return last_json([str(line) for line in lines or []])

    def ask(self, words: Sequence[str], context: Context, seconds: float) -> Any:
        """The result of another call, in a container of its own; see `LocalCall.ask`."""
        other = copy(self)
        other.words, other.container = list(words), None  # type: ignore[assignment]
        return bounded(lambda: other.call(context), seconds, other.on_kill)


def _end(logs: Sequence[str | bytes] | None) -> str:
    return "\n".join(str(line) for line in (logs or [])[-TAIL:])
