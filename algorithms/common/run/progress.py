"""`TrainingProgress`: shows a training run as a live panel, or as plain lines if the terminal can't show a panel."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from algorithms.common.run.evaluation_metrics import SPLITS, Split
from algorithms.common.run.remaining_time import RemainingTime, Workload
from algorithms.common.run.sparklines import flow, sparkline, split
from igsearch_env.terminal import MAX_WIDTH, frame, visible

MIN_WIDTH = 60  # columns; narrower terminals get plain lines
LABEL = 8  # columns before a sparkline
LINE_SECONDS = 10.0  # between two lines of a log about an evaluation
# Parts of a step with their metric; the fill characters distinguish them without colours.
PARTS = (
    ("rollout", "time/rollout", "█", "cyan"),
    ("information gain", "time/information_gain", "▓", "magenta"),
    ("update", "time/update", "▒", "green"),
)


class TrainingProgress:
    """A context manager: the last state of the panel stays on screen when the block ends, also after an error.

    Prints plain lines if the console is not a terminal, is a dumb terminal, is narrower than `MIN_WIDTH` or not
    Unicode, or if NO_COLOR is set; prints nothing on a quiet console. Text is never interpreted as rich's markup.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        run_dir: Path,
        work: Workload,
        completed: int,
        rows: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        """`completed` steps of the work are done; `rows`: those of metrics.jsonl, for a resumed run."""
        self.console, self.name, self.run_dir = console, name, run_dir
        self.total, self.completed = work.steps, completed
        self.metrics: Mapping[str, float] = {}  # of the last step
        self.rewards: list[float] = []
        self.scores: dict[Split, list[tuple[int, float]]] = {split: [] for split in SPLITS}  # (step, EM)
        self.evaluation = ""  # the evaluation in progress: what it is, and the questions of this process
        self.activity = ""  # what else is being done between steps
        self.answered, self.questions, self.among = 0, 0, ""
        self.failures = 0.0
        self.warning = ""
        for row in rows:
            if "dev/em" in row:
                self.scores["dev"].append((row["step"], row["dev/em"]))
            elif "test/em" in row:
                self.scores["test"].append((row["step"], row["test/em"]))
            elif "reward" in row:
                self._take(row)
        self.began = self.said = console.get_time()
        self.remaining = RemainingTime(work, completed, self.metrics.get("time/step"), self.began)
        for evaluated, seen in self.scores.items():
            if seen:
                self.remaining.evaluated(seen[-1][0], evaluated, self.began)
        self.live: Live | None = None
        if _can_be_live(console):
            self.live = Live(console=console, get_renderable=self.panel)

    def __enter__(self) -> TrainingProgress:
        if self.live is not None:
            self.live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop updating the panel and release the terminal. May be called more than once."""
        if self.live is not None:
            with _without_ctrl_c():  # else a second one would leave the terminal without its cursor
                self.live.stop()

    # ---------------------------------------------------------------- events

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report the end of a training step; `metrics` is its record."""
        self._take(metrics)
        self.completed = step
        self.remaining.step(step, self.console.get_time())
        if self.live is None:
            said = (
                f"step {step}/{self.total}  reward {metrics['reward']:.3f}  searches {metrics['searches']:.2f}/episode"
            )
            if metrics["retrieval_failures"]:
                said += f"  retrieval failed {metrics['retrieval_failures']:.0f}"
            self.print(f"{said}  {metrics['time/step']:.2f} s")

    def evaluating(self, split: Split, questions: int, mine: int) -> None:
        """Report the start of an evaluation, `mine` of whose questions this process plays."""
        self.evaluation = f"evaluating {split} questions"
        self.answered, self.questions = 0, mine
        self.among = f" of this process, {questions:,} in all" if mine < questions else ""
        self.remaining.evaluating(mine, self.console.get_time())
        self._say_count()

    def question_ended(self) -> None:
        """Report that this process has answered a question of the evaluation."""
        self.answered += 1
        now = self.console.get_time()
        self.remaining.answered(now)
        if now - self.said >= LINE_SECONDS:
            self._say_count()

    def _count(self) -> str:
        return f"{self.evaluation} {self.answered:,}/{self.questions:,}{self.among}"

    def _say_count(self) -> None:
        if self.live is None:
            self.print(self._count())
        self.said = self.console.get_time()

    def evaluated(self, step: int, split: Split, em: float) -> None:
        """Report the result of an evaluation after `step`."""
        self.scores[split].append((step, em))
        self.evaluation = ""
        self.remaining.evaluated(step, split, self.console.get_time())
        if self.live is None:
            self.print(f"step {step}: {split} EM {em:.3f}")

    def warn(self, message: str) -> None:
        """Print a warning; the panel shows the latest one."""
        self.warning = message
        self._print(Text(visible(message), style="yellow"))

    def print(self, text: str) -> None:
        """Print a line, above the panel if there is one."""
        self._print(Text(visible(text)))

    def _print(self, text: Text) -> None:
        # In a log, lines are not wrapped; above a panel they must be, since rich can't handle lines that the terminal
        # wraps itself.
        self.console.print(text, soft_wrap=self.live is None)

    def _take(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics
        self.rewards.append(metrics["reward"])
        self.failures += metrics.get("retrieval_failures", 0.0)

    # ---------------------------------------------------------------- the panel

    def panel(self) -> Panel:
        """The current state of the run, as wide as the console allows."""
        # Two columns stay free for the ^C that a terminal echoes: if it wrapped, the panel would shift by a line.
        width = min(self.console.width - 2, MAX_WIDTH)
        inner = width - 4
        lines = [self._steps(inner)]
        if self.evaluation or self.activity:
            lines.append(Text(self._count() if self.evaluation else self.activity, "cyan"))
        lines += self._curves(inner)
        lines += flow(self._facts(), inner)
        lines += self._times(inner)
        if self.failures:
            last = self.metrics.get("retrieval_failures", 0.0)
            lines.append(Text(f"retrieval failed for {self.failures:.0f} episodes, {last:.0f} in this step", "yellow"))
        if self.warning:
            lines.append(Text(f"! {' '.join(visible(self.warning).split())}", "yellow"))
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return frame(Group(*lines), self.name, subtitle=str(self.run_dir), width=width)

    def _steps(self, width: int) -> Text:
        count, clock = f"step {self.completed}/{self.total}", self._clock()
        cells = width - len(count) - len(clock) - 4
        done = cells * self.completed // max(self.total, 1)
        return Text.assemble(
            (count, "bold"), "  ", ("━" * done, "cyan"), ("─" * (cells - done), "dim"), "  ", (clock, "bold")
        )

    def _clock(self) -> str:
        """Estimated time left if available, else the elapsed time."""
        now = self.console.get_time()
        left = self.remaining.left(now)
        if left is None or self.remaining.finished:
            return f"{_hours(now - self.began)} {'elapsed' if left is None else 'total'}"
        return f"{_hours(ceil(left))} left"

    def _curves(self, width: int) -> list[Text]:
        """Sparklines of reward and EM, each with its last value."""
        curves = []
        if self.rewards:
            curves.append(("reward", self.rewards, f"{self.rewards[-1]:.3f} (highest {max(self.rewards):.3f})"))
        dev, test = self.scores["dev"], self.scores["test"]
        latest = [f"{split} {seen[-1][1]:.3f} (step {seen[-1][0]})" for split, seen in self.scores.items() if seen]
        if latest:
            curves.append(("EM", [em for _, em in dev or test], ", ".join(latest)))
        room = width - LABEL - 2 - max((len(latest) for _, _, latest in curves), default=0)
        return [
            Text.assemble(label.ljust(LABEL), (sparkline(values, room).ljust(room), "green"), "  ", latest)
            for label, values, latest in curves
        ]

    def _facts(self) -> list[Text]:
        facts = []
        for name, form in (
            ("searches", "searches {:.2f}/episode"),
            ("information_gain/mean", "information gain {:+.2f} nats"),
            ("information_gain/positive_share", "positive {:.0%}"),
            ("all_fail", "all-fail groups {:.0%}"),
            ("policy/entropy", "entropy {:.2f}"),
            ("mismatch/abs_mean", "sampler mismatch {:.4f} nats"),
            ("off_policy/abs_mean", "off-policy by {:.3f} nats"),
            ("importance/capped_share", "weights capped {:.1%}"),
            ("staleness/mean", "staleness {:.1f}"),
        ):
            if name in self.metrics:
                facts.append(Text(form.format(self.metrics[name])))
        return facts

    def _times(self, width: int) -> list[Text]:
        """Seconds of the last step: a bar split by part, and its legend."""
        if "time/step" not in self.metrics:
            return []
        total = self.metrics["time/step"]
        parts = [(name, self.metrics[key], fill, style) for name, key, fill, style in PARTS if key in self.metrics]
        parts.append(("other", max(0.0, total - sum(seconds for _, seconds, _, _ in parts)), "░", "dim"))
        label = f"{total:.2f} s/step  "
        bar = Text(label, "bold")
        shares = split(width - len(label), [seconds for _, seconds, _, _ in parts])
        for (_, _, fill, style), cells in zip(parts, shares, strict=True):
            bar.append(fill * cells, style)
        legend = [Text.assemble((fill, style), f" {name} {seconds:.2f}") for name, seconds, fill, style in parts]
        return [bar, *flow(legend, width)]


def _can_be_live(console: Console) -> bool:
    plain = console.quiet or console.no_color or console.options.ascii_only or console.width < MIN_WIDTH
    return console.is_interactive and not plain


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C for a moment."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _hours(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
