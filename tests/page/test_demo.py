"""The demo in a real browser: the story of the guided strip, and what people break by its buttons."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = os.environ.get("THRUMCAST_PICTURES")  # a folder for screenshots to look at

pytestmark = [pytest.mark.slow, pytest.mark.network]
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install thrumcast[e2e]")
if CHROMIUM is None:
    pytest.skip("there is no chromium: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, float, Path]]:
    """A running demo: where its page is, when it began (monotonic), and its log."""
    folder = tmp_path_factory.mktemp("demo")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "THRUMCAST_WEB__BIND": "127.0.0.1:0"}
    command = [sys.executable, "-m", "pipeline", "demo", "--no-browser"]
    log, began_s = folder / "log", time.monotonic()
    with log.open("w") as out, subprocess.Popen(command, cwd=folder, env=environment, stderr=out) as process:
        while not (found := re.search(r"page: (http://\S+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() - began_s < 120, log.read_text()
            time.sleep(0.2)
        yield found[1], began_s, log
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()


@pytest.fixture(scope="module")
def page(demo: tuple[str, float, Path]) -> Iterator[Any]:
    """One page for all tests, as one person watches one demo."""
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = made.new_page(viewport={"width": 1280, "height": 860})
        page.set_default_timeout(150_000)
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.goto(demo[0])
        yield page
        assert page.wrong == []
        made.close()


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png")


def tile(page: Any, machine: str) -> Any:
    return page.locator(f"a.tile[href='#{machine}/de']")


def becomes(page: Any, machine: str, state: str, words: str = "") -> None:
    """Wait until the tile of a machine is in a state, and says words."""
    sync_api.expect(tile(page, machine)).to_have_class(re.compile(rf"\b{state}\b"), timeout=150_000)
    if words:
        sync_api.expect(tile(page, machine)).to_contain_text(re.compile(words, re.I), timeout=60_000)


def it_begins(page: Any, demo: tuple[str, float, Path]) -> None:
    page.wait_for_selector("#guide p:not(:empty)")
    sync_api.expect(page.locator("a.tile")).to_have_count(8, timeout=60_000)
    if not os.environ.get("CI"):
        assert time.monotonic() - demo[1] < 60.0
    assert page.locator("#guide button").all_inner_texts()[-1] == "Kill the service"
    picture(page, "demo-begin")


def four_things_happen_and_each_gets_its_name(page: Any) -> None:
    becomes(page, "fan-06", "not_running")
    becomes(page, "pump-01", "alarm", "outer")
    becomes(page, "motor-03", "sensor_fault")
    sync_api.expect(page.locator("#guide")).to_contain_text(re.compile("✓ A bearing"))
    becomes(page, "fan-08", "unknown")
    becomes(page, "fan-06", "normal")
    becomes(page, "pump-01", "alarm", "outer")  # still, and by the same name
    for sound in ("fan-02", "gearbox-04", "pump-05", "motor-07"):
        assert "alarm" not in tile(page, sound).get_attribute("class")
    sync_api.expect(page.locator("#guide li:has-text('✓')")).to_have_count(4)
    picture(page, "demo-story")


def people_break_things_and_a_killed_service_comes_back(page: Any, demo: tuple[str, float, Path]) -> None:
    page.select_option("#guide select", "pump-05")
    page.click("#guide button:has-text('Damage a bearing')")
    sync_api.expect(page.locator("#guide p")).to_contain_text("pump-05")
    page.select_option("#guide select", "motor-07")
    page.click("#guide button:has-text('Cut the cable')")
    becomes(page, "motor-07", "sensor_fault")
    page.click("#guide button:has-text('Kill the service')")
    deadline_s = time.monotonic() + 60
    while demo[2].read_text().count("page: ") < 2:
        assert time.monotonic() < deadline_s, demo[2].read_text()
        page.wait_for_timeout(500)
    becomes(page, "pump-05", "alarm", "inner")
    becomes(page, "pump-01", "alarm", "outer")
    picture(page, "demo-broken")
    page.select_option("#guide select", "pump-05")
    page.click("#guide button:has-text('Repair')")
    becomes(page, "pump-05", "normal")
    page.set_viewport_size({"width": 390, "height": 800})
    picture(page, "demo-phone")


def test_the_demo_tells_its_story_and_what_people_break_shows(page: Any, demo: tuple[str, float, Path]) -> None:
    """In one test, because a story has an order."""
    it_begins(page, demo)
    four_things_happen_and_each_gets_its_name(page)
    people_break_things_and_a_killed_service_comes_back(page, demo)
