"""Stabilisers of information gain: dead zone, negative scaling, soft clip, in this order."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import ConfigurationError, InformationGainConfig
from igsearch_env.information_gain import SoftClipForm

FORM = st.sampled_from(get_args(SoftClipForm))
NATS = st.floats(-50, 50)
CONFIG = st.builds(
    InformationGainConfig,
    dead_zone=st.floats(0, 2),
    negative_scale=st.floats(0, 1),
    soft_clip=st.floats(0.01, 10),
    soft_clip_form=FORM,
)


@given(CONFIG, NATS)
def test_stabilising_keeps_the_sign_and_never_enlarges(config: InformationGainConfig, gain: float) -> None:
    stable = config.stabilise(gain)
    assert stable * gain >= 0
    assert abs(stable) <= abs(gain) + 1e-12
    assert (abs(gain) >= config.dead_zone) or stable == 0.0
    if config.soft_clip_form in ("tanh", "hard"):
        assert abs(stable) <= config.soft_clip


@given(CONFIG, NATS, NATS)
def test_stabilising_keeps_the_order(config: InformationGainConfig, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert config.stabilise(low) <= config.stabilise(high) + 1e-12


@given(FORM, st.floats(0.01, 10), st.floats(0, 1), NATS.filter(lambda x: x > 0))
def test_negative_gains_are_scaled_then_clipped(form: str, eta: float, scale: float, gain: float) -> None:
    def config(negative_scale: float) -> InformationGainConfig:
        return InformationGainConfig(dead_zone=0, negative_scale=negative_scale, soft_clip=eta, soft_clip_form=form)

    assert config(1.0).stabilise(-gain) == -config(1.0).stabilise(gain)
    assert config(scale).stabilise(-gain) == -config(1.0).stabilise(scale * gain)


def test_dead_zone_looks_at_the_gain_before_it_is_scaled() -> None:
    config = InformationGainConfig(dead_zone=0.5, negative_scale=0.1, soft_clip_form="none")
    assert [config.stabilise(gain) for gain in (0.49, 0.5, -0.49, -0.5)] == [0.0, 0.5, 0.0, -0.05]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("none", [0.5, 2.0, 6.0, -6.0]),
        ("hard", [0.5, 2.0, 2.0, -2.0]),
        ("tanh", [2 * math.tanh(0.25), 2 * math.tanh(1), 2 * math.tanh(3), -2 * math.tanh(3)]),
        ("log", [0.5, 2.0, 2 + math.log(5), -2 - math.log(5)]),
    ],
)
def test_soft_clip_forms(form: str, expected: list[float]) -> None:
    config = InformationGainConfig(dead_zone=0, negative_scale=1, soft_clip=2.0, soft_clip_form=form)
    assert [config.stabilise(gain) for gain in (0.5, 2.0, 6.0, -6.0)] == pytest.approx(expected)


@given(st.floats(0.01, 10))
def test_log_form_bends_without_a_jump_or_a_corner(eta: float) -> None:
    config = InformationGainConfig(dead_zone=0, soft_clip=eta, soft_clip_form="log")
    step = 1e-4
    assert config.stabilise(eta) == eta
    assert (config.stabilise(eta + step) - config.stabilise(eta)) / step == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"baseline": "previus"}, "did you mean 'previous'"),
        ({"context": "skelton"}, "did you mean 'skeleton'"),
        ({"random_source": "corpora"}, "did you mean 'corpus'"),
        ({"soft_clip_form": "tan"}, "did you mean 'tanh'"),
        ({"num_random": 0}, "num_random=0"),
        ({"dead_zone": -0.1}, "dead_zone=-0.1"),
        ({"dead_zone": math.nan}, "dead_zone=nan"),
        ({"negative_scale": 1.5}, r"negative_scale=1.5.*from 0 to 1"),
        ({"soft_clip": 0.0}, "soft_clip=0.0"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        InformationGainConfig(**setting)
