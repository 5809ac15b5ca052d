"""The data of the trajectory page: facts about trajectories, and their turns in a compressed form.

Everything that needs the project's own rules (which answer is correct, where a gold answer occurs) is computed here;
`trajectories_data.js` reads it, and the other scripts display it.

Token texts are stored once, as a vocabulary. Observations, random evidence and passages consist of pieces that are
stored once as well, because most of them contain the same passages. Advantages are run-length encoded. Numbers are
those of the recorded files, with four significant digits. Without compression a page of 1,000 trajectories of a real
model would still be larger than 10 MB (`docs/performance.md`).
"""

from __future__ import annotations

import base64
import json
import re
import string
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from algorithms.common.run.recorded_trajectories import RecordedStep
from igsearch_env.rewards import normalize_answer

PIECE = re.compile(r"(?<=\) )|(?=[\n<])")  # where a text is cut: around a passage, and anywhere else that it matches

Span = tuple[int, int]


def facts(recorded: Sequence[RecordedStep]) -> dict[str, Any]:
    """Algorithms, groups and outcomes: what the list of trajectories is made from."""
    algorithms = list(dict.fromkeys(name for file in recorded for name in file.algorithms))
    return {"algorithms": algorithms, "groups": [_group(g, file.step) for file in recorded for g in file.groups]}


def _group(group: dict[str, Any], step: int | None) -> dict[str, Any]:
    question = group["question"]
    return {
        "step": step,
        "id": question["id"],
        "question": question["text"],
        "golds": question["golden_answers"],
        "family": question["dataset"],
        "outcomes": _outcomes(group["trajectories"]),
        "trajectories": [
            {"attempts": [], **{key: value for key, value in row.items() if key != "turns"}}
            for row in group["trajectories"]
        ],
    }


def _outcomes(trajectories: Sequence[dict[str, Any]]) -> str:
    """Class of the outcomes of a group, over all attempts: equal or mixed, and whether any answer is correct."""
    attempts = [row.get("attempts") or [(0, None, row["outcome"])] for row in trajectories]
    outcomes = {outcome for row in attempts for _, _, outcome in row}
    correct = [row["correct"] for row in trajectories]
    if len(outcomes) > 1:
        return "mixed" if any(correct) or len(attempts[0]) > 1 else "mixed, none correct"
    return "all fail" if outcomes == {0} else "all succeed" if all(correct) else "all equal"


def turns(recorded: Sequence[RecordedStep]) -> dict[str, Any]:
    """The turns of every trajectory, in the order of `facts`, and what they share.

    `vocabulary` has the token texts, most frequent first, and `token_ids` of a turn are places in it, as the text of a
    JSON list, as its `logprob_numbers` are: most of them are never looked at. `texts` are lists of places in `pieces`;
    `prompts` (one per group), observations and random evidences are places in `texts`.
    """
    groups = [group for file in recorded for group in file.groups]
    counts = Counter(t for g in groups for row in g["trajectories"] for turn in row["turns"] for t in turn["tokens"])
    pool = _Pool([text for text, _ in counts.most_common()])
    prompts = [pool.text(group["prompt"]) for group in groups]
    rows = [
        [_turn(turn, tuple(group["question"]["golden_answers"]), pool) for turn in row["turns"]]
        for group in groups
        for row in group["trajectories"]
    ]
    passages = [(id_, title, pool.cut(text)) for id_, title, text in pool.passages]
    return {
        "vocabulary": list(pool.vocabulary),
        "pieces": list(pool.pieces),
        "texts": pool.contents,
        "passages": passages,
        "prompts": prompts,
        "turns": rows,
    }


