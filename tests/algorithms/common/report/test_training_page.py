"""The page over training, in a browser: the groups of a question side by side, and how its queries changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NARROW, WIDE, chromium, opened, overflow, violations
from recorded_steps import episode, group, run_with, step_of
from run_folders import HOSTILE

from algorithms.common.report.page import write
from algorithms.common.report.run_report import write_reports
from algorithms.common.report.training_page import content, fitting_training_page, training_page
from algorithms.common.run.recorded_trajectories import RecordedStep

BEFORE = [
    episode([("town of Ada", 0.5)], "no", correct=False, advantage=-1.0),
    episode([("Town of  Ada", 0.25)], "no", correct=False, advantage=-1.0),
    episode([("birth", None)], "yes", correct=True, advantage=2.0),
]
AFTER = [
    episode([("weather", -1.5)], "no", correct=False, advantage=-1.0),
    episode([("birth town of Ada", 2.0), ("birth", 1.0)], "yes", correct=True),
    episode([("birth town of Ada", 2.5)], "yes", correct=True),
]


def steps() -> list[RecordedStep]:
    return [
        step_of(0, [group("q1", BEFORE), group("q2", BEFORE)]),
        step_of(10, [group("q1", AFTER)]),  # retrieval failed for the other question
        step_of(20, [group("q1", AFTER), group("q2", [episode([(HOSTILE, 1.0)], HOSTILE, correct=True)], HOSTILE)]),
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of this file."""
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run of three recorded steps."""
    files = {f"tracked-{file.step:06d}": file for file in steps()}
    run = run_with(tmp_path_factory.mktemp("runs") / "run", files)
    pages = write_reports(run)
    assert [path.name for path in pages] == ["training.html", "report.html"]
    assert '<a href="training.html">Over training</a>' in pages[-1].read_text(encoding="utf-8")
    return pages[0]


def texts(part: Any) -> list[str]:
    """The texts of elements, with single spaces."""
    return [" ".join(text.split()) for text in part.all_inner_texts()]


def test_a_column_states_its_figures_with_their_noise(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        first = page.get_by_role("region", name="Before training")
        assert texts(first.locator(".facts > div")) == [
            "Correct 1 of 3 95% interval 6% to 79%",
            "Searches 1.00 per episode, 1 to 1, n 3",
            "Gain +0.38 nats per search, +0.25 to +0.50, n 2",
            "Distinct queries 2 of 3 searches",
        ]
        assert texts(page.get_by_role("region", name="Step 10").locator(".facts > div"))[0].startswith("Correct 2 of 3")


def test_queries_are_compared_word_by_word_and_the_most_common_comes_first(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        first, second, third = (page.locator(".column").nth(place).locator(".queries").first for place in range(3))
        assert texts(first.locator("li")) == ["2× town of Ada gain +0.38", "1× birth"]
        assert texts(second.locator("li")) == [
            "2× birth town of Ada changed since step 0 · gain +2.25",
            "1× weather new since step 0 · gain −1.50",
            "1× birth 1× at step 0 · gain +1.00",
        ]
        assert texts(second.locator("ins")) == ["birth"]
        assert second.locator("del").count() == 0
        assert texts(third.locator("li"))[0] == "2× birth town of Ada 2× at step 10 · gain +2.25"
        assert texts(page.locator(".column").nth(1).locator("summary", has_text="not sent")) == [
            "1 of step 0 not sent any more"
        ]


def test_episodes_have_their_gains_answers_and_signed_advantages(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        episodes = page.locator(".column").nth(1).locator(".episode")
        assert [text.split(" search")[0] for text in texts(episodes)] == [
            "2. ✓ yes +1.5",
            "3. ✓ yes +1.0",
            "1. ✗ no −2.0",
        ]
        turns = episodes.first.locator(".turns > li")
        assert texts(turns) == [
            "search birth town of Ada gain +2.00 +0.50",
            "search birth gain +1.00 +0.50",
            "answer yes +0.50",
        ]
        turns.first.locator("summary").click()
        assert texts(turns.first.locator(".found li")) == ["Title of birth town of Ada"]
        colours = page.locator(".advantage.plus, .advantage.minus").evaluate_all(
            "(parts) => new Set(parts.map((part) => getComputedStyle(part).backgroundColor)).size"
        )
        assert colours > 2


def test_the_address_keeps_the_question_and_the_steps(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.get_by_label("Question", exact=True).select_option("made_up:q2")
        page.get_by_role("button", name="0", exact=True).press("Enter")
        assert page.evaluate("document.activeElement.textContent") == "0"
        assert page.url.endswith("#question=made_up:q2&steps=10,20")
        page.reload()
        assert page.locator("h2").inner_text() == "Question q2?"
        assert texts(page.locator(".column h3")) == ["Step 10", "Step 20"]
        assert "Not recorded" in page.locator(".column").first.inner_text()
        page.goto(page_file.as_uri() + "#question=unknown&steps=7")
        page.reload()
        assert page.locator("h2").inner_text() == "Question q1?"
        assert page.locator(".column").count() == 3


def test_an_invalid_turn_is_shown_as_it_was_written() -> None:
    written = episode([("birth", 1.0)], "yes", correct=True)
    written["turns"][0] |= {"action": "invalid", "content": None, "tokens": ["<sea", "rch> birth"], "gain": None}
    (asked,) = content([step_of(0, [group("q1", [written])])])["questions"]
    turns = asked["groups"][0]["episodes"][0]["turns"]
    assert [turn["text"] for turn in turns] == ["<search> birth", "yes"]


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_fits_is_accessible_and_shows_hostile_text_as_text(browser: Any, page_file: Path, width: int) -> None:
    scheme = "dark" if width == WIDE else "light"
    with opened(browser, page_file, width=width, scheme=scheme) as page:  # fails on a dialog and on a request
        page.get_by_label("Question", exact=True).select_option(index=2)
        assert page.locator("img").count() == 0
        assert "<img src=x" in page.locator(".episode").inner_text()
        page.get_by_label("Question", exact=True).select_option("made_up:q1")
        page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert violations(page) == []
        assert overflow(page) <= 0
        assert page.locator(".multiple svg").count() == 4
        assert (
            page.locator(".multiple svg").first.get_attribute("aria-label").startswith("Correct answers. step 0: 33%")
        )


def test_an_algorithm_without_gains_and_without_advantages(browser: Any, tmp_path: Path) -> None:
    plain = [episode([("a", None)], "no", correct=False, advantage=None)]
    write(tmp_path / "page.html", training_page([step_of(0, [group("q", plain)], ())], "A run"))
    with opened(browser, tmp_path / "page.html") as page:
        assert page.locator(".multiple").count() == 3
        assert "Gain" not in page.locator(".facts").inner_text()
        assert "No advantages were recorded." in page.locator("main").inner_text()
        assert page.locator(".advantage").count() == 0


def test_the_page_has_a_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = [step_of(step, [group(f"q{n}", AFTER) for n in range(8)]) for step in range(9)]
    whole = len(training_page(recorded, "A run").encode())
    monkeypatch.setattr("algorithms.common.report.training_page.MAX_PAGE", whole - 60_000)
    page = fitting_training_page(recorded, "A run")
    assert len(page.encode()) <= whole - 60_000
    assert re.search(r"Shows \d+ of 72 recorded groups of [23] of 9 recorded steps", page)
    assert len(content(recorded)["questions"]) == 8
