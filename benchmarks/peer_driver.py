"""Plays search episodes with skyrl-gym or gem-llm. Runs in the virtual environment of the peers; see `environment.py`.

    python peer_driver.py skyrl-gym|gem-llm OPTIONS      OPTIONS: the arguments of the functions below, as JSON

When ready, it prints {"version": ...}. Then each line on standard input requests one episode per question, played with
the API of the package; the reply is a line with the number of steps. Logs go to standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from typing import Any

TIMEOUT = 300  # seconds per request until this process exits


def skyrl_gym(url: str, threads: int, questions: list[str], turns: list[str], shown: str) -> Callable[[], int]:
    """A new environment per episode and a thread pool, as in SkyRL's generator (32 threads by default).

    A search is one JSON request with one query, over a session shared by all environments.
    """
    import skyrl_gym as package  # in the peers' own environment
    from skyrl_gym.envs.search.env import SearchEnvConfig

    config = SearchEnvConfig(search_url=url, topk=3, timeout=30)

    def episode(question: str) -> int:
        extras = {"reward_spec": {"ground_truth": {"target": ["something"]}}, "max_turns": len(turns)}
        env = package.make("search", env_config=config, extras=extras)
        env.init([{"role": "user", "content": question}])
        for number, turn in enumerate(turns, start=1):
            output = env.step(turn)
            assert output["done"] == (number == len(turns)), output
            assert output["done"] or shown in output["observations"][0]["content"], output
        env.close()
        return len(turns)

    if threads == 1:
        return lambda: sum(map(episode, questions))
    pool = ThreadPoolExecutor(threads)
    return lambda: sum(pool.map(episode, questions))


def gem_llm(url: str, threads: int, questions: list[str], turns: list[str], shown: str) -> Callable[[], int]:
    """`make_vec` over the question answering environment with the search tool: a loop, or a thread per environment.

    A search is one msgpack request with one query, over a new connection.
    """
    import gem  # type: ignore[import-not-found]
    from datasets import Dataset, disable_progress_bars
    from gem.tools.search_tool import SearchTool  # type: ignore[import-not-found]
    from gem.tools.tool_env_wrapper import ToolEnvWrapper  # type: ignore[import-not-found]

    disable_progress_bars()
    rows = {"problem": questions, "answer": [["something"]] * len(questions)}
    tool = SearchTool(search_url=f"{url}/msgpack", topk=3, timeout=30)
    vector = gem.make_vec(
        ["qa:HotpotQA"] * threads,  # its questions are replaced by ours
        wrappers=[partial(ToolEnvWrapper, tools=[tool], max_tool_uses=len(turns) - 1)],
        async_mode=threads > 1,
        dataset=Dataset.from_dict(rows),
    )
    vector.reset()

    def play() -> int:
        for _ in range(len(questions) // threads):
            for number, turn in enumerate(turns, start=1):
                observations, _, terminated, _, _ = vector.step([turn] * threads)
                assert all(terminated) == any(terminated) == (number == len(turns)), observations
                assert all(terminated) or all(shown in text for text in observations), observations
        return len(questions) // threads * threads * len(turns)  # ended environments have started the next episode

    return play


def main(package: str, options: dict[str, Any]) -> None:
    """Answer requests until standard input ends."""
    with contextlib.redirect_stdout(sys.stderr):
        play = {"skyrl-gym": skyrl_gym, "gem-llm": gem_llm}[package](**options)
        logging.disable(logging.INFO)
    print(json.dumps({"version": version(package)}), flush=True)
    for _ in sys.stdin:
        faulthandler.dump_traceback_later(TIMEOUT, exit=True)
        print(json.dumps({"steps": play()}), flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
