"""What leaves the checkout: the wheel and the images, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("schemas", "transforms", "pipelines", "prefine")
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def copied() -> list[str]:
    """What the Dockerfile copies out of the checkout."""
    lines = [
        line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line
    ]
    return [source for sources in lines for source in sources]


def test_the_image_copies_what_there_is_and_all_that_the_package_needs() -> None:
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert set(PACKAGES) <= set(copied())
    assert {name.removesuffix("*") for name in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]} == set(
        PACKAGES
    )


def test_the_image_installs_extras_that_exist_and_packages_that_are_pinned() -> None:
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= set(PYPROJECT["project"]["optional-dependencies"])
    (unresolved,) = re.findall(r"--no-deps --constraint \S+ (.+)", DOCKERFILE)
    assert unresolved.split()
    assert set(unresolved.split()) <= set(pins())


def test_the_worker_image_is_of_the_same_beam_and_python() -> None:
    (python,) = re.findall(r"^FROM python:([\d.]+)", DOCKERFILE, re.M)
    ((sdk_python, beam),) = re.findall(r"apache/beam_python([\d.]+)_sdk:([\d.]+)", DOCKERFILE)
    assert python == sdk_python
    assert beam == pins()["apache-beam"]
    targets = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, re.M))
    named = {
        name
        for page in ("docs/scale.md", "Dockerfile")
        for name in re.findall(r"--target (\w+)", (ROOT / page).read_text())
    }
    assert named
    assert named <= targets


@pytest.mark.slow
def test_the_wheel_has_every_file_and_works_elsewhere(tmp_path: Path) -> None:
    """Built from nothing but what the Dockerfile copies."""
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    source.mkdir()
    for name in copied():
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True, cwd=tmp_path, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.split("/")[0] in PACKAGES}
        archive.extractall(elsewhere)
    files = {path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()}
    wanted = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert {name for name in wanted - inside if not name.endswith(".md")} == set()
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    where = "import prefine.cli.main as m, schemas, transforms, pipelines as p; print(m.__file__, p.__path__[0])"
    said = subprocess.run(
        [sys.executable, "-c", where], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert all(path.startswith(str(elsewhere)) for path in said.stdout.split())
    for words in (
        ["init", str(tmp_path / "new")],
        ["run", str(tmp_path / "new" / "recipe.yaml"), "-w", "w", "--dry-run"],
    ):
        subprocess.run(
            [sys.executable, "-m", "prefine.cli.main", *words], env=environment, cwd=tmp_path, check=True, timeout=300
        )
