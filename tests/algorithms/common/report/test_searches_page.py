"""The page of searches, in a browser: gain against outcome, the figures beside it, and ways to an episode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NARROW, WIDE, chromium, opened, overflow, violations
from recorded_steps import episode, group, run_with, step_of
from run_folders import HOSTILE

from algorithms.common.report.page import write
from algorithms.common.report.run_report import write_reports
from algorithms.common.report.searches_page import content, figures, fitting_searches_page, searches_page
from algorithms.common.run.recorded_trajectories import RecordedStep


def steps() -> list[RecordedStep]:
    """Four searches of step 1 and two of step 2, of which the searches of correct episodes have the higher gains."""
    return [
        step_of(
            1,
            [
                group("q1", [episode([("one", 1.0), ("two", 3.0)], "yes", correct=True)]),
                group(
                    "q2",
                    [episode([("three", -1.0)], "no", correct=False), episode([("four", 0.5)], "no", correct=False)],
                ),
            ],
        ),
        step_of(
            2,
            [group("q:3", [episode([(HOSTILE, 2.0), ("none", None)], "yes", correct=True)], HOSTILE), group("q1", [])],
        ),
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run."""
    files = {f"step-{file.step:06d}": step_of(file.step, file.groups[:2]) for file in steps()}
    files["step-000002"] = step_of(2, steps()[1].groups[:1])
    run = run_with(tmp_path_factory.mktemp("runs") / "run", files)
    pages = {path.name: path for path in write_reports(run)}
    assert '<a href="searches.html">Searches</a>' in pages["report.html"].read_text(encoding="utf-8")
    return pages["searches.html"]


def texts(part: Any) -> list[str]:
    """The texts of elements, with single spaces."""
    return [" ".join(text.split()) for text in part.all_inner_texts()]


