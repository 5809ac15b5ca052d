"""The views of the trajectory page, in a real browser: credit of each token, search tree, changes of queries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from browser import NARROW, WIDE, chromium, opened, overflow, violations

from algorithms.common.report.page import write
from algorithms.common.report.trajectory_page import trajectory_page
from algorithms.common.run.recorded_trajectories import RecordedStep

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> 😀"
NAMES = ("grpo", "ig_grpo", "long_algorithm_name")


def turn(action: str, content: str | None, advantages: Sequence[Sequence[float]] = (), **more: Any) -> dict[str, Any]:
    """A turn of three tokens, the middle one its content."""
    tokens = [f"<{action}>", content if content is not None else "hm", "!"]
    rows = advantages or [[-0.5] * 3] * len(NAMES)
    found = {"id": "p", "title": "Title", "text": "Passage.", "score": 1.0, "supporting": None}
    searches = action == "search"
    return {
        "action": action,
        "content": content,
        "tokens": tokens,
        "advantages": dict(zip(NAMES, rows, strict=True)),
        "logprobs": [-0.5, -1.0, -0.25],
        "weights_version": 0,
        "query_span": [1, 2] if searches else None,
        "observation": "Doc 1 Passage." if searches else "Invalid." if action == "invalid" else "",
        "passages": [found] if searches else [],
        "gain": None,
        "gain_of": {},
        **more,
    }


def search(query: str, gain: float, advantages: Sequence[Sequence[float]] = (), **more: Any) -> dict[str, Any]:
    info = {"value": gain, "logprob_real": gain - 3, "logprob_baseline": -3.0, "baseline_evidences": ["Doc"]}
    return turn("search", query, advantages, gain=info, **more)


def trajectory(*turns: dict[str, Any], correct: bool = False, stop: str = "answered") -> dict[str, Any]:
    answer = turns[-1]["content"] if turns[-1]["action"] == "answer" else None
    outcome = float(correct)
    attempts = [[len(turns), answer, outcome]]
    row = {"prediction": answer, "outcome": outcome, "correct": correct, "stop_reason": stop}
    return {**row, "attempts": attempts, "turns": list(turns)}


def group(question: str, *trajectories: dict[str, Any]) -> dict[str, Any]:
    asked = {"id": question, "text": question, "golden_answers": ["Rome"], "dataset": "nq"}
    return {"question": asked, "prompt": "Question?", "trajectories": list(trajectories)}


FIRST = trajectory(
    search("capital of Italy", 1.0, [[1, 1, 1], [1, -2, 1], [0.25, 0.5, 1e-9]]),
    search("capital city of Italy today", -0.5, [[1, 1, 1], [1, 4, 1], [0, 0, 0]]),
    turn("answer", "Rome", [[1, 1, 1], [1, 1, 1], [1, 1, 1]]),
    correct=True,
)
GROUPS = [
    group(
        "What is the capital of Italy?",
        FIRST,
        trajectory(search("The capital of italy.", 2.0), turn("answer", "Rome"), correct=True),
        trajectory(search("capital of Italy", 3.0), turn("answer", "rome"), correct=True),
        trajectory(search("Italy", 0.5, passages=[]), turn("answer", "Milan")),
        trajectory(turn("invalid", None), search("capital of Italy", 2.5), turn("answer", "Turin")),
        trajectory(turn("invalid", None), turn("invalid", None), stop="no_answer"),
    ),
    group(HOSTILE, trajectory(search(HOSTILE, 1.0), search(f"{HOSTILE} x", 1.0), turn("answer", HOSTILE))),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "trajectories.html"
    write(path, trajectory_page([RecordedStep(1, NAMES, GROUPS)], "Views"))
    return path


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    with opened(browser, page_file) as shown:
        yield shown


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def listed(page: Any) -> int:
    return int(page.locator("[role=option]").count())


# ---------------------------------------------------------------- changes, word by word


def common_words(before: list[str], after: list[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(after) + 1)
    for word in before:
        last = row
        row = [0]
        for j, other in enumerate(after):
            row.append(last[j] + 1 if word == other else max(last[j + 1], row[j]))
    return row[-1]


TEXTS = (
    "",
    " \n ",
    "a",
    "b a b a",
    "a b a b c",
    "capital of Italy",
    "the capital city  of\tItaly today",
    "Zoë née 😀 日本 \u2028 Zoe\u0308",
    "日本 Zoë 😀😀 née",
    HOSTILE,
    "x " * 200 + "y",
)


def test_a_diff_rebuilds_both_texts_and_keeps_as_much_as_possible(page: Any) -> None:
    pairs = [(before, after) for before in TEXTS for after in TEXTS]
    for (before, after), pieces in zip(
        pairs, page.evaluate("pairs => pairs.map((p) => wordDiff(...p))", pairs), strict=True
    ):

        def words(*kinds: str, pieces: list[dict[str, Any]] = pieces) -> list[str]:
            return " ".join(piece["text"] for piece in pieces if piece["kind"] in kinds).split()

        assert words("same", "del") == before.split()
        assert words("same", "ins") == after.split()
        assert len(words("same")) == common_words(before.split(), after.split())
        kinds = [piece["kind"] for piece in pieces]
        assert {*kinds} <= {"same", "del", "ins"}
        assert all(len(piece["text"].split()) == piece["words"] > 0 for piece in pieces)
        assert all(one != other and (one, other) != ("ins", "del") for one, other in pairwise(kinds))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("日本の首都はどこですか", "日本の人口はどこですか", "日本の[-首都]{+人口}はどこですか"),
        ("法国的首都是哪里", "法国的人口是哪里", "法国的[-首都]{+人口}是哪里"),
        ("เมืองหลวงของไทย", "เมืองหลวงของลาว", "เมืองหลวงของ[-ไทย]{+ลาว}"),
        ("capital of 日本 today", "capital of 日本の today", "capital of 日本{+の} today"),
    ],
)
def test_scripts_without_spaces_are_compared_word_by_word(page: Any, before: str, after: str, expected: str) -> None:
    pieces = page.evaluate("pair => wordDiff(...pair)", [before, after])
    marks = {"same": "{}", "del": "[-{}]", "ins": "{{+{}}}"}
    shown = "".join(" " * piece["spaced"] + marks[piece["kind"]].format(piece["text"]) for piece in pieces)
    assert shown == expected
    drawn = page.evaluate("pair => make('p', {}, ...changes(...pair)).textContent", [before, after])
    assert drawn == "".join(" " * piece["spaced"] + piece["text"] for piece in pieces)


def test_a_search_shows_what_changed_from_the_previous_query(page: Any) -> None:
    assert page.locator(".changes").all_inner_texts() == [
        "changed from the previous query: capital city of Italy today"
    ]
    assert page.locator(".changes ins").all_inner_texts() == ["city", "today"]
    assert page.locator(".changes del").count() == 0
    page.keyboard.press("j")
    assert page.locator(".changes").count() == 0


def test_queries_of_siblings_are_compared(page: Any) -> None:
    page.keyboard.press("g")
    third = page.locator(".sibling").nth(3)
    assert page.locator("ins, del").count() == 0
    page.get_by_label("Queries").select_option("previous")
    assert page.locator(".sibling").first.locator("ins").all_inner_texts() == ["city", "today"]
    page.get_by_label("Queries").select_option("changes from trajectory 1")
    assert third.locator("del").all_inner_texts() == ["capital of"]
    assert page.locator(".sibling").nth(4).locator("ins, del").count() == 0  # after an invalid turn: the first search
    assert page.locator(".sibling").first.locator("ins, del").count() == 0
    assert page.evaluate("document.activeElement.tagName") == "SELECT"


# ---------------------------------------------------------------- credit


def credit_row(page: Any, name: str) -> list[tuple[int, str, str]]:
    """The blocks of an algorithm in the matrix: number of tokens, words and kind."""
    found = page.eval_on_selector_all(
        ".matrix tr", "rows => rows.map((r) => [...r.cells].map((c) => [c.colSpan, c.textContent, c.className]))"
    )
    (row,) = [cells for cells in found if cells[0][1].startswith(f"{name}±")]
    return [(span, words, kind) for span, words, kind in row[1:]]


def test_all_algorithms_are_rows_over_the_same_tokens(page: Any) -> None:
    page.keyboard.press("c")
    gap = (1, "", "gap")
    assert credit_row(page, "grpo") == [(3, "+1.00", "plus"), gap, (3, "+1.00", "plus"), gap, (3, "+1.00", "plus")]
    found = credit_row(page, "ig_grpo")
    assert [(span, kind) for span, _, kind in found[:3]] == [(1, "plus"), (1, "minus"), (1, "plus")]
    assert found[1][1] == "−2.00"
    assert [kind for _, _, kind in credit_row(page, "long_algorithm_name")[:3]] == ["plus", "plus", "zero"]
    tokens = page.locator(".matrix .reading td").all_text_contents()
    assert tokens[:4] == [*FIRST["turns"][0]["tokens"], "⋯"]
    assert page.locator(".matrix .reading .query").all_text_contents() == [FIRST["turns"][n]["content"] for n in (0, 1)]
    assert [re.sub("^≠ ", "", text) for text in page.locator(".matrix .differ").all_text_contents()] == ["2+ 1−"]


def test_a_column_tells_its_numbers_to_mouse_and_keyboard(page: Any) -> None:
    page.keyboard.press("c")
    page.locator(".matrix tr").last.locator("td").nth(1).hover()
    by_mouse = page.inner_text(".status")
    for part in (
        "turn 1, token 2 of 3",
        "“capital of Italy”",
        "query",
        "log-prob −1.00",
        "grpo +1.000",
        "ig_grpo −2.000",
    ):
        assert part in by_mouse
    token = page.locator(".matrix .reading td").nth(1)
    column, cursor = token.bounding_box(), page.locator(".cursor").bounding_box()
    assert (cursor["x"], cursor["width"]) == pytest.approx((column["x"], column["width"]), abs=1)
    page.mouse.move(0, 0)
    page.locator(".matrix .reading td").first.focus()
    expected = {
        "ArrowRight": "turn 1, token 2",
        "PageDown": "turn 2, token 1",
        "ArrowLeft": "turn 1 · observation: 1 passage",
    }
    for key, shown in {
        **expected,
        "End": "turn 3, token 3",
        "PageUp": "turn 2, token 1",
        "Home": "turn 1, token 1",
    }.items():
        page.keyboard.press(key)
        assert shown in page.inner_text(".status"), key
        assert page.locator(".matrix [tabindex='0']").count() == 1
    assert page.get_attribute("[role=option][aria-selected=true]", "id") == "row-0"


def test_rows_share_a_scale_if_asked(page: Any) -> None:
    def weight(row: int) -> float:
        cell = page.locator(".matrix tr", has=page.locator("button")).nth(row).locator("td").first
        return float(cell.evaluate("cell => cell.style.getPropertyValue('--weight')"))

    page.keyboard.press("c")
    assert [weight(0), weight(1), weight(2)] == [1, 0.25, 0.25]
    page.get_by_label("shared scale").check()
    assert [weight(0), weight(1), weight(2)] == [0.25, 0.25, 0.0625]
    assert page.evaluate("document.activeElement.type") == "checkbox"


def test_a_table_has_the_sums_and_means_of_each_turn(page: Any) -> None:
    page.keyboard.press("c")
    rows = page.eval_on_selector_all(
        ".turn-sums tbody tr", "rows => rows.map((r) => [...r.cells].map((c) => c.textContent))"
    )
    cells = {name: values for name, *values in rows}
    assert [number(text) for text in cells["ig_grpo"]] == [-2, 1, 0, 4, 1, 6, 1, 3, 9]
    assert [number(text) for text in cells["grpo"]] == [1, 1, 3, 1, 1, 3, 1, 3, 9]
    assert cells["signs differ"] == ["2+ 1−", *[""] * 8]


def test_one_algorithm_alone_has_a_row_and_no_signs_that_differ(browser: Any, tmp_path: Path) -> None:
    groups = json.loads(json.dumps(GROUPS))
    for found in (t for g in groups for row in g["trajectories"] for t in row["turns"]):
        found["advantages"] = {"grpo": found["advantages"]["grpo"]}
    write(tmp_path / "one.html", trajectory_page([RecordedStep(1, ("grpo",), groups)], "One"))
    with opened(browser, tmp_path / "one.html") as page:
        page.keyboard.press("c")
        assert len(credit_row(page, "grpo")) == 5
        assert page.locator(".matrix tr").count() == 3
        assert page.get_by_label("shared scale").count() == 0
        assert "signs differ" not in page.inner_text(".detail")


# ---------------------------------------------------------------- search tree


def nodes(page: Any) -> list[str]:
    return [
        str(text) for text in page.eval_on_selector_all(".node", "all => all.map((n) => n.getAttribute('aria-label'))")
    ]


def test_a_group_is_merged_by_its_queries(page: Any) -> None:
    page.keyboard.press("s")
    found = nodes(page)
    for shown in (
        "question: “What is the capital of Italy?” · 6 of 6 trajectories · 3 correct",
        # Case, punctuation and articles aside, three first queries are equal.
        "search: “capital of Italy” · 3 of 6 trajectories · mean information gain +2.00 nats · 3 correct",
        "search: “capital city of Italy today” · 1 of 6 trajectories · mean information gain −0.500 nats · 1 correct",
        "✓ correct: “Rome” · 2 of 6 trajectories · 2 correct",
        "search · no passages: “Italy” · 1 of 6 trajectories · mean information gain +0.500 nats · 0 correct",
        "invalid turn, first of 2: “<invalid>hm!” · 2 of 6 trajectories · 0 correct",
        "search: “capital of Italy” · 1 of 6 trajectories · mean information gain +2.50 nats · 0 correct",
        "invalid turn: “<invalid>hm!” · 1 of 6 trajectories · 0 correct",
        "end: “no answer” · 1 of 6 trajectories · 0 correct",
    ):
        assert found.count(shown) == 1, shown
    assert len(found) == 12
    assert "IG +2.0 · 3×" in page.locator(".tree text").all_text_contents()
    widths = [
        float(width)
        for width in page.eval_on_selector_all(".tree path", "all => all.map((p) => p.getAttribute('stroke-width'))")
    ]
    assert len(widths) == len(found) - 1
    assert sorted(widths)[-2] < max(widths)  # the edge of three trajectories
    assert min(widths) > 0
    boxes = [box.bounding_box() for box in page.locator(".node").all()]
    for one, other in ((a, b) for n, a in enumerate(boxes) for b in boxes[:n]):
        apart = abs(one["x"] - other["x"]) >= one["width"] or abs(one["y"] - other["y"]) >= one["height"]
        assert apart, "two nodes overlap"


def test_a_node_selects_the_trajectories_through_it(page: Any) -> None:
    page.keyboard.press("j")
    page.keyboard.press("s")
    assert listed(page) == 7
    page.get_by_role("button", name="search: “capital of Italy” · 3 of 6").click()
    assert listed(page) == 3
    assert page.get_attribute("[role=option][aria-selected=true]", "id") == "row-1"
    assert page.get_attribute(".node[aria-pressed=true]", "aria-label") == page.evaluate(
        "document.activeElement.ariaLabel"
    )
    page.get_by_role("button", name="invalid turn, first of 2: “<inv").click()
    assert listed(page) == 2
    assert page.get_attribute("[role=option][aria-selected=true]", "id") == "row-4"
    assert "through “<invalid>hm!”" in page.inner_text(".browse")
    page.keyboard.press("Enter")  # again
    assert listed(page) == 7
    page.get_by_role("button", name="question: “What").click()
    assert listed(page) == 6
    page.get_by_role("button", name="Show all").click()
    assert listed(page) == 7
    assert page.locator(".node[aria-pressed=true]").count() == 0


def test_arrow_keys_move_in_the_tree(page: Any) -> None:
    def focused() -> str:
        assert page.locator(".node[tabindex='0']").count() == 1
        return str(page.evaluate("document.activeElement.ariaLabel.split(' · ')[0]"))

    page.keyboard.press("s")
    page.locator(".node[tabindex='0']").focus()
    for key, expected in (
        ("ArrowRight", "search: “capital of Italy”"),
        ("ArrowRight", "✓ correct: “Rome”"),  # of two trajectories, before the search of one
        ("ArrowDown", "search: “capital city of Italy today”"),
        ("ArrowLeft", "search: “capital of Italy”"),
        ("ArrowUp", "search: “capital of Italy”"),
        ("ArrowLeft", "question: “What is the capital of Italy?”"),
    ):
        page.keyboard.press(key)
        assert focused() == expected
        assert focused() in page.inner_text(".status")
    assert page.get_attribute("[role=option][aria-selected=true]", "id") == "row-0"


# ---------------------------------------------------------------- all views


@pytest.mark.parametrize(("width", "scheme"), [(NARROW, "light"), (NARROW, "dark"), (WIDE, "light"), (WIDE, "dark")])
def test_the_views_are_accessible(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    with opened(browser, page_file, width=width, scheme=scheme) as page:
        for key in "cgst":
            page.keyboard.press(key)
            if key == "g":
                page.get_by_label("Queries").select_option("previous")
                page.evaluate("document.activeElement.blur()")
            if key == "s":
                page.locator(".node").nth(1).click()
            assert page.locator(".views [aria-pressed=true]").count() == 1
            assert violations(page) == []
            assert overflow(page) == 0


def test_the_address_names_the_view(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.keyboard.press("c")
        page.get_by_label("shared scale").check()
        page.keyboard.press("g")
        page.get_by_label("Queries").select_option("changes from trajectory 2")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("s")
        page.get_by_role("button", name="search: “capital of Italy” · 3 of 6").click()
        page.wait_for_url(re.compile("through=1"))
        page.reload()
        page.locator(".node[aria-pressed=true]").wait_for()
        assert "capital of Italy" in page.inner_text(".node[aria-pressed=true]")
        assert listed(page) == 3
        page.keyboard.press("g")
        assert page.locator(".versus option:checked").inner_text() == "changes from trajectory 2"
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("c")
        assert page.get_by_label("shared scale").is_checked()
        page.evaluate("location.hash = 'trajectory=1:What+is+the+capital+of+Italy%3F:1&view=tree&through=9&queries=7x'")
        page.locator(".note", has_text="through=9").wait_for()
        assert "queries=7x" in page.inner_text(".note")
        assert listed(page) == 7


def test_hostile_text_is_shown_in_the_views_and_runs_nothing(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        for _ in range(6):
            page.keyboard.press("j")
        assert page.locator(".changes ins").all_text_contents() == ["x"]
        page.keyboard.press("c")
        assert HOSTILE in page.locator(".matrix .query").first.text_content()
        page.keyboard.press("g")
        page.get_by_label("Queries").select_option("previous")
        assert HOSTILE in page.text_content(".sibling")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("s")
        assert page.locator(".node .words").all_text_contents() == [HOSTILE, HOSTILE, f"{HOSTILE} x", HOSTILE]
        page.locator(".node").nth(1).click()
        assert HOSTILE in page.text_content(".through")
        assert page.locator("main script, img, iframe, link").count() == 0
