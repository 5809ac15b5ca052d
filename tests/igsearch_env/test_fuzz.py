"""A short run of the fuzzer: no random action raises, leaks or lengthens an episode."""

from __future__ import annotations

import itertools

from fuzz_actions import fuzz, random_actions


def test_random_actions_neither_raise_nor_leak() -> None:
    actions, episodes, _ = fuzz(8_000)
    assert actions >= 8_000
    assert episodes > 500


def test_actions_are_of_every_kind() -> None:
    texts = list(itertools.islice(random_actions(0), 5_000))
    assert texts == list(itertools.islice(random_actions(0), 5_000))
    for part in ("<search>", "</answer>", "\ud800", "\0", "海"):
        assert any(part in text for text in texts)
    assert max(map(len, texts)) > 16_384
    assert "" in texts
