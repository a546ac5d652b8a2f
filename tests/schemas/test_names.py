"""A name that is allowed stays in its folder, whatever it holds; one that is not is refused everywhere alike."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.errors import UsageError
from schemas.names import file_name, is_file_name
from schemas.recipe import ExportUse, PluginUse
from transforms.publish.store import check_name

HARMFUL = ["", ".", "..", "../x", "a/b", "/etc", "a\\b", ".hidden", "-rf", "a\n", "a\0", "a b", "a:b", "x" * 101, "é"]


@given(st.one_of(st.text(), st.text(alphabet="./\\aA0-_\n", max_size=6), st.from_regex(r"[A-Za-z0-9][\w.-]{0,99}")))
def test_an_allowed_name_is_one_part_of_a_path(name: str) -> None:
    if not is_file_name(name):
        with pytest.raises(ValueError, match="is not allowed as a name"):
            file_name(name)
        return
    assert file_name(name) == name
    for path in (PurePosixPath("root", name), PureWindowsPath("root", name)):
        assert path.parent.name == "root"
        assert path.name == name
        assert name not in (".", "..")


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_name_is_refused_wherever_it_would_be_a_path(name: str) -> None:
    assert not is_file_name(name)
    with pytest.raises(ValidationError):
        PluginUse(plugin=name)
    with pytest.raises(ValidationError):
        ExportUse(format=name)
    if name:  # without a name the plug-in's is taken
        with pytest.raises(ValidationError):
            PluginUse(plugin="length", name=name)
        with pytest.raises(ValidationError):
            ExportUse(format="trl-dpo", options={"name": name})
    with pytest.raises(UsageError, match="is not allowed as a name"):
        check_name(name)


def test_a_use_without_a_name_has_its_plug_ins() -> None:
    assert PluginUse(plugin="length").name == "length"
    assert PluginUse(plugin="length", name="").name == "length"
    assert ExportUse(format="trl-dpo").use.name == "trl-dpo"
    assert ExportUse(format="trl-dpo", options={"name": "small"}).use.name == "small"
