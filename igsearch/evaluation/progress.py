"""`EvaluationProgress`: what an evaluation is doing, from its first second: a bar on a terminal, lines in a log."""

from __future__ import annotations

import threading
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from igsearch_env.terminal import visible

LINE_SECONDS = 30.0  # between two lines of a log
RATED = 8  # questions that must have ended before a rate is shown


class EvaluationProgress:
    """A context manager that reports on standard error: first what is being prepared, then questions, rate, time left.

    Args:
        quiet: show nothing, as all processes but the first do.
        console: where to write; None: standard error.

    In a log a thread adds a line whenever `LINE_SECONDS` have passed without one, also within a stage.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.total = self.done = self.before = 0
        self.slots = 0
        self._began = self._said = self.console.get_time()
        self._stage = ""
        self._planned = False
        self._over = threading.Event()
        self._bar: Progress | None = None
        if self.console.is_interactive and not quiet:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[pace]}", markup=False),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("starting", total=None, pace="")

    def __enter__(self) -> EvaluationProgress:
        if self._bar is not None:
            self._bar.start()
        elif not self.console.quiet:
            threading.Thread(target=self._watch, daemon=True, name="progress").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.remind()

    def remind(self) -> None:
        """Write a line to a log that has had none for `LINE_SECONDS`."""
        now = self.console.get_time()
        if self._bar is not None or now - self._said < LINE_SECONDS:
            return
        if self._stage:
            self._print(f"{self._stage} ... {timedelta(seconds=round(now - self._began))} so far")
        elif self.done < self.total:
            self._print(f"{self.done:,} of {self.total:,} questions: {self._pace(now)}")

    def stage(self, what: str) -> None:
        """Report what is being prepared."""
        self._stage, self._began = what, self.console.get_time()
        if self._bar is not None:
            self._bar.update(self._task, description=visible(what))
        else:
            self._print(f"{what} ...")

    def begin(self, total: int, before: int, processes: int, slots: int) -> None:
        """Report the first question: `before` of `total` are answered, each process plays up to `slots` at once."""
        self.total, self.done, self.before = total, before, before
        self.slots = processes * slots
        self._stage, self._began = "", self.console.get_time()
        if self._bar is not None:
            self._bar.update(self._task, description="evaluating", total=total, completed=before)
        several = f" by each of {processes} processes" if processes > 1 else ""
        self._print(f"evaluating {total - before:,} questions, up to {slots} at once{several}")

    def ended(self) -> None:
        """Report that a question has ended."""
        self.done += 1
        now = self.console.get_time()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, pace=self._pace(now))
        # The plan: once as many have ended as are played at a time, the rate is that of the whole.
        planned = not self._planned and self.done - self.before >= max(self.slots, RATED)
        self._planned |= planned
        if self.done < self.total and planned:
            self._print(f"{self.done:,} of {self.total:,} questions: {self._pace(now)}")
        else:
            self.remind()

    def _pace(self, now: float) -> str:
        """Rate and remaining time, as measured since the first question; at first the time that has passed."""
        ended, seconds = self.done - self.before, now - self._began
        if ended < RATED or seconds <= 0:
            return f"{timedelta(seconds=round(seconds))} so far"
        left = timedelta(seconds=round((self.total - self.done) * seconds / ended))
        return f"{ended / seconds:.2f} questions/s, {left} left"

    def _print(self, text: str) -> None:
        self._said = self.console.get_time()
        self.console.print(Text(visible(text)), soft_wrap=True)
