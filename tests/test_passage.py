"""Who follows a pair or a request through the code steps through no more functions and files than are recorded."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.passage import ROOT, holds

# Aims: 55 functions in 20 files for a pair, 35 in 12 for a request.
RECORDED = {"pair": (70, 26), "request": (45, 19)}


@pytest.mark.parametrize("name", RECORDED)
def test_a_passage_gets_no_longer(name: str) -> None:
    command = [sys.executable, "-m", "tests.passage", name]
    text = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    counted = re.match(rf"{name}: (\d+) functions in (\d+) files", text)
    assert counted is not None, text
    functions, files = map(int, counted.groups())
    assert functions <= RECORDED[name][0], text
    assert files <= RECORDED[name][1], text
    assert functions > 20, "nothing was followed"


def test_the_marker_is_found_in_rows_and_bytes_alone_where_it_is() -> None:
    row = {"prompt": [{"role": "user", "content": "a marker here"}]}
    assert holds([row], "marker")
    assert holds((b"a marker",), "marker")
    assert not holds([row], "other")
