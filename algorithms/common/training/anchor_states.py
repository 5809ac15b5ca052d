"""Anchor states of GiGPO: turns of a group that start from equal or similar observations (difflib's ratio)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import ArrayLike, NDArray

AUTOJUNK = 200  # from this length, difflib starts no match with characters that are over 1% of a text


def anchor_clusters(anchors_S: Sequence[str], groups_S: ArrayLike, similarity: float | None) -> NDArray[np.int64]:
    """Cluster number of each turn: greedy, by the first member of each cluster of its group, oldest cluster first."""
    turns: dict[int, dict[str, list[int]]] = {}  # by group and anchor
    for turn, (anchor, group) in enumerate(zip(anchors_S, np.asarray(groups_S).tolist(), strict=True)):
        turns.setdefault(group, {}).setdefault(anchor, []).append(turn)
    births = np.empty(len(anchors_S), dtype=np.int64)  # first turn of each turn's cluster
    for same in turns.values():
        alike = {} if similarity is None else first_alike(list(same), similarity)
        for anchor, members in same.items():
            births[members] = same[alike.get(anchor, anchor)][0]
    return np.unique(births, return_inverse=True)[1]


def first_alike(texts: Sequence[str], least: float) -> dict[str, str]:
    """For each of these distinct texts, the founder of its cluster: the first similar founder, or the text itself.

    Similar means a difflib ratio of at least `least`. difflib takes milliseconds per pair; most pairs do without it.
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
        # Without the first and last character, since a run needs one before and after it. Long runs decide most pairs.
        runs = sorted((m.span() for m in pattern.finditer(text, 1, len(text) - 1)), key=lambda run: run[0] - run[1])
        first[text] = next((founder for founder in founders if _alike(text, founder, least, runs)), text)
        if first[text] == text:
            founders.append(text)
    return first


def _alike(a: str, b: str, least: float, runs: list[tuple[int, int]]) -> bool:
    """Whether difflib's ratio, 2 matches / (length of a + length of b), reaches `least`.

    Mostly decided by `runs` of characters of a that are frequent in b. Each block that difflib matches has one that is
    not, so it enters a run from an end, and with more than one character only if b also has the three at this end,
    no further away than unmatched characters can shift them. A run with neither end in b loses all but two.
    """
    needed = int(least * (len(a) + len(b)) / 2)
    back, ahead = len(a) - needed, len(b) - needed  # characters of a, and of b, that may remain unmatched
    if back < 0 or ahead < 0:
        return False
    if a.startswith(b) or b.startswith(a):  # difflib's only block is the shorter text
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
