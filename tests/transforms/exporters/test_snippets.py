"""The snippets of the formats' documentation run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import transforms.exporters
from schemas.messages import text_of
from tests.transforms.exporters import tiny
from tests.transforms.exporters.rows import row, table
from transforms.plugins.registry import find, names

pytestmark = pytest.mark.slow

TEXT = (Path(transforms.exporters.__path__[0]) / "README.md").read_text()
SNIPPETS = re.findall(r"^## (.+?)\n.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
CODE = {
    title: code
    for title, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    for code in re.findall(r"```python\n(.*?)```", body, re.DOTALL)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    rows = table(
        *(
            row(f"What is {i} plus 1?", f"It is {i + 1}.", f"Maybe {i}?", user_id=f"u{i % 9}", split=split)
            for i, split in enumerate(["train", "train", "validation", "test"] * 10)
        )
    )
    vocabulary = tiny.tokenizer([text_of(m) for c in ("prompt", "chosen", "rejected") for m in rows[c].to_list()])
    tiny.causal_model(vocabulary).save_pretrained(folder / "model")
    vocabulary.save_pretrained(folder / "model")
    for name in names("exporters"):
        cls = find("exporters", name)
        cls(name, cls.Config(), 0).export(rows.lazy(), folder / "exports" / name)
    return folder


def test_every_format_is_documented() -> None:
    documented = {name for title in SNIPPETS for name in title.split(" and ")}
    assert documented == set(names("exporters"))


@pytest.mark.parametrize("title", CODE)
def test_snippet(folder: Path, title: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home"), "WANDB_MODE": "disabled"}
    done = subprocess.run(
        [sys.executable, "-c", CODE[title]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
