"""The step model counts what a step really read and wrote, and judges by floors."""

from __future__ import annotations

import pytest

from algorithms.common.rollout.answer_scorer import PolicyScorer
from benchmarks import step_model
from benchmarks.step_costs import ModelShape, Part, Rates
from benchmarks.watched_step import DECODE, GAIN, PREFILL, UPDATE, StepWatch, micro_batch_passes

RATES = Rates(((1, 1e9),), 1e9, 1e9)


def test_the_passes_of_a_step_are_those_of_its_buffer() -> None:
    with step_model.begun(step_model.Args(shape="tiny", compute_dtype="float32", threads=1)) as (run, algorithm):
        planned: list[int] = []

        def plan(scorer: PolicyScorer, *arguments: object) -> object:
            trunks, branches = original(scorer, *arguments)  # type: ignore[arg-type]
            planned.append(len({(trunks[b.trunk][: b.shared], b.ids) for b in branches}))
            return trunks, branches

        original = PolicyScorer.plan
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PolicyScorer, "plan", plan)
            watch = StepWatch(run)
            buffer, advantages = watch.step(algorithm, 1)
        shape = ModelShape.of(run.policy.model.config)
        parts = {part.name: part for part in watch.parts(buffer, advantages, RATES)}
        seen = {name: [one.count() for one in passes] for name, passes in watch.seen.items()}
    written = [turn for t in buffer.trajectories for turn in t.turns]
    # Of each turn, the last token is read with what follows it, so that a decoding pass reads one fewer.
    assert parts[DECODE].tokens == sum(len(turn.completion_ids) - 1 for turn in written)
    prompts = sum(len(t.prompt_ids) for t in buffer.trajectories)
    between = sum(len(turn.observation_ids) + 1 for t in buffer.trajectories for turn in t.turns[:-1])
    assert parts[PREFILL].tokens == prompts + between
    assert sum(one.scored for one in seen[PREFILL]) == len(written)
    assert sum(one.scored for one in seen[DECODE]) == parts[DECODE].tokens
    # Each token of a trajectory but the last, read once by the rollout, attends to itself and to all before it.
    pairs = sum(one.pairs for name in (PREFILL, DECODE) for one in seen[name])
    lengths = [len(s.ids) - 1 for s in buffer.sequences]
    assert pairs == sum(n * (n + 1) // 2 for n in lengths)
    assert planned[0] > 0
    assert sum(one.scored for one in seen[GAIN]) >= planned[0]
    whole = micro_batch_passes(buffer, None, 2_048)
    assert sum(one.tokens for one in whole) == int(buffer.lengths.sum())
    assert sum(one.scored for one in whole) == int(buffer.policy_tokens.sum())
    assert 0 < parts[UPDATE].tokens <= int(buffer.lengths.sum())
    assert parts[GAIN].operations > 2 * shape.layer_weights * parts[GAIN].tokens
    assert all(part.measured > 0 for name, part in parts.items() if name in (PREFILL, DECODE, GAIN, UPDATE))


def part(name: str, floor: float, measured: float) -> Part:
    return Part(name, 1, 1.0, 1.0, floor, measured)


def test_a_step_is_judged_by_its_floor() -> None:
    steps = [[part(GAIN, 1.0, gain), part(UPDATE, 3.0, 6.0)] for gain in (1.2, 2.0, 9.0)]
    median, (whole, gain, over) = step_model.judged(steps, aim=2.0)
    assert median[0].measured == 2.0
    assert (whole.value, whole.target, whole.ok) == (2.0, 2.0, True)
    assert (gain.value, gain.target, gain.ok) == (2.0, 1.3, False)
    assert over.value == pytest.approx(8 / 6)
    assert over.detail == "1.33 if every part took its floor"


def test_processor_time_of_several_threads_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        step_model.main(step_model.Args(processor_time=True))
    assert "give --threads 1 with it" in capsys.readouterr().err
