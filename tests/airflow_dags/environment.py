"""Airflow's own environment, and what a command in it must see."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DAGS = ROOT / "airflow_dags"


def airflow_bin() -> Path:
    """The folder of Airflow's executables: `$PREFINE_AIRFLOW`/bin, or .venv-airflow/bin in this checkout.

    Where there is none, a test skips; in CI (`$CI`) it fails.
    """
    folder = Path(os.environ.get("PREFINE_AIRFLOW", ROOT / ".venv-airflow")) / "bin"
    if not (folder / "airflow").is_file():
        missing = f"no Airflow in {folder}: `make .venv-airflow/.ready` installs it, or set PREFINE_AIRFLOW"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


def airflow_environment(home: Path, curation: Path, **settings: str) -> dict[str, str]:
    """Environment of a throw-away Airflow: its home, our DAGs, no examples, no telemetry, few processes."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PREFINE_CURATION": str(curation),
        "PYTHONDONTWRITEBYTECODE": "1",
        **settings,
    }
