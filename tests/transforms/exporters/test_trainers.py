"""The real trainers load our exports and learn from them: two steps each on a tiny random model, on CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from schemas.messages import message, text_of
from tests.transforms.exporters import tiny
from tests.transforms.exporters.rows import row, table
from transforms.plugins.registry import find

pytestmark = pytest.mark.slow

CALLS = '[{"id":"c1","type":"function","function":{"name":"add","arguments":"{\\"a\\": 1}"}}]'


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    plain = [
        row(
            f"What is {i} plus {i + 1}?",
            f"It is {2 * i + 1}.",
            f"I think {2 * i}, or so.",
            context=("brief" if i % 3 else None),
        )
        for i in range(12)
    ]
    turns = [
        row(
            [message("user", "hi"), message("assistant", "hello"), message("user", f"and {i}?")],
            [
                message("assistant", "", tool_calls=CALLS),
                message("tool", "3", name="add"),
                message("assistant", f"{i}!"),
            ],
            "no idea",
        )
        for i in range(4)
    ]
    return table(*plain, *turns)


@pytest.fixture(scope="module")
def vocabulary(rows: pl.DataFrame) -> Any:
    return tiny.tokenizer([text_of(m) for c in ("prompt", "chosen", "rejected") for m in rows[c].to_list()])


def load(form: str, rows: pl.DataFrame, folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    cls = find("exporters", form)
    cls(form, cls.Config(**options), 0).export(rows.lazy(), folder / "out")
    return datasets.load_dataset(str(folder / "out"), cache_dir=str(folder / "cache"))["train"]


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "run"),
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "learning_rate": 1e-2,
        **more,
    }


def trained(trainer: Any) -> list[dict[str, float]]:
    before = {k: v.detach().clone() for k, v in trainer.model.named_parameters()}
    trainer.train()
    moved = [k for k, v in trainer.model.named_parameters() if not v.detach().equal(before[k])]
    assert moved
    assert trainer.state.global_step == 2
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < entry["loss"] < 50 for entry in losses)
    return losses


def special_tokens_are_whole(vocabulary: Any, data: Any) -> bool:
    """Every mark of the chat template that the tokenised rows show is one token, and there are some."""
    end, found = vocabulary.convert_tokens_to_ids("<|im_end|>"), 0
    for seen in data:
        for ids in (value for name, value in seen.items() if name.endswith("ids") and isinstance(value, list)):
            if vocabulary.decode(ids).count("<|im_end|>") != ids.count(end):
                return False
            found += ids.count(end)
    return found > len(data)


def test_dpo(rows: pl.DataFrame, vocabulary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import DPOConfig, DPOTrainer

    data = load("trl-dpo", rows, tmp_path, monkeypatch)
    trainer = DPOTrainer(
        model=tiny.causal_model(vocabulary),
        ref_model=tiny.causal_model(vocabulary),
        args=DPOConfig(**settings(tmp_path, max_length=256)),
        train_dataset=data,
        processing_class=vocabulary,
    )
    seen = trainer.train_dataset[0]
    prompt, chosen = vocabulary.decode(seen["prompt_ids"]), vocabulary.decode(seen["chosen_ids"])
    assert prompt.endswith("<|im_start|>assistant\n")
    assert chosen.startswith("It is 1.<|im_end|>")
    assert text_of(rows["prompt"][0].to_list()) not in chosen
    assert special_tokens_are_whole(vocabulary, trainer.train_dataset)
    trained(trainer)


@pytest.mark.parametrize("margin", [False, True])
def test_reward(
    rows: pl.DataFrame, vocabulary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: bool
) -> None:
    from trl import RewardConfig, RewardTrainer

    data = load("trl-reward", rows, tmp_path, monkeypatch, margin=margin)
    trainer = RewardTrainer(
        model=tiny.reward_model(vocabulary),
        args=RewardConfig(**settings(tmp_path, max_length=256)),
        train_dataset=data,
        processing_class=vocabulary,
    )
    assert ("margin" in trainer.train_dataset.column_names) == margin
    assert special_tokens_are_whole(vocabulary, trainer.train_dataset)
    trained(trainer)


def test_kto(rows: pl.DataFrame, vocabulary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import KTOConfig, KTOTrainer

    data = load("trl-kto", rows, tmp_path, monkeypatch)
    assert {True, False} == set(data["label"])
    trainer = KTOTrainer(
        model=tiny.causal_model(vocabulary),
        ref_model=tiny.causal_model(vocabulary),
        args=KTOConfig(**settings(tmp_path, max_length=256)),
        train_dataset=data,
        processing_class=vocabulary,
    )
    assert special_tokens_are_whole(vocabulary, trainer.train_dataset)
    trained(trainer)
