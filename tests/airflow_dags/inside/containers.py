"""A Docker engine and a Kubernetes cluster that run a container's words as processes of this machine.

They stand where the providers' operators talk to a server, so that everything above is the operators' own code. As a
real engine does, they put an image's entry point before words that come without one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.docker.operators.docker import DockerOperator
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

ENTRYPOINT = ["prefine"]  # of the image, as the Dockerfile sets it


@dataclass
class Engine:
    """Runs containers; `prefine` in them is the first executable of that name in `folder`.

    Attributes:
        folder: with the executable; results of pods go below it.
        containers: how each container was called: words with the entry point, environment.
        lost: raised instead of starting a container.
    """

    folder: Path
    containers: list[dict[str, Any]] = field(default_factory=list)
    lost: Exception | None = None

    def run(self, words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        if self.lost is not None:
            raise self.lost
        self.containers.append({"words": words, "environment": environment})
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        env = {"PATH": path, "FAKE": os.environ["FAKE"], **environment}
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=300)


class Docker:
    """What `DockerOperator` asks of docker-py's client."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.done = engine, subprocess.CompletedProcess([], 0, "", "")
        self.given: dict[str, Any] = {}

    def images(self, name: str) -> list[str]:
        return [name]

    def create_host_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_container(self, **given: Any) -> dict[str, str]:
        self.given = given
        return {"Id": "1"}

    def attach(self, **_: Any) -> Iterator[bytes]:
        yield self.done.stderr.encode()
        yield self.done.stdout.encode()

    def start(self, _: str) -> None:
        entry = self.given["entrypoint"] or ENTRYPOINT
        self.done = self.engine.run([*entry, *self.given["command"]], self.given["environment"])

    def wait(self, _: str) -> dict[str, int]:
        return {"StatusCode": self.done.returncode}

    def stop(self, _: str) -> None:
        """It has ended."""

    def remove_container(self, _: str, force: bool = False) -> None:
        """It is gone."""


class Pods:
    """What `KubernetesPodOperator` asks of the API and of its pod manager."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.pods: dict[str, k8s.V1Pod] = {}

    def create_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        base = pod.spec.containers[0]
        words = [*(base.command or ENTRYPOINT), *(base.args or [])]
        result = self.engine.folder / f"{pod.metadata.name}.json"
        replaced = {"mkdir -p /airflow/xcom;": "", "/airflow/xcom/return.json": str(result)}
        for old, new in replaced.items():
            words = [word.replace(old, new) for word in words]
        done = self.engine.run(words, {variable.name: variable.value for variable in base.env or []})
        ended = k8s.V1ContainerStateTerminated(exit_code=done.returncode)
        if done.returncode and base.termination_message_policy == "FallbackToLogsOnError":
            ended.message = done.stderr[-2048:]
        state = k8s.V1ContainerState(terminated=ended)
        status = k8s.V1ContainerStatus(name=base.name, image="", image_id="", ready=False, restart_count=0, state=state)
        pod.status = k8s.V1PodStatus(phase="Failed" if done.returncode else "Succeeded", container_statuses=[status])
        self.pods[pod.metadata.name] = pod
        return pod

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        wanted = [part.split("=", 1) for part in label_selector.split(",") if "=" in part and "!" not in part]
        found = [p for p in self.pods.values() if all(p.metadata.labels.get(k) == v for k, v in wanted)]
        return SimpleNamespace(items=found)

    async def await_pod_start(self, **_: Any) -> None:
        """It runs at once."""

    async def watch_pod_events(self, *_: Any) -> None:
        """Nothing happens."""

    def fetch_requested_init_container_logs(self, **_: Any) -> list[Any]:
        return []

    def fetch_requested_container_logs(self, **_: Any) -> list[Any]:
        return []

    def await_container_completion(self, **_: Any) -> None:
        """It has ended."""

    def await_xcom_sidecar_container_start(self, **_: Any) -> None:
        """It runs at once."""

    def extract_xcom(self, pod: k8s.V1Pod, **_: Any) -> str:
        path = self.engine.folder / f"{pod.metadata.name}.json"
        return path.read_text() if path.exists() and path.stat().st_size else "__airflow_xcom_result_empty__"

    def await_pod_completion(self, pod: k8s.V1Pod, *_: Any) -> k8s.V1Pod:
        return self.pods[pod.metadata.name]

    def read_pod(self, pod: k8s.V1Pod) -> k8s.V1Pod:
        return self.pods[pod.metadata.name]

    def get_pod(self, name: str, _: str) -> k8s.V1Pod:
        if name not in self.pods:
            raise ApiException(status=404)
        return self.pods[name]

    def delete_pod(self, pod: k8s.V1Pod) -> None:
        self.pods.pop(pod.metadata.name)

    def patch_namespaced_pod(self, **_: Any) -> None:
        """It is marked."""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine behind both operators, empty."""
    engine = Engine(tmp_path)
    docker, pods = Docker(engine), Pods(engine)
    hook = SimpleNamespace(
        client_created=True,
        get_pod=pods.get_pod,
        is_in_cluster=False,
        get_namespace=lambda: None,
        get_xcom_sidecar_container_image=lambda: None,
        get_xcom_sidecar_container_resources=lambda: None,
        get_xcom_sidecar_container_security_context=lambda: None,
    )
    monkeypatch.setattr(DockerOperator, "cli", docker)
    monkeypatch.setattr(DockerOperator, "hook", hook)
    for name, stand_in in {"client": pods, "pod_manager": pods, "hook": hook}.items():
        monkeypatch.setattr(KubernetesPodOperator, name, stand_in)
    return engine
