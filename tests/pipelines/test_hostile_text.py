"""Text that attacks and pictures, from the source to the annotator's page and on to the published version."""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.inspect.tables import table_frame
from pipelines.runtime.annotation import ledger
from schemas.messages import text_of
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.pipelines.conftest import Project
from tests.transforms.annotate.browser import Page, available, browsing
from tests.transforms.annotate.replay import Person, answer
from transforms.annotate.display import page_text, shown_text
from transforms.annotate.label_studio import LabelStudioServer
from transforms.publish.read import open_version
from transforms.storage.workspace import Workspace

pytestmark = pytest.mark.slow

HOSTILE = {
    "script": "<script>window.owned = 1</script>",
    "image": "<img src=x onerror='window.owned = 2'> <svg onload=\"window.owned = 3\">",
    "markdown": "[link](javascript:window.owned=4) ![remote](http://127.0.0.1:9/pixel.png) **bold** `code`",
    "html": '<b>bold</b> <a href="http://127.0.0.1:9/">link</a> &lt;kept&gt; {{ 7 * 7 }} </Text><Text name="x"/>',
    "zero": "before\x00after \x1b[31mred\x7f \x85",
    "bidi": "safe\u202e}cod.exe\u2066 hidden\u200f \ufeffmark",
    "lines": "one\r\ntwo\rthree\n\n\tfour \u2028five\u2029",
    "wide": "漢字 😀 e\u0301 \U000e0041 \ufffe",
    "long": "<i>" + "long & longer " * 7_400 + "</i>",
}


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    head = (1).to_bytes(4) * 2 + bytes([8, 2, 0, 0, 0])
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


@pytest.fixture
def pictures() -> Iterator[str]:
    """A server of pictures on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Access-Control-Allow-Origin", "*")
            self.end_headers()
            self.wfile.write(png())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.server_address[1]}"
        listener.shutdown()
        thread.join()


def source_lines(pictures: str) -> list[dict[str, Any]]:
    """Every hostile text as prompt, context and both responses, and one pair with pictures."""
    rows: list[dict[str, Any]] = [
        {"prompt": f"{name} {text}", "context": text, "chosen": f"{text} first", "rejected": f"{text} second"}
        for name, text in HOSTILE.items()
    ]
    attached = [{"kind": "image", "uri": f"{pictures}/{name}.png"} for name in ("question", "answer")]
    evil = {"kind": "image", "uri": "javascript:window.owned=5"}
    rows.append(
        {
            "prompt": [{"role": "user", "content": "Which picture is red?", "media": attached[:1]}],
            "chosen": [{"role": "assistant", "content": "This one.", "media": [attached[1], evil]}],
            "rejected": [{"role": "assistant", "content": "None."}],
        }
    )
    return rows


def nothing_runs_on(page: Page, task: dict[str, Any], shown: dict[str, Any]) -> None:
    """The task's page runs nothing, loads nothing but its own pictures, and draws nothing a text asks for."""
    page.open(task["project_id"], task["task_id"])
    assert page.driver.execute_script("return window.owned") is None
    drawn = page.driver.execute_script(
        "return [...document.querySelectorAll('.pp-root img')].filter(e => e.naturalWidth).map(e => e.src)"
    )
    assert set(drawn) == {uri for name in shown if name.startswith("images_") for uri in shown[name]}
    ours = "script, svg[onload], a, iframe, object, [onerror]"
    assert not page.driver.find_elements("css selector", ", ".join(f".pp-root {x}" for x in ours.split(", ")))
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in loaded if "pixel.png" in name]


