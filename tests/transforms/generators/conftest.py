import pytest
from hypothesis import settings

from tests.transforms.generators.harness import FakeEngine

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()
