"""The example of CONTRIBUTING.md works as it stands there."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from schemas.messages import to_messages
from schemas.pairs import make_pair
from tests.conftest import ROOT
from transforms.judges import _templates
from transforms.llm.request import Reply, Request
from transforms.plugins import registry


def test_the_judge_in_ten_lines_votes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    code = found[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    templates = tmp_path / "templates"
    templates.mkdir()
    original = ROOT / "transforms" / "judges" / "templates"
    for path in original.iterdir():
        (templates / path.name).write_bytes(path.read_bytes())
    (templates / "polite.v1.jinja2").write_bytes((original / "logprob.v1.jinja2").read_bytes())
    folder = next(name for name, value in vars(_templates).items() if value == original)
    monkeypatch.setattr(_templates, folder, templates)
    space: dict[str, Any] = {"__name__": "transforms.judges.polite"}
    try:
        exec(compile(code, "polite.py", "exec"), space)
        plugin = registry.find("judges", "polite")
        judge = plugin("polite", plugin.Config(engine="e"), 0)
        judge.bind({"e": "model"})
        prompt, first, second = (to_messages(t, "user") for t in ("Hello?", "Good morning to you.", "What."))
        pair, _ = make_pair(prompt, first, second, origin="test")

        async def ask(request: Request) -> Reply:
            return Reply(request.request_id, "ok", "A", logprobs=[{"A": -0.1, "B": -3.0}])

        votes = asyncio.run(judge.votes([pair], ask))
        assert sorted(vote["order"] for vote in votes) == ["ab", "ba"]
        assert sorted(vote["label"] for vote in votes) == ["a", "b"]
    finally:
        registry._OURS.pop(("judges", "polite"), None)
