"""A person's path through a real browser, and hostile text on the page.

Screenshots go to `$PREFINE_SCREENSHOTS`, where it is set, for people to look at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.messages import message
from schemas.pairs import make_pair
from tests.label_studio_server import LEGACY_TOKEN, Server
from tests.transforms.annotate.browser import Page, available, browsing
from tests.transforms.annotate.replay import Pairs, queue_of, tasks_of
from transforms.annotate.answers import read_answers
from transforms.annotate.display import page_text, shown_text
from transforms.annotate.label_studio import LabelStudioServer, Pulled, pull, push
from transforms.annotate.page import PageConfig, ranking_page
from transforms.annotate.ranking import rationale_of, read_places
from transforms.annotate.tasks import empty_ledger, ranking_data, task_data

pytestmark = pytest.mark.slow

CONFIG = PageConfig()
NARROW = 420  # a phone
HOSTILE = (
    "<script>window.owned = 1</script><img src=x onerror='window.owned = 2'><svg onload=\"window.owned = 3\">\n"
    "[link](javascript:window.owned=4) ![remote](http://127.0.0.1:9/pixel.png) **not bold** <b>not html</b>\n"
    "{{ 7 * 7 }} </Text><Text name='x'/> &lt;kept&gt; right\u202eto left\u2066 zero\x00byte "
    "\x1b[31mred 漢字 😀\r\n\tend"
)
CODE = (
    "```python\n"
    + "".join(f"def f{i}(x):\n    return [y for y in range(x) if y % {i + 2} == 0]\n\n" for i in range(9))
    + "```"
)


def a_pair(first: str, second: str, context: str | None = None) -> dict[str, Any]:
    prompt = [message("system", "You are terse."), message("user", f"Which is it? {HOSTILE}")]
    pair, _ = make_pair(
        prompt, [message("assistant", first)], [message("assistant", second)], context=context, origin="t"
    )
    return pair


@pytest.fixture(scope="module")
def page(label_studio: Server) -> Iterator[Page]:
    if not available():
        pytest.skip("no browser: install chromium, chromium-driver (Debian) and selenium (PyPI)")
    with browsing(label_studio) as found:
        yield found


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    path = Path(os.environ.get("PREFINE_SCREENSHOTS", tmp_path))
    path.mkdir(parents=True, exist_ok=True)
    return path


def pushed(server: Server, pairs: Pairs, name: str, config: PageConfig = CONFIG) -> Any:
    saved = [empty_ledger()]
    queue = queue_of(pairs, audit_share=0, control_share=0)
    admin = LabelStudioServer(server.url, LEGACY_TOKEN)
    return push(admin, queue, tasks_of(pairs, config), saved[0], saved.append, name=name, owner="browser").ledger


def pulled(server: Server, ledger: Any, pairs: Pairs, config: PageConfig = CONFIG) -> Any:
    raw = pull(LabelStudioServer(server.url, LEGACY_TOKEN), ledger, Pulled())
    return read_answers(raw.records(), ledger, pairs, config, {1: "me"})


def test_a_task_is_labelled_by_clicking(label_studio: Server, page: Page, screenshots: Path) -> None:
    prose = "unmistakable prose that goes on and on. " * 60
    pair = a_pair(f"remarkable {CODE}", prose, context="Judge only by correctness.")
    pairs = {pair["pair_id"]: pair}
    ledger = pushed(label_studio, pairs, "clicked page")
    project, task, shown = ledger.select("project_id", "task_id", "shown").row(0)
    page.open(project, task)
    text = page.text()
    assert text.index("Judge only by correctness.") < text.index("Response A") < text.index("Which response is better")
    for theme in ("light", "dark"):
        page.screenshot(screenshots / f"{theme}-wide.png", 1500)
        first, second = page.boxes(".pp-cols > .pp-resp")[:2]
        assert first["top"] == pytest.approx(second["top"], abs=1)
        assert first["right"] <= second["left"]
        assert page.overflowing() <= 1
        page.open_next(project)
        page.screenshot(screenshots / f"{theme}-narrow.png", NARROW)
        first, second = page.boxes(".pp-cols > .pp-resp")[:2]
        assert first["bottom"] <= second["top"]
        assert page.overflowing() <= 1
        assert page.boxes('button[name="submit"]')[0]["right"] <= NARROW
        page.screenshot(screenshots / f"{theme}-narrow-verdict.png", NARROW, scroll="Which response is better")
        page.resize(1500)
        page.switch_theme()
        page.open(project, task)
    remarkable = "a" if page_text(pair["response_a"]).startswith("remarkable") else "b"
    side = remarkable if shown == "ab" else ("b" if remarkable == "a" else "a")
    page.mark("style", 0 if side == "a" else 1, "remarkable")
    page.mark("factual_error", 1 if side == "a" else 0, "unmistakable")
    for letter in "AB":
        for aspect, stars in zip(CONFIG.aspects, (5, 4, 3), strict=True):
            page.rate(f"{letter}: {aspect}", stars)
    page.choose(side.upper())
    page.choose("2 slight")
    page.write("It is correct.")
    page.screenshot(screenshots / "light-answered.png", 1500, scroll="Rate each response")
    page.submit(lambda: pulled(label_studio, ledger, pairs).annotations.height)
    found = pulled(label_studio, ledger, pairs)
    assert found.rejects.height == 0
    row = found.annotations.row(0, named=True)
    assert (row["label"], row["strength"], row["rationale"]) == (remarkable, 2, "It is correct.")
    stars_given = dict(zip(CONFIG.aspects, (5, 4, 3), strict=True))
    assert orjson.loads(row["aspects"]) == {"a": stars_given, "b": stars_given}
    spans = [
        {"response": remarkable, "start": 0, "end": 10, "text": "remarkable", "kind": "style"},
        {
            "response": "b" if remarkable == "a" else "a", "start": 0, "end": 12, "text": "unmistakable",
            "kind": "factual_error",
        },
    ]  # fmt: skip
    assert orjson.loads(row["spans"]) == sorted(spans, key=lambda found: str(found["response"]))
    assert row["seconds"] > 0


def test_a_task_is_labelled_by_keys_alone(label_studio: Server, page: Page) -> None:
    """Without ratings nothing needs the mouse: which, how much, submit."""
    config = PageConfig(aspects=[])
    pair = a_pair("It is.", "It is not.")
    pairs = {pair["pair_id"]: pair}
    ledger = pushed(label_studio, pairs, "keys", config)
    project, task, shown = ledger.select("project_id", "task_id", "shown").row(0)
    page.open(project, task)
    page.press("x", "t", "b", "w", "e", "ctrl+enter")  # somebody who changes their mind
    page.wait(lambda: pulled(label_studio, ledger, pairs, config).annotations.height)
    row = pulled(label_studio, ledger, pairs, config).annotations.row(0, named=True)
    assert (row["label"], row["strength"]) == ("b" if shown == "ab" else "a", 3)


def test_hostile_text_does_nothing_on_the_page_and_comes_back_unharmed(
    label_studio: Server, page: Page, screenshots: Path
) -> None:
    pair = a_pair(HOSTILE, HOSTILE[::-1] + "x" * 100_000, context=HOSTILE)
    before = json.dumps(pair, sort_keys=True)
    pairs = {pair["pair_id"]: pair}
    ledger = pushed(label_studio, pairs, "hostile page")
    project, task, shown = ledger.select("project_id", "task_id", "shown").row(0)
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    stored = next(iter(admin.tasks(project, data=True))).data
    assert stored == task_data(pair, shown)
    assert {stored["response_a"], stored["response_b"]} == {
        shown_text(page_text(pair["response_a"])),
        shown_text(page_text(pair["response_b"])),
    }
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.open(project, task)
    page.screenshot(screenshots / "hostile.png", 1500)
    assert page.driver.execute_script("return window.owned") is None
    elements = page.driver.execute_script(
        "return document.querySelectorAll('.pp-root script, .pp-root img, .pp-root [onload], .pp-root a').length"
    )
    assert elements == 0
    loaded = page.driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert not [name for name in loaded if "pixel.png" in name]
    text = page.text()
    assert "<script>window.owned = 1</script>" in text
    assert "**not bold** <b>not html</b>" in text
    assert not set("\u202e\u2066\x00\x1b") & set(text)
    page.choose("Tie")
    for letter in "AB":
        for aspect in CONFIG.aspects:
            page.rate(f"{letter}: {aspect}", 1)
    page.submit(lambda: pulled(label_studio, ledger, pairs).annotations.height)
    found = pulled(label_studio, ledger, pairs)
    assert found.annotations["label"].to_list() == ["tie"]
    assert json.dumps(pair, sort_keys=True) == before


def test_a_ranking_is_given_by_clicking(label_studio: Server, page: Page, screenshots: Path) -> None:
    admin = LabelStudioServer(label_studio.url, LEGACY_TOKEN)
    project = admin.project("ranking page", "browser", ranking_page(4, context=True), 1)
    texts = ["short", CODE, "Prose that goes on. " * 50, HOSTILE]
    (task,) = admin.add_tasks(project, [ranking_data("0" * 32, [message("user", "Rank these.")], "Be strict.", texts)])
    page.open(project, task)
    page.screenshot(screenshots / "ranking.png", 1500)
    text = page.text()
    assert text.index("Be strict.") < text.index("Response 1") < text.index("Response 4")
    assert page.driver.execute_script("return window.owned") is None
    page.open_next(project)
    page.screenshot(screenshots / "ranking-narrow.png", NARROW)
    assert page.overflowing() <= 1
    page.resize(1500)
    places = [2, 1, 4, 2]
    for response, place in enumerate(places):
        page.choose(str(place), response)
    page.write("Short ones first.")
    page.screenshot(screenshots / "ranking-answered.png", 1500)
    page.submit(lambda: admin.changed(project, "")[task])
    (given,) = admin.changed(project, "")[task]
    assert read_places(given["result"], 4) == places
    assert rationale_of(given["result"]) == "Short ones first."
