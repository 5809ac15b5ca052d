"""`IGSearchAgentLoop`: plays an episode with the server manager of verl."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.rollout.collect import record_completion, record_observation
from algorithms.common.rollout.sequences import token_sequence
from igsearch_env.episode import Episode
from igsearch_env.errors import ConfigurationError
from igsearch_env.trajectory import CONTEXT_FULL
from integrations.episodes import read_prompt, row_question
from integrations.records import dump_episode
from integrations.settings import SearchSettings, question_of
from integrations.verl.fields import EPISODE

AGENT_NAME = "igsearch"


@register(AGENT_NAME)
class IGSearchAgentLoop(AgentLoopBase):  # type: ignore[misc] # untyped base class
    """One episode: turns of the policy by verl's servers, searches and rewards by this project's environment.

    Observations continue the assistant's turn or are a turn of the user, as the protocol says. The episode with its
    tokens travels to the advantage estimator in `extra_fields`.

    Args:
        settings: fields of `SearchSettings`, from the entry of this agent loop in `agent_loop_config_path`. Opened once
            per process.
        max_turn_tokens: maximum tokens of a turn; default: what is left of `rollout.response_length`.
        arguments: those of verl's `AgentLoopBase`.

    Raises `ConfigurationError` for settings that can't be used.
    """

    def __init__(
        self, *arguments: Any, settings: dict[str, Any] | None = None, max_turn_tokens: int | None = None, **named: Any
    ) -> None:
        super().__init__(*arguments, **named)
        self.batcher = SearchSettings.of(dict(settings or {})).shared()
        self.protocol = self.batcher.stepper.rules.protocol
        self.max_turn_tokens = max_turn_tokens
        self.response_length = int(self.rollout_config.response_length)
        self.policy_tokenizer = PolicyTokenizer(
            self.tokenizer, chat=bool(getattr(self.tokenizer, "chat_template", None))
        )

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **row: Any) -> AgentLoopOutput:
        """Play the question of a row that `dataset_row` wrote. `reward_score` is the outcome reward.

        Raises `QuestionError` for a row without a question, `ConfigurationError` for a prompt that is too long.
        """
        episode = self.batcher.stepper.begin(question_of(row_question(row, "the row"), "the row of the data set"))
        trajectory = episode.trajectory
        messages = list(row.get("raw_prompt") or [])
        read_prompt(episode, messages)
        trajectory.prompt_ids = await self._prompt_ids(episode, messages)
        ids, written = list(trajectory.prompt_ids), 0
        times = {"generate_sequences": 0.0, "tool_calls": 0.0}
        fields: dict[str, Any] = {}
        request_id = f"det-{int(priority)}" if self.rollout_config.get("full_determinism", False) else uuid4().hex
        has_logprobs = True
        while not trajectory.done:
            start = time.perf_counter()
            output = await self.server_manager.generate(
                request_id=request_id,
                prompt_ids=list(ids),
                sampling_params={**sampling_params, **self._end_of_turn(self.response_length - written)},
            )
            middle = time.perf_counter()
            _merge(fields, output.extra_fields)
            completion = tuple(map(int, output.token_ids))
            has_logprobs = has_logprobs and bool(output.log_probs)
            await self.batcher.astep(episode, self.policy_tokenizer.decode(completion))
            turn = trajectory.turns[-1]
            logprobs = tuple(map(float, output.log_probs or [0.0] * len(completion)))
            record_completion(self.policy_tokenizer, self.protocol, turn, completion, logprobs)
            record_observation(self.policy_tokenizer, trajectory)
            ids += [*completion, *turn.observation_ids]
            written = len(ids) - len(trajectory.prompt_ids)
            if not trajectory.done and written >= self.response_length:
                trajectory.stop_reason = CONTEXT_FULL
            times["generate_sequences"] += middle - start
            times["tool_calls"] += time.perf_counter() - middle
        return self._output(episode, fields, times, has_logprobs)

    async def _prompt_ids(self, episode: Episode, messages: list[Any]) -> tuple[int, ...]:
        if messages and self.policy_tokenizer.chat:
            return tuple(await self.ct_build_initial_tokens(messages))
        ids = self.policy_tokenizer.encode_prompt(episode.trajectory.prompt)
        if len(ids) > self.rollout_config.prompt_length:
            raise ConfigurationError(
                f"question {episode.trajectory.question.id!r}: its prompt has {len(ids)} tokens, more than "
                f"rollout.prompt_length={self.rollout_config.prompt_length}; raise it, or use a shorter prompt"
            )
        return ids

    def _end_of_turn(self, left: int) -> dict[str, Any]:
        """Sampling parameters that end a turn behind its action, and within the room for the response."""
        kept = "no_stop_trim" if self.rollout_config.get("name") == "sglang" else "include_stop_str_in_output"
        most = left if self.max_turn_tokens is None else min(left, self.max_turn_tokens)
        return {"stop": list(self.protocol.stop_strings), kept: True, "max_tokens": most}

    def _output(
        self, episode: Episode, fields: dict[str, Any], times: dict[str, float], has_logprobs: bool
    ) -> AgentLoopOutput:
        trajectory, room = episode.trajectory, self.response_length
        sequence, prompt = token_sequence(trajectory), len(trajectory.prompt_ids)
        mask = sequence.mask[prompt:]
        logprobs = [0.0] * len(mask)
        for place, value in zip(mask.nonzero()[0].tolist(), sequence.logprobs.tolist(), strict=True):
            logprobs[place] = value
        return AgentLoopOutput(
            prompt_ids=sequence.ids[:prompt].tolist(),
            response_ids=sequence.ids[prompt:][:room].tolist(),
            response_mask=mask[:room].astype(int).tolist(),
            response_logprobs=logprobs[:room] if has_logprobs else None,
            reward_score=trajectory.outcome,
            num_turns=2 * len(trajectory.turns),
            metrics=times,
            extra_fields={
                **fields,
                EPISODE: dump_episode(trajectory),
                "turn_scores": [turn.reward for turn in trajectory.turns],
                "tool_rewards": [],
            },
        )


def _merge(fields: dict[str, Any], new: dict[str, Any]) -> None:
    """As verl's tool agent loop: the first turn's values, with the last turn's `max_global_steps`."""
    for key, value in new.items():
        if key not in fields or (key == "max_global_steps" and value):
            fields[key] = value
