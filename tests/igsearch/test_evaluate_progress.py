"""What an evaluation shows: something from its first second, then rate and remaining time."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from igsearch.evaluation.progress import EvaluationProgress


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(clock: Clock, *, terminal: bool = False, quiet: bool = False) -> tuple[EvaluationProgress, io.StringIO]:
    """Progress on a console of its own."""
    shown = io.StringIO()
    console = Console(file=shown, width=100, force_terminal=terminal, get_time=clock, quiet=quiet)
    return EvaluationProgress(quiet=quiet, console=console), shown


def play(made: EvaluationProgress, clock: Clock, *, seconds: float) -> None:
    """An evaluation of 100 questions, four of them answered before, by two processes of five episodes each."""
    with made:
        made.stage("reading the questions")
        made.stage("loading the policy [bold]x")
        made.begin(100, 4, 2, 5)
        for _ in range(96):
            clock.now += seconds
            made.ended()


def test_a_log_gets_every_stage_the_plan_and_a_line_every_half_minute() -> None:
    clock = Clock()
    made, shown = progress(clock)
    play(made, clock, seconds=2.0)
    assert shown.getvalue().splitlines() == [
        "reading the questions ...",
        "loading the policy [bold]x ...",
        "evaluating 96 questions, up to 5 at once by each of 2 processes",
        "14 of 100 questions: 0.50 questions/s, 0:02:52 left",
        "29 of 100 questions: 0.50 questions/s, 0:02:22 left",
        "44 of 100 questions: 0.50 questions/s, 0:01:52 left",
        "59 of 100 questions: 0.50 questions/s, 0:01:22 left",
        "74 of 100 questions: 0.50 questions/s, 0:00:52 left",
        "89 of 100 questions: 0.50 questions/s, 0:00:22 left",
    ]


def test_a_slow_machine_shows_that_it_is_alive_before_there_is_a_rate() -> None:
    clock = Clock()
    made, shown = progress(clock)
    play(made, clock, seconds=40.0)
    lines = shown.getvalue().splitlines()
    assert lines[3:5] == ["5 of 100 questions: 0:00:40 so far", "6 of 100 questions: 0:01:20 so far"]
    assert lines[10] == "12 of 100 questions: 0.03 questions/s, 0:58:40 left"


def test_a_terminal_gets_a_bar_from_the_beginning() -> None:
    clock = Clock()
    made, shown = progress(clock, terminal=True)
    with made:
        made.stage("opening the corpus")
        made._bar.refresh()  # type: ignore[union-attr]
        assert "opening the corpus" in shown.getvalue()
        made.begin(20, 0, 1, 4)
        for _ in range(10):
            clock.now += 1.0
            made.ended()
        made._bar.refresh()  # type: ignore[union-attr]
    last = next(line for line in reversed(shown.getvalue().splitlines()) if "evaluating" in line)
    assert "10/20" in last
    assert "1.00 questions/s, 0:00:10 left" in last


@pytest.mark.parametrize("terminal", [True, False])
def test_other_processes_show_nothing(terminal: bool) -> None:
    clock = Clock()
    made, shown = progress(clock, terminal=terminal, quiet=True)
    play(made, clock, seconds=40.0)
    assert shown.getvalue() == ""
