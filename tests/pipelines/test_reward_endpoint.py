"""A served reward model that fails on some texts: their pairs are errors, and only those are asked again."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipelines.inspect.tables import table_frame
from pipelines.runtime.run import run_stages
from schemas.errors import EngineError
from transforms.storage.workspace import Workspace


@dataclass
class Server:
    """A reward model that answers with the length of the text, but for some texts with a status."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    ill: set[str] = field(default_factory=set)
    status: int = 503


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            state.asked.append(text)
            payload = json.dumps({"data": [{"data": [float(len(text))]}]}).encode()
            self.send_response(state.status if text in state.ill else 200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{http_server.server_port}"
    yield state
    http_server.shutdown()
    http_server.server_close()


def score(folder: Path, server: Server, **section: float) -> tuple[dict[str, int], list[str]]:
    """Run until score; the votes by label, and the texts that were asked."""
    rows = [{"prompt": f"Q{i}?", "chosen": f"Answer {i}.", "rejected": f"No, {i}"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorer = {"plugin": "hf_reward", "endpoints": [{"url": server.url, "model": "rm", "retries": 0}]}
    recipe = {
        "name": "served",
        "buckets": 2,
        "sources": [{"name": "mine", "kind": "pairs", "path": "pairs.jsonl"}],
        "score": {"scorers": [scorer], **section},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    server.asked.clear()
    root = str(folder / "w")
    run_stages(folder / "recipe.yaml", root, ["ingest", "clean", "score"], None, (), quiet=True)
    votes = table_frame(Workspace.open(root), "votes").filter(pl.col("kind") == "reward").collect()
    return dict(votes["label"].value_counts().iter_rows()), sorted(server.asked)


def test_a_failed_reward_is_asked_again_in_the_next_run_and_nothing_else(tmp_path: Path, server: Server) -> None:
    server.ill.add("Answer 3.")
    first, bought = score(tmp_path, server, max_failed_share=0.2)
    assert first["error"] == 1
    assert sum(first.values()) == 8
    assert len(bought) == 16
    server.ill.clear()
    second, again = score(tmp_path, server, max_failed_share=0.2)
    assert "error" not in second
    assert sum(second.values()) == 8
    assert again == ["Answer 3."]
    assert score(tmp_path, server, max_failed_share=0.2) == (second, [])


@pytest.mark.parametrize("status", [400, 503])
def test_a_reward_model_that_fails_on_many_pairs_ends_the_run(tmp_path: Path, server: Server, status: int) -> None:
    server.ill |= {f"Answer {i}." for i in range(6)}
    server.status = status
    with pytest.raises(EngineError, match=rf"of 8 pairs, more than max_failed_share \(10.0%\).* on 6, .*{status}"):
        score(tmp_path, server)
    with pytest.raises(EngineError, match=str(status)):
        score(tmp_path, server)
    assert set(server.asked) <= server.ill
    server.ill.clear()
    votes, again = score(tmp_path, server)
    assert sum(votes.values()) == 8
    assert "error" not in votes
    assert len(again) == 6
