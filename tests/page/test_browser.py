"""The page in a real browser: Debian's chromium, driven by playwright (`pip install thrumcast[e2e]`), over the demo.

One demo runs for all tests of this file. Every page that they open collects errors of the console and requests that
leave this machine; there must be none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.browsing import DESK, PATIENCE_MS, PHONE, Watched, launched, needs_browser, watching

from pipeline.cli import run

ROOT = Path(__file__).resolve().parents[2]
LIFE_S = 420
PICTURES = os.environ.get("THRUMCAST_PICTURES")  # the folder of the pictures of docs/page.md: `make pictures`
MACHINES = 8 if PICTURES else 4

pytestmark = [pytest.mark.slow, pytest.mark.network]
sync_api = needs_browser()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running demo of four machines, some of which fail: where its page is, and its data directory."""
    folder = tmp_path_factory.mktemp("demo")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "THRUMCAST_WEB__BIND": "127.0.0.1:0"}
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "demo",
        "--no-browser",
        "--machines",
        str(MACHINES),
        "--seconds",
        str(LIFE_S),
    ]
    with subprocess.Popen(command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr
        said: list[str] = []
        while not (found := re.search(r"page: (http://\S+)", line := process.stderr.readline())):
            said.append(line)
            assert process.poll() is None, said
        with (folder / "log").open("w") as log:  # read on, or the demo waits for its pipe
            copier = subprocess.Popen(["cat"], stdin=process.stderr, stdout=log)
            yield found[1], folder / "demo-data"
            process.terminate()
            process.wait(60)
            copier.wait(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as made:
        yield made


@pytest.fixture
def watched(browser: Any, demo: tuple[str, Path]) -> Iterator[Watched]:
    with watching(browser, demo[0]) as found:
        yield found


def alarmed(page: Any, url: str) -> str:
    """Wait for a machine in alarm; its name."""
    page.goto(url)
    page.wait_for_selector("a.tile.alarm")
    name: str = page.locator("a.tile.alarm").first.get_attribute("href")
    return name.removeprefix("#")


def says(page: Any, selector: str, pattern: str) -> None:
    """Wait until an element says this; a function in a string would be refused, because the page forbids `eval`."""
    sync_api.expect(page.locator(selector)).to_contain_text(re.compile(pattern), timeout=PATIENCE_MS)


def test_the_fleet_loads_and_a_failing_machine_turns_red(watched: Watched, demo: tuple[str, Path]) -> None:
    page, (url, _) = watched.page, demo
    began_s = time.monotonic()
    page.goto(url)
    page.wait_for_selector("a.tile")
    assert time.monotonic() - began_s < 30.0
    assert page.locator("a.tile").count() == MACHINES
    assert page.locator("#header").inner_text().find("v0001") > 0
    alarmed(page, url)
    tile = page.locator("a.tile.alarm").first
    assert tile.locator("svg.mark.alarm rect").count() == 1  # shape
    assert tile.evaluate("node => getComputedStyle(node).borderTopColor") == "rgb(200, 50, 43)"  # colour
    assert re.search(r"\d+ %", tile.inner_text())  # word


def test_a_label_by_drag_and_ctrl_enter_is_printed_by_the_command(
    watched: Watched, demo: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page, (url, data) = watched.page, demo
    name = alarmed(page, url)
    page.goto(f"{url}#{name}")
    says(page, "section:has(#trend) header", r"[1-9]\d* windows")
    over = page.locator("#trend .u-over").bounding_box()
    middle = over["y"] + over["height"] / 2
    page.mouse.move(over["x"] + over["width"] * 0.90, middle)
    page.mouse.down()
    page.mouse.move(over["x"] + over["width"] * 0.99, middle, steps=6)
    page.mouse.up()
    page.wait_for_selector("dialog[open]")
    page.fill("textarea[name=note]", "<img src=x onerror=alert(1)>")
    says(page, "dialog .note", "Covers")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("dialog", state="detached")
    assert run(["labels", "ls", "--data", str(data), "--json"]) == 0
    (label,) = json.loads(capsys.readouterr().out)["labels"]
    assert f"{label['machine']}/{label['point']}" == name
    assert (label["verdict"], label["note"]) == ("confirmed", "<img src=x onerror=alert(1)>")
    page.goto(f"{url}#labels")
    page.wait_for_selector("td:has-text('<img src=x')")  # markup is text
    assert page.locator("main img").count() == 0


def test_a_cursor_on_the_first_shaft_line_reads_the_feature(watched: Watched, demo: tuple[str, Path]) -> None:
    page, (url, _) = watched.page, demo
    name = alarmed(page, url)
    page.goto(f"{url}#{name}")
    says(page, "#spectrum-hint", "1x =")
    page.keyboard.press(" ")  # hold the picture
    says(page, "#header", "paused")
    read = page.evaluate(
        """async (path) => {
          const { frame } = await import('/static/api.js');
          const { lineDb } = await import('/static/plots.js');
          const { header, arrays } = await frame(`streams/${path}/window`);
          const line = header.lines.find((l) => l.label === '1x');
          return [lineDb(arrays.power, line.hz / header.delta_f_hz, header.slip), header.values.ord_1, line.hz];
        }""",
        name,
    )
    assert read[0] == pytest.approx(read[1], abs=1e-3)
    page.locator("#spectrum .u-over").scroll_into_view_if_needed()  # the mouse reaches only what is on the screen
    over = page.locator("#spectrum .u-over").bounding_box()
    words = set()
    for place in range(4, 18):  # somewhere here lies 1x: the spectrum shows sixteen orders
        page.mouse.move(over["x"] + over["width"] * place / 200, over["y"] + 40)
        words.add(page.locator("#spectrum-readout").inner_text())
    assert any("on 1x" in word and "dB over floor" in word for word in words), words


def test_acknowledging_survives_a_reload(watched: Watched, demo: tuple[str, Path]) -> None:
    page, (url, _) = watched.page, demo
    alarmed(page, url)
    assert "unacknowledged" in page.locator("#header").inner_text()
    page.goto(f"{url}#alarms")
    page.click("main button:has-text('Acknowledge') >> nth=0")
    page.wait_for_selector("td:text-matches('^acknowledged \\\\d')")
    page.reload()
    page.wait_for_selector("td:text-matches('^acknowledged \\\\d')")


def picture(page: Any, path: Path) -> None:
    """A picture of the whole page, with few colours where Pillow is there: a tenth of the bytes."""
    strip = page.locator("#guide")  # of the demo; it stands in the way of what lies below
    strip.evaluate("(node, hide) => { node.hidden = hide; }", "fleet" not in path.name)
    page.screenshot(path=path, full_page=True)
    strip.evaluate("node => { node.hidden = false; }")
    with contextlib.suppress(ImportError):
        from PIL import Image

        with Image.open(path) as full:
            small = full.convert("RGB").quantize(200, dither=Image.Dither.NONE)
        small.save(path, optimize=True)


def test_every_view_opens_light_and_dark_on_desk_and_phone(
    watched: Watched, demo: tuple[str, Path], tmp_path: Path
) -> None:
    page, (url, _) = watched.page, demo
    folder = Path(PICTURES or tmp_path)
    name = alarmed(page, url)
    page.goto(f"{url}#{name}")
    says(page, "#spectrum-hint", "1x =")
    page.keyboard.press("l")
    page.wait_for_selector("dialog[open]")
    page.fill("textarea[name=note]", "outer race spalled, bearing replaced")
    page.fill("input[name=work_order]", "WO-4711")
    page.fill("input[name=author]", "jo")
    picture(page, folder / "page_label.png")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("dialog", state="detached")
    page.wait_for_timeout(8000)  # some lines of the waterfall
    for size, viewport in (("", DESK | {"height": 700}), ("_phone", PHONE)):
        page.set_viewport_size(viewport)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for view in (name, "fleet", "alarms", "labels", "models", "quality", "settings"):
                page.goto(f"{url}#{view}")
                page.wait_for_selector("main .panel")
                if view == name:
                    says(page, "#spectrum-hint", "1x =")
                    page.wait_for_timeout(4000)
                page.wait_for_timeout(500)
                shown = "machine" if view == name else view
                picture(page, folder / f"page_{shown}{size}{'_dark' if scheme == 'dark' else ''}.png")
                assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), (view, size)
    assert len(list(folder.glob("page_*.png"))) >= 28
    page.set_viewport_size(DESK)
    page.goto(f"{url}#{name}")
    says(page, "#spectrum-hint", "1x =")
    for button in ("dB", "Average", "Max hold", "Save baseline", "Harmonics", "Sidebands"):
        page.click(f"[role=toolbar] button:has-text('{button}')")
    for unit in ("mm/s", "m/s²"):
        page.select_option("[role=toolbar] select >> nth=1", unit)
    page.select_option("[role=toolbar] select >> nth=0", "orders")
