"""A served reward model that fails on one text: its pair is an error, and only that is asked again."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path

import polars as pl
import yaml

from pipelines.lookup import table_frame
from pipelines.run import run_stages
from transforms.storage.workspace import Workspace


def test_a_failed_reward_is_asked_again_in_the_next_run_and_nothing_else(tmp_path: Path) -> None:
    asked: list[str] = []
    ill = {"Answer 3."}

    class Stub(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            asked.append(text)
            payload = json.dumps({"data": [{"data": [float(len(text))]}]}).encode()
            self.send_response(503 if text in ill else 200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        rows = [{"prompt": f"Q{i}?", "chosen": f"Answer {i}.", "rejected": f"No, {i}"} for i in range(8)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        url = f"http://127.0.0.1:{server.server_port}"
        recipe = {
            "name": "served",
            "buckets": 2,
            "sources": [{"name": "mine", "kind": "pairs", "path": "pairs.jsonl"}],
            "score": {
                "scorers": [{"plugin": "hf_reward", "endpoints": [{"url": url, "model": "rm", "retries": 0}]}],
            },
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        root, found = str(tmp_path / "w"), []
        for _ in range(3):
            asked.clear()
            run_stages(tmp_path / "recipe.yaml", root, ["ingest", "clean", "score"], None, (), quiet=True)
            votes = table_frame(Workspace.open(root), "votes").filter(pl.col("kind") == "reward").collect()
            found.append((dict(votes["label"].value_counts().iter_rows()), sorted(asked)))
            ill.clear()
    finally:
        server.shutdown()
        server.server_close()
    (first, bought), (second, again), (third, nothing) = found
    assert first["error"] == 1
    assert sum(first.values()) == 8
    assert len(bought) == 16
    assert "error" not in second
    assert sum(second.values()) == 8
    assert again == ["Answer 3."]
    assert (third, nothing) == (second, [])
