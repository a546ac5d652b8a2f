"""A headless Chromium as an annotator uses it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import label_studio_server
from tests.label_studio_server import ADMIN, Server

PATIENCE = 120.0


REQUIRED = "PREFINE_BROWSER_REQUIRED"  # set by .ci/run where it has installed Chromium


def available() -> bool:
    """Whether Chromium, its driver and selenium are there; where they are promised, their absence fails the test."""
    found = _installed()
    if not found and os.environ.get(REQUIRED):
        pytest.fail("no browser, though .ci/run has installed chromium and chromium-driver; selenium comes from PyPI")
    return found


def _installed() -> bool:
    try:
        import selenium  # noqa: F401
    except ImportError:
        return False
    return bool(shutil.which("chromium") and shutil.which("chromedriver"))


class Page:
    """One task's page, found and clicked by what it says."""

    def __init__(self, driver: Any, server: Server) -> None:
        self.driver = driver
        self._server = server

    def log_in(self) -> None:
        """Log in through the form."""
        self.driver.get(f"{self._server.url}/user/login/")
        self.driver.find_element("name", "email").send_keys(ADMIN)
        self.driver.find_element("name", "password").send_keys(label_studio_server.PASSWORD)
        self.driver.find_element("css selector", "form button").click()
        self.wait(lambda: "/user/login" not in self.driver.current_url)

    def open(self, project_id: int, task_id: int) -> None:
        """Open a task and wait until its last part is drawn."""
        self._get(f"/projects/{project_id}/data?task={task_id}")

    def open_next(self, project_id: int) -> None:
        """Open the next task as annotators do: without the list of tasks beside it."""
        self._get(f"/projects/{project_id}/data?labeling=1")

    def _get(self, path: str) -> None:
        self.driver.get(self._server.url + path)
        self.wait(lambda: "Why?" in self.text())
        time.sleep(1)

    def text(self) -> str:
        """All text a person could read."""
        return str(self.driver.execute_script("return document.body.innerText"))

    def choose(self, name: str, nth: int = 0) -> None:
        """Click the radio button or check box with this caption, the nth of several."""
        self._click(self._found("css selector", f'input[name="{name}"]', nth))

    def rate(self, header: str, stars: int) -> None:
        """Click the star under a header."""
        path = f'//h4[normalize-space()="{header}"]/following::ul[contains(@class,"rate")][1]/li[{stars}]/div'
        self._click(self._found("xpath", path))

    def write(self, text: str) -> None:
        """Type into the rationale."""
        self.driver.find_element("css selector", "textarea").send_keys(text)

    def mark(self, label: str, nth: int, word: str) -> None:
        """Pick the nth label of this name, double-click a word of the text under it, and wait for the span."""
        from selenium.webdriver import ActionChains, Keys

        self.press(Keys.ESCAPE)  # while a span is chosen a label would be its new one
        path = f'//span[contains(@class,"lsf-label__text") and normalize-space()="{label}"]'
        self._click(self._found("xpath", path, nth))
        before = self.text().count(word)
        x, y = self.driver.execute_script(_WORD, word)
        chain = ActionChains(self.driver)
        chain.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        chain.w3c_actions.pointer_action.double_click()
        chain.perform()
        self.wait(lambda: self.text().count(word) > before)

    def press(self, *keys: str) -> None:
        """Press keys one after another; `ctrl+enter` is one of them."""
        from selenium.webdriver import ActionChains, Keys

        for key in keys:
            chain = ActionChains(self.driver)
            if key == "ctrl+enter":
                chain.key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
            else:
                chain.send_keys(key).perform()
            time.sleep(0.3)

    def submit(self, arrived: Callable[[], object]) -> None:
        """Press Submit and wait until the answer has arrived at the server."""
        self._click(self.driver.find_element("css selector", 'button[name="submit"]'))
        self.wait(arrived)

    def resize(self, width: int, height: int = 1400) -> None:
        """Give the page this size; a window cannot be as narrow as a phone, so its metrics are overridden."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        time.sleep(1)

    def screenshot(self, path: Path, width: int, height: int = 1400, scroll: str | None = None) -> None:
        """Save what is to be seen at this size, scrolled to a header."""
        self.resize(width, height)
        if scroll:
            element = self.driver.find_element("xpath", f'//h4[contains(normalize-space(),"{scroll}")]')
            self.driver.execute_script("arguments[0].scrollIntoView()", element)
            time.sleep(1)
        self.driver.save_screenshot(str(path))

    def boxes(self, selector: str) -> list[dict[str, float]]:
        """Where elements lie: `left, right, top, bottom` in pixels of the window."""
        found: list[dict[str, float]] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.getBoundingClientRect().toJSON())", selector
        )
        return found

    def overflowing(self) -> int:
        """How many pixels of the page's root do not fit into its width."""
        root = "document.querySelector('.pp-root')"
        return int(self.driver.execute_script(f"return {root}.scrollWidth - {root}.clientWidth"))

    def switch_theme(self) -> None:
        """From light to dark or back."""
        self._click(
            self.driver.find_element("xpath", '//button[normalize-space()="Light" or normalize-space()="Dark"]')
        )
        time.sleep(1)

    def wait(self, ready: Callable[[], object]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s; the page says:\n{self.text()[:2000]}"
            time.sleep(0.2)

    def _found(self, by: str, path: str, nth: int = 0) -> Any:
        """The nth element of a path, once it is there."""
        self.wait(lambda: len(self.driver.find_elements(by, path)) > nth)
        return self.driver.find_elements(by, path)[nth]

    def _click(self, element: Any) -> None:
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)
        time.sleep(0.3)


_WORD = """
const walker = document.createTreeWalker(document.querySelector('.pp-root'), NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const at = walker.currentNode.data.indexOf(arguments[0]);
  if (at < 0) continue;
  const range = document.createRange();
  range.setStart(walker.currentNode, at);
  range.setEnd(walker.currentNode, at + arguments[0].length);
  range.startContainer.parentElement.scrollIntoView({block: 'start'});
  const box = range.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
}
throw new Error('no such word');
"""


@contextmanager
def browsing(server: Server) -> Iterator[Page]:
    """A logged-in browser."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1500,1400")
    options.binary_location = str(shutil.which("chromium"))
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(PATIENCE)
    try:
        page = Page(driver, server)
        page.log_in()
        yield page
    finally:
        driver.quit()
