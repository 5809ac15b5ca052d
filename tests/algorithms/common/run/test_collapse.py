"""Warnings of a collapse: when they come, when they come again, and that a resumed run warns like a whole one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from buffers import reward_buffer
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.run import collapse
from algorithms.common.run.collapse import CollapseWatch
from algorithms.common.training.batch_metrics import batch_metrics

HEALTHY = {
    "searches": 2.0,
    "all_fail": 0.4,
    "all_equal": 0.5,
    "advantage/zero_share": 0.5,
    "searches/at_limit": 0.3,
    "searches/repeated": 0.1,
    "invalid_actions": 0.05,
    "length/cut_share": 0.02,
    "stop/context_full": 0.0,
    "policy/entropy": 0.8,
    "policy/clip_fraction": 0.1,
    "policy/kl_old": 0.01,
    "policy/grad_norm": 0.4,
}
# What each sign looks like.
COLLAPSES = {
    "policy/entropy as a share of its mean over the first 5 steps": {"policy/entropy": 0.1},
    "all_fail": {"all_fail": 0.95},
    "all_equal": {"all_equal": 1.0, "advantage/zero_share": 1.0},
    "searches/at_limit": {"searches/at_limit": 0.95},
    "searches/repeated": {"searches/repeated": 0.6},
    "searches": {"searches": 0.01},
    "invalid_actions": {"invalid_actions": 0.7},
    "length/cut_share": {"length/cut_share": 0.8},
    "stop/context_full": {"stop/context_full": 0.6},
    "policy/clip_fraction": {"policy/clip_fraction": 0.6},
    "policy/kl_old": {"policy/kl_old": 0.5},
    "policy/grad_norm": {"policy/grad_norm": 0.0},
}
AT_ONCE = {"policy/clip_fraction", "policy/kl_old"}


def watched(*changes: dict[str, Any], watch: CollapseWatch | None = None, first: int = 1) -> list[list[str]]:
    """What a watch says after each of some steps: healthy ones with these changes."""
    watch = watch or CollapseWatch()
    return [watch.observe(step, {**HEALTHY, **change}) for step, change in enumerate(changes, first)]


def warned_at(said: Sequence[Sequence[str]]) -> list[int]:
    """The steps at which anything was said, from 1."""
    return [step for step, messages in enumerate(said, 1) if messages]


def test_every_sign_is_tried_here() -> None:
    assert [sign.metrics[0] for sign in collapse.SIGNS] == list(COLLAPSES)


def test_a_healthy_run_is_left_in_peace() -> None:
    assert warned_at(watched(*[{}] * 40)) == []


@pytest.mark.parametrize("sign", COLLAPSES)
def test_a_sign_is_told_once_with_its_value_since_when_and_what_to_try(sign: str) -> None:
    said = watched(*[{}] * 10, *[COLLAPSES[sign]] * 30)
    (message,) = (message for messages in said for message in messages)
    steps = 1 if sign in AT_ONCE else 5
    assert warned_at(said) == [10 + steps]
    value = "0.125" if "entropy" in sign else f"{COLLAPSES[sign][sign]:.3g}"  # 0.1 of 0.8
    assert message.startswith(f"step {10 + steps}: {sign} is {value}, ")
    assert ("in this step" if steps == 1 else "since step 11") in message
    assert "optimizer." in message or "env." in message or "rollout." in message or "ig_grpo" in message
    assert "[" not in message  # a rich console would read it as markup


@pytest.mark.parametrize("sign", sorted(COLLAPSES.keys() - AT_ONCE))
def test_a_few_steps_are_no_collapse(sign: str) -> None:
    bad = COLLAPSES[sign]
    assert warned_at(watched(*[{}] * 6, *[bad, bad, bad, bad, {}] * 6)) == []


def test_a_sign_is_told_again_only_after_it_had_recovered() -> None:
    bad = COLLAPSES["invalid_actions"]
    assert warned_at(watched(*[bad] * 6, *[{}] * 4, *[bad] * 10)) == [5]  # gone for four steps only
    assert warned_at(watched(*[bad] * 6, *[{}] * 5, *[bad] * 10)) == [5, 16]
    assert warned_at(watched(*[bad] * 6, *[{}, bad] * 20)) == [5]


def test_entropy_is_measured_by_its_early_mean_whatever_its_scale() -> None:
    for scale in (0.01, 1.0, 30.0):
        falling = [{"policy/entropy": scale * 0.9**n} for n in range(40)]
        early = np.mean([0.9**n for n in range(5)])
        below = next(n for n in range(40) if 0.9**n < 0.2 * early)
        assert warned_at(watched(*falling)) == [below + 5]  # steps are counted from 1, so this is the fifth one below
    assert warned_at(watched(*[{"policy/entropy": 0.0}] * 20)) == []  # it was never there


def test_equal_rewards_are_no_sign_where_tokens_still_learn() -> None:
    alone = {"all_equal": 1.0, "advantage/zero_share": 0.0}  # PPO, one rollout a question
    assert warned_at(watched(*[alone] * 20)) == []
    # The statistics of such a buffer say the same.
    buffer = reward_buffer([[1.0], [0.0], [1.0]])
    metrics = batch_metrics(buffer, np.full(9, 0.3, dtype=np.float32), max_searches=4)
    assert metrics["all_equal"] == 1
    said = watched(*[{"all_equal": metrics["all_equal"], "advantage/zero_share": metrics["advantage/zero_share"]}] * 9)
    assert warned_at(said) == []


def test_evaluations_and_missing_or_undefined_values_change_nothing() -> None:
    bad, watch = {**HEALTHY, **COLLAPSES["searches"]}, CollapseWatch()
    said = []
    for step in range(1, 6):
        said += watch.observe(step, bad)
        said += watch.observe(step, {"test/em": 0.3, "test/searches": 0.0})
        said += watch.observe(step, {**HEALTHY, "searches": float("nan")})
    assert len(said) == 1
    assert "since step 1." in said[0]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([{}, *COLLAPSES.values()]), max_size=40).flatmap(
        lambda kinds: st.tuples(
            st.lists(st.tuples(st.sampled_from(kinds or [{}]), st.integers(1, 9)), max_size=8), st.integers(0, 80)
        )
    )
)
def test_a_resumed_run_warns_as_an_uninterrupted_one(plan: tuple[list[tuple[dict[str, Any], int]], int]) -> None:
    spells, cut = plan
    changes = [change for change, length in spells for _ in range(length)]
    whole = watched(*changes)
    rows = [{"step": step, **HEALTHY, **change} for step, change in enumerate(changes[:cut], 1)]
    rows = [json.loads(json.dumps(row)) for row in [{"step": 0, "test/em": 0.1}, *rows]]
    resumed = CollapseWatch.resumed(rows)
    assert watched(*changes[cut:], watch=resumed, first=cut + 1) == whole[cut:]


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.sampled_from(sorted(HEALTHY)), st.floats(allow_nan=True)), max_size=30))
def test_no_value_breaks_it_and_no_sign_is_told_twice_in_a_row(changes: list[dict[str, float]]) -> None:
    said = watched(*changes)
    for sign in COLLAPSES:
        steps = [step for step, messages in enumerate(said) if any(f": {sign} is " in message for message in messages)]
        assert all(later - earlier > collapse.RECOVERY for earlier, later in pairwise(steps))
