"""What a training run shows in the terminal: the panel, the plain lines, and what is left of it when it stops."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from algorithms.common.run.evaluation_metrics import Split
from algorithms.common.run.progress import LINE_SECONDS, TrainingProgress
from algorithms.common.run.remaining_time import Workload
from algorithms.common.run.sparklines import flow, sparkline, split

METRICS = {
    "reward": 0.067,
    "searches": 1.96,
    "all_fail": 0.5,
    "retrieval_failures": 0.0,
    "policy/entropy": 0.81,
    "information_gain/mean": 0.31,
    "information_gain/positive_share": 0.64,
    "time/step": 0.52,
    "time/rollout": 0.26,
    "time/information_gain": 0.13,
    "time/update": 0.1,
}
HOSTILE = [
    "[red]markup[/red]",
    "a lone [/]",
    "[link=https://example.org]x",
    "tongue \N{CJK UNIFIED IDEOGRAPH-8A00}\N{CJK UNIFIED IDEOGRAPH-8A9E} \N{SEE-NO-EVIL MONKEY}",
    "\N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}\N{HEBREW LETTER VAV}\N{HEBREW LETTER FINAL MEM}",
]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 80, **options: Any) -> Console:
    """A terminal that writes to memory."""
    settings = {"force_terminal": True, "legacy_windows": False, "color_system": "truecolor"} | options
    environ = {"TERM": "xterm-256color"} | settings.pop("_environ", {})
    return Console(file=io.StringIO(), width=width, height=40, _environ=environ, **settings)


def written(console: Console) -> str:
    """Everything that went to the terminal, control sequences too."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(progress: TrainingProgress) -> list[str]:
    """The lines of the panel, without style."""
    reader = Console(file=io.StringIO(), width=progress.console.width, height=40, color_system=None, _environ={})
    reader.print(progress.panel())
    return written(reader).splitlines()


def progress(console: Console, total: int = 40, completed: int = 0, **options: Any) -> TrainingProgress:
    return TrainingProgress(console, "ig_grpo", Path("runs/a"), work(total), completed, **options)


def work(steps: int, **changes: int) -> Workload:
    """Without evaluations, unless they are asked for."""
    return replace(Workload(steps, episodes=8, eval_every=0, dev_questions=0, test_questions=0), **changes)


def steps(run: TrainingProgress, rewards: list[float], **changes: float) -> None:
    for number, reward in enumerate(rewards, start=run.completed + 1):
        run.step(number, METRICS | {"reward": reward} | changes)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_panel_tells_everything_at_any_width(width: int) -> None:
    run = progress(terminal(width))
    steps(run, [0.1, 0.2, 0.15], retrieval_failures=2.0)
    run.evaluated(0, "test", 0.071)
    run.evaluated(2, "dev", 0.143)
    run.warn("step 3: all_fail is 0.95, above 0.9 since step 1. " + "Nearly every group fails entirely. " * 8)
    lines = shown(run)
    text = "\n".join(lines)
    for part in (
        *("ig_grpo", "runs/a", "step 3/40", "left"),
        *("0.150", "highest 0.200", "dev 0.143 (step 2)", "test 0.071 (step 0)"),
        *(
            "searches 1.96/episode",
            "information gain +0.31 nats",
            "positive 64%",
            "all-fail groups 50%",
            "entropy 0.81",
        ),
        *("0.52 s/step", "rollout 0.26", "information gain 0.13", "update 0.10", "other 0.03"),
        *("retrieval failed for 6 episodes, 2 in this step", "step 3: all_fail is 0.95"),
    ):
        assert part in text
    assert len(lines) <= 12
    assert {cell_len(line) for line in lines} == {min(width - 2, 100)}


def test_the_panel_of_a_run_that_has_not_begun() -> None:
    run = progress(terminal())
    lines = shown(run)
    assert "step 0/40" in lines[1]
    assert len(lines) == 3
    for name in ("reward", "EM", "searches", "entropy", "information gain", "s/step", "nan"):
        assert name not in "\n".join(lines)


def test_an_evaluation_is_named_while_it_runs() -> None:
    run = progress(terminal(60))
    before = shown(run)
    run.evaluating("test", 51_713, 51_713)
    for _ in range(2_300):
        run.question_ended()
    during = shown(run)
    assert "evaluating test questions 2,300/51,713" in during[2]
    assert "process" not in during[2]
    assert [*during[:2], *during[3:]] == before
    run.evaluated(0, "test", 0.05)
    steps(run, [0.1])
    assert "evaluating" not in "\n".join(shown(run))
    run.evaluating("dev", 7, 4)
    run.question_ended()
    assert "evaluating dev questions 1/4 of this process, 7 in all" in "\n".join(shown(run))


