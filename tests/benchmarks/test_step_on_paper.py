"""The step that is calculated for eight H100, against numbers made by hand."""

from __future__ import annotations

import pytest
from paths import ROOT

from benchmarks.step_costs import Pass, markdown
from benchmarks.step_on_paper import (
    ASSUMPTIONS,
    CASES,
    PARTS,
    Case,
    _passes,
    evaluation,
    evaluation_table,
    expected,
    floors,
    lockstep,
    table,
)

TYPICAL, LONGEST = CASES


def test_the_cases_are_those_of_the_setting() -> None:
    assert [case.length for case in CASES] == [2_030, 5_622]
    assert {case.episodes for case in CASES} == {160}
    assert tuple(a.part for a in ASSUMPTIONS) == PARTS


def test_decoding_by_hand() -> None:
    # 3,072 times: 6.17 GB of weights, and 36,864 bytes for each of 160 episodes of 2,961 tokens on average.
    weights, cache = 6.171e9 / 3.35e12, 160 * 2_962 * 36_864 / 3.35e12
    assert floors(LONGEST)["decode"] == pytest.approx(
        3_072 * (weights + cache), rel=0.03
    )  # products of 160 rows take a little longer


def test_information_gain_by_hand() -> None:
    # 448 searches; each of 3 random branches reads 460 tokens, the real one 10.
    products = 448 * (3 * 460 + 10) * 2 * 2.7745e9 / (0.5 * 989e12)
    assert floors(TYPICAL)["information gain"] == pytest.approx(products, rel=0.08)  # and attention


def test_the_update_by_hand() -> None:
    # Of 8 products with each weight, one with the last matrix of a layer is not made again.
    layers = (8 * 2.7745e9 - 2 * 36 * 22.544e6) * 160 * 2_030 / (0.42 * 989e12)
    attention = 4.5 * 4 * 36 * 2_048 * 160 * 2_030 * 2_031 / 2 / (0.42 * 989e12)
    output = 8 * 311.16e6 * 160 * 470 / (0.42 * 989e12)
    assert floors(TYPICAL)["update"] == pytest.approx(layers + attention + output, rel=0.01)


@pytest.mark.parametrize(("case", "seconds"), [(TYPICAL, 46), (LONGEST, 126)])
def test_the_floor_of_a_step(case: object, seconds: float) -> None:
    # Another calculation with the same shares of the peak: every episode reads its prompt, whole layers are recomputed.
    assert sum(floors(case).values()) == pytest.approx(seconds, rel=0.10)  # type: ignore[arg-type]


def test_the_seconds_that_are_expected_by_hand() -> None:
    # Floors as calculated by hand above: decoding 6.0 s, information gain 7.5 s, the update 17.6 s.
    parts = {part.name: part for part in expected(TYPICAL)}
    decode = parts["decode"]
    assert (decode.floor, decode.colocated) == pytest.approx((6.0, 6.0 / 0.7 + 2), rel=0.01)
    assert decode.builtin == pytest.approx(6 * 512 * 0.025)  # six turns in lockstep, 25 ms a step
    assert parts["information gain"].colocated == pytest.approx(7.5 * 1.3, rel=0.01)
    assert parts["update"].colocated == pytest.approx(17.6 / 0.75, rel=0.01)
    assert parts["prefill"].builtin == parts["prefill"].colocated  # all episodes stay in the cache


@pytest.mark.parametrize(
    ("episodes", "cache", "steps", "read_again"),
    [
        (3, 3_000, 1_024, ()),  # three of 1,000 tokens fit
        (3, 2_000, 1_536, (600,)),  # in the second turn two do; the third, of 600 tokens by then, waits for their end
        (3, 1_000, 3_072, ()),  # one after another: not even two of 600 tokens fit
        (4, 2_000, 2_048, (600,)),  # the last one begins late, beside the second turn of the third
    ],
)
def test_turns_in_lockstep(episodes: int, cache: int, steps: int, read_again: tuple[int, ...]) -> None:
    # Two turns: 200 tokens of the prompt, then 400 more in each.
    case = Case("small", 1, 400, 512, turns=2, prompt=200, observation=400, episodes=episodes)
    found = lockstep(case, cache)
    assert (found.steps, found.read_again) == (steps, read_again)


def test_the_longest_episodes_do_not_fit_at_once() -> None:
    # 524,288 rows hold 93 episodes of 5,622 tokens; the other 67 of 160 wait for them at their fourth turn or later.
    found = lockstep(LONGEST)
    assert (found.steps, len(found.read_again)) == (9 * 512, 160 - 93)
    assert all(3 * 887 <= length - 300 <= 5 * 887 for length in found.read_again)


def test_an_evaluation_by_hand() -> None:
    # 51,713 questions are 40.4 times the 8 x 160 episodes of a step.
    write, read, start = evaluation(TYPICAL)
    assert write.colocated == pytest.approx(40.4 * 10.6, rel=0.01)
    assert write.builtin == pytest.approx(40.4 * 76.8, rel=0.01)
    # Every question reads 300 + 2.8 x 450 tokens: no group shares a prompt.
    assert read.floor == pytest.approx(51_713 / 8 * 1_560 * 2 * 2.7745e9 / (0.5 * 989e12), rel=0.10)  # and attention
    assert start.colocated > start.builtin
    assert [p.builtin for p in evaluation(TYPICAL, 2 * 51_713)][:2] == pytest.approx(
        [2 * p.builtin for p in (write, read)]
    )


@pytest.mark.parametrize("page", ["performance.md", "evaluation.md"])
def test_the_pages_show_what_is_calculated(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = {"performance.md": [table(case) for case in CASES], "evaluation.md": [evaluation_table()]}
    for header, rows in tables[page]:
        assert markdown(header, rows) in text


def test_blocks_in_passes() -> None:
    assert _passes([(10_000, 0), (6_000, 2), (1_000, 0)], [1, 2, 3]) == [
        Pass.of_blocks([(10_000, 0), (6_000, 2)], 3),
        Pass.of_blocks([(1_000, 0)], 3),
    ]
