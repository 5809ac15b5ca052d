"""`Evaluations`: the evaluations of a run, which belong to its steps, and what each of them leaves behind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from algorithms.common.config import TrainConfig
from algorithms.common.evaluation.scores import Score, macro_average
from algorithms.common.model.policy import Policy
from algorithms.common.run.checkpoint import write_policy
from algorithms.common.run.collector import Collector
from algorithms.common.run.evaluation_metrics import SPLITS, Split, score_metrics
from algorithms.common.run.evaluator import Evaluator
from algorithms.common.run.metrics_log import MetricsLog
from algorithms.common.run.progress import TrainingProgress
from algorithms.common.training.learner import Learner
from igsearch_env.questions import Question


class Evaluations:
    """Evaluates after the steps that ask for it, each time once, also if the run is interrupted in between.

    Args:
        folder: of the run; the policy that does best on the dev questions is saved in `folder`/best.
        learner: with its policy; every process must call the methods.
        log: of rank 0; None in other processes.
        rows: of metrics.jsonl, up to the step that is resumed; empty in other processes.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        config: TrainConfig,
        folder: Path,
        *,
        policy: Policy,
        learner: Learner,
        collector: Collector,
        progress: TrainingProgress,
        log: MetricsLog | None,
        rows: Iterable[Mapping[str, Any]],
    ) -> None:
        self.evaluator, self.config, self.folder = evaluator, config, folder
        self.policy, self.learner, self.collector = policy, learner, collector
        self.progress, self.log = progress, log
        logged = [(split, row["step"], row[f"{split}/em"]) for row in rows for split in SPLITS if f"{split}/em" in row]
        logged = learner.processes.run_on_main(lambda: logged)
        self._done = {(split, step) for split, step, _ in logged}
        # NaN if retrieval failed for all questions of a data set.
        self._best = max((em for split, _, em in logged if split == "dev" and math.isfinite(em)), default=-1.0)

    def after(self, step: int) -> None:
        """The evaluations that belong to a complete step, unless they are logged already."""
        every = self.config.eval_every
        if every and step % every == 0 and ("dev", step) not in self._done:
            self._validate(step)
        if step == self.config.steps and ("test", step) not in self._done:
            self.test(step)

    def before(self) -> None:
        """Evaluate on the test questions before training, unless an interrupted start of the run has done so."""
        scores = self.learner.processes.run_on_main(self.evaluator.scores_before)
        if scores is None:
            self.test(0)
        else:
            self._log_test(0, scores)

    def test(self, step: int) -> None:
        """Evaluate on the test questions and log the scores."""
        self._begin("test", self.evaluator.test_questions)
        self._log_test(step, self.evaluator.evaluate(step, self.progress.question_ended))

    def _log_test(self, step: int, scores: Mapping[str, Score]) -> None:
        if self.log is not None:
            self.log.write(step, score_metrics("test", scores))
        self.progress.evaluated(step, "test", macro_average(scores))

    def _validate(self, step: int) -> None:
        """Evaluate on the dev questions and log the scores; saves the policy if it is the best so far."""
        self._begin("dev", self.evaluator.dev_questions)
        scores = self.evaluator.validate(self.progress.question_ended)
        em = macro_average(scores)
        if em > self._best:
            self._best = em
            write_policy(self.folder / "best", self.policy, self.learner, {"step": step, "dev/em": em})
        if self.log is not None:
            self.log.write(step, score_metrics("dev", scores))
        self.progress.evaluated(step, "dev", em)

    def _begin(self, split: Split, questions: Sequence[Question]) -> None:
        self.progress.evaluating(split, len(questions), len(self.learner.processes.share(len(questions))))
        self.collector.pause()