def test_what_was_not_measured_is_not_shown() -> None:
    run = progress(terminal())
    metrics = {name: value for name, value in METRICS.items() if "information_gain" not in name}
    run.step(1, metrics)
    assert "information gain" not in "\n".join(shown(run))
    assert "retrieval failed" not in "\n".join(shown(run))


def test_a_sampler_that_differs_from_the_policy_is_shown() -> None:
    run = progress(terminal(100))
    run.step(1, METRICS | {"mismatch/abs_mean": 0.0123, "importance/capped_share": 0.015})
    text = "\n".join(shown(run))
    assert "sampler mismatch 0.0123 nats" in text
    assert "weights capped 1.5%" in text
    run.step(2, METRICS | {"off_policy/abs_mean": 0.0468, "staleness/mean": 1.0})
    text = "\n".join(shown(run))
    assert "off-policy by 0.047 nats" in text
    assert "staleness 1.0" in text
    assert "mismatch" not in text
    run.step(3, METRICS)
    assert not {"staleness", "nats ", "capped"} & set("\n".join(shown(run)).split())


def test_a_resumed_run_goes_on_from_its_rows() -> None:
    rows = [
        {"step": 0, "test/em": 0.05, "test/em/a": 0.05},
        {"step": 1, **METRICS, "reward": 0.0, "retrieval_failures": 3.0},
        {"step": 2, **METRICS, "reward": 0.5},
        {"step": 2, "dev/em": 0.2, "dev/em/a": 0.2},
    ]
    resumed, whole = progress(terminal(), completed=2, rows=rows), progress(terminal())
    whole.evaluated(0, "test", 0.05)
    whole.step(1, METRICS | {"reward": 0.0, "retrieval_failures": 3.0})
    whole.step(2, METRICS | {"reward": 0.5})
    whole.evaluated(2, "dev", 0.2)
    for run in (resumed, whole):
        run.step(3, METRICS | {"reward": 1.0})
        run.evaluated(3, "dev", 0.4)
    assert shown(resumed)[2:] == shown(whole)[2:]
    assert "▁▅█" in shown(resumed)[2]
    assert "▅█" in shown(resumed)[3]
    assert "retrieval failed for 3 episodes, 0 in this step" in "\n".join(shown(resumed))


def test_a_log_gets_a_line_about_an_evaluation_now_and_then() -> None:
    clock = Clock()
    console = terminal(force_terminal=False, get_time=clock)
    with progress(console) as run:
        run.evaluating("test", 300, 300)
        for _ in range(300):
            clock.now += 0.1
            run.question_ended()
        run.evaluated(0, "test", 0.05)
    lines = written(console).splitlines()
    counts = [int(re.findall(r"test questions (\d+)/300", line)[0]) for line in lines[:-1]]
    assert counts[0] == 0
    assert np.diff(counts) == pytest.approx([LINE_SECONDS * 10] * 2, abs=2)


def seconds_left(run: TrainingProgress) -> int:
    """The remaining time that the panel shows."""
    hours, minutes, seconds = re.findall(r"(\d+):(\d\d):(\d\d) left", shown(run)[1])[0]
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


def test_time_left_is_that_of_the_steps_and_evaluations_that_are_left() -> None:
    """Steps of 10 s, 100 test questions of 0.2 s, 30 dev questions every second step."""
    clock = Clock()
    plan = work(4, eval_every=2, dev_questions=30, test_questions=100)
    run = TrainingProgress(terminal(get_time=clock), "ig_grpo", Path("runs/a"), plan, 0)
    total = 20 + 10 * 4 + 6 * 2 + 20
    estimates = []

    def evaluates(split: Split, questions: int, step: int) -> None:
        run.evaluating(split, questions, questions)
        for number in range(questions):
            clock.now += 0.2
            run.question_ended()
            if step and number + 1 < questions:
                estimates.append((total - clock.now, seconds_left(run)))
        run.evaluated(step, split, 0.1)

    assert "0:00:00 elapsed" in shown(run)[1]
    evaluates("test", 100, 0)
    for step in range(1, 5):
        for _ in range(9):
            clock.now += 1.0
            if step > 1:
                estimates.append((total - clock.now, seconds_left(run)))
        clock.now += 1.0
        run.step(step, METRICS)
        estimates.append((total - clock.now, seconds_left(run)))
        if step % 2 == 0:
            evaluates("dev", 30, step)
    evaluates("test", 100, 4)
    assert len(estimates) > 150
    for real, estimate in estimates:
        assert estimate == pytest.approx(real, abs=1.1)
        assert estimate >= 1
    assert "0:01:32 total" in shown(run)[1]


