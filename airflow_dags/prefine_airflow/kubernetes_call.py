"""A call in a pod."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.utils.container import get_container_termination_message
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from prefine_airflow.calls import WRONG_WORDS, bounded, failure, given, last_json

# The sidecar reads the result from a file, and breaks on one that is no JSON; what goes to standard error reaches the
# log line by line.
SCRIPT = (
    'out=$("$@"); code=$?; mkdir -p /airflow/xcom; '
    "if [ $code = 0 ]; then printf '%s\\n' \"$out\" | tail -n 1 > /airflow/xcom/return.json; fi; exit $code"
)


class KubernetesCall(KubernetesPodOperator):
    """`prefine` in an image that has `sh`, whatever its entry point; other arguments are `KubernetesPodOperator`'s."""

    template_fields = (*KubernetesPodOperator.template_fields, "words")

    def __init__(
        self, *, words: Sequence[str], prefine: Sequence[str], env: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        # The pod's specification holds the secrets of `env`, and a failure's text goes to a chat.
        usual = {"log_pod_spec_on_failure": False, "termination_message_policy": "FallbackToLogsOnError"}
        env_vars = {**kwargs.pop("env_vars", {}), **(env or {})}
        super().__init__(env_vars=env_vars, skip_on_exit_code=WRONG_WORDS, do_xcom_push=True, **{**usual, **kwargs})
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
        except AirflowSkipException:
            quoted = get_container_termination_message(self.remote_pod, self.base_container_name)
            raise failure(WRONG_WORDS, words, quoted or "") from None
        except (ApiException, HTTPError) as error:
            raise AirflowException(f"Kubernetes: {error}") from error
        return value if isinstance(value, list) else last_json([] if value is None else [json.dumps(value)])

    def ask(self, words: Sequence[str], context: Context, seconds: float) -> Any:
        """The result of another call, in a pod of its own; see `LocalCall.ask`."""
        other = copy(self)
        other.words, other.reattach_on_restart = list(words), False
        other.pod = other.remote_pod = other.pod_request_obj = None
        other.labels = {**(self.labels or {}), "prefine-asks": "beside"}  # never taken for the pod of the task
        quiet: Any = {**context, "ti": _Quiet(context["ti"])}
        return bounded(lambda: other.call(quiet), seconds, other.on_kill)


class _Quiet:
    """A task instance whose XComs, those of the call that failed, stay as they are."""

    def __init__(self, ti: Any) -> None:
        self._ti = ti

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ti, name)

    def xcom_push(self, key: str, value: Any) -> None:
        """Nothing is kept."""
