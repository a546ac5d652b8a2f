import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import transforms.generators
from transforms.plugins.registry import find, names

TEXT = (Path(transforms.generators.__path__[0]) / "README.md").read_text(encoding="utf-8")
USES = [use for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) for use in yaml.safe_load(block)]


@pytest.mark.parametrize("use", USES, ids=lambda use: str(use.get("name", use["plugin"])))
def test_examples_are_valid_settings(use: dict[str, Any]) -> None:
    settings = {key: value for key, value in use.items() if key not in ("plugin", "name")}
    find("generators", use["plugin"]).Config(**settings)


def test_every_strategy_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == set(names("generators"))
