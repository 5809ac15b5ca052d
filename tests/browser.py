"""A headless Chromium for tests of pages: it opens a file and holds whatever it complains of against the test."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
NARROW, WIDE = 360, 1400  # pixels


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{error}: pip install playwright axe-playwright-python")


@contextmanager
def chromium() -> Iterator[Any]:
    """A playwright browser. Skips the test where there is none, and says how to get one."""
    playwright = _module("playwright.sync_api")
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(f"no browser ({', '.join(NAMES)}) on the path: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, path: Path, *, width: int = WIDE, scheme: str = "light", fragment: str = "") -> Iterator[Any]:
    """A playwright page of a file, once its script has started. `fragment`: of the address, with its `#`.

    Fails on errors in the console, dialogs, and requests of anything but the file.
    """
    problems: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.split("#")[0] != path.as_uri() and problems.append(request.url))

    def refuse(dialog: Any) -> None:
        problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    page.on("dialog", refuse)
    page.goto(path.as_uri() + fragment)
    page.wait_for_function("document.querySelector('main[aria-busy]') === null")
    yield page
    context.close()
    assert not problems


def violations(page: Any) -> list[str]:
    """What axe-core calls serious or critical: rule, first element, advice."""
    results = _module("axe_playwright_python.sync_playwright").Axe().run(page)
    found = [row for row in results.response["violations"] if row["impact"] in ("serious", "critical")]
    return [f"{row['id']}: {row['nodes'][0]['html']}: {row['nodes'][0]['failureSummary']}" for row in found]


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def open_rows(details: Any) -> Any:
    """Open a `details` element whose table is filled when it opens; the locator of its rows, once they are there."""
    details.locator("summary").first.click()
    rows = details.locator("tbody tr")
    rows.first.wait_for()
    return rows
