"""Reports in a browser: drawn, legible, accessible, and in the live view up to date."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import NARROW, WIDE, chromium, open_rows, opened, overflow, violations
from run_folders import HOSTILE, append, training_row, write_run

from algorithms.common.report.comparison_report import comparison_report
from algorithms.common.report.live import LiveServer
from algorithms.common.report.page import page as page_of
from algorithms.common.report.page import write
from algorithms.common.report.run_report import write_reports
from retrievers.lock import ProcessLock

# By title of a chart: how many pixels have the colour of a line, which paper, grid and labels have not.
COLOURED = """() => Object.fromEntries([...document.querySelectorAll("figure.chart")].map((figure) => {
  const canvas = figure.querySelector("canvas");
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data;
  let coloured = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [red, green, blue, alpha] = pixels.slice(i, i + 4);
    if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 60) coloured++;
  }
  return [figure.querySelector("h3").textContent, coloured];
}))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of this file."""
    with chromium() as found:
        yield found


def full_rows(steps: int) -> list[dict[str, Any]]:
    """Rows with every kind of chart in them; data sets and stop reasons have hostile names."""
    rows: list[dict[str, Any]] = [{"step": 0, "test/em": 0.1, "test/em/a": 0.1, f"test/em/{HOSTILE}": 0.1}]
    for step in range(1, steps + 1):
        wave = math.sin(step)
        gain = {"p10": wave - 1, "p50": wave, "p90": wave + 1, "mean": wave + 0.1}
        rows.append(
            training_row(
                step,
                reward=0.5 + wave / 4,
                **{f"information_gain/{name}": value for name, value in gain.items()},
                **{"policy/kl_old": 1e-6 * step, "policy/clip_fraction": 0.1, "stop/answered": 0.9},
                **{f"stop/{HOSTILE}": 0.1, "all_fail": 0.3, "time/information_gain": 0.2},
            )
        )
    rows.append({"step": steps // 2, "dev/em": 0.3, "dev/em/a": 0.3, f"dev/em/{HOSTILE}": 0.2})
    return [*rows, {"step": steps, "test/em": 0.6, "test/em/a": 0.7, f"test/em/{HOSTILE}": 0.5}]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind."""
    folder = tmp_path_factory.mktemp("runs")
    runs = []
    for name, steps in (("short", 6), ("long", 150), ("single", 1)):
        run = write_run(
            folder / name, full_rows(steps), {"a": [1, 0, 1], HOSTILE: [0, 1]}, steps=steps, policy={"path": HOSTILE}
        )
        (run / "transcripts").mkdir()
        (run / "transcripts" / "step-000001.txt").write_text(HOSTILE * 20, encoding="utf-8")
        runs.append(run)
    found = {run.name: write_reports(run)[-1] for run in runs}
    found["comparison"] = folder / "comparison.html"
    write(found["comparison"], comparison_report(runs))
    return found


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("name", ["short", "long", "single", "comparison"])
def test_every_chart_is_drawn_and_the_page_fits(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    with opened(browser, pages[name], width=width) as page:
        drawn = page.evaluate(COLOURED)
        assert "Information gain" in drawn
        assert len(drawn) > 5
        assert {title for title, coloured in drawn.items() if coloured < 20} == set()
        assert overflow(page) <= 0
        widest = page.evaluate("Math.max(...[...document.querySelectorAll('canvas')].map((c) => c.offsetWidth))")
        assert widest <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["short", "comparison"])