def test_time_left_without_an_evaluation_before_training_is_guessed_from_the_episodes_of_a_step() -> None:
    clock = Clock()
    run = TrainingProgress(terminal(get_time=clock), "ig_grpo", Path("runs/a"), work(3, test_questions=16), 0)
    clock.now = 4.0
    run.step(1, METRICS)
    assert seconds_left(run) == 2 * 4 + 16 * 4 // 8


@pytest.mark.parametrize("questions", [0, 5])
def test_work_that_takes_longer_than_any_before_is_not_said_to_be_done(questions: int) -> None:
    clock = Clock()
    plan = work(2, test_questions=questions)
    run = TrainingProgress(terminal(get_time=clock), "ig_grpo", Path("runs/a"), plan, 0)
    for clock.now in (10.0, 20.0)[: 2 if questions else 1]:
        run.step(run.completed + 1, METRICS)
    if questions:
        run.evaluating("test", questions, questions)
    for clock.now in (100.0, 1000.0, 10_000.0):
        assert 1 <= seconds_left(run) < clock.now / 5


def test_a_resumed_run_knows_the_time_of_its_last_step_and_what_is_evaluated() -> None:
    rows = [{"step": 2, **METRICS, "time/step": 30.0}, {"step": 2, "dev/em": 0.2}]
    plan = work(4, eval_every=2, dev_questions=8)
    for known, left in ((rows, 60 + 30), (rows[:1], 60 + 30 + 30)):  # 8 questions as 8 episodes
        run = TrainingProgress(terminal(get_time=Clock()), "ig_grpo", Path("runs/a"), plan, 2, known)
        assert seconds_left(run) == left


