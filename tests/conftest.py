"""Fixtures every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

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
    """The folder of real human-labelled preference data; where it is absent tests skip, in CI they fail."""
    named = os.environ.get("PREFINE_SHARED_DATA")
    places = [Path(named)] if named else [folder / "shared" / "data" for folder in (ROOT.parent, ROOT)]
    for path in places:
        if path.is_dir():
            return path
    missing(f"real preference data not found at {' or '.join(map(str, places))}; set PREFINE_SHARED_DATA")


# The groups of slow tests that take longest, longest first: begun last, one would keep one process alone for minutes.
LONGEST = ("label-studio", "tests/pipelines/test_large_version.py", "tests/pipelines/test_faults.py")


@cache
def group_of(file: str) -> str:
    """Which tests run in one process, one after another: those of a file, or all that share Label Studio."""
    return "label-studio" if "label_studio: Server" in (ROOT / file).read_text() else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup` by our groups: pytest-xdist 3.8 writes its own into names, and pytest 9.2 takes no notice."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest groups first, where there are groups: pytest-xdist tells its workers so."""
    if config.getoption("loadgroup", False):
        order = {group: place for place, group in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(group_of(item.nodeid.partition("::")[0]), len(order)))


def missing(what: str) -> NoReturn:
    """Skip the test, and fail it in CI, where nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running Label Studio with an empty database, shared by the tests of a session."""
    if executable() is None:
        missing("Label Studio is not installed: `make integration` installs it, or set PREFINE_LABEL_STUDIO")
    server = Server(tmp_path_factory.mktemp("label-studio"))
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of moto's S3 server in this process."""
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("NO_PROXY", "127.0.0.1"),
            ("no_proxy", "127.0.0.1"),
        ):
            patch.setenv(name, value)
        bucket = f"bucket-{port}"  # moto's buckets outlive its servers
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients of an earlier module's server
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
        yield f"s3://{bucket}"
    server.stop()
