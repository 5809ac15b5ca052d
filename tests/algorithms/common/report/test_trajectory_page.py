"""What a run records of its trajectories, and the page that shows them, in a real browser."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import NARROW, WIDE, chromium, opened, overflow, violations
from hypothesis import given
from hypothesis import strategies as st

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.report.page import write
from algorithms.common.report.trajectory_data import facts, gold_spans
from algorithms.common.report.trajectory_page import fitting_page, trajectory_page
from algorithms.common.rollout.answer_scorer import PolicyScorer
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.rollout.environment import EnvConfig, make_retriever, make_rules
from algorithms.common.run.recorded_trajectories import RecordedStep, load_recorded, pieces, record_trajectories
from algorithms.comparison.advantages import all_advantages
from algorithms.comparison.gains import measured_gains, set_gains
from examples.same_buffer import Args, collect_buffer
from igsearch_env.protocols import Answer, Invalid, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.trajectory import ANSWERED, NO_ANSWER, Attempt, Gain, Group, Trajectory, Turn
from retrievers import Passage

HOSTILE = (
    "<script>alert(1)</script></script><!--<script>\"><img src=x onerror=alert(2)>'><svg onload=alert(3)>"
    " \u2028\u2029 😀 </search> <b>&amp;</b> ${alert(4)} \\u003c"
)


@dataclass(frozen=True)
class Rollout:
    """A buffer of the bundled policy, the policy, and the advantages of all algorithms."""

    buffer: RolloutBuffer
    policy: Policy
    advantages: dict[str, Float32s]


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    env = EnvConfig()
    policy, retriever = Policy.load(PolicyConfig("bundled")), make_retriever(env.corpus)
    buffer = collect_buffer(Args(questions_per_step=6, group_size=4), env, policy, retriever)
    protocol = make_rules(env, policy.tokenizer).protocol
    gains = measured_gains(buffer, PolicyScorer(policy), protocol, retriever, 1)
    advantages = all_advantages(buffer, gains)
    set_gains(buffer, gains["random"])
    buffer.metadata["step"] = 7
    return Rollout(buffer, policy, advantages)


@pytest.fixture(scope="module")
def recorded(rollout: Rollout, tmp_path_factory: pytest.TempPathFactory) -> RecordedStep:
    path = tmp_path_factory.mktemp("recorded") / "trajectories" / "step-000007.json.gz"
    record_trajectories(path, rollout.buffer, rollout.advantages, rollout.policy.tokenizer)
    return load_recorded(path)


@pytest.fixture(scope="module")
def page_file(recorded: RecordedStep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "trajectories.html"
    # A second step, with one algorithm alone.
    later = replace(recorded, step=9, algorithms=("ig_grpo",), groups=only_ig_grpo(recorded.groups[:1]))
    write(path, trajectory_page([recorded, later], "A run"))
    return path


def only_ig_grpo(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    copied: list[dict[str, Any]] = json.loads(json.dumps(groups))
    for turn in (turn for group in copied for row in group["trajectories"] for turn in row["turns"]):
        turn["advantages"] = {"ig_grpo": turn["advantages"]["ig_grpo"]}
    return copied


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    with opened(browser, page_file) as shown:
        yield shown


def rows_of(recorded: RecordedStep) -> list[dict[str, Any]]:
    return [row for group in recorded.groups for row in group["trajectories"]]


def pick(page: Any, label: str, value: str) -> None:
    page.get_by_label(label, exact=True).select_option(value)


def shown_count(page: Any) -> int:
    """The count that the page states, which its rows state too; only the rows in sight are drawn."""
    count = int(re.match(r"\d+", page.inner_text(".count"))[0])  # type: ignore[index]
    sizes = page.eval_on_selector_all("[role=option]", "all => all.map(row => Number(row.ariaSetSize))")
    assert set(sizes) == ({count} if count else set())
    return count


def selected(page: Any) -> str:
    return str(page.get_attribute("[role=option][aria-selected=true]", "id"))


# ---------------------------------------------------------------- what is recorded


def test_a_record_holds_what_the_buffer_does(rollout: Rollout, recorded: RecordedStep) -> None:
    rows = rows_of(recorded)
    assert (recorded.step, recorded.algorithms) == (7, tuple(rollout.advantages))
    assert len(rows) == len(rollout.buffer.trajectories) == 24
    for row, trajectory in zip(rows, rollout.buffer.trajectories, strict=True):
        assert (row["outcome"], row["stop_reason"]) == (trajectory.outcome, trajectory.stop_reason)
        assert row["correct"] == (trajectory.outcome == 1)
        for written, turn in zip(row["turns"], trajectory.turns, strict=True):
            assert "".join(written["tokens"]).startswith(turn.text)
            assert len(written["tokens"]) == len(turn.completion_ids) == len(written["logprobs"])
            assert written["observation"] == turn.observation
            assert [p["text"] for p in written["passages"]] == [p.text for p in turn.passages]
            assert (written["gain"] is None) == (turn.gain is None)
            if turn.gain is not None:
                assert written["gain"]["value"] == pytest.approx(turn.gain.value, rel=1e-3)
                assert tuple(written["gain"]["baseline_evidences"]) == turn.gain.baseline_evidences
    for name, values in rollout.advantages.items():
        shown = [value for row in rows for turn in row["turns"] for value in turn["advantages"][name]]
        np.testing.assert_allclose(shown, values, rtol=6e-4)


def test_supporting_passages_are_those_that_the_question_names(rollout: Rollout, recorded: RecordedStep) -> None:
    found = {True: 0, False: 0}
    for row, trajectory in zip(rows_of(recorded), rollout.buffer.trajectories, strict=True):
        for passage in (passage for turn in row["turns"] for passage in turn["passages"]):
            assert passage["supporting"] == (passage["title"] in trajectory.question.metadata["supporting_titles"])
            found[passage["supporting"]] += 1
    assert min(found.values()) > 0


def test_only_whole_groups_are_recorded(rollout: Rollout, tmp_path: Path) -> None:
    for limit, groups in ((11, 2), (8, 2), (1, 1)):
        record_trajectories(
            tmp_path / "x.gz", rollout.buffer, rollout.advantages, rollout.policy.tokenizer, limit=limit
        )
        assert [len(g["trajectories"]) for g in load_recorded(tmp_path / "x.gz").groups] == [4] * groups


def test_a_repeated_record_has_the_same_bytes(rollout: Rollout, tmp_path: Path) -> None:
    for name in "ab":
        record_trajectories(tmp_path / name, rollout.buffer, rollout.advantages, rollout.policy.tokenizer)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_advantages_of_another_buffer_are_refused(rollout: Rollout, tmp_path: Path) -> None:
    with pytest.raises(RolloutBufferError, match="advantages of grpo have shape"):
        record_trajectories(tmp_path / "x", rollout.buffer, {"grpo": np.zeros(3, np.float32)}, rollout.policy.tokenizer)


@pytest.mark.parametrize(
    "damage",
    [b"", b"no gzip", gzip.compress(b"[1]"), gzip.compress(b"{"), gzip.compress(b"{}")[:10] + b"bad", b"cut"],
    ids=[
        "empty",
        "no gzip",
        "a list",
        "half a value",
        "half a gzip",
        "cut",
    ],  # gzip writes the time: no name for a test
)
def test_damaged_files_are_refused(rollout: Rollout, recorded: RecordedStep, tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "x.json.gz"
    record_trajectories(path, rollout.buffer, {}, rollout.policy.tokenizer)
    path.write_bytes(path.read_bytes()[:-9] if damage == b"cut" else damage)
    with pytest.raises(RolloutBufferError, match=r"x\.json\.gz: no recorded trajectories"):
        load_recorded(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(b'{"format": 0}'))
    with pytest.raises(RolloutBufferError, match="format 0, this version reads 1"):
        load_recorded(tmp_path / "x")


@pytest.mark.parametrize("text", ["<search> née 😀 ok</search>", "日本 \ufffd x", "", HOSTILE])
def test_bytes_of_one_character_stay_together(rollout: Rollout, text: str) -> None:
    ids = rollout.policy.tokenizer.encode(text)
    found = pieces(rollout.policy.tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == rollout.policy.tokenizer.decode(ids)
    if "😀" in text:
        assert any(piece.endswith("😀") for piece in found)
        assert not any("\ufffd" in piece for piece in found)


def test_the_token_that_ends_a_turn_is_seen(rollout: Rollout) -> None:
    end = min(rollout.policy.tokenizer.eos_ids)
    found = pieces(rollout.policy.tokenizer, (*rollout.policy.tokenizer.encode("né"), end))
    assert "".join(found[:-1]) == "né"
    assert found[-1]


# ---------------------------------------------------------------- where the answer stands


@pytest.mark.parametrize(
    ("text", "golds", "expected"),
    [
        ("Alan was born in Tolona.", ["Tolona"], ["Tolona"]),
        ("Romeo in Rome, ROME!", ["rome"], ["Rome", "ROME"]),
        ("It is the 'U.S.A.' of old", ["USA"], ["U.S.A"]),
        ("in the city of The Hague", ["Hague"], ["Hague"]),
        ("Knights of the Round Table", ["knights of round table"], ["Knights of the Round Table"]),
        ("Mira Sorel Mira", ["Mira Sorel", "Sorel Mira"], ["Mira Sorel Mira"]),
        ("nothing", ["The", "!"], []),
        ("😀 Zoë lived", ["zoë"], ["Zoë"]),
    ],
)
def test_gold_answers_are_found_as_answers_are_compared(text: str, golds: list[str], expected: list[str]) -> None:
    assert [text[start:end] for start, end in gold_spans(text, tuple(golds))] == expected


@given(st.text(alphabet="aA nthe.,'–-\n Zé", max_size=30), st.sampled_from(["a", "Zé", "the n", "tt"]))
def test_an_answer_is_found_where_the_normalised_text_holds_it(text: str, gold: str) -> None:
    wanted, within = normalize_answer(gold), normalize_answer(text)
    assert bool(gold_spans(text, (gold,))) == bool(wanted and f" {wanted} " in f" {within} ")


# ---------------------------------------------------------------- the page


def test_tokens_are_coloured_by_the_sign_of_their_advantage(page: Any, recorded: RecordedStep) -> None:
    page.select_option(".toolbar select", "ig_grpo")
    seen = set()
    for row in rows_of(recorded):
        values = [value for turn in row["turns"] for value in turn["advantages"]["ig_grpo"]]
        colours = page.eval_on_selector_all(
            ".tokens .token", "all => all.map(e => getComputedStyle(e).backgroundColor.match(/[\\d.]+/g).map(Number))"
        )
        assert len(colours) == len(values)
        largest = max(map(abs, values))
        for value, (red, _, blue, *alpha) in zip(values, colours, strict=True):
            if abs(value) > 0.05 * largest > 0:
                assert np.sign(value) == np.sign(blue - red), (value, red, blue)
                assert alpha[0] > 0
                seen.add(np.sign(value))
            elif value == 0:
                assert alpha == [0]
        page.keyboard.press("j")
    assert seen == {-1, 1}


def test_the_query_is_outlined_and_what_was_read_is_grey(page: Any, recorded: RecordedStep) -> None:
    turn = rows_of(recorded)[0]["turns"][0]
    first = page.locator(".turn").first
    assert "".join(first.locator(".token.query").all_inner_texts()).strip() == turn["content"]
    assert "masked, not in the loss" in first.locator(".observation").inner_text()
    grey, ink = (page.eval_on_selector(s, "e => getComputedStyle(e).color") for s in (".observation", ".tokens"))
    assert grey != ink


def test_a_token_tells_its_numbers_to_mouse_and_keyboard(page: Any, recorded: RecordedStep) -> None:
    page.select_option(".toolbar select", "igpo")
    turn = rows_of(recorded)[0]["turns"][0]
    page.locator(".tokens .token").nth(1).hover()
    by_mouse = page.inner_text(".status")
    page.mouse.move(0, 0)  # or a token that scrolls under the pointer would be announced in between
    page.locator(".tokens").first.locator("[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert page.inner_text(".status") == by_mouse
    assert f"token 2 of {len(turn['tokens'])}" in by_mouse
    numbers = re.findall(r"igpo ([+−\d.]+)", by_mouse)
    assert float(numbers[0].replace("−", "-")) == pytest.approx(turn["advantages"]["igpo"][1], rel=1e-3)
    assert "log-prob" in by_mouse
    assert page.get_attribute(".status", "role") == "status"


def test_filters_count_what_they_should(page: Any, recorded: RecordedStep) -> None:
    rows = rows_of(recorded)
    everything = len(rows) + len(recorded.groups[0]["trajectories"])
    assert shown_count(page) == everything
    pick(page, "Step", "7")
    pick(page, "Answer", "correct")
    assert shown_count(page) == sum(row["correct"] for row in rows) > 0
    pick(page, "Answer", "wrong")
    assert shown_count(page) == sum(not row["correct"] for row in rows) > 0
    pick(page, "Answer", "")
    pick(page, "Group", "all fail")
    failing = [g for g in recorded.groups if not any(row["outcome"] for row in g["trajectories"])]
    assert shown_count(page) == 4 * len(failing) > 0
    pick(page, "Group", "")
    family = recorded.groups[0]["question"]["dataset"]
    pick(page, "Family", family)
    assert shown_count(page) == 4 * sum(g["question"]["dataset"] == family for g in recorded.groups)
    pick(page, "Family", "")
    pick(page, "Step", "9")
    assert shown_count(page) == 4


def test_signs_that_differ_are_found(page: Any, recorded: RecordedStep) -> None:
    def differ(row: dict[str, Any], one: str, other: str) -> bool:
        return any(
            a * b < 0
            for turn in row["turns"]
            for a, b in zip(turn["advantages"][one], turn["advantages"][other], strict=True)
        )

    pick(page, "Step", "7")
    for one, other in (("ig_grpo", "igpo"), ("igpo", "reinforce_plus_plus")):
        page.select_option(".toolbar select", one)
        pick(page, "Signs differ", other)
        assert shown_count(page) == sum(differ(row, one, other) for row in rows_of(recorded)) > 0


def test_search_and_order(page: Any, recorded: RecordedStep) -> None:
    def largest(row: dict[str, Any]) -> float:
        return max((turn["gain"]["value"] for turn in row["turns"] if turn["gain"]), default=-np.inf)

    pick(page, "Order", "gain")
    best = max(map(largest, rows_of(recorded)))
    # Not inner_text: a row that is out of sight, or not drawn yet, has no layout and so no inner text.
    shown = page.text_content(".best >> nth=0")
    assert float(shown.removeprefix("best IG +")) == pytest.approx(best, rel=1e-2)
    assert selected(page) == page.get_attribute("[role=option] >> nth=0", "id")
    page.keyboard.press("/")
    answer = recorded.groups[0]["question"]["golden_answers"][0]
    page.get_by_label("Search", exact=True).type(answer.upper())
    assert 0 < shown_count(page) < 28
    page.get_by_label("Search", exact=True).fill("no such text")
    assert shown_count(page) == 0
    assert "No trajectory matches" in page.inner_text(".detail")


def test_keys_move_through_trajectories_views_and_algorithms(page: Any, recorded: RecordedStep) -> None:
    assert selected(page) == "row-0"
    for key, expected in (("j", "row-1"), ("ArrowDown", "row-2"), ("k", "row-1"), ("ArrowUp", "row-0"), ("k", "row-0")):
        page.keyboard.press(key)
        assert selected(page) == expected
    before = page.input_value(".toolbar select")
    page.keyboard.press("a")
    assert page.input_value(".toolbar select") == recorded.algorithms[1] != before
    page.keyboard.press("g")
    assert page.locator(".sibling").count() == 4
    assert page.locator(".sibling[aria-current]").count() == 1
    page.locator(".sibling button").nth(2).press("Enter")
    assert selected(page) == "row-2"
    assert page.locator(".sibling").count() == 0
    assert page.evaluate("document.activeElement.closest('.detail') !== null")
    page.keyboard.press("?")
    page.locator("dialog").wait_for(state="visible")
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="hidden")  # a browser closes it in its own time
    page.keyboard.press("/")
    page.keyboard.type("jgak?")
    assert page.get_by_label("Search", exact=True).input_value() == "jgak?"


def test_tab_reaches_everything_and_the_focus_is_seen(page: Any) -> None:
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        what = page.evaluate(
            "(() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, e.getAttribute('role'), e.className, s.outlineStyle]; })()"
        )
        if what[0] == "BODY":
            break
        assert what[3] != "none", what
        seen |= {what[0], what[1], what[2]}
    assert {"INPUT", "SELECT", "BUTTON", "SUMMARY", "listbox"} <= seen
    assert any("token" in str(name) for name in seen)


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_what_has_the_focus_is_not_under_the_status(browser: Any, page_file: Path, width: int) -> None:
    # The status itself can have the focus, where it is so long that it scrolls.
    covered = """() => document.activeElement.matches(".status") ? 0
        : document.activeElement.getBoundingClientRect().bottom
            - document.querySelector(".status").getBoundingClientRect().top"""
    with opened(browser, page_file, width=width) as page:
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        page.locator(".tokens .token").last.focus()
        assert "advantage" in page.inner_text(".status")
        assert page.evaluate(covered) <= 0
        page.evaluate("document.activeElement.blur(), scrollTo(0, 0)")
        page.locator(".tokens .token").first.focus()
        while page.evaluate("document.activeElement !== document.body"):
            assert page.evaluate(covered) <= 0, page.evaluate("document.activeElement.outerHTML")
            page.keyboard.press("Tab")


def test_another_algorithm_shows_other_advantages(page: Any) -> None:
    def badges() -> list[str]:
        return list(page.locator(".turn h3").all_inner_texts())

    page.select_option(".toolbar select", "igpo")
    igpo = badges()
    page.keyboard.press("c")
    page.get_by_role("button", name="ig_grpo", exact=True).click()
    page.keyboard.press("t")
    assert page.input_value(".toolbar select") == "ig_grpo"
    assert badges() != igpo
    pick(page, "Step", "9")
    page.select_option(".toolbar select", "grpo")
    page.locator(".tokens .token").first.hover()
    assert "ig_grpo" in page.inner_text(".status")
    assert "grpo " not in page.inner_text(".status").replace("ig_grpo", "")


def test_each_algorithm_is_shown_beside_the_gain_that_it_reads(browser: Any, rollout: Rollout, tmp_path: Path) -> None:
    turns = [turn for trajectory in rollout.buffer.trajectories for turn in trajectory.turns]
    other = [None if turn.gain is None else Gain(0.125, -0.25, -0.375, ()) for turn in turns]
    path = tmp_path / "x.gz"
    record_trajectories(path, rollout.buffer, rollout.advantages, rollout.policy.tokenizer, gains={"igpo": other})
    write(tmp_path / "page.html", trajectory_page([load_recorded(path)], "Two gains"))
    first = next(turn.gain for turn in turns if turn.gain is not None)
    with opened(browser, tmp_path / "page.html") as page:

        def shown() -> list[str]:
            return [page.locator(".gain strong").first.inner_text(), page.locator(".gain p").nth(2).inner_text()]

        for name, value, baseline in (
            ("igpo", 0.125, "without them −0.375"),
            ("ig_grpo", first.value, "after baseline evidence"),
        ):
            page.select_option(".toolbar select", name)
            gain, words = shown()
            assert float(gain.removesuffix(" nats").replace("−", "-")) == pytest.approx(value, rel=1e-2)
            assert baseline in words
            listed = page.locator("[role=option] .best").first.text_content()
            assert (listed == "best IG +0.125") == (name == "igpo")


@pytest.mark.parametrize(
    ("siblings", "expected"),
    [
        ([(0.0, False, []), (0.0, False, [])], "all fail"),
        ([(1.0, True, []), (1.0, True, [])], "all succeed"),
        ([(1.0, True, []), (0.0, False, [])], "mixed"),
        ([(0.4, False, []), (0.0, False, [])], "mixed, none correct"),
        ([(0.1, False, []), (0.1, False, [])], "all equal"),
        ([(0.0, False, [[1, None, 1.0], [2, None, 0.0]]), (0.0, False, [[1, None, 0.0], [2, None, 0.0]])], "mixed"),
    ],
)
def test_a_group_is_named_by_what_there_is_to_compare(siblings: list[Any], expected: str) -> None:
    rows = [
        {"outcome": outcome, "correct": correct, "attempts": attempts or [[1, None, outcome]], "turns": []}
        for outcome, correct, attempts in siblings
    ]
    question = {"id": "q", "text": "Who?", "golden_answers": ["x"], "dataset": "nq"}
    group = {"question": question, "prompt": "", "trajectories": rows}
    (found,) = facts([RecordedStep(1, (), [group])])["groups"]
    assert found["outcomes"] == expected


# ---------------------------------------------------------------- the address


def address(page: Any) -> str:
    """The fragment of the address, once the page has updated it."""
    page.wait_for_timeout(500)
    return str(page.evaluate("location.hash.slice(1)"))


def test_a_link_shows_the_same_view(browser: Any, page_file: Path, recorded: RecordedStep) -> None:
    question = recorded.groups[2]["question"]
    with opened(browser, page_file) as page:
        assert address(page) == ""  # nothing has been chosen
        page.select_option(".toolbar select", "igpo")
        pick(page, "Step", "7")
        pick(page, "Order", "gain")
        page.get_by_label("Search", exact=True).fill(question["text"].upper())
        page.keyboard.press("Tab")  # leaves the search box
        page.locator("[role=option]").nth(3).click()
        page.keyboard.press("g")
        link = address(page)
        heading, chosen, current = page.inner_text("h2"), selected(page), page.inner_text("[aria-current=true]")
    assert heading == question["text"]
    place = int(chosen.removeprefix("row-")) % 4 + 1
    assert f"trajectory=7:{question['id']}:{place}&" in link + "&"
    with opened(browser, page_file, fragment=f"#{link}") as page:
        assert selected(page) == chosen
        assert page.inner_text("[aria-current=true]") == current
        assert shown_count(page) == 4
        assert page.input_value(".toolbar select") == "igpo"
        assert [page.get_by_label(label, exact=True).input_value() for label in ("Step", "Order")] == ["7", "gain"]
        assert page.inner_text(".note") == ""
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy link").click()
        page.get_by_text("is copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == f"{page_file.as_uri()}#{link}"


def test_a_link_finds_its_trajectory_on_a_page_with_other_steps(
    browser: Any, recorded: RecordedStep, tmp_path: Path
) -> None:
    steps = [replace(recorded, step=step) for step in (3, 7, None)]
    question = recorded.groups[1]["question"]["id"]
    path = tmp_path / "other.html"
    for shown, row in ((steps, 29), (steps[1:], 5), ([*steps[1:], steps[1]], 5)):
        write(path, trajectory_page(shown, "A run"))
        with opened(browser, path, fragment=f"#trajectory=7:{question}:2") as page:
            assert selected(page) == f"row-{row}"
    with opened(browser, path, fragment=f"#trajectory=7:{question}:2.2") as page:  # a second group of the same name
        assert selected(page) == "row-53"
        page.keyboard.press("j")
        assert address(page) == f"trajectory=7:{question}:3.2"
    with opened(browser, path, fragment=f"#trajectory=:{question}:2") as page:
        assert selected(page) == "row-29"


@pytest.mark.parametrize(
    ("fragment", "named"),
    [
        ("#trajectory=8:nowhere:1", "trajectory=8:nowhere:1"),
        ("#trajectory", ""),
        ("#step=70&algorithm=none", "step=70, algorithm=none"),
        ("#%E0%A4%A&=&&==", "\ufffd%A. ("),
        ("#__proto__=1&constructor", "__proto__, constructor"),
        (f"#answer={HOSTILE.replace('&', '')}", "<script>alert(1)</script>"),
        ("#view=upside-down", "view=upside-down"),
    ],
)
def test_a_damaged_address_is_ignored_and_named(browser: Any, page_file: Path, fragment: str, named: str) -> None:
    with opened(browser, page_file, fragment=fragment.replace(" ", "%20")) as page:
        assert (selected(page), shown_count(page)) == ("row-0", 28)
        note = page.inner_text(".note")
        assert named in note
        assert bool(note) == bool(named)
        page.keyboard.press("j")
        assert address(page).endswith(":2")
        assert page.inner_text(".note") == ""


def test_an_address_whose_filters_hide_its_trajectory_says_so(
    browser: Any, page_file: Path, recorded: RecordedStep
) -> None:
    place = next(i for i, row in enumerate(rows_of(recorded)) if not row["correct"])
    question = recorded.groups[place // 4]["question"]["id"]
    with opened(browser, page_file, fragment=f"#trajectory=7:{question}:{place % 4 + 1}&answer=correct") as page:
        assert "filters in the address hide" in page.inner_text(".note")
        assert selected(page) != f"row-{place}"
        assert "correct" in page.inner_text(".detail dl")


def test_back_and_forward_lead_through_the_views(page: Any) -> None:
    page.locator("[role=option]").nth(2).click()
    first = address(page)
    page.keyboard.press("g")
    assert address(page) == f"{first}&view=group"
    page.get_by_label("Search", exact=True).type("zz")
    address(page)
    assert shown_count(page) == 0
    page.get_by_label("Search", exact=True).type("zz")  # only replaces what was typed before
    assert address(page) == "search=zzzz&view=group"
    page.go_back()
    assert page.locator(".sibling").count() == 4
    assert shown_count(page) == 28
    page.go_back()
    assert (selected(page), page.locator(".sibling").count()) == ("row-2", 0)
    page.go_back()
    assert selected(page) == "row-0"
    page.go_forward()
    assert selected(page) == "row-2"
    assert address(page) == first


def test_a_narrow_window_shows_the_trajectory_first(browser: Any, page_file: Path) -> None:
    for width, side in ((390, False), (800, True), (1440, True)):
        with opened(browser, page_file, width=width) as page:
            assert page.locator(".turn .tokens").first.bounding_box()["y"] < 760
            assert page.locator("[role=listbox]").is_visible() == side
            if side:
                continue
            button = page.get_by_role("button", name="Search, filters and list")
            button.click()
            assert button.get_attribute("aria-expanded") == "true"
            page.locator("[role=option]").nth(2).click()
            assert not page.locator("[role=listbox]").is_visible()
            assert page.inner_text(".place") == "3 of 28"
            page.keyboard.press("/")  # opens the list
            assert page.evaluate("document.activeElement.type") == "search"


def test_files_without_the_newest_fields_are_shown(browser: Any, recorded: RecordedStep, tmp_path: Path) -> None:
    groups = json.loads(json.dumps(recorded.groups))
    for row in (row for group in groups for row in group["trajectories"]):
        del row["attempts"]
        for turn in row["turns"]:
            del turn["gain_of"], turn["weights_version"]
            for passage in turn["passages"]:
                del passage["supporting"]
    content = {"format": 1, "step": 7, "algorithms": recorded.algorithms, "groups": groups}
    (tmp_path / "old").write_bytes(gzip.compress(json.dumps(content).encode()))
    write(tmp_path / "old.html", trajectory_page([load_recorded(tmp_path / "old")], "Old"))
    with opened(browser, tmp_path / "old.html") as page:
        assert shown_count(page) == 24
        assert page.locator(".passage").count() > 0
        assert "supporting" not in page.inner_text(".detail")


def test_a_damaged_page_says_so(browser: Any, page_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.html"
    path.write_text(re.sub(r'(id="turns">"[^"]{2000})[^"]*"', r'\1"', page_file.read_text("utf-8")), encoding="utf-8")
    with opened(browser, path) as page:
        assert "can't be read" in page.inner_text("[role=alert]")


def test_colours_of_the_system_leave_signs_and_gains(browser: Any, page_file: Path) -> None:
    with opened(browser, page_file) as page:
        page.emulate_media(forced_colors="active")
        page.select_option(".toolbar select", "ig_grpo")
        style = "(one) => { const s = getComputedStyle(one); return [s.borderBottomColor, s.backgroundColor]; }"
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        found: dict[str, str] = {}
        for _ in range(40):  # trajectories
            for kind in ("zero", "plus"):
                token = page.locator(f".token.{kind}:not(.query)")
                if kind not in found and token.count():
                    found[kind] = token.first.evaluate(style)[0]
            page.keyboard.press("j")
        assert found["zero"] == paper
        assert found["plus"] != paper
        assert page.locator(".key.real").first.evaluate(style)[1] != page.locator(".key.base").first.evaluate(style)[1]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_is_accessible(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    with opened(browser, page_file, width=width, scheme=scheme, fragment="#nonsense=1") as page:
        if width == NARROW:
            page.get_by_role("button", name="Search, filters and list").click()
        page.get_by_text("Filters and order").click()
        page.select_option(".toolbar select", "ig_grpo")
        assert violations(page) == []
        assert overflow(page) == 0
        page.get_by_label("Group side by side").click()
        assert violations(page) == []
        assert overflow(page) == 0


# ---------------------------------------------------------------- what must not get out, and limits


def hostile_buffer(policy: Policy) -> RolloutBuffer:
    """Two siblings whose every text is hostile; the gold answer stands in the passage."""
    question = Question("q", HOSTILE, (HOSTILE, "gold"), HOSTILE, {"supporting_titles": [HOSTILE]})
    ids = policy.tokenizer.encode(HOSTILE)

    def turn(action: Search | Answer | Invalid, **more: Any) -> Turn:
        return Turn(HOSTILE, action, HOSTILE, completion_ids=ids, logprobs=(-0.5,) * len(ids), **more)

    found = (Passage(HOSTILE, HOSTILE, f"😀 {HOSTILE} the gold.", 1.0),)
    gain = Gain(1.0, -1.0, -2.0, (HOSTILE, HOSTILE))
    turns = [turn(Search(HOSTILE), passages=found, gain=gain, query_span=(1, 9)), turn(Invalid(HOSTILE))]
    twice = [Attempt(2, HOSTILE, 0.0), Attempt(3, None, 0.0)]
    first = Trajectory(question, HOSTILE, [*turns, turn(Answer(HOSTILE))], HOSTILE, 1.0, ANSWERED, attempts=twice)
    lost = turn(Search(HOSTILE), passages=found, gain=Gain(-np.inf, -np.inf, -2.0))
    second = Trajectory(question, HOSTILE, [lost], stop_reason=NO_ANSWER)
    return RolloutBuffer([Group(question, []), Group(question, [first, second])])


def test_hostile_text_is_shown_and_runs_nothing(browser: Any, rollout: Rollout, tmp_path: Path) -> None:
    buffer = hostile_buffer(rollout.policy)
    ones = np.ones(int(buffer.policy_tokens.sum()), dtype=np.float32)
    record_trajectories(tmp_path / "x", buffer, {HOSTILE: ones, "grpo": -ones}, rollout.policy.tokenizer)
    path = tmp_path / "hostile.html"
    write(path, trajectory_page([load_recorded(tmp_path / "x")], HOSTILE))
    with opened(browser, path) as page:
        assert page.title().startswith("<script>alert(1)</script>")
        for place in (
            "h1",
            "h2",
            ".asked >> nth=0",
            ".given >> nth=0",
            ".passage p",
            ".observation >> nth=0",
        ):
            assert HOSTILE in page.text_content(place), place
        assert page.locator(".tokens").first.text_content().replace("·", "") == HOSTILE
        assert page.locator(".gain .raw").all_text_contents() == [HOSTILE.strip()] * 2
        assert page.locator(".passage p mark").all_text_contents() == [HOSTILE[1:], "gold"]
        assert "Attempt 2 ends: no answer" in page.inner_text(".detail")
        page.keyboard.press("j")
        assert "Information gain not finite nats" in page.inner_text(".gain")
        page.keyboard.press("k")
        page.get_by_label("Search", exact=True).fill("<script>")
        page.locator(".tokens .token").nth(3).hover()
        assert HOSTILE in page.text_content(".status")
        page.keyboard.press("Escape")
        page.get_by_label("Group side by side").click()
        assert HOSTILE in page.text_content(".sibling li")
        assert page.locator("script").count() == 3
        assert page.locator("img, svg, iframe, body b b, link").count() == 0


def test_a_page_of_500_trajectories_draws_what_is_in_sight(
    browser: Any, recorded: RecordedStep, tmp_path: Path
) -> None:
    steps = [replace(recorded, step=step) for step in range(21)]
    path = tmp_path / "many.html"
    write(path, trajectory_page(steps, "Many"))
    with opened(browser, path) as page:
        assert shown_count(page) == 504
        assert 4 < page.locator("[role=option]").count() < 40
        assert page.locator(".tokens").count() <= 8
        # The list scrolls over all of them, and the selected one stays for assistive technology.
        page.eval_on_selector("[role=listbox]", "list => { list.scrollTop = list.scrollHeight; }")
        page.locator("#row-503").wait_for()
        assert selected(page) == page.get_attribute("[role=listbox]", "aria-activedescendant") == "row-0"
        page.locator("#row-503").click()
        page.keyboard.press("k")
        assert selected(page) == "row-502"
        assert page.inner_text(".place") == "503 of 504"
        pick(page, "Answer", "correct")
        assert shown_count(page) == sum(row["correct"] for row in rows_of(recorded)) * len(steps)


def test_a_page_is_much_smaller_than_what_it_shows(recorded: RecordedStep) -> None:
    shown = len(trajectory_page([recorded], "A run")) - len(trajectory_page([], "A run"))
    assert shown < len(json.dumps(recorded.groups)) / 5


def test_a_page_holds_no_more_bytes_than_it_may(recorded: RecordedStep, monkeypatch: pytest.MonkeyPatch) -> None:
    name, wide = "日本語", recorded
    whole = trajectory_page([wide], name)
    assert fitting_page([wide], name) == whole
    limit = len(whole)  # in characters: in bytes it is more
    monkeypatch.setattr("algorithms.common.report.trajectory_page.MAX_PAGE", limit)
    kept = replace(wide, groups=wide.groups[:3])
    note = f"Shows 3 of 6 recorded groups: a page has at most {limit / 1e6:g} MB."
    assert fitting_page([wide], name) == trajectory_page([kept], name, notes=[note])
    assert len(fitting_page([wide], name).encode()) <= limit
    monkeypatch.setattr("algorithms.common.report.trajectory_page.MAX_PAGE", 10)
    one = replace(wide, groups=wide.groups[:1])
    note = "Shows 2 of 30 recorded groups of 2 of 5 recorded steps: a page has at most 1e-05 MB."
    assert fitting_page([wide] * 5, name, notes=["x"]) == trajectory_page([one, one], name, notes=["x", note])


def test_a_page_without_trajectories_says_so(browser: Any, tmp_path: Path) -> None:
    write(tmp_path / "none.html", trajectory_page([], "None"))
    with opened(browser, tmp_path / "none.html") as page:
        assert shown_count(page) == 0
        assert "No trajectory matches" in page.inner_text(".detail")
        for key in "jkga":
            page.keyboard.press(key)
