"""Rollouts: the decoder with a KV cache, compared with calling `model.generate` on the whole episode at every turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from algorithms.common.config import TrainConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.turn_end import TurnEnd
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.environment import make_rules
from benchmarks.measure import Line, interleaved, ratio
from benchmarks.policies import random_policy
from igsearch_env.protocols import Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Passage, Retriever
from retrievers.random_streams import random_stream

TURN, OBSERVATION, EPISODES = 32, 430, 16  # long rollout: tokens per turn, tokens per observation; episodes


class _EndOfTurn(StoppingCriteria):  # type: ignore[misc]
    """Stops each row of `generate` where the decoder stops."""

    def __init__(self, turn_end: TurnEnd, prompt: int) -> None:
        self.turn_end, self.prompt = turn_end, prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        ended = [self.turn_end.is_over(row[self.prompt :]) for row in input_ids.tolist()]
        return torch.tensor(ended, device=input_ids.device)


def plain_loop(
    policy: Policy,
    turn_end: TurnEnd,
    stepper: EpisodeStepper,
    questions: Sequence[Question],
    max_new_tokens: int,
    sample: bool = False,
) -> list[Trajectory]:
    """Episodes in lockstep, greedy unless `sample`; each turn recomputes the whole context, with left padding."""
    tokenizer = policy.tokenizer
    episodes = [stepper.begin(question) for question in questions]
    contexts = [list(tokenizer.encode_prompt(episode.trajectory.prompt)) for episode in episodes]
    active = list(range(len(episodes)))
    while active:
        longest = max(len(contexts[i]) for i in active)
        ids = torch.full((len(active), longest), tokenizer.pad_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(active):
            ids[row, longest - len(contexts[i]) :] = torch.tensor(contexts[i])
            mask[row, longest - len(contexts[i]) :] = 1
        with torch.no_grad():
            output = policy.model.generate(
                input_ids=ids.to(policy.device),
                attention_mask=mask.to(policy.device),
                max_new_tokens=max_new_tokens,
                do_sample=sample,
                **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
                pad_token_id=tokenizer.pad_id,
                stopping_criteria=StoppingCriteriaList([_EndOfTurn(turn_end, longest)]),
            )
        completions = [_until_end(turn_end, row[longest:].tolist()) for row in output]
        stepper.step([episodes[i] for i in active], [tokenizer.decode(ids) for ids in completions])
        for i, completion in zip(active, completions, strict=True):
            turn = episodes[i].trajectory.turns[-1]
            turn.completion_ids = tuple(completion)
            contexts[i] += [*completion, *tokenizer.encode(turn.observation)]
        active = [i for i in active if not episodes[i].trajectory.done]
    return [episode.trajectory for episode in episodes]


def _until_end(turn_end: TurnEnd, ids: list[int]) -> list[int]:
    """The completion without the padding that `generate` appends."""
    for end in range(1, len(ids) + 1):
        if turn_end.is_over(ids[:end]):
            return ids[:end]
    return ids


class FixedTurnEnd(TurnEnd):
    """Ends each turn after `turn` tokens."""

    turn = TURN

    def is_over(self, ids: Sequence[int]) -> bool:
        """True after `turn` tokens."""
        return len(ids) >= self.turn


class AlwaysSearches(PolicyTokenizer):
    """Decodes every completion to the same search."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a search, for any ids."""
        return make_protocol().write(Search("x"))

    def token_span(self, ids: Sequence[int], start: int, end: int) -> tuple[int, int]:
        """The span of all tokens."""
        return 0, len(ids)


class LongPassages(Retriever):
    """Returns the same three passages, an observation of about `tokens` tokens, for any query; samples random ones."""

    def __init__(self, policy: Policy, tokens: int) -> None:
        self.tokenizer, self.length = policy.tokenizer.hf_tokenizer, tokens // 3
        self.passages = self.sample(3, random_stream("passages of the rollout benchmark", 0))

    def __len__(self) -> int:
        return 3

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        """The same passages for every query."""
        return [self.passages[:k] for _ in queries]

    def sample(self, n: int, rng: np.random.Generator) -> list[Passage]:
        """Passages of random words."""
        texts = [self.tokenizer.decode(rng.integers(300, 1_200, self.length).tolist()) for _ in range(n)]
        return [Passage(str(number), "", text) for number, text in enumerate(texts)]


def lines(repeats: int) -> list[Line]:
    """With the bundled defaults, and with four searches in 2,000 tokens. Both sides must generate the same tokens."""
    config = TrainConfig()
    policy = Policy.load(PolicyConfig())
    questions = bundled_world().questions["train"][: config.rollout.questions_per_step * config.rollout.group_size]
    rules = make_rules(config.env, policy.tokenizer)
    turn_end = TurnEnd(policy.tokenizer, rules.protocol.stop_strings)
    stepper = EpisodeStepper(questions, bundled_retriever(), None, rules)
    tokens = config.rollout.max_new_tokens
    result = [_line("bundled defaults", policy, turn_end, stepper, questions, tokens, 1.3, repeats)]
    long = random_policy("small", 4, context_length=4_096)
    retriever = LongPassages(long, OBSERVATION)
    long.tokenizer = AlwaysSearches(long.tokenizer.hf_tokenizer)
    turn_end = FixedTurnEnd(long.tokenizer, rules.protocol.stop_strings)
    stepper = EpisodeStepper(questions[:EPISODES], retriever, None, EpisodeRules(max_searches=4))
    name, asked = "four searches, 2,000 tokens", questions[:EPISODES]
    return [*result, _line(name, long, turn_end, stepper, asked, TURN, 2.0, repeats)]


def _line(
    name: str,
    policy: Policy,
    turn_end: TurnEnd,
    stepper: EpisodeStepper,
    questions: Sequence[Question],
    max_new_tokens: int,
    target: float,
    repeats: int,
) -> Line:
    decoder = Decoder(policy, turn_end, slots=len(questions), max_new_tokens=max_new_tokens, temperature=0.0)
    mine = play(decoder, stepper, questions, seed=(0,))
    plain = plain_loop(policy, turn_end, stepper, questions, max_new_tokens)
    same = np.mean([_written(a) == _written(b) for a, b in zip(mine, plain, strict=True)])
    times = interleaved(
        {
            "cached": lambda: play(decoder, stepper, questions, seed=(0,)),
            "plain": lambda: plain_loop(policy, turn_end, stepper, questions, max_new_tokens),
        },
        repeats,
    )
    tokens = sum(len(turn.completion_ids) for t in mine for turn in t.turns)
    length = np.mean([t.tokens for t in mine])
    return Line(
        f"rollout against a re-reading loop, {name}",
        ratio(times["plain"], times["cached"]),
        target=target,
        detail=f"{tokens / np.median(times['cached']):,.0f} generated tokens/s, episodes of {length:,.0f} tokens, "
        f"{same:.1%} of them identical",
    )


def _written(trajectory: Trajectory) -> list[tuple[int, ...]]:
    return [turn.completion_ids for turn in trajectory.turns]
