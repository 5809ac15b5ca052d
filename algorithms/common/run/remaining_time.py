"""`RemainingTime`: how long a run will still take, from the steps and evaluations that it has done."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.run.evaluation_metrics import Split

PACE = 50  # last steps whose mean time is taken for that of the following ones
OVERDUE = 0.1  # of the time that it has taken: what is still expected of work that takes longer than it should


@dataclass(frozen=True)
class Workload:
    """The work of a run. Episodes and questions are those of this process."""

    steps: int
    episodes: int
    """Episodes of a step, from whose time that of a question is taken before any is evaluated."""
    eval_every: int
    dev_questions: int
    test_questions: int

    @classmethod
    def of_process(
        cls, config: TrainConfig, processes: Processes, *, dev_questions: int, test_questions: int
    ) -> Workload:
        """The share that a process has of a run with so many questions."""
        return cls(
            steps=config.steps,
            episodes=len(processes.share(config.rollout.questions_per_step)) * config.rollout.group_size,
            eval_every=config.eval_every,
            dev_questions=len(processes.share(dev_questions)),
            test_questions=len(processes.share(test_questions)),
        )


class RemainingTime:
    """Estimates the time left from the reported begin and end of steps and evaluations, in seconds of one clock.

    Args:
        completed: number of steps that are done.
        step_seconds: time of the last step of a resumed run, if known.
        now: when the run continues.
    """

    def __init__(self, work: Workload, completed: int, step_seconds: float | None, now: float) -> None:
        self.work, self.completed = work, completed
        self._steps = deque([] if step_seconds is None else [step_seconds], maxlen=PACE)
        self._question: float | None = None  # seconds per question of the last evaluation
        self._evaluated: dict[Split, int] = {}  # the last step that was evaluated
        self._since = now  # when the present step or evaluation began
        self._total = self._answered = 0  # questions of the present evaluation
        self._last_answer = now

    def step(self, step: int, now: float) -> None:
        """A step has ended."""
        self._steps.append(now - self._since)
        self.completed, self._since = step, now

    def evaluating(self, questions: int, now: float) -> None:
        """An evaluation begins."""
        self._total, self._answered, self._since = questions, 0, now

    def answered(self, now: float) -> None:
        """A question of the evaluation has been answered."""
        self._answered += 1
        self._last_answer = now

    def evaluated(self, step: int, split: Split, now: float) -> None:
        """An evaluation has ended; one of an earlier process is reported without `evaluating`."""
        if self._total:
            self._question = (now - self._since) / self._total
        self._evaluated[split] = step
        self._total, self._since = 0, now

    @property
    def finished(self) -> bool:
        """Whether neither a step nor an evaluation is left."""
        return self.completed >= self.work.steps and not self._questions_left()

    def left(self, now: float) -> float | None:
        """Seconds that are left, above 0 unless the run is finished; None as long as no step has ended."""
        if self.finished:
            return 0.0
        if not self._steps:
            return None
        pace = sum(self._steps) / len(self._steps)
        question = pace / self.work.episodes if self._question is None else self._question
        steps, questions = max(0, self.work.steps - self.completed), self._questions_left()
        if self._total:
            questions -= self._total
            if self._answered:
                question = (self._last_answer - self._since) / self._answered
            present = self._rest(self._total * question, now)
        elif steps:
            steps -= 1
            present = self._rest(pace, now)
        else:
            present = 0.0
        return max(1.0, present + steps * pace + max(0, questions) * question)

    def _rest(self, expected: float, now: float) -> float:
        """What is left of work that was expected to take so long."""
        taken = now - self._since
        return expected - taken if taken < expected else OVERDUE * taken

    def _questions_left(self) -> int:
        """Questions of all evaluations that have not ended."""
        work, done = self.work, self.completed
        dev = 0
        if work.eval_every:
            pending = done > 0 and done % work.eval_every == 0 and self._evaluated.get("dev") != done
            dev = max(0, work.steps // work.eval_every - done // work.eval_every) + pending
        test = self._evaluated.get("test", 0) < work.steps
        return dev * work.dev_questions + test * work.test_questions
