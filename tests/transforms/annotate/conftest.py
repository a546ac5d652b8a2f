"""A real Label Studio for the slow tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.label_studio_server import Server, executable


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server with an empty database, shared by the tests of a session."""
    if executable() is None:
        pytest.skip("Label Studio is not installed: set PREFINE_LABEL_STUDIO, or make .venv-labelstudio")
    server = Server(tmp_path_factory.mktemp("label-studio"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
