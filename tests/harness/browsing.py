"""A page in Debian's chromium, which playwright drives, and what such a page must not do."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 120_000
DESK = {"width": 1280, "height": 1000}
PHONE = {"width": 390, "height": 844}


def needs_browser() -> Any:
    """Playwright's module; skips the tests of a file where it or chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install thrumcast[e2e]")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)
    return api


@dataclass
class Watched:
    """A page, and what it did that it should not: errors on its console, requests that leave this machine."""

    page: Any
    url: str
    wrong: list[str] = field(default_factory=list)

    def open(self, view: str = "fleet") -> None:
        """Go to a view."""
        self.page.goto(f"{self.url}#{view}")
        self.page.wait_for_selector("main .panel")


@contextmanager
def launched() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@contextmanager
def watching(browser: Any, url: str, viewport: dict[str, int] = DESK, **context: Any) -> Iterator[Watched]:
    page = browser.new_page(viewport=viewport, **context)
    page.set_default_timeout(PATIENCE_MS)
    found = Watched(page, url)
    page.on("console", lambda message: message.type == "error" and found.wrong.append(message.text))
    page.on("pageerror", lambda error: found.wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith(url) or found.wrong.append(request.url))
    yield found
    page.close()
    assert found.wrong == []


def until(true: Callable[[], bool], page: Any, seconds: float = 60.0) -> None:
    """Wait for something that is not on the page; the page goes on meanwhile."""
    end_s = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end_s
        page.wait_for_timeout(50)


def barriers(page: Any) -> list[str]:
    """What axe-core finds that WCAG 2.2 AA forbids: rule, number of places, the first place."""
    from axe_playwright_python import sync_playwright as axe

    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
    found = axe.Axe().run(page, options={"runOnly": tags}).response["violations"]
    return [f"{v['id']} x{len(v['nodes'])}: {v['nodes'][0]['html'][:120]}" for v in found]


def longest_task_s(browser: Any, found: Watched, doing: Callable[[], None]) -> float:
    """The longest task of the page's own thread meanwhile, in CPU seconds: what a frame waits for.

    CPU time, because on a machine that does other work meanwhile a frame may be late without any fault of the page.
    """
    browser.start_tracing(page=found.page, categories=["toplevel", "disabled-by-default-devtools.timeline"])
    doing()
    events = json.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    tasks = [event["tdur"] for event in events if (event["pid"], event["tid"]) in main and "tdur" in event]
    assert tasks
    return max(tasks) / 1e6
