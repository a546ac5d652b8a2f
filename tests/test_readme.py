"""Every recipe snippet of the README is a valid part of a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.runtime.run import checked_recipe
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = [
    (title, yaml.safe_load(code))
    for title, body in re.findall(r"^### … ([^\n]+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    for code in re.findall(r"```yaml\n(.*?)```", body, re.DOTALL)
]
HOW_TOS = ("prompts only", "documents", "personas", "a new model against an old one", "agent logs")


@pytest.mark.parametrize(("title", "snippet"), SNIPPETS)
def test_snippets_are_valid(tmp_path: Path, title: str, snippet: dict[str, Any]) -> None:
    source: dict[str, Any] = {"name": "pairs", "kind": "pairs", "path": "pairs.jsonl"}
    if "votes" in snippet:
        source["votes"] = snippet.pop("votes")
    snippet = {"name": "readme", "sources": [source], **snippet}
    for used in re.findall(r"[\w/.-]+\.(?:jsonl|parquet|txt|csv)\b", yaml.safe_dump(snippet)):
        (tmp_path / used).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / used).write_text("\n")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(snippet, allow_unicode=True))
    assert checked_recipe(path).recipe.name == "readme", title


@pytest.mark.parametrize("what", HOW_TOS)
def test_there_is_a_how_to_for_every_kind_of_input(what: str) -> None:
    assert any(what in title and snippet.get("generate") for title, snippet in SNIPPETS)