def test_no_serious_violation(browser: Any, pages: dict[str, Path], name: str, scheme: str) -> None:
    with opened(browser, pages[name], scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        page.wait_for_selector(".numbers tbody tr")
        assert violations(page) == []


def chart_named(page: Any, title: str) -> Any:
    """The figure with a title."""
    return page.locator("figure.chart", has=page.get_by_role("heading", name=title, exact=True))


def step_at(figure: Any, share: float) -> str:
    """Point at a place of a chart's width, 0 is the left end; the step that the chart names then."""
    over = figure.locator(".u-over")
    width = over.evaluate("(part) => part.clientWidth")
    # Not mouse.move: hover scrolls to the chart and waits until it stands still.
    over.hover(position={"x": 2 + share * (width - 4), "y": 20})
    return str(figure.locator(".at").inner_text())


def test_charts_follow_colours_and_width(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["short"]) as page:
        canvas = "document.querySelector('canvas')"
        before = page.evaluate(f"{canvas}.toDataURL()")
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"(before) => {canvas}.toDataURL() !== before", arg=before)
        page.set_viewport_size({"width": NARROW, "height": 800})
        page.wait_for_function(f"() => [...document.querySelectorAll('canvas')].every((c) => c.offsetWidth < {NARROW})")
        assert overflow(page) <= 0


def test_values_are_shown_at_the_pointer_and_in_a_table(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["short"]) as page:
        figure = chart_named(page, "Searches")
        assert step_at(figure, 1) == "step 6"
        assert figure.locator(".legend .value").inner_text() == "1"
        assert open_rows(figure).all_inner_texts()[-1].split() == ["6", "1"]


def test_a_key_hides_its_line(browser: Any, pages: dict[str, Path]) -> None:
    with opened(browser, pages["short"]) as page:
        assert page.evaluate(COLOURED)["Entropy"] > 20
        button = page.get_by_role("button", name="entropy")
        button.press("Enter")
        assert button.get_attribute("aria-pressed") == "false"
        assert chart_named(page, "Entropy").locator("canvas").count() == 0
        button.press("Enter")
        page.wait_for_function(f"() => ({COLOURED})()['Entropy'] > 20")


def test_hostile_names_are_text(browser: Any, pages: dict[str, Path]) -> None:
    for name in ("short", "comparison"):
        with opened(browser, pages[name]) as page:  # fails on a dialog and on a request
            page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
            page.wait_for_selector(".numbers tbody tr")
            assert page.locator("img").count() == 0
            assert "<img src=x" in page.locator("body").inner_text()


