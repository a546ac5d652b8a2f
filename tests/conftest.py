"""Fixtures every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real human-labelled preference data; tests that need it skip where it is absent."""
    path = Path(os.environ.get("PREFINE_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real preference data not found at {path}; set PREFINE_SHARED_DATA")
    return path