def test_the_bar_of_steps_is_empty_at_first_and_full_at_last() -> None:
    run = progress(terminal(), total=2)
    assert "━" not in shown(run)[1]
    steps(run, [0.1])
    assert shown(run)[1].count("━") == pytest.approx(shown(run)[1].count("─"), abs=1)
    steps(run, [0.1])
    assert "─" not in shown(run)[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_is_shown_as_it_is(text: str) -> None:
    console = terminal(80)
    run = TrainingProgress(console, text, Path(text), work(40), 0)
    with run:
        run.print(text)
        run.warn(text)
    lines = shown(run)
    assert text in lines[0]
    assert text.split("/")[-1] in lines[-1]
    assert f"! {text}" in lines[-2]
    assert Text.from_ansi(written(console)).plain.count(text) >= 4


def test_control_characters_reach_no_terminal() -> None:
    console = terminal(80)
    hostile = "a\x1b[2Jb\x07c\rd\x9be\u202ef\ud800"
    with progress(console) as run:
        run.print(hostile)
        run.warn(hostile)
    for character in ("\x1b[2J", "\x07", "\x9b", "\u202e", "\ud800"):
        assert character not in written(console)
    assert r"a\x1b[2Jb\x07c\rd\x9be\u202ef\ud800" in Text.from_ansi(written(console)).plain


def test_long_words_and_paths_keep_the_frame() -> None:
    run = TrainingProgress(terminal(60), "n" * 200, Path("p" * 200) / "end", work(40), 0)
    run.warn("line one\nline two " + "w" * 500)
    lines = shown(run)
    assert len(lines) == 4
    assert {cell_len(line) for line in lines} == {58}
    assert "/end" in lines[-1]


PLAIN = {
    "no terminal": {"force_terminal": False},
    "a dumb terminal": {"_environ": {"TERM": "dumb"}},
    "NO_COLOR": {"_environ": {"NO_COLOR": "1"}},
    "a narrow terminal": {"width": 59},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_plain_lines_where_a_panel_can_not_be(options: dict[str, Any]) -> None:
    console = terminal(**options)
    warning = "step 3: all_fail is 0.95. " + "Nearly every group fails entirely. " * 7 + "End."
    with progress(console) as run:
        run.evaluating("test", 500, 500)
        run.evaluated(0, "test", 0.05)
        run.step(3, METRICS)
        run.step(4, METRICS | {"retrieval_failures": 2.0})
        run.evaluated(10, "dev", 0.1429)
        run.warn(warning)
    assert Text.from_ansi(written(console)).plain.splitlines() == [
        "evaluating test questions 0/500",
        "step 0: test EM 0.050",
        "step 3/40  reward 0.067  searches 1.96/episode  0.52 s",
        "step 4/40  reward 0.067  searches 1.96/episode  retrieval failed 2  0.52 s",
        "step 10: dev EM 0.143",
        warning.strip(),
    ]
    assert "\x1b[?25l" not in written(console)


def test_a_terminal_without_unicode_gets_plain_lines() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    with progress(console) as run:
        run.step(1, METRICS)
    file.seek(0)
    assert file.read() == "step 1/40  reward 0.067  searches 1.96/episode  0.52 s\n"


def test_a_quiet_console_stays_quiet() -> None:
    console = terminal(quiet=True)
    before = sys.stdout
    with progress(console) as run:
        assert sys.stdout is before
        run.step(1, METRICS)
        run.warn("w")
    assert written(console) == ""


def test_the_panel_stays_and_the_terminal_is_sane_after_an_error() -> None:
    console = terminal(80)
    run = progress(console)
    before = sys.stdout, sys.stderr

    def fail() -> None:
        with run:
            steps(run, [0.25])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (sys.stdout, sys.stderr) == before
    said = written(console)
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # the cursor is back
    last = said[said.rindex("╭") :]
    assert "step 1/40" in last
    assert last.count("\n") == len(shown(run))  # and stands on a line of its own
    run.close()
    assert written(console) == said


@pytest.fixture
def screen() -> Iterator[tuple[int, int]]:
    """A pseudo terminal: our end and the program's."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_ctrl_c_in_a_terminal(screen: tuple[int, int]) -> None:
    program = """
import signal, sys, time
from pathlib import Path
from rich.console import Console
from algorithms.common.run.progress import TrainingProgress
from algorithms.common.run.remaining_time import Workload
signal.alarm(120)  # not for ever, whatever goes wrong
progress = TrainingProgress(Console(width=80), "grpo", Path("runs/a"), Workload(9, 8, 0, 0, 0), 0)
def steps():
    with progress:
        for step in range(1, 10):
            yield step
try:
    for step in steps():
        progress.step(step, {"reward": 0.5, "searches": 1.0, "retrieval_failures": 0.0})
        if step == 3:
            print("ready", flush=True)
            while True:
                time.sleep(0.01)
except KeyboardInterrupt:
    progress.close()
    sys.exit("interrupted")
"""
    ours, theirs = screen
    environ = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    environ.pop("NO_COLOR", None)
    started = subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=theirs, stderr=theirs, env=environ, cwd=ROOT
    )
    os.close(theirs)
    said = b""
    while b"ready" not in said:
        said += os.read(ours, 4096)
    started.send_signal(signal.SIGINT)
    while True:
        try:
            found = os.read(ours, 4096)
        except OSError:  # the program has closed its end
            break
        if not found:
            break
        said += found
    assert started.wait(timeout=60) == 1
    text = said.decode()
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    tail = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text[text.rindex("╭") :]).replace("\r", "")
    assert "step 3/9" in tail
    assert tail.splitlines()[-1] == "interrupted"
    assert tail.splitlines()[-2].startswith("╰")


@pytest.mark.parametrize(
    ("values", "width", "expected"),
    [
        ([], 10, ""),
        ([0.5], 10, "█"),
        ([0.5], 0, ""),
        ([0.0, 0.0, 0.0], 10, "▁▁▁"),
        ([0.3, 0.3], 10, "██"),
        ([0.0, 0.5, 1.0], 10, "▁▅█"),
        ([-1.0, 1.0], 10, "▁█"),
        ([0.0, 0.0, 1.0, 1.0], 2, "▁█"),
        ([0.0, 1.0, 0.5, 0.5], 2, "██"),
        ([float("nan"), 1.0, float("inf")], 10, "█"),
    ],
)
def test_sparkline(values: list[float], width: int, expected: str) -> None:
    assert sparkline(values, width) == expected


def test_a_sparkline_of_many_values_fits() -> None:
    line = sparkline([float(number) for number in range(10_000)], 16)
    assert len(line) == 16
    assert line == "".join(sorted(line))  # blocks are sorted by height
    assert (line[0], line[-1]) == ("▁", "█")


@pytest.mark.parametrize(
    ("cells", "amounts", "expected"),
    [(10, [5.0, 3.0, 2.0], [5, 3, 2]), (10, [0.0, 0.0], [0, 0]), (0, [1.0], [0]), (1, [1.0, 3.0], [0, 1])],
)
def test_split(cells: int, amounts: list[float], expected: list[int]) -> None:
    assert split(cells, amounts) == expected


def test_a_split_adds_up() -> None:
    for cells in range(1, 60):
        assert sum(split(cells, [1.0, 1.0, 1.0, 0.2])) == cells


def test_flow_breaks_lines_where_it_must() -> None:
    parts = [Text("aaaa"), Text("bbbb"), Text("cccc")]
    assert [line.plain for line in flow(parts, 11)] == ["aaaa   bbbb", "cccc"]
    assert [line.plain for line in flow(parts, 10)] == ["aaaa", "bbbb", "cccc"]
    assert [part.plain for part in parts] == ["aaaa", "bbbb", "cccc"]