def test_the_policy_of_a_page_allows_its_own_style_and_script_alone(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    attack = (
        "<script>document.title = 'taken'</script><style>p { color: rgb(9, 9, 9); }</style>"
        "<p style='color: rgb(8, 8, 8)' onclick=\"document.title = 'taken'\">text</p>"
    )
    write(path, page_of("a title", attack, css="body { color: rgb(1, 2, 3); }", js="document.title += '!';"))
    assert "unsafe" not in path.read_text()
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator("p").click()
    assert page.title() == "a title!"
    assert page.locator("p").evaluate("(part) => getComputedStyle(part).color") == "rgb(1, 2, 3)"
    page.close()


@dataclass
class Live:
    """The live view of a run, and a page of it whose time passes when a test says so."""

    server: LiveServer
    page: Any
    problems: list[str]

    def log(self, *rows: dict[str, Any]) -> None:
        """Log rows, and wait until the page has updated and shows the last one's step."""
        before = self.page.locator("main").get_attribute("data-version")
        for row in rows:
            append(self.server.run_dir, row)
        self.page.clock.run_for(2_100)
        # A row of a step that the page already shows must have arrived too.
        self.page.locator(f"main:not([data-version='{before}'])").wait_for()
        self.page.locator("main").get_by_text(f"{rows[-1]['step']} of 9").wait_for()


@pytest.fixture
def live(browser: Any, tmp_path: Path) -> Iterator[Live]:
    """The live view of a run of two steps so far."""
    run = write_run(tmp_path / "run", [training_row(1), training_row(2)], steps=9)
    (run / "transcripts").mkdir()
    (run / "transcripts" / "step-000001.txt").write_text("an episode")
    problems: list[str] = []
    with LiveServer(run, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        page = browser.new_page(viewport={"width": WIDE, "height": 600})
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.clock.install()
        page.goto(server.url)
        yield Live(server, page, problems)
        page.close()
        server.shutdown()
        thread.join()


def test_the_live_view_shows_a_row_that_came_later(live: Live) -> None:
    page = live.page
    assert "2 of 9" in page.locator("main").inner_text()
    page.get_by_text("Step 1", exact=True).click()
    page.get_by_role("button", name="entropy").press("Enter")
    page.evaluate("scrollTo(0, 500)")
    live.log(training_row(3, searches=7.25))
    assert page.evaluate("scrollY") == 500
    assert page.get_by_text("an episode").is_visible()
    searches = json.loads(page.locator("#chart-searches-data").text_content())
    assert searches["lines"][0]["values"] == [1.0, 1.0, 7.25]
    assert page.evaluate("document.querySelector('[data-chart=chart-searches-data] canvas') !== null")
    assert page.get_by_role("button", name="entropy").get_attribute("aria-pressed") == "false"
    assert page.evaluate("document.activeElement.textContent").startswith("entropy")

    page.get_by_role("button", name="Pause").click()
    append(live.server.run_dir, training_row(4))
    page.clock.run_for(10_000)
    assert "3 of 9" in page.locator("main").inner_text()
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(2_100)
    page.locator("main").get_by_text("4 of 9").wait_for()
    assert live.problems == []


def test_the_live_view_says_what_the_run_is_doing(live: Live) -> None:
    state, age = live.page.locator("#live-state"), live.page.locator("#live-age")
    with ProcessLock(live.server.run_dir):
        live.log(training_row(3))
        live.page.get_by_text("Running, at step 3 of 9").wait_for()
        assert age.inner_text().startswith("last change 0 s ago (") or "1 s ago" in age.inner_text()
    live.page.clock.run_for(2_100)  # without a new row
    live.page.get_by_text("Interrupted at step 3 of 9").wait_for()
    assert violations(live.page) == []
    assert live.problems == []
    live.server.shutdown()
    live.page.clock.run_for(2_100)
    live.page.get_by_text("The server of this page has ended").wait_for()
    assert "Interrupted" not in state.inner_text()
    assert age.inner_text() == ""


def test_the_live_view_keeps_what_is_scrolled_and_its_focus(live: Live) -> None:
    page = live.page
    page.set_viewport_size({"width": NARROW, "height": 600})
    live.log({"step": 2, "test/em": 0.5, **{f"test/em/a family of questions {n}": 0.5 for n in range(9)}})
    table = page.get_by_role("region", name="Slowest steps")
    table.focus()
    assert table.evaluate("(one) => { one.scrollLeft = 40; return one.scrollLeft; }") == 40
    live.log(training_row(3))
    assert table.evaluate("(one) => [one.scrollLeft, document.activeElement === one]") == [40, True]
    first = table.locator("tbody th").first
    assert first.bounding_box()["x"] >= 0  # the name of a row stays in sight
    assert live.problems == []


# Where the coloured pixels of a chart are, as a share of its width without the axis.
PLACE = """(figure) => {
  const canvas = figure.querySelector("canvas"), over = figure.querySelector(".u-over").getBoundingClientRect();
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const pixels = copy.getImageData(0, 0, canvas.width, canvas.height).data, places = [];
  for (let i = 0; i < pixels.length; i += 4) {
    const [red, green, blue, alpha] = pixels.slice(i, i + 4);
    const colour = Math.max(red, green, blue) - Math.min(red, green, blue);
    if (alpha > 200 && colour > 60) places.push((i / 4) % canvas.width);
  }
  const mean = places.reduce((sum, x) => sum + x, 0) / places.length / (canvas.width / canvas.clientWidth);
  return (mean + canvas.getBoundingClientRect().left - over.left) / over.width;
}"""


# Where the coloured pixels of a chart are, as a share of the height of its plot.
HEIGHT = PLACE.replace("places.push((i / 4) % canvas.width)", "places.push(i / 4 / canvas.width)")
HEIGHT = HEIGHT.replace(".left", ".top").replace("over.width", "over.height")


def test_small_noise_around_zero_does_not_fill_its_chart(browser: Any, tmp_path: Path) -> None:
    noise = {"policy/clip_fraction": 0.0, "policy/dual_clip_fraction": 0.0}
    rows = [training_row(n, **noise, **{"policy/kl_old": 1e-5 * n, "policy/kl_reference": -4e-8}) for n in (1, 2, 3)]
    with opened(browser, write_reports(write_run(tmp_path / "run", rows))[-1]) as page:
        kl, clipping = chart_named(page, "KL divergence"), chart_named(page, "Clipping")
        assert kl.evaluate(HEIGHT) > 0.9
        why = "Not drawn, because always 0 (to six decimals): "
        assert kl.locator(".zero").inner_text() == why + "from the reference policy"
        assert clipping.locator(".zero").inner_text() == why + "clipped, clipped by the dual clip"
        assert clipping.locator("canvas").count() == 0
        assert open_rows(clipping).all_inner_texts()[-1].split() == ["3", "0", "0"]


def test_tables_can_be_read_on_a_phone_and_whole_on_a_wide_screen(browser: Any, tmp_path: Path) -> None:
    runs = []
    for name in ("grpo", "ig_grpo", "rloo"):
        ems = {family: [1.0] * 12 + [0.0] * 8 for family in ("author_birthplace", "founder_occupation")}
        runs.append(write_run(tmp_path / name, full_rows(3), ems, algorithm=name, env={"questions": [f"{name}.jsonl"]}))
        (runs[-1] / "test_before.json").write_bytes((runs[-1] / "test_after.json").read_bytes())
    compared = tmp_path / "comparison.html"
    report = write_reports(runs[0])[-1]
    write(compared, comparison_report(runs, tmp_path))
    for path in (report, compared):
        with opened(browser, path) as page:
            scrolled = (
                "[...document.querySelectorAll('.wide')].filter((t) => t.scrollWidth > t.clientWidth).map((t) => t.id)"
            )
            assert page.evaluate(scrolled) == []
    with opened(browser, report, width=390) as page:
        table = page.get_by_role("region", name="Test questions")
        assert table.locator("thead th").nth(2).inner_text().split() == ["EM", "after", "[95%]"]
        for row in table.locator("tbody tr").all():
            assert row.locator("td").nth(1).evaluate("(cell) => cell.getBoundingClientRect().right") <= 390
        name = table.get_by_text("founder_occupation")
        assert (
            name.evaluate("(part) => part.getBoundingClientRect().height") < 45
        )  # two lines: broken at the underscore
    with opened(browser, compared) as page:
        assert page.get_by_role("link").evaluate_all("(all) => all.map((a) => a.getAttribute('href'))") == [
            "grpo/report.html"
        ]


@pytest.mark.parametrize("step", [0, 1, 7])
def test_one_step_alone_stands_in_the_middle(step: int, browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [training_row(step)], steps=9)
    with opened(browser, write_reports(run)[-1]) as page:
        assert chart_named(page, "Searches").evaluate(PLACE) == pytest.approx(0.5, abs=0.02)


def test_the_live_view_keeps_the_zoom(live: Live) -> None:
    live.log(*map(training_row, range(3, 8)))
    figure = chart_named(live.page, "Searches")

    def ends() -> list[str]:
        return [step_at(figure, share) for share in (0, 1)]

    assert ends() == ["step 1", "step 7"]
    step_at(figure, 0.1)
    live.page.mouse.down()
    step_at(figure, 0.55)
    live.page.mouse.up()
    assert ends() == ["step 2", "step 4"]
    live.log(training_row(8))
    assert ends() == ["step 2", "step 4"]
    for _ in range(2):  # off and on again
        figure.get_by_role("button", name="searches").press("Enter")
    assert ends() == ["step 2", "step 4"]
    figure.locator(".u-over").dblclick()
    assert ends() == ["step 1", "step 8"]
    live.log(training_row(9))
    assert ends() == ["step 1", "step 9"]
    assert live.problems == []
