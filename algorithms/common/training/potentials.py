"""Potential-based shaping (Ng, Harada, Russell 1999): how likely the golden answer is, as a potential of the state.

    Phi(s_t)      golden answer's log-prob (or its exponential), given what the policy has read before turn t
    F_t           = gamma Phi(s_{t+1}) - Phi(s_t),   Phi(terminal) = 0
    sum_{k >= t} gamma^{k-t} F_k = -Phi(s_t)

The shaped return differs from the plain one by a function of the state alone. Potentials come from the gains over the
baseline `previous`: each search moves the potential from its `logprob_baseline` to its `logprob_real`.

Shapes: S turns, trajectory by trajectory.
"""

from __future__ import annotations

from math import exp

import numpy as np
from numpy.typing import ArrayLike

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.advantages import Float64s
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import PROTOCOLS
from igsearch_env.trajectory import GainForm


def check_previous(information_gain: InformationGainConfig, why: str) -> None:
    """Raise `ConfigurationError` unless a search is compared with the context before it; `why` is in the message."""
    if information_gain.baseline != "previous":
        raise ConfigurationError(
            f"information_gain.baseline={information_gain.baseline!r}: {why}; set 'previous', or train with "
            "algorithms/ig_grpo.py"
        )


def check_potentials(information_gain: InformationGainConfig, env: EnvConfig, method: str) -> None:
    """Raise `ConfigurationError` unless the gains of a search are differences of potentials of states."""
    check_previous(information_gain, f"{method} needs the golden answer's probability before and after each search")
    if PROTOCOLS[env.protocol].refines:
        raise ConfigurationError(
            f"env.protocol={env.protocol!r}: the probability after a search includes the refinement that the policy "
            f"writes in its next turn, so it is no potential of the state; set 'search_r1' for {method}"
        )


def turn_potentials(buffer: RolloutBuffer, form: GainForm) -> Float64s:
    """Phi of the state before each of S turns less that of the prompt: log-probs in nats, or probabilities.

    Less that of the prompt, as it is not measured where no sibling searches; a constant of the question is a potential
    of its own. The prompt's is the one before the earliest measured search of the group. A turn without a gain (an
    invalid action, a search that found nothing) leaves the potential as it is.
    """
    potentials: list[float] = []
    for group in buffer.groups:
        measured = [(n, turn.gain) for t in group.trajectories for n, turn in enumerate(t.turns) if turn.gain]
        prompt = min(measured, key=lambda found: found[0])[1].logprob_baseline if measured else 0.0
        for trajectory in group.trajectories:
            current = prompt
            for turn in trajectory.turns:
                potentials.append(exp(current) - exp(prompt) if form == "probability" else current - prompt)
                current = current if turn.gain is None else turn.gain.logprob_real
    return np.array(potentials, dtype=np.float64)


def shaping_rewards(potentials_S: ArrayLike, lengths_N: ArrayLike, gamma: float = 1.0) -> Float64s:
    """F_t of each turn, the last one of a trajectory leading to the terminal state, whose potential is 0."""
    phi = np.asarray(potentials_S, dtype=np.float64)
    following = np.append(phi[1:], 0.0)[: len(phi)]
    following[np.cumsum(lengths_N) - 1] = 0.0
    return np.asarray(gamma * following - phi)
