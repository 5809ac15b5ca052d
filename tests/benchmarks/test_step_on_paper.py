"""The step that is calculated for eight H100, against numbers made by hand."""

from __future__ import annotations

import pytest

from benchmarks.step_costs import Pass
from benchmarks.step_on_paper import AIM, ASSUMPTIONS, CASES, PARTS, _passes, expected, floors

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


@pytest.mark.parametrize("case", CASES, ids=("typical", "longest"))
def test_a_colocated_engine_stays_within_the_aim(case: object) -> None:
    parts = expected(case)  # type: ignore[arg-type]
    floor = sum(part.floor for part in parts)
    assert sum(part.colocated for part in parts) <= AIM * floor
    assert sum(part.builtin for part in parts) > AIM * floor
    assert all(part.colocated >= part.floor for part in parts)


def test_blocks_in_passes() -> None:
    assert _passes([(10_000, 0), (6_000, 2), (1_000, 0)], [1, 2, 3]) == [
        Pass.of_blocks([(10_000, 0), (6_000, 2)], 3),
        Pass.of_blocks([(1_000, 0)], 3),
    ]