def test_the_figures_are_those_of_the_selection(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        shown = texts(page.locator(".figures .facts > div"))
        assert shown[0].startswith("Mean gain, correct +2.00 nats 95% interval")
        assert shown[0].endswith("n 3")
        assert shown[1] == "Mean gain, wrong −0.25 nats no interval, n 2"  # of one question
        assert shown[2].startswith("AUC of gain for a correct answer 1.00")
        assert shown[3] == "Searches 5 of 3 questions"
        page.get_by_label("Search number", exact=True).select_option("2")
        assert page.get_by_text("1 of 5 searches").is_visible()
        assert texts(page.locator(".figures .facts > div"))[0] == "Mean gain, correct +3.00 nats no interval, n 1"
        by_step = page.get_by_role("region", name="By step")
        assert [row.split()[:2] for row in texts(by_step.locator("tbody tr"))] == [["1", "1"], ["2", "0"]]
        assert page.url.endswith("#place=2")
        page.get_by_label("Step", exact=True).select_option("2")
        assert page.get_by_text("No search matches.").is_visible()
        page.reload()
        assert page.get_by_label("Search number", exact=True).input_value() == "2"


def test_a_point_shows_its_query_and_opens_its_episode(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        reading = page.locator(".reading")
        page.locator(".plot").press("ArrowRight")
        assert texts(reading)[0].startswith(
            "three Question q2? ✗ wrong gain −1.00 nats · search 1 of its episode · step 1"
        )
        page.locator(".plot").press("ArrowRight")
        assert texts(reading)[0].startswith("four")
        place = page.locator(".ring").evaluate("(ring) => [parseFloat(ring.style.left), parseFloat(ring.style.top)]")
        page.locator(".plot").press("ArrowRight")
        assert texts(reading)[0].startswith("one")
        page.locator(".plot").hover(position={"x": place[0] + 2, "y": place[1] + 2})
        assert texts(reading)[0].startswith("four")
        link = reading.get_by_role("link", name="Open the episode")
        assert link.get_attribute("href") == "trajectories.html#trajectory=1:q2:2"
        page.locator(".plot").press("End")
        for _ in range(3):
            page.locator(".plot").press("ArrowRight")
        assert link.get_attribute("href") == "trajectories.html#trajectory=1:q1:1"


def test_a_click_opens_the_episode(browser: Any, page_file: Path) -> None:
    page = browser.new_page()
    page.goto(page_file.as_uri())
    page.locator(".plot").press("ArrowRight")
    place = page.locator(".ring").evaluate("(ring) => [parseFloat(ring.style.left), parseFloat(ring.style.top)]")
    page.locator(".plot").click(position={"x": place[0], "y": place[1]})
    page.wait_for_url("**/trajectories.html#*")
    assert page.url.endswith("trajectories.html#trajectory=1:q2:1")
    page.close()


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_fits_is_accessible_and_shows_hostile_text_as_text(browser: Any, page_file: Path, width: int) -> None:
    scheme = "dark" if width == WIDE else "light"
    with opened(browser, page_file, width=width, scheme=scheme) as page:  # fails on a dialog and on a request
        page.get_by_text("The 5 searches as a table").click()
        table = page.get_by_role("region", name="Searches", exact=True).locator("tbody tr")
        table.first.wait_for()  # rows are made when the table opens
        rows = texts(table)
        assert [row.split()[0] for row in rows] == ["+3.00", "+2.00", "+1.00", "+0.50", "−1.00"]
        assert "<img src=x" in rows[1]
        assert page.locator("img").count() == 0
        page.locator(".plot").press("ArrowRight")
        assert violations(page) == []
        assert overflow(page) <= 0
        coloured = page.locator(".plot canvas").evaluate(
            "(canvas) => new Set(new Uint32Array(canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size"
        )
        assert coloured > 5


def test_thousands_of_points_stay_quick(browser: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    recorded = [
        step_of(
            step,
            [
                group(
                    f"q{n}",
                    [episode([("a query", g), ("b", -g)], "x", correct=bool(g > 0)) for g in rng.normal(size=8)],
                )
                for n in range(25)
            ],
        )
        for step in range(1, 9)
    ]
    write(tmp_path / "page.html", searches_page(recorded, "A run"))
    with opened(browser, tmp_path / "page.html") as page:
        assert page.get_by_text("3200 of 3200 searches").is_visible()
        page.get_by_label("Colour", exact=True).select_option("step")
        assert page.locator(".legend li").count() == 2  # a scale, not eight colours
        drawn, moved = page.evaluate(
            """() => {
              const time = (work) => { const start = performance.now(); work(); return performance.now() - start; };
              const box = parts.canvas.getBoundingClientRect();
              const at = (i) => ({clientX: box.left + i * box.width / 100, clientY: box.top + 200});
              return [time(drawPlot), time(() => { for (let i = 0; i < 100; i++) point(nearest(at(i))); }) / 100];
            }"""
        )
        assert drawn < 1_000  # milliseconds; about 20 on an idle machine
        assert moved < 50


def test_intervals_resample_questions_and_repeat() -> None:
    rng = np.random.default_rng(1)
    correct = np.arange(80) % 2 == 0
    gains = rng.normal(correct.astype(float), 1.0)
    questions = np.arange(80)
    single = figures(gains, correct, questions)
    assert single == figures(gains, correct, questions)
    assert single["auc"][1] < single["auc"][0] < single["auc"][2]
    assert single["correct"][0] == pytest.approx(gains[correct].mean(), rel=1e-3)
    assert single["correct"][1] < single["correct"][0] < single["correct"][2]
    # Four searches of each question that say the same are not four times the information.
    four = figures(np.repeat(gains, 4), np.repeat(correct, 4), np.repeat(questions, 4))
    for name in ("auc", "correct", "wrong"):
        width, wanted = four[name][2] - four[name][1], single[name][2] - single[name][1]
        assert width == pytest.approx(wanted, rel=0.1)


def test_outcomes_between_0_and_1_are_placed_by_their_value(browser: Any, tmp_path: Path) -> None:
    half = {**episode([("half", 1.0)], "x", correct=False), "outcome": 0.5}
    recorded = [step_of(1, [group("q", [half, episode([("full", 1.0)], "yes", correct=True)])])]
    assert content(recorded)["searches"][0][6] == 0.5
    write(tmp_path / "page.html", searches_page(recorded, "A run"))
    with opened(browser, tmp_path / "page.html") as page:
        assert page.evaluate("ticks(0, 1, 4)") == [0, 0.5, 1]
        heights = page.evaluate("plot.points.map(({y}) => y)")
        assert heights[0] > heights[1]
        page.locator(".plot").press("ArrowRight")
        assert "✗ not exact, outcome 0.50" in texts(page.locator(".reading"))[0]


def test_the_page_has_a_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = [
        step_of(step, [group(f"q{n}", [episode([("query " * 20, 1.0)], "no", correct=False)]) for n in range(50)])
        for step in range(9)
    ]
    whole = len(searches_page(recorded, "A run").encode())
    monkeypatch.setattr("algorithms.common.report.searches_page.MAX_PAGE", whole - 30_000)
    page = fitting_searches_page(recorded, "A run")
    assert len(page.encode()) <= whole - 30_000
    assert "of 9 recorded steps" in page
