"""The rollout buffer: flat layout, loss mask, micro-batches, disk, and buffers that can't be trained on."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from buffers import reward_buffer
from hypothesis import given, settings
from hypothesis import strategies as st

from algorithms.common.rollout.buffer import RolloutBuffer, RolloutBufferError
from igsearch.testing.buffers import answer_turn, buffer_of, question, search_turn, trajectory
from igsearch_env.protocols import Answer, Invalid, Search
from igsearch_env.questions import Question
from igsearch_env.trajectory import Gain, Group, Trajectory, Turn
from retrievers import Passage

PAD = 0
IDS = st.lists(st.integers(1, 99), max_size=6)
LOGPROB = st.floats(-9, 0, width=32)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    """A search with a query somewhere in it, read back as observation; ids never repeat `PAD`."""
    ids = draw(st.lists(st.integers(1, 99), min_size=1, max_size=6))
    low = draw(st.integers(0, len(ids)))
    high = draw(st.integers(low, len(ids)))
    logprobs = draw(st.lists(LOGPROB, min_size=len(ids), max_size=len(ids)))
    return search_turn(ids, (low, high), draw(st.none() | st.floats(-2, 2)), draw(IDS), logprobs)


@st.composite
def buffers(draw: st.DrawFn) -> RolloutBuffer:
    """Up to four groups of up to three trajectories of up to four turns."""
    groups = []
    for number in range(draw(st.integers(1, 4))):
        members = [
            trajectory(
                draw(st.lists(turns(), min_size=1, max_size=4)),
                draw(st.sampled_from([0.0, 0.1, 1.0])),
                number,
                draw(st.lists(st.integers(1, 99), min_size=1, max_size=6)),
            )
            for _ in range(draw(st.integers(1, 3)))
        ]
        groups.append(members)
    return buffer_of(groups)


def written(member: Trajectory) -> list[int]:
    """What the policy wrote."""
    return [i for turn in member.turns for i in turn.completion_ids]


# ---------------------------------------------------------------- flat layout


@settings(max_examples=50)
@given(buffers())
def test_broadcast_repeats_each_value_for_the_tokens_of_its_trajectory(buffer: RolloutBuffer) -> None:
    flat = buffer.broadcast(np.arange(len(buffer.trajectories)))
    expected = [i for i, member in enumerate(buffer.trajectories) for _ in written(member)]
    assert flat.tolist() == expected
    assert [flat[start] for start in buffer.first_token] == list(range(len(buffer.trajectories)))


@settings(max_examples=50)
@given(buffers())
def test_query_tokens_point_at_the_ids_of_the_query(buffer: RolloutBuffer) -> None:
    flat = [i for member in buffer.trajectories for i in written(member)]
    found = [(turn, flat[tokens]) for _, turn, tokens in buffer.query_tokens()]
    expected = [
        (turn, list(turn.completion_ids[slice(*turn.query_span)]))
        for member in buffer.trajectories
        for turn in member.turns
        if turn.query_span and turn.query_span[0] < turn.query_span[1]
    ]
    assert [ids for _, ids in found] == [ids for _, ids in expected]
    assert all(ours is theirs for (ours, _), (theirs, _) in zip(found, expected, strict=True))


def test_groups_rewards_and_lengths_are_listed_by_trajectory() -> None:
    buffer = reward_buffer([[1.0, 0.0, 0.5], [0.25]])
    assert buffer.group_index.tolist() == [0, 0, 0, 1]
    assert buffer.outcomes.tolist() == [1.0, 0.0, 0.5, 0.25]
    assert buffer.policy_tokens.tolist() == [3, 3, 3, 3]


def test_every_policy_token_has_the_version_of_the_weights_that_sampled_it() -> None:
    assert rich_buffer().versions.tolist() == [0, 0, 3, 0, 0]


def test_a_value_too_few_is_refused() -> None:
    with pytest.raises(RolloutBufferError, match="1 values for 2 trajectories"):
        reward_buffer([[1.0, 0.0]]).broadcast([1.0])


# ---------------------------------------------------------------- loss mask


@settings(max_examples=50)
@given(buffers())
def test_the_loss_mask_is_true_exactly_on_what_the_policy_wrote(buffer: RolloutBuffer) -> None:
    for member, sequence in zip(buffer.trajectories, buffer.sequences, strict=True):
        ids, mask = list(member.prompt_ids), [False] * len(member.prompt_ids)
        for turn in member.turns:
            ids += [*turn.completion_ids, *turn.observation_ids]
            mask += [True] * len(turn.completion_ids) + [False] * len(turn.observation_ids)
        length = len(sequence.ids)
        assert sequence.ids.tolist() == ids[:length]
        assert sequence.mask.tolist() == mask[:length]
        assert not any(mask[length:])  # only what was read after the last policy token may be missing
        assert sequence.mask[-1]
        assert sequence.ids[sequence.mask].tolist() == written(member)
        assert sequence.logprobs.tolist() == [lp for turn in member.turns for lp in turn.logprobs]


def test_ids_that_repeat_in_the_observation_stay_out_of_the_loss() -> None:
    """What counts is who wrote a token, not which token it is."""
    member = trajectory([search_turn((5, 6), observation_ids=(5, 6)), answer_turn((6,))], prompt_ids=(5, 5))
    (sequence,) = buffer_of([[member]]).sequences
    assert sequence.mask.tolist() == [False, False, True, True, False, False, True]


# ---------------------------------------------------------------- micro-batches


@settings(max_examples=50)
@given(buffers(), st.integers(1, 120), st.data())
def test_micro_batches_carry_every_row_once_with_its_own_numbers(
    buffer: RolloutBuffer, budget: int, data: st.DataObject
) -> None:
    advantages = np.arange(buffer.policy_tokens.sum(), dtype=np.float32) + 1
    count = len(buffer.trajectories)
    rows = data.draw(st.lists(st.integers(0, count - 1), unique=True, max_size=count))
    seen: list[int] = []
    for batch in buffer.micro_batches(advantages, rows, budget, PAD):
        assert batch.ids_BT.numel() <= budget or len(batch.rows) == 1
        seen += batch.rows
        for b, row in enumerate(batch.rows):
            member, sequence = buffer.trajectories[row], buffer.sequences[row]
            mask, length = batch.mask_BT[b], len(sequence.ids)
            assert batch.ids_BT[b].tolist() == sequence.ids.tolist() + [PAD] * (len(mask) - length)
            assert mask.tolist() == sequence.mask.tolist() + [False] * (len(mask) - length)
            start, tokens = buffer.first_token[row], len(written(member))
            assert batch.advantages_BT[b][mask].tolist() == advantages[start : start + tokens].tolist()
            assert batch.old_logprobs_BT[b][mask].tolist() == sequence.logprobs.tolist()
            assert not batch.advantages_BT[b][~mask].any()
    assert sorted(seen) == sorted(rows)


@settings(max_examples=50)
@given(buffers(), st.data())
def test_micro_batches_cut_after_the_last_value_begin_as_whole_ones(buffer: RolloutBuffer, data: st.DataObject) -> None:
    tokens = int(buffer.policy_tokens.sum())
    values = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.0, -1.5]), min_size=tokens, max_size=tokens)), "f4")
    lengths = buffer.lengths_with(values)
    rows = range(len(buffer.trajectories))
    whole = {batch.rows[0]: batch for batch in buffer.micro_batches(values, rows, 1, PAD)}
    cut = {batch.rows[0]: batch for batch in buffer.micro_batches(values, rows, 1, PAD, lengths)}
    for row, full in whole.items():
        length = int(lengths[row])
        valued = full.advantages_BT[0].nonzero()[:, 0].tolist()
        assert length == (valued[-1] + 1 if valued else 0)
        assert (row in cut) == bool(length)
        if length:
            for name in ("ids_BT", "mask_BT", "old_logprobs_BT", "advantages_BT"):
                assert torch.equal(getattr(cut[row], name), getattr(full, name)[:, :length])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=25), st.integers(1, 400), st.randoms())
def test_micro_batches_bound_tokens_and_padding(lengths: list[int], budget: int, rng: random.Random) -> None:
    buffer = buffer_of([[trajectory([answer_turn(range(1, length + 1))]) for length in lengths]])
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    batches = list(buffer.micro_batches(buffer.broadcast(np.zeros(len(lengths))), rows, budget, PAD))
    assert sorted(row for batch in batches for row in batch.rows) == sorted(rows)
    for batch in batches:
        tokens = sum(len(buffer.sequences[row].ids) for row in batch.rows)
        assert len(batch.rows) == 1 or batch.ids_BT.numel() <= budget
        assert len(batch.rows) == 1 or batch.ids_BT.numel() - tokens <= 0.05 * tokens + budget / 16


def test_a_row_that_is_much_longer_gets_a_batch_of_its_own() -> None:
    buffer = buffer_of([[trajectory([answer_turn(range(1, length))]) for length in (10, 10, 90, 10)]])
    batches = buffer.micro_batches(buffer.broadcast(np.zeros(4)), range(4), 1_000, PAD)
    assert [batch.rows for batch in batches] == [[0, 1, 3], [2]]


def test_the_budget_decides_how_many_rows_go_together() -> None:
    buffer = reward_buffer([[0.0] * 7], tokens=4)  # rows of five tokens, with the prompt
    sizes = [len(b.rows) for b in buffer.micro_batches(buffer.broadcast(np.zeros(7)), range(7), 16, PAD)]
    assert sizes == [3, 3, 1]


# ---------------------------------------------------------------- disk


def rich_buffer() -> RolloutBuffer:
    """Every field in use, none at its default."""
    asked = Question("q7", "Wer? “Ünïcode”\u2028\n", ("Å", "b"), "made_up", {"hops": 2, "chain": ["a", "b"]})
    passage = Passage("p1", 'T"', "one\ntwo\r\n\u2028", 1 / 3)
    gain = Gain(0.1, -0.2, -0.3, ("\n\n<information>x</information>\n\n", ""))
    found = Turn("<search>q</search>", Search("q"), "seen", (passage,), gain, 0.1, (1, 2), (-0.1, -1e-9), (0, 1), (3,))
    wrong = Turn("what", Invalid("neither"), "usage", completion_ids=(4,), logprobs=(-0.7,), observation_ids=(5, 6))
    wrong.weights_version = 3
    last = Turn("<answer>Å</answer>", Answer("Å"), reward=1.0, completion_ids=(8, 9), logprobs=(-0.25, 0.0))
    episode = Trajectory(asked, "p\n", [found, wrong, last], "Å", 1.0, "answered", (7, 7))
    silent = Trajectory(asked, "p\n", [], None, 0.0, "no_answer", ())
    return RolloutBuffer([Group(asked, [episode, silent]), Group(question(1), [], 2)], 3, {"step": 4, "note": "x"})


def test_a_saved_buffer_comes_back_whole(tmp_path: Path) -> None:
    buffer = rich_buffer()
    buffer.save(tmp_path / "rollouts.jsonl.gz")
    loaded = RolloutBuffer.load(tmp_path / "rollouts.jsonl.gz")
    assert loaded == buffer
    assert loaded.groups[0].question.metadata == buffer.groups[0].question.metadata
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl.gz"]


@settings(max_examples=50)
@given(buffers(), st.lists(st.text(), min_size=4, max_size=4))
def test_any_buffer_survives_the_disk(
    tmp_path_factory: pytest.TempPathFactory, buffer: RolloutBuffer, texts: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl.gz"
    turn = buffer.trajectories[0].turns[0]
    turn.text, turn.observation, buffer.trajectories[0].prompt = texts[:3]
    turn.action = Search(texts[3])
    buffer.save(path)
    loaded = RolloutBuffer.load(path)
    assert loaded == buffer
    assert [s.ids.tolist() for s in loaded.sequences] == [s.ids.tolist() for s in buffer.sequences]


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "rollouts.jsonl.gz"
    buffer = reward_buffer([[1.0]])
    buffer.save(path)
    buffer.trajectories[0].turns[0].reward = object()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        buffer.save(path)
    assert RolloutBuffer.load(path) == reward_buffer([[1.0]])


@pytest.mark.parametrize("header", [{"format": 99}, {"failed": 0}])
def test_a_file_of_another_format_is_refused(tmp_path: Path, header: dict[str, int]) -> None:
    path = tmp_path / "old.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(json.dumps(header) + "\n")
    with pytest.raises(RolloutBufferError, match=rf"old.jsonl.gz: format {header.get('format')}, .*collect again"):
        RolloutBuffer.load(path)


# ---------------------------------------------------------------- nothing to learn from


def test_a_good_buffer_is_trainable() -> None:
    reward_buffer([[1.0, 0.0]]).check_trainable()


def test_an_empty_buffer_says_how_many_retrievals_failed() -> None:
    with pytest.raises(RolloutBufferError, match=r"no trajectory \(5 failed retrievals left out\): collect again"):
        RolloutBuffer([], failed=5).check_trainable()


def test_a_trajectory_without_tokens_is_refused() -> None:
    buffer = buffer_of([[trajectory([answer_turn((4,))]), trajectory([answer_turn(())]), trajectory([])]])
    with pytest.raises(RolloutBufferError, match="2 trajectories have no policy token"):
        buffer.check_trainable()


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_refused(reward: float) -> None:
    with pytest.raises(RolloutBufferError, match=f"an outcome reward is {reward}: rewards must be finite"):
        reward_buffer([[1.0, reward]]).check_trainable()
