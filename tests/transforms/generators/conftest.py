import pytest

from tests.transforms.generators.harness import FakeEngine


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()
