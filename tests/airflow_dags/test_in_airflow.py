"""The DAGs' own tests, run by the Python of Airflow's environment; that environment has nothing of ours in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.airflow_dags.environment import DAGS, airflow_bin, airflow_environment

pytestmark = pytest.mark.slow

INSIDE = Path(__file__).parent / "inside"
SOON = 1 / 3600  # a second, in hours


def curation(folder: Path) -> Path:
    """A recipe that waits for nobody, and one with people, a sign-off and a pool of its own."""
    fake = folder / "fake"
    common = {"retries": 1, "retry_minutes": 0.01, "env": {"FAKE": str(fake)}}
    plain = {"name": "plain", "recipe": str(fake / "plain.yaml"), "workspace": str(fake / "plain"), "keep": 5}
    people = {"name": "people", "recipe": str(fake / "people.yaml"), "workspace": str(fake / "people")}
    value = {
        "place": {"prefine": [sys.executable, str(INSIDE / "fake_prefine.py")]},
        "recipes": [
            {**common, **plain, "formats": ["trl-dpo", "jsonl"], "schedule": "0 1 * * *"},
            {
                **common,
                **people,
                "sign_off": True,
                "labels": {"enough": 0.9, "hours": 20 * SOON, "poll_minutes": 60 * SOON},
                "stages": {"fuse": {"pool": "my_pool"}, "generate": {"timeout_hours": 3 * SOON}},
            },
        ],
    }
    path = folder / "curation.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


def test_structure_serialisation_and_every_branch(tmp_path: Path) -> None:
    tools = airflow_bin()
    environment = airflow_environment(tmp_path / "home", curation(tmp_path), FAKE=str(tmp_path / "fake"))
    subprocess.run([tools / "airflow", "db", "migrate"], env=environment, check=True, capture_output=True, timeout=600)
    command = [tools / "python", "-m", "pytest", "-c", INSIDE / "pytest.ini", "--rootdir", INSIDE, INSIDE, "-q"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3000, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout[-20000:]}\n{done.stderr[-4000:]}"


def test_types(tmp_path: Path) -> None:
    """mypy --strict of the DAG files against Airflow's own environment; the main one has no Airflow."""
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(tmp_path)]
    command += ["--python-executable", str(airflow_bin() / "python")]
    done = subprocess.run(command, cwd=DAGS, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
