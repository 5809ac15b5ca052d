"""Recorded trajectories of a run: one file per recorded step, with everything that the trajectory page shows.

Reading a file needs neither model nor tokenizer. Numbers have four significant digits; None stands for non-finite ones.

    {"format", "step", "algorithms", "groups": [{"question", "prompt", "trajectories": [{"turns": [...], ...}]}]}
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from algorithms.common.base.files import atomic_write
from algorithms.common.base.typed import as_type
from algorithms.common.model.token_span import BROKEN
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer, RolloutBufferError
from algorithms.common.run.recorded_schema import RecordedFile
from igsearch_env.protocols import Action, Answer, Search
from igsearch_env.questions import Question
from igsearch_env.rewards import exact_match, normalize_answer
from igsearch_env.trajectory import Gain, Group, Trajectory, Turn
from retrievers.base import Passage
from retrievers.reading import FileError, parse_json, read_bytes

FORMAT = 1  # of a file


@dataclass(frozen=True)
class RecordedStep:
    """A file of `record_trajectories`. `step` None: not from a training step. `groups`: plain data, as in the file."""

    step: int | None
    algorithms: tuple[str, ...]
    groups: list[dict[str, Any]]


def record_trajectories(
    path: Path,
    buffer: RolloutBuffer,
    advantages: Mapping[str, Float32s],
    tokenizer: PolicyTokenizer,
    *,
    gains: Mapping[str, Sequence[Gain | None]] | None = None,
    limit: int = 64,
) -> None:
    """Write the first groups of the buffer: complete groups with at most `limit` trajectories, but at least one group.

    `advantages`: one per policy token of the buffer, by algorithm. Raises `RolloutBufferError` for any other number.
    `gains`: one per turn of the buffer, for algorithms that use other gains than those stored in the turns.
    """
    tokens = int(buffer.policy_tokens.sum())
    for name, values in advantages.items():
        if np.shape(values) != (tokens,):
            raise RolloutBufferError(
                f"advantages of {name} have shape {np.shape(values)}: they must be ({tokens},), one per policy token"
            )
    recorder = _Recorder(tokenizer, advantages, gains or {})
    groups: list[dict[str, Any]] = []
    count = 0
    for group in (group for group in buffer.groups if group.trajectories):
        count += len(group.trajectories)
        if groups and count > limit:
            break
        groups.append(recorder.group(group))
    content = {
        "format": FORMAT,
        "step": buffer.metadata.get("step"),
        "algorithms": list(advantages),
        "groups": groups,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        # Without a timestamp, so that a repeated run writes the same bytes.
        partial.write_bytes(gzip.compress(text.encode("utf-8", errors="replace"), mtime=0))


def load_recorded(path: str | Path) -> RecordedStep:
    """Read a file of `record_trajectories`. Raises `RolloutBufferError` for anything else."""
    try:
        content = as_type(dict[str, Any], parse_json(read_bytes(path), str(path)), str(path))
        version = content.get("format")
        if version != FORMAT:
            raise RolloutBufferError(f"{path}: format {version!r}, this version reads {FORMAT}; record again")
        as_type(RecordedFile, content, str(path))
        return RecordedStep(content["step"], tuple(content["algorithms"]), content["groups"])
    except FileError as error:
        raise RolloutBufferError(
            f"{path}: no recorded trajectories ({error.inside(path)}); give a file of trajectories/ of a run"
        ) from error


def load_readable(paths: Iterable[Path]) -> tuple[list[RecordedStep], list[Path]]:
    """Load every readable file with `load_recorded`; also returns the paths of damaged files."""
    readable, damaged = [], []
    for path in paths:
        try:
            readable.append(load_recorded(path))
        except RolloutBufferError:
            damaged.append(path)
    return readable, damaged


class _Recorder:
    """Iterates over the policy tokens of a buffer in flat order; caches the text of single tokens."""

    def __init__(
        self, tokenizer: PolicyTokenizer, advantages: Mapping[str, Float32s], gains: Mapping[str, Sequence[Gain | None]]
    ) -> None:
        self.tokenizer = tokenizer
        self.advantages = advantages
        self.gains = {name: iter(values) for name, values in gains.items()}
        self.start = 0
        self.alone: dict[int, str] = {}

    def group(self, group: Group) -> dict[str, Any]:
        return {
            "question": _question(group.question),
            "prompt": group.trajectories[0].opening,
            "trajectories": [self.trajectory(trajectory) for trajectory in group.trajectories],
        }

    def trajectory(self, trajectory: Trajectory) -> dict[str, Any]:
        prediction = trajectory.prediction
        return {
            "prediction": prediction,
            "outcome": rounded(trajectory.outcome),
            "correct": prediction is not None and exact_match(prediction, trajectory.question.golden_answers) == 1,
            "stop_reason": trajectory.stop_reason,
            "attempts": [[a.end, a.prediction, rounded(a.outcome)] for a in trajectory.attempts],
            "turns": [self.turn(turn, trajectory.question) for turn in trajectory.turns],
        }

    def turn(self, turn: Turn, question: Question) -> dict[str, Any]:
        place = slice(self.start, self.start + len(turn.completion_ids))
        self.start = place.stop
        return {
            "action": type(turn.action).__name__.lower(),
            "content": _content(turn.action),
            "tokens": pieces(self.tokenizer, turn.completion_ids, self.alone),
            "advantages": {name: [rounded(v) for v in values[place]] for name, values in self.advantages.items()},
            "logprobs": [rounded(value) for value in turn.logprobs],
            "weights_version": turn.weights_version,
            "query_span": turn.query_span,
            "observation": turn.observation,
            "passages": [_passage(passage, question) for passage in turn.passages],
            "gain": _gain(turn.gain),
            "gain_of": {name: _gain(next(values)) for name, values in self.gains.items()},
        }


def pieces(tokenizer: PolicyTokenizer, ids: Sequence[int], alone: dict[int, str] | None = None) -> list[str]:
    """The text of each token; joined, they give the decoded text. `alone` caches the text of single tokens.

    If several tokens form one character, the last of them has the character and the others are empty.
    """
    alone = {} if alone is None else alone
    written = len(ids) - (len(ids) > 0 and ids[-1] in tokenizer.eos_ids)
    for i in {*ids[:written]} - alone.keys():
        alone[i] = tokenizer.decode([i])
    whole = tokenizer.decode(ids)
    texts = [alone[i] for i in ids[:written]]
    if BROKEN in "".join(texts) or "".join(texts) != whole:
        texts = _differences([tokenizer.decode(ids[:count]) for count in range(1, written)], whole)
    return texts + [tokenizer.text_of(i) for i in ids[written:]]


def _differences(prefixes: Iterable[str], whole: str) -> list[str]:
    """The text that each of the growing prefixes, then the whole, adds to the previous one."""
    cuts = [0]
    for prefix in prefixes:
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(prefix, whole, strict=False))
        cuts.append(max(cuts[-1], sum(1 for _ in alike)))
    return [whole[start:end] for start, end in pairwise([*cuts, len(whole)])]


def _question(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "text": question.text,
        "golden_answers": list(question.golden_answers),
        "dataset": question.dataset,
    }


def _content(action: Action) -> str | None:
    """The query of a search or the text of an answer; None for other actions."""
    match action:
        case Search(content) | Answer(content):
            return content
    return None


def _passage(passage: Passage, question: Question) -> dict[str, Any]:
    """`supporting`: whether the title is a supporting title of the question; None if the question has none."""
    known = {normalize_answer(title) for title in question.supporting_titles}
    return {
        "id": passage.id,
        "title": passage.title,
        "text": passage.text,
        "score": rounded(passage.score),
        "supporting": normalize_answer(passage.title) in known if known else None,
    }


def _gain(gain: Gain | None) -> dict[str, Any] | None:
    if gain is None:
        return None
    return {
        "value": rounded(gain.value),
        "logprob_real": rounded(gain.logprob_real),
        "logprob_baseline": rounded(gain.logprob_baseline),
        "baseline_evidences": list(gain.baseline_evidences),
    }


def rounded(value: float) -> float | None:
    """Round to four significant digits; None for a non-finite value."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
