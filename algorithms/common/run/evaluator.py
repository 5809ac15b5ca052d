"""`Evaluator`: plays greedy episodes with the current policy, on dev questions during a run and on test questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from algorithms.common.base.hardware import hardware
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.evaluation.fingerprint import Fingerprint, make_fingerprint
from algorithms.common.evaluation.results import read_result, write_result
from algorithms.common.evaluation.scores import QuestionResult, Score, score_rows
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.sampler import EVAL_SLOTS, Sampler
from igsearch_env.questions import Question
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory

BEFORE = "test_before.json"


def play_greedy(
    sampler: Sampler,
    stepper: EpisodeStepper,
    questions: Sequence[Question],
    processes: Processes,
    on_end: Callable[[], None] = lambda: None,
) -> list[Trajectory]:
    """One greedy episode for each question of this process's share; `on_end` is called whenever one has ended."""
    share = processes.share(len(questions))
    decoder = sampler.decoder(max(1, min(EVAL_SLOTS, len(share))), temperature=0.0)
    mine = questions[share.start : share.stop]
    return play(decoder, stepper, mine, seed=(0,), first=share.start, on_end=on_end)


class Evaluator:
    """Evaluates the policy of a sampler. Each process plays its share of the questions and receives all scores.

    Args:
        algorithm: Name of the algorithm, for the result files.
        run_dir: Folder of the result files.
        dev_questions: those that `validate` plays.
        test_questions: those that `evaluate` plays.
    """

    def __init__(
        self,
        algorithm: str,
        config: TrainConfig,
        run_dir: Path,
        *,
        sampler: Sampler,
        stepper: EpisodeStepper,
        processes: Processes,
        dev_questions: Sequence[Question],
        test_questions: Sequence[Question],
    ) -> None:
        self.algorithm, self.config, self.run_dir = algorithm, config, run_dir
        self.sampler, self.stepper, self.processes = sampler, stepper, processes
        self.dev_questions, self.test_questions = dev_questions, test_questions

    def validate(self, on_end: Callable[[], None] = lambda: None) -> dict[str, Score]:
        """Scores on the dev questions, by data set; `on_end` is called whenever an episode has ended."""
        return score_rows(self.play(self.dev_questions, on_end))

    def evaluate(self, step: int, on_end: Callable[[], None] = lambda: None) -> dict[str, Score]:
        """Scores on the test questions, by data set; writes them with all answers to RUN_DIR/test_before or _after."""
        rows = self.play(self.test_questions, on_end)
        scores = score_rows(rows)
        if self.processes.is_main:
            path = self.run_dir / (BEFORE if step == 0 else "test_after.json")
            facts = {**self._of_run(step), "hardware": hardware(), "fingerprint": self.fingerprint(step)}
            write_result(path, rows, scores, **facts)
        return scores

    def scores_before(self) -> dict[str, Score] | None:
        """Scores of RUN_DIR/test_before.json, which an interrupted start of this run left; None if it is not of it."""
        path = self.run_dir / BEFORE
        if not path.is_file():
            return None
        result = read_result(path)
        expected = {**self._of_run(0), "fingerprint": self.fingerprint(0)}
        of_run = {key: value for key, value in result.header.items() if key in (*expected, "test_limit")}
        return result.scores if of_run == expected else None

    def _of_run(self, step: int) -> dict[str, Any]:
        limit = self.config.test_limit
        of_run = {"algorithm": self.algorithm, "seed": self.config.seed, "step": step}
        return {**of_run, "test_limit": limit} if limit else of_run

    def play(self, questions: Sequence[Question], on_end: Callable[[], None] = lambda: None) -> list[QuestionResult]:
        """Play one greedy episode per question."""
        played = play_greedy(self.sampler, self.stepper, questions, self.processes, on_end)
        return self.processes.all_gather_flat([QuestionResult.of(trajectory) for trajectory in played])

    def fingerprint(self, step: int) -> Fingerprint:
        """What determines an evaluation after `step`; a trained policy is identified by name, not by hash."""
        policy, rollout = self.config.policy, self.config.rollout
        found = make_fingerprint(
            questions=self.test_questions,
            retriever=self.stepper.retriever.fingerprint(),
            policy=policy.path,
            rules=self.stepper.rules,
            chat=policy.chat,
            chat_template=policy.chat_template.fingerprint,
            max_new_tokens=rollout.max_new_tokens,
            context_length=policy.context_length,
            dtype=rollout.dtype or policy.compute_dtype or policy.dtype,
        )
        if step:
            found["model"]["trained"] = f"{self.run_dir.name}, {step} steps"
        return found
