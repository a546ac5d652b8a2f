"""A call in a pod."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from prefine_airflow.calls import WRONG_WORDS, failure, given, last_json

# The sidecar reads the result from a file; what goes to standard error reaches the log line by line.
SCRIPT = (
    'out=$("$@"); code=$?; mkdir -p /airflow/xcom; '
    "printf '%s\\n' \"$out\" | tail -n 1 > /airflow/xcom/return.json; exit $code"
)


class KubernetesCall(KubernetesPodOperator):
    """`prefine` in an image that has `sh`; further arguments are `KubernetesPodOperator`'s."""

    template_fields = (*KubernetesPodOperator.template_fields, "words")

    def __init__(
        self, *, words: Sequence[str], prefine: Sequence[str], env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        env_vars = {**kwargs.pop("env_vars", {}), **(env or {})}
        super().__init__(env_vars=env_vars, skip_on_exit_code=WRONG_WORDS, do_xcom_push=True, **kwargs)
        self.words, self.prefine = list(words), list(prefine)

    def execute(self, context: Context) -> Any:
        """Run the call; its last line is the result."""
        return self.call(context)

    def call(self, context: Context) -> Any:
        """Run the pod to its end; see `LocalCall.call`."""
        words = given(self.words)
        self.cmds = ["sh", "-c", SCRIPT, "prefine"]
        self.arguments = [*self.prefine, *words]
        try:
            value = super().execute(context)
        except AirflowSkipException as error:
            raise failure(WRONG_WORDS, words, str(error)) from None
        return value if isinstance(value, list) else last_json([] if value is None else [_line(value)])


def _line(value: Any) -> str:
    import json

    return json.dumps(value)
