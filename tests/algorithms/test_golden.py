"""Golden numbers: every case of a folder through our public functions, chosen by the shape of its name.

The folder is that of the environment variable IGSEARCH_GOLDEN, by default `tests/golden/`. Every number comes from
the case, so another folder of cases of these kinds must pass too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import golden_credit as credit
import golden_evidence as evidence
import golden_gain as gain
import golden_graph as graph
import golden_learning as learning
import golden_potentials as potentials
import golden_step_search as step_search
import golden_text as text
import golden_turns as turns
import pytest
from golden_reader import Case, differences, read_cases
from paths import TESTS

FOLDER = Path(os.environ.get("IGSEARCH_GOLDEN") or TESTS / "golden")
CASES = read_cases(FOLDER)

FLOAT32, SCALED = 1e-5, 2e-5  # the second where values are divided by a standard deviation

MODE = r"(token-mean|token-sum|seq-mean-token-(sum|mean|sum-norm))(__2026-08)?"

Kind = tuple[Callable[[Case], dict[str, Any]], float]
KINDS: dict[str, Kind] = {
    r"grpo_std_.+": (learning.group_advantages, SCALED),
    r"drgrpo_adv_.+": (learning.group_advantages, FLOAT32),
    r"searchr1_grpo_.+": (learning.search_r1_advantages, SCALED),
    r"grpo_singleton_group.*": (learning.singleton_advantages, FLOAT32),
    r"rloo_(?!vectorized).+": (learning.leave_one_out, FLOAT32),
    r"rfpp_(?!HOLEBUG).+": (learning.reinforce_plus_plus, SCALED),
    r"masked_whiten.*": (learning.whitening, SCALED),
    r"verl_gae_hole_aware_.+": (learning.hole_aware_gae, SCALED),
    r"searchr1_ppo_kl_in_reward.*": (learning.kl_in_reward, FLOAT32),
    r"value_loss_clip.*": (learning.clipped_value_loss, FLOAT32),
    r"mrsearch_prm_.+": (learning.attempts, FLOAT32),
    r"step_returns_.+": (turns.step_returns, FLOAT32),
    r"step_groups_.+": (turns.step_groups, 0.0),
    r"gigpo_.+": (turns.total, SCALED),
    r"episode_adv_paper_eq3.*": (turns.episode_per_trajectory, SCALED),
    r"sequence_matcher_ratios.*": (turns.ratios, FLOAT32),
    r"igpo_(separate|joint)_.+": (turns.turn_rewards, SCALED),
    r"igpo_f1.*": (turns.set_f1_outcomes, FLOAT32),
    r"curriculum_weights.*": (turns.weights, FLOAT32),
    r"info_gain.*": (turns.turn_gains, FLOAT32),
    r"turn_gae_(agilerl|formula)_.+": (turns.turn_gae, FLOAT32),
    r"tips_potential_.+": (potentials.potentials, FLOAT32),
    r"tips_rewards_.+": (potentials.rewards, FLOAT32),
    r"tips_group_.+": (potentials.segments, SCALED),
    r"potential_.+": (potentials.shaped_returns, FLOAT32),
    r"iggrpo_.+": (learning.modulation, SCALED),
    r"graft_.+": (graph.trajectory_graph, SCALED),
    r"retrieval_credit_.+": (evidence.retrieval_credit, SCALED),
    r"dapo_overlong_penalty.*": (learning.length_penalty, FLOAT32),
    rf"(ppo_clip|dapo_clip_higher)_.+?__{MODE}": (learning.clipped_loss, FLOAT32),
    r"rollout_is_(loss_)?(token|sequence)_.+": (learning.importance, FLOAT32),
    r"gspo_.+": (learning.sequence_loss, FLOAT32),
    r"gspotoken_.+": (credit.token_advantages_in_a_sequence_ratio, FLOAT32),
    r"mtgrpo_.+": (credit.turn_and_outcome, SCALED),
    r"cwgrpo_.+": (credit.contributions, SCALED),
    rf"agg_with_fully_masked_seq__{MODE}": (learning.aggregation, FLOAT32),
    r"trl_loss_types.*": (learning.trl_losses, FLOAT32),
    r"kl_k[123](_.+)?": (learning.kl, FLOAT32),
    r"kl_grad_k[123](_.+)?": (learning.kl_gradient, FLOAT32),
    r"normalize_answer.*": (text.normalisation, 0.0),
    r"em_subem.*": (text.matches, 0.0),
    r"autorefine_f1.*": (text.f1_scores, FLOAT32),
    r"autorefine_reward.*": (text.refined_reward, FLOAT32),
    r"searchr1_compute_score_em.*": (text.transcript_score, 0.0),
    r"mrsearch_score.*": (text.episode_score, FLOAT32),
    r"passages2string.*": (text.documents, 0.0),
    r"actions.*": (text.actions, 0.0),
    r"info_mask_concat.*": (text.loss_mask, 0.0),
    r"stepsearch_.+": (step_search.step_scores, FLOAT32),
    r"igsearch_parse.*": (gain.transcript_steps, 0.0),
    r"igsearch_contexts.*": (gain.contexts, 0.0),
    r"igsearch_sequences.*": (gain.sequences, 0.0),
    r"igsearch_ig_from_logprobs.*": (gain.gains, FLOAT32),
}

# Kinds of algorithms that nobody asked this project for, by name.
NOT_ASKED = {
    r"rloo_vectorized_.+": "verl's other RLOO, in which a group of one gets 0",
    r"rfpp_HOLEBUG_.+": "REINFORCE++ as verl computed it before it corrected its returns",
    r"grpo_passk_.+": "pass@k advantages",
    r"opo_.+": "OPO",
    r"igpo_(?!separate|joint|f1).+": "versions of IGPO's code before it was corrected",
    r"autorefine_document_metrics.*": "AutoRefine's logging of its documents, which earns nothing",
}


def the_one(name: str, table: dict[str, Any]) -> list[Any]:
    """Entries whose pattern is the shape of a name."""
    return [entry for pattern, entry in table.items() if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("case", CASES, ids=[f"{case.file}:{case.name}" for case in CASES])
def test_golden(case: Case) -> None:
    kinds, left_out = the_one(case.name, KINDS), the_one(case.name, NOT_ASKED)
    assert len(kinds) + len(left_out) == 1, f"{case.name!r} must have one known shape, it has {len(kinds + left_out)}"
    if left_out:
        pytest.skip(f"not asked for: {left_out[0]}")
    compute, tolerance = kinds[0]
    assert case.outputs, f"{case.name!r} holds no output"
    assert differences(compute(case), case.outputs, tolerance) == []
    assert not case.unused, f"{case.name!r}: no test uses its inputs {sorted(case.unused)}"


def test_an_input_that_nothing_reads_fails_its_case() -> None:
    """Otherwise a case of an option that we do not have would pass as the case without it."""
    plain = next(case for case in CASES if case.name.startswith("igpo_joint"))
    other = replace(plain, inputs={**plain.inputs, "own_option": 0.5}, used=set())
    with pytest.raises(AssertionError, match=r"no test uses its inputs \['own_option'\]"):
        test_golden(other)


def test_the_folder_holds_cases() -> None:
    assert CASES, f"no case in {FOLDER}"


@pytest.mark.parametrize(
    ("ours", "golden"),
    [
        ([1.0], [1.0, 2.0]),
        ([1.0, 2.00003], [1.0, 2.0]),
        ([float("nan")], [0.0]),
        ([0.0], [None]),
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}),
        ({"a": "x "}, {"a": "x"}),
        (1.0, {"a": 1.0}),
    ],
)
def test_a_difference_is_seen(ours: Any, golden: Any) -> None:
    assert differences(ours, golden, FLOAT32)
