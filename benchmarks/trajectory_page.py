"""The trajectory page: its size, and seconds to write, open, filter and search it in Chromium.

    python -m benchmarks.trajectory_page                                              # bundled passages and tokenizer
    python -m benchmarks.trajectory_page --corpus corpus.jsonl --policy HuggingFaceTB/SmolLM2-135M

1,000 trajectories in 125 groups of eight, recorded as a run records them: two searches of three passages each, about
500 tokens by the policy, a log-prob for each token, three random evidences for each search. What the policy writes is
text of the corpus. A filter or a key in the search box takes from the event to the end of the next frame.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.report.page import write
from algorithms.common.report.trajectory_page import trajectory_page
from algorithms.common.rollout.buffer import Float32s, RolloutBuffer
from algorithms.common.run.recorded_trajectories import RecordedStep, load_recorded, record_trajectories
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from benchmarks.measure import Line, print_section, seconds
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, Gain, Group, Trajectory, Turn
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_world
from retrievers.base import Passage
from retrievers.corpus import load_corpus
from retrievers.random_streams import random_stream

GROUPS, GROUP_SIZE, GROUPS_OF_STEP = 125, 8, 8
UNRECORDED = 56 * GROUP_SIZE  # other trajectories of a batch
SEARCHES, FOUND, NEARBY = 2, 3, 8  # searches of an episode; passages of a search, and of a question
WRITTEN, QUERY = 167, 8  # mean tokens of a turn, and of its query
OPEN = "open, until the first trajectory is drawn"
FRAME = "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start))))"


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    corpus: str = "bundled"
    """Corpus file whose passages are found and written, or `bundled`."""
    policy: str = "bundled"
    """transformers folder or name of the tokenizer, or `bundled`."""
    repeats: int = 5
    """Repetitions; the median is reported."""
    keep: Path | None = None
    """File to keep the page in."""


def main(args: Args) -> None:
    """Measure and print."""
    found: list[Line] = []
    taken = seconds(lambda: found.extend(lines(args.repeats, args.corpus, args.policy, args.keep)))
    print_section(Console(), f"trajectory page, {args.corpus}, {args.policy}", found, taken)


def lines(repeats: int = 5, corpus: str = "bundled", policy: str = "bundled", keep: Path | None = None) -> list[Line]:
    """Measure a page of trajectories with passages of `corpus` and tokens of `policy`; copy it to `keep`."""
    with tempfile.TemporaryDirectory() as folder:
        found = _lines(repeats, corpus, policy, Path(folder))
        if keep is not None:
            shutil.copy(Path(folder) / "page.html", keep)
    return found


def _lines(repeats: int, corpus: str, policy: str, folder: Path) -> list[Line]:
    from transformers import AutoTokenizer

    path = folder / "page.html"
    tokenizer = PolicyTokenizer(AutoTokenizer.from_pretrained(POLICY_FOLDER if policy == "bundled" else policy))
    passages = bundled_world().passages if corpus == "bundled" else load_corpus(corpus)
    recorded = made_up(passages, tokenizer, folder)
    busy = time.process_time()
    times = [seconds(lambda: write(path, trajectory_page(recorded, "1,000 trajectories"))) for _ in range(repeats)]
    busy = (time.process_time() - busy) / repeats
    rows = [row for file in recorded for group in file.groups for row in group["trajectories"]]
    tokens = sum(len(turn["tokens"]) for row in rows for turn in row["turns"]) / len(rows)
    observed = sum(len(tokenizer.encode(t["observation"])) for row in rows[:64] for t in row["turns"]) / 64
    detail = f"{len(rows):,} trajectories, {tokens:.0f} tokens written and {observed:.0f} observed by each"
    return [
        Line("size", path.stat().st_size / 1e6, "MB", 10, at_most=True, detail=detail),
        Line("write", statistics.median(times), "s", 10, at_most=True, detail=f"{busy:.1f} s of processor time"),
        *in_browser(path, repeats),
    ]


def in_browser(path: Path, repeats: int) -> list[Line]:
    """Seconds to open a page, and milliseconds of a filter, a key in the search box, and the next trajectory.

    The details are processor time of the page's main thread, which is reliable on a busy machine too.
    """
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None or find_spec("playwright") is None:
        return [Line("opening: not measured, needs Chromium and pip install playwright", math.nan, "")]
    from playwright.sync_api import sync_playwright

    times: dict[str, list[tuple[float, float]]] = {}  # milliseconds on the clock and of the processor
    blank = path.with_name("blank.html")
    blank.write_text("<!doctype html>", encoding="utf-8")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        for _ in range(repeats):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(blank.as_uri())  # so that the page is opened by a process that is there
            tools = page.context.new_cdp_session(page)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            busy = _processor(tools)
            page.goto(path.as_uri())
            page.wait_for_selector(".turn")
            taken = page.evaluate(f"(start => {FRAME})(0)")
            times.setdefault(OPEN, []).append((taken, _processor(tools) - busy))
            page.wait_for_function("ITEMS.every((item) => item.words)")  # the page is idle
            for name, event in EVENTS.items():
                busy = _processor(tools)
                taken = page.evaluate(f"() => {{ const start = performance.now(); {event}; return {FRAME}; }}")
                times.setdefault(name, []).append((taken, _processor(tools) - busy))
            page.close()
        browser.close()
    return [
        Line(
            name,
            statistics.median(clock for clock, _ in pairs),
            "ms",
            1_000 if name == OPEN else 100,
            at_most=True,
            detail=f"{statistics.median(processor for _, processor in pairs):.0f} ms of processor time",
        )
        for name, pairs in times.items()
    ]


def _processor(tools: Any) -> float:
    """Milliseconds of processor time that the main thread of a page has used."""
    found = {row["name"]: row["value"] for row in tools.send("Performance.getMetrics")["metrics"]}
    return float(1e3 * found["TaskDuration"])


def _select(label: str, value: str) -> str:
    return (
        f"const list = document.querySelector('select[aria-label=\"{label}\"]'); list.value = '{value}';"
        "list.dispatchEvent(new Event('change', {bubbles: true}))"
    )


def _type(text: str) -> str:
    return (
        f"const box = document.querySelector('input[type=search]'); box.value = '{text}';"
        "box.dispatchEvent(new Event('input', {bubbles: true}))"
    )


EVENTS = {
    "filter: correct answers": _select("Answer", "correct"),
    "filter: all answers": _select("Answer", ""),
    "order: largest gain": _select("Order", "gain"),
    "search: first letter": _type("e"),
    "search: first word": _type("the"),
    "search: a text of few trajectories": _type("the first"),
    "search: removed": _type(""),
    "next trajectory": "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))",
}


# ---------------------------------------------------------------- trajectories


def made_up(passages: Sequence[Passage], tokenizer: PolicyTokenizer, folder: Path) -> list[RecordedStep]:
    """Record the trajectories step by step, as a run does, and read them."""
    rng = random_stream("trajectories of the page benchmark", 0)
    files = []
    for step, first in enumerate(range(0, GROUPS, GROUPS_OF_STEP), start=1):
        numbers = range(first, min(first + GROUPS_OF_STEP, GROUPS))
        groups = [_group(number, passages, tokenizer, rng) for number in numbers]
        _add_gains(groups, passages, rng)
        buffer = RolloutBuffer(groups, metadata={"step": step})
        advantages: Float32s = IGGRPO(IGGRPOConfig()).advantages(buffer)
        files.append(folder / f"step-{step:06d}.json.gz")
        record_trajectories(files[-1], buffer, {"ig_grpo": advantages}, tokenizer)
    return [load_recorded(file) for file in files]


def _group(number: int, passages: Sequence[Passage], tokenizer: PolicyTokenizer, rng: np.random.Generator) -> Group:
    nearby = [passages[i] for i in rng.choice(len(passages), NEARBY, replace=False).tolist()]
    gold = nearby[0].title
    question = Question(f"q{number}", f"What does “{nearby[0].text[:70]}” describe?", (gold,), "made up")
    members = []
    for _ in range(GROUP_SIZE):
        turns = [_turn(passages, tokenizer, rng) for _ in range(SEARCHES + 1)]
        for turn in turns[:-1]:
            turn.action = Search(tokenizer.decode(turn.completion_ids[-QUERY:]))
            turn.query_span = (len(turn.completion_ids) - QUERY, len(turn.completion_ids))
            turn.passages = tuple(nearby[i] for i in rng.choice(NEARBY, FOUND, replace=False).tolist())
            turn.observation = make_protocol().observation(turn.passages)
        correct = bool(rng.random() < 0.4)
        answer = gold if correct else nearby[1].title
        turns[-1].action = Answer(answer)
        members.append(Trajectory(question, f"Question: {question.text}", turns, answer, float(correct), ANSWERED))
    return Group(question, members)


def _turn(passages: Sequence[Passage], tokenizer: PolicyTokenizer, rng: np.random.Generator) -> Turn:
    length = int(rng.integers(WRITTEN - 60, WRITTEN + 60))
    ids: list[int] = []
    while len(ids) < length:
        ids += tokenizer.encode(" " + passages[int(rng.integers(len(passages)))].text)
    logprobs = np.minimum(-rng.gamma(0.3, 2.0, length), -1e-6).astype(
        np.float32
    )  # most tokens are likely, some are not
    return Turn("", Answer(""), completion_ids=tuple(ids[:length]), logprobs=tuple(logprobs.tolist()))


def _add_gains(groups: Sequence[Group], passages: Sequence[Passage], rng: np.random.Generator) -> None:
    """Gains whose random evidence is what searches of other questions of the batch found; most are not recorded."""
    shown = make_protocol().observation
    draws = rng.choice(len(passages), (UNRECORDED * SEARCHES, FOUND)).tolist()
    others = [shown([passages[i] for i in row]) for row in draws]
    for turn in (turn for group in groups for row in group.trajectories for turn in row.turns if turn.is_search):
        real, baseline = (-rng.gamma(2.0, 1.5, 2)).tolist()
        random = [others[i] for i in rng.choice(len(others), 3, replace=False).tolist()]
        turn.gain = Gain(real - baseline, real, baseline, tuple(random))


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
