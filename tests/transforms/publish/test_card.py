"""The card is valid for the Hub, true, and lets `load_dataset` read the version's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from huggingface_hub import DatasetCard

from schemas.tables import DatasetRows, polars_schema
from tests.transforms.publish import frames
from transforms.publish.card import size_category
from transforms.publish.version import Provenance, publish

PROVENANCE = Provenance(recipe="", recipe_hash="r" * 32, code_version="1")
# https://huggingface.co/docs/hub/datasets-cards and its schema of size categories
SIZES = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B"]


def test_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    content, splits = frames.buckets(*frames.workspace(60))
    done = publish(tmp_path / "d", "demo", content, splits, PROVENANCE)
    card = DatasetCard.load(Path(done.path) / "README.md")
    assert card.data.size_categories == ["n<1K"]
    assert [f["split"] for f in card.data.configs[0]["data_files"]] == list(done.manifest.rows_by_split)
    for count in (done.manifest.n_rows, done.manifest.n_pairs):
        assert f"{count:,}" in card.text
    loaded = datasets.load_dataset(done.path, cache_dir=str(tmp_path / "cache"))
    assert {s: loaded[s].num_rows for s in loaded} == done.manifest.rows_by_split
    assert loaded["train"].column_names == polars_schema(DatasetRows).names()


def test_the_card_says_how_many_labels_are_right(tmp_path: Path) -> None:
    figures = {"accuracy": 0.912, "low": 0.85, "high": 0.961, "level": 0.95, "audited": 120}
    nobody = dict.fromkeys(figures) | {"level": 0.95, "audited": 0}
    certificate = figures | {"slices": {"kind": {"chat": figures | {"accuracy": 0.7}, "code": nobody}}}
    content, splits = frames.buckets(*frames.workspace(60))
    done = publish(tmp_path / "d", "demo", content, splits, replace(PROVENANCE, certificate=certificate))
    text = DatasetCard.load(Path(done.path) / "README.md").text
    assert "| all | 91.2% | 85.0% to 96.1% | 120 |" in text
    assert "| kind: chat | 70.0% |" in text
    assert "| kind: code | NOT_AUDITED | | 0 |" in text
    assert "agreement with one annotator" in text


@pytest.mark.parametrize("power", range(12))
def test_size_categories_are_those_of_the_hub(power: int) -> None:
    assert size_category(10**power) == SIZES[max(0, min(7, power - 2))]
    assert size_category(10 ** (power + 1) - 1) == SIZES[max(0, min(7, power - 2))]