def packed(value: Any) -> str:
    """JSON, deflated (RFC 1950), in base64."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", errors="replace"))).decode()


class _Pool:
    """What turns share; each value has a place, by which it is named."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        self.vocabulary = {text: place for place, text in enumerate(vocabulary)}
        self.pieces: dict[str, int] = {}
        self.texts: dict[str, int] = {}
        self.contents: list[list[int]] = []  # the pieces of each text
        self.passages: dict[tuple[str, str, str], int] = {}
        self.merged: dict[str, int] = {}  # normalised queries and answers: the search tree merges equal ones
        self.spans = cache(gold_spans)

    def text(self, text: str) -> int:
        """The place of a text."""
        if text not in self.texts:
            self.texts[text] = len(self.texts)
            self.contents.append(self.cut(text))
        return self.texts[text]

    def cut(self, text: str) -> list[int]:
        """The places of the pieces of a text."""
        return [self.pieces.setdefault(piece, len(self.pieces)) for piece in PIECE.split(text) if piece]

    def passage(self, passage: dict[str, Any], golds: tuple[str, ...]) -> dict[str, Any]:
        """A passage as a search of a question found it."""
        key = passage["id"], passage["title"], passage["text"]
        return {
            "passage": self.passages.setdefault(key, len(self.passages)),
            "score": passage["score"],
            "supporting": passage.get("supporting"),
            "title_spans": self.spans(passage["title"], golds),
            "text_spans": self.spans(passage["text"], golds),
        }

    def gain(self, gain: dict[str, Any] | None) -> dict[str, Any] | None:
        """An information gain with the places of its random evidences."""
        return gain and {**gain, "baseline_evidences": [self.text(text) for text in gain["baseline_evidences"]]}


def _turn(turn: dict[str, Any], golds: tuple[str, ...], pool: _Pool) -> dict[str, Any]:
    return {
        "action": turn["action"],
        "content": turn["content"],
        "token_ids": _list(pool.vocabulary[text] for text in turn["tokens"]),
        "logprob_numbers": _list(turn["logprobs"]),
        "advantages": {name: runs(values) for name, values in turn["advantages"].items()},
        "merged": pool.merged.setdefault(normalize_answer(turn["content"] or ""), len(pool.merged)),
        "query_span": turn["query_span"],
        "weights_version": turn.get("weights_version"),
        "observation": pool.text(turn["observation"]),
        "passages": [pool.passage(passage, golds) for passage in turn["passages"]],
        "gain": pool.gain(turn["gain"]),
        "gain_of": {name: pool.gain(gain) for name, gain in turn.get("gain_of", {}).items()},
    }


def _list(values: Iterable[float | None]) -> str:
    return json.dumps(list(values), separators=(",", ":"))


def runs(values: Sequence[float]) -> list[tuple[float, int]]:
    """Run-length encoding, as (value, count)."""
    return [(value, len(list(run))) for value, run in groupby(values)]


def gold_spans(text: str, golds: tuple[str, ...]) -> list[Span]:
    """Occurrences of gold answers in the text, as character spans [start, end): whole words, normalised like answers.

    Overlapping spans are merged; surrounding punctuation is not part of a span.
    """
    whole = f" {normalize_answer(text)} "
    golds = tuple(gold for gold in golds if f" {normalize_answer(gold)} " in whole)  # most texts have none
    words = list(_words(text)) if golds else []
    hits: list[Span] = []
    for gold in golds:
        wanted = normalize_answer(gold).split()
        for first in range(len(words) - len(wanted) + 1 if wanted else 0):
            place = words[first : first + len(wanted)]
            if [word for word, _, _ in place] == wanted:
                hits.append((place[0][1], place[-1][2]))
    spans: list[Span] = []
    for start, end in sorted(hits):
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """The words of `normalize_answer(text)`, each with its character span without surrounding punctuation."""
    for match in re.finditer(r"\S+", text):
        raw = match.group()
        start = match.start() + len(raw) - len(raw.lstrip(string.punctuation))
        end = match.end() - len(raw) + len(raw.rstrip(string.punctuation))
        for word in normalize_answer(raw).split():
            yield word, start, end
