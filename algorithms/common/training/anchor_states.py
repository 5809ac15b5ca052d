"""Anchor states of GiGPO: turns of a group that start from equal or similar observations (difflib's ratio)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import ArrayLike, NDArray

AUTOJUNK = 200  # characters of a text from which difflib begins no match with those that are over 1% of it


def anchor_clusters(anchors_S: Sequence[str], groups_S: ArrayLike, similarity: float | None) -> NDArray[np.int64]:
    """Cluster number of each turn: greedy, against the first member of each cluster of its group in order of birth."""
    turns: dict[int, dict[str, list[int]]] = {}  # of each group and anchor
    for turn, (anchor, group) in enumerate(zip(anchors_S, np.asarray(groups_S).tolist(), strict=True)):
        turns.setdefault(group, {}).setdefault(anchor, []).append(turn)
    births = np.empty(len(anchors_S), dtype=np.int64)  # first turn of each turn's cluster
    for same in turns.values():
        alike = {} if similarity is None else first_alike(list(same), similarity)
        for anchor, members in same.items():
            births[members] = same[alike.get(anchor, anchor)][0]
    return np.unique(births, return_inverse=True)[1]


def first_alike(texts: Sequence[str], least: float) -> dict[str, str]:
    """The first of these texts, no two of them equal, that is similar to each and to none before itself; or itself.

    Similar is a ratio of at least `least` by difflib, which takes milliseconds a pair; most pairs are told without it.
    """
    frequent = np.ones(256, dtype=np.bool_)  # characters of Latin-1 that are over 1% of every long text
    for text in texts:
        if len(text) >= AUTOJUNK:
            letters = np.frombuffer(text.encode("latin-1", "ignore"), dtype=np.uint8)
            frequent &= np.bincount(letters, minlength=256) > len(text) // 100 + 1
    characters = re.escape(bytes(np.flatnonzero(frequent).tolist()).decode("latin-1"))
    pattern = re.compile(f"[{characters}]{{5,}}" if characters else "(?!)")
    founders: list[str] = []
    first: dict[str, str] = {}
    for text in texts:
        # Not from the first character nor to the last: a run has one before it and one after it. The longest tell most.
        runs = sorted((m.span() for m in pattern.finditer(text, 1, len(text) - 1)), key=lambda run: run[0] - run[1])
        first[text] = next((founder for founder in founders if _alike(text, founder, least, runs)), text)
        if first[text] == text:
            founders.append(text)
    return first


def _alike(a: str, b: str, least: float, runs: list[tuple[int, int]]) -> bool:
    """Whether difflib's ratio, 2 matches / (length of a + length of b), reaches `least`.

    Mostly told from `runs` of characters of a that are frequent in b. Each block that difflib matches holds one that is
    not, so it enters a run from an end; and with more than one character only if b has the three at this end, too, no
    further off than characters without a match can shift them. A run without either end loses all but two.
    """
    needed = int(least * (len(a) + len(b)) / 2)
    back, ahead = len(a) - needed, len(b) - needed  # characters of a, and of b, that may stay without a match
    if back < 0 or ahead < 0:
        return False
    if a.startswith(b) or b.startswith(a):  # difflib's one block is the shorter text
        return 2.0 * min(len(a), len(b)) / (len(a) + len(b)) >= least
    lost = 0
    for start, end in runs if len(b) >= AUTOJUNK else ():
        left, right = a[start - 1 : start + 2], a[end - 2 : end + 1]
        found = b.find(left, max(start - 1 - back, 0), start + 2 + ahead) >= 0
        if not found and b.find(right, max(end - 2 - back, 0), end + 1 + ahead) < 0:
            lost += end - start - 2
            if lost > back:
                return False
    return SequenceMatcher(None, a, b).ratio() >= least
