"""OpenRLHF's own `RewardDataset` (the published wheel) loads both layouts.

The wheel is put into a folder of its own: it also holds a top-level package `tests`, which would shadow ours, and its
training code needs CUDA builds of deepspeed and flash-attention, which its dataset classes do not.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.messages import message, text_of
from tests.transforms.exporters import tiny
from tests.transforms.exporters.rows import row, table
from transforms.plugins.registry import find

pytestmark = pytest.mark.slow

PROBE = """
import json, sys
from types import SimpleNamespace
import datasets
from transformers import PreTrainedTokenizerFast
from openrlhf.datasets import RewardDataset

folder, cache, vocabulary, prompt_key, is_dpo = sys.argv[1:]
tokenizer = PreTrainedTokenizerFast.from_pretrained(vocabulary)
keys = SimpleNamespace(
    prompt_key=prompt_key or None, chosen_key="chosen", rejected_key="rejected", apply_chat_template=True
)
strategy = SimpleNamespace(args=SimpleNamespace(data=keys))
rows = datasets.load_dataset(folder, cache_dir=cache)["train"]
data = RewardDataset(rows, tokenizer, 256, strategy, is_dpo=is_dpo == "1", num_processors=1)
batch = data.collate_fn([data[i] for i in range(len(data))])
texts = [[tokenizer.decode([t for t, m in zip(ids, mask) if m]) for ids, mask in zip(a.squeeze(1), b.squeeze(1))]
         for a, b in ((batch[0], batch[1]), (batch[2], batch[3]))]
print("RESULT" + json.dumps({"chosen": texts[0], "rejected": texts[1], "extra": list(batch[4])}))
"""


@pytest.fixture(scope="module")
def openrlhf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openrlhf")
    packages = ["openrlhf==0.11.2", "pylatexenc"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), *packages], check=True
    )
    shutil.rmtree(folder / "tests")
    return folder


@pytest.mark.parametrize("is_dpo", [False, True])
@pytest.mark.parametrize("layout", ["conversations", "prompt"])
def test_reward_dataset(tmp_path: Path, openrlhf: Path, layout: str, is_dpo: bool) -> None:
    turns = [message("user", "hi"), message("assistant", "hello"), message("user", "again?")]
    rows = table(row("What is 1+1?", "Two.", "Three.", margin=0.5), row(turns, "Yes.", "No.", margin=1.5))
    texts = [text_of(m) for c in ("prompt", "chosen", "rejected") for m in rows[c].to_list()]
    vocabulary = tiny.tokenizer(texts)
    vocabulary.save_pretrained(tmp_path / "vocabulary")
    cls = find("exporters", "openrlhf")
    cls("openrlhf", cls.Config(layout=layout), 0).export(rows.lazy(), tmp_path / "out")
    key = "prompt" if layout == "prompt" else ""
    arguments = [tmp_path / "out", tmp_path / "cache", tmp_path / "vocabulary", key, str(int(is_dpo))]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(openrlhf), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.split("RESULT")[1])
    for side in ("chosen", "rejected"):
        for text, original in zip(found[side], rows.iter_rows(named=True), strict=True):
            whole = [{k: m[k] for k in ("role", "content")} for m in (*original["prompt"], *original[side])]
            assert text == vocabulary.apply_chat_template(whole, tokenize=False).rstrip("\n")
    if not is_dpo:
        assert found["extra"] == [0.5, 1.5]
