"""`ReflectionWrapper`: several attempts at one question, as in MR-Search (arXiv 2603.11327)."""

from __future__ import annotations

from dataclasses import replace

import gymnasium

from igsearch_env.env import IGSearchEnv
from igsearch_env.episode import AgentAction
from igsearch_env.errors import ConfigurationError


class ReflectionWrapper(gymnasium.Wrapper[str, AgentAction, str, AgentAction], gymnasium.utils.RecordConstructorArgs):
    """An episode consists of `attempts` attempts at the same question; later attempts see the earlier ones.

    Each answer earns its outcome reward. After every attempt but the last, a reflection prompt asks the agent to
    review the answer, search further and answer again. An attempt may also end without an answer. `max_searches`
    applies to each attempt. The answer of the last attempt counts: `info["prediction"]`, `info["outcome"]`.
    """

    def __init__(self, env: gymnasium.Env[str, AgentAction], attempts: int = 3) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, attempts=attempts)
        gymnasium.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, IGSearchEnv):
            raise ConfigurationError(f"env is a {type(env.unwrapped).__name__}: it must be an IGSearchEnv")
        stepper = env.unwrapped.stepper
        stepper.rules = replace(stepper.rules, attempts=attempts)
