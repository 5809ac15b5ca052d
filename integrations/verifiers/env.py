"""`IGSearchEnv`: plays an episode with one agent; the environment is the user of its conversation."""

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf
from verifiers.v1.runtimes import SubprocessConfig

from igsearch_env.trajectory import CONTEXT_FULL, RETRIEVAL_FAILED
from integrations.episodes import read_prompt
from integrations.records import dump_episode
from integrations.settings import question_of
from integrations.verifiers.names import EPISODE
from integrations.verifiers.taskset import IGSearchTasksetConfig, QuestionTask


class IGSearchEnvConfig(vf.EnvConfig):  # type: ignore[misc] # untyped base class
    """The one seat and the taskset."""

    agent: vf.AgentConfig = vf.AgentConfig(runtime=SubprocessConfig())
    """The policy. The default harness is `ChatHarness`, which runs in this process, so its runtime is only a folder."""
    taskset: IGSearchTasksetConfig = IGSearchTasksetConfig()


class IGSearchEnv(vf.Env[IGSearchEnvConfig]):  # type: ignore[misc] # untyped base class
    """Observations are messages of the user; searches of episodes that wait are run together."""

    async def run(self, task: QuestionTask, agents: vf.Agents) -> None:
        """One episode. It is recorded in `trace.info`, from which the task scores the trace.

        Raises `RuntimeError` if the retrieval failed, so that the episode is repeated or left out, not trained on.
        """
        batcher = self.config.taskset.opened()
        episode = batcher.stepper.begin(question_of(task.data.question, "the task"))
        if not isinstance(task.data.prompt, str):
            read_prompt(episode, [message.model_dump() for message in task.data.prompt or []])
        trajectory = episode.trajectory
        async with agents.agent.interaction(task) as chat:
            segment = await chat.turn()
            while not segment.terminated:
                await batcher.astep(episode, _written(segment))
                if trajectory.done:
                    break
                segment = await chat.turn(trajectory.turns[-1].observation)
            if not trajectory.done:  # a limit of the agent ended the exchange
                trajectory.stop_reason = CONTEXT_FULL
            if trajectory.stop_reason == RETRIEVAL_FAILED:
                raise RuntimeError(f"question {trajectory.question.id!r}: the retrieval failed")
            chat.trace.info[EPISODE] = dump_episode(trajectory)


def _written(segment: Any) -> str:
    """What the policy wrote in a turn, unchanged."""
    texts = [message.content or "" for message in segment.messages if message.role == "assistant"]
    return texts[-1] if texts else ""


def load_environment(**settings: Any) -> IGSearchEnv:
    """The environment in Python. `settings` are fields of `SearchSettings`.

    On the command line it is the taskset `igsearch-verifiers`.
    """
    return IGSearchEnv(IGSearchEnvConfig(taskset=IGSearchTasksetConfig(search=settings)))
