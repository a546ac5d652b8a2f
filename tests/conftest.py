"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.label_studio_server import Server, executable

ROOT = Path(__file__).resolve().parent.parent

# A test run is a function of the commit: the same examples everywhere. `make fuzz` searches for new ones.
settings.register_profile("same", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("search", deadline=None, max_examples=500, print_blob=True)
settings.load_profile(os.environ.get("PREFINE_HYPOTHESIS", "same"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real human-labelled preference data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("PREFINE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real preference data not found at {path}; set PREFINE_SHARED_DATA")
    return path


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running Label Studio with an empty database, shared by the tests of a session."""
    if executable() is None:
        missing = "Label Studio is not installed: `make integration` installs it, or set PREFINE_LABEL_STUDIO"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    server = Server(tmp_path_factory.mktemp("label-studio"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
