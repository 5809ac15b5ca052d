"""IGSearch: a Gymnasium environment for search agents. Importing it registers `IGSearch-v0`; no torch is needed."""

from gymnasium.envs.registration import register, registry

from igsearch_env.async_env import AsyncIGSearch, AsyncIGSearchEnv
from igsearch_env.env import IGSearchEnv
from igsearch_env.errors import ConfigurationError, IGSearchError, QuestionError, ScoringError
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.measuring import measure_gains
from igsearch_env.protocols import Answer, Invalid, Protocol, Search
from igsearch_env.questions import Question, load_questions
from igsearch_env.reflection import ReflectionWrapper
from igsearch_env.reward_hacking import HackingFlags, hacking_flags, names_unseen_answer
from igsearch_env.scorers import AnswerScorer, ScoreRequest, Segment, UnigramScorer
from igsearch_env.trajectory import Attempt, Gain, Group, Trajectory, Turn
from igsearch_env.vector_env import IGSearchVectorEnv

ENV_ID = "IGSearch-v0"
"""Id of the environment, for `gymnasium.make` and `gymnasium.make_vec`."""

if ENV_ID not in registry:
    register(
        id=ENV_ID,
        entry_point="igsearch_env.env:IGSearchEnv",
        vector_entry_point="igsearch_env.vector_env:IGSearchVectorEnv",
    )

__all__ = [
    "ENV_ID",
    "Answer",
    "AnswerScorer",
    "AsyncIGSearch",
    "AsyncIGSearchEnv",
    "Attempt",
    "ConfigurationError",
    "Gain",
    "Group",
    "HackingFlags",
    "IGSearchEnv",
    "IGSearchError",
    "IGSearchVectorEnv",
    "InformationGain",
    "InformationGainConfig",
    "Invalid",
    "Protocol",
    "Question",
    "QuestionError",
    "ReflectionWrapper",
    "ScoreRequest",
    "ScoringError",
    "Search",
    "Segment",
    "Trajectory",
    "Turn",
    "UnigramScorer",
    "hacking_flags",
    "load_questions",
    "measure_gains",
    "names_unseen_answer",
]