def test_what_attacks_is_shown_and_published_as_it_is(
    tmp_path: Path, label_studio: Server, pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFINE_TEST_TOKEN", LEGACY_TOKEN)
    rows = source_lines(pictures)
    lone = b'{"prompt": "half a character", "chosen": "\\ud800", "rejected": "whole"}\n'
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows) + lone)
    recipe = {
        "name": "hostile",
        "buckets": 2,
        "sources": [{"name": "mine", "kind": "pairs", "path": "pairs.jsonl", "max_reject_share": 0.2}],
        "fuse": {"policy": {"plugin": "posterior", "doubtful": "soften"}},
        "route": {"queue": {"audit_share": 0, "control_share": 0}},
        "annotate": {"plugin": "label_studio", "url": label_studio.url, "token_env": "PREFINE_TEST_TOKEN"},
        "materialise": {"splits": {"fractions": {"train": 1.0}}},
    }
    project = Project(tmp_path, "", recipe)
    project.run("w")
    workspace = Workspace.open(str(tmp_path / "w"))
    rejects = table_frame(workspace, "rejects").filter(pl.col("stage") == "ingest").collect()
    assert rejects["reason"].to_list() == ["lone_surrogate"]
    pairs = {row["pair_id"]: row for row in table_frame(workspace, "pairs").collect().iter_rows(named=True)}
    tasks = ledger(workspace)
    assert set(tasks["pair_id"]) == set(pairs)
    assert len(pairs) == len(rows)

    person = Person(label_studio.url, *label_studio.add_user("hostile@example.com"))
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    data = {t.id: t.data for p in tasks["project_id"].unique() for t in admin.tasks(p, data=True)}
    for task in tasks.iter_rows(named=True):
        pair, shown = pairs[task["pair_id"]], data[task["task_id"]]
        sides = ("a", "b") if task["shown"] == "ab" else ("b", "a")
        for letter, side in zip("ab", sides, strict=True):
            assert shown[f"response_{letter}"] == shown_text(page_text(pair[f"response_{side}"]))
        assert shown.get("context") == (None if pair["context"] is None else shown_text(pair["context"]))
    if available():  # elsewhere everything but the page is tested
        with browsing(label_studio) as page:
            for task in tasks.iter_rows(named=True):
                nothing_runs_on(page, task, data[task["task_id"]])
    with_pictures = [shown for shown in data.values() if any(name.startswith("images_") for name in shown)]
    assert len(with_pictures) == 1
    pictured = {uri for name, uris in with_pictures[0].items() if name.startswith("images_") for uri in uris}
    assert pictured == {f"{pictures}/question.png", f"{pictures}/answer.png"}

    notes = {}
    for task in tasks.iter_rows(named=True):
        text = text_of(pairs[task["pair_id"]]["prompt"])[:2000]
        notes[task["pair_id"]] = text.strip()
        wrote = {"from_name": "rationale", "to_name": "conversation", "type": "textarea", "value": {"text": [text]}}
        person.post(task["task_id"], [*answer("a", task["shown"]), wrote])
    person.close()
    assert project.run("w")["version"] == "v0002"
    annotations = table_frame(workspace, "annotations").collect()
    assert dict(annotations.select("pair_id", "rationale").iter_rows()) == notes

    published = open_version(str(tmp_path / "w" / "datasets"), "hostile@2")
    found = {row["pair_id"]: row for row in published.scan("rows").collect().iter_rows(named=True)}
    assert set(found) == set(pairs)
    given = {json.dumps(row["prompt"]) if isinstance(row["prompt"], list) else row["prompt"]: row for row in rows}
    for row in found.values():
        source = given.get(text_of(row["prompt"])) or rows[-1]
        texts = [r if isinstance(r, str) else r[0]["content"] for r in (source["chosen"], source["rejected"])]
        assert sorted(text_of(row[side]) for side in ("chosen", "rejected")) == sorted(texts)
        assert row["context"] == source.get("context")
        media = [m["uri"] for side in ("prompt", "chosen", "rejected") for m in row[side][0]["media"] or ()]
        assert len(media) == (0 if isinstance(source["prompt"], str) else 3)
    project.prefine("verify", "hostile@2", "-w", "w")
    project.prefine("export", "hostile@2", "-w", "w", "--format", "jsonl", "--out", "out")
    lines = [line for path in sorted((tmp_path / "out").rglob("*.jsonl")) for line in path.read_bytes().splitlines()]
    exported = {row["pair_id"]: row for row in map(json.loads, lines)}
    assert {p: row["chosen"][0]["content"] for p, row in exported.items()} == {
        p: text_of(row["chosen"]) for p, row in found.items()
    }
    report = (tmp_path / "w" / "datasets" / "hostile" / "v0002" / "report.html").read_text()
    assert "<script" not in report
    assert "<img" not in report
