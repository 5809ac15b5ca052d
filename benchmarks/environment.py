"""Environment: start-up time, steps per second, and steps per second compared with two packages from PyPI.

    python -m benchmarks.environment                 installs skyrl-gym and gem-llm in benchmarks/.peers on first use
    python -m benchmarks.environment --peers None    without them

All sides play the same episodes (four searches and an answer, three passages of about 100 words per search) without
information gain. The search engine of the comparison is a stub: a process that answers HTTP requests in the format of
each side, always with the same passages. A vector of our environments sends one request per step with all its queries;
the peers have no batched search, so they send one request per query.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import tyro

from benchmarks.measure import Line, interleaved, ratio
from benchmarks.stub_search import PASSAGES, HttpRetriever, stub_server
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.questions import Question
from igsearch_env.vector_env import IGSearchVectorEnv
from igsearch_env.world.bundled import bundled_world
from retrievers import DictionaryRetriever, Passage, Retriever

ENVS = 64
FIRST_OBSERVATION = """
import time; start = time.perf_counter()
import sys, gymnasium, igsearch_env
gymnasium.make("IGSearch-v0").reset(seed=0)
assert "torch" not in sys.modules
print(time.perf_counter() - start)
"""
EPISODES = 256  # of each side in each round
PROTOCOL = make_protocol()
THOUGHT = PROTOCOL.markers[:2]  # the tags around a thought
NOTHING = PROTOCOL.write(Answer("nothing"))
TURNS = [f"{THOUGHT[0]} step {i} {THOUGHT[1]} {PROTOCOL.write(Search(f'query {i}'))}" for i in range(4)] + [NOTHING]
PEERS = {"skyrl-gym": ["skyrl-gym==0.4.0"], "gem-llm": ["gem-llm==0.1.0", "datasets"]}  # gem's metadata omits datasets
THREADS = (1, 32)  # of a peer; 32 is SkyRL's default


def lines(repeats: int = 5, peers: Path | None = Path(__file__).parent / ".peers") -> list[Line]:
    """All measurements of the environment.

    Args:
        repeats: Repetitions of each measurement; the median is reported.
        peers: Folder for the virtual environment of the peers; None skips them.
    """
    return [
        first_observation(repeats),
        vector_env("vector env, 64 envs, dictionary retriever, no scorer", 20_000, repeats, bundled=False),
        vector_env("vector env, 64 envs, bundled BM25, UnigramScorer", 2_000, repeats, bundled=True),
        *(against_peers(repeats, peers) if peers is not None else []),
    ]


def first_observation(repeats: int) -> Line:
    """Time from start to first observation in a new process, imports included; fails if torch is imported."""
    seconds = [
        float(subprocess.run([sys.executable, "-c", FIRST_OBSERVATION], check=True, capture_output=True).stdout)
        for _ in range(repeats)
    ]
    return Line("new process to first observation", statistics.median(seconds), "s", 1.0, at_most=True)


def vector_env(name: str, target: float, repeats: int, *, bundled: bool) -> Line:
    """Steps of single environments per second, in episodes of four searches and an answer."""
    if bundled:
        vector = gymnasium.make_vec("IGSearch-v0", num_envs=ENVS)
    else:
        passages = [Passage(str(j), f"Title {j}", "some text of about thirty words " * 5) for j in range(3)]
        vector = gymnasium.make_vec(
            "IGSearch-v0",
            num_envs=ENVS,
            questions=bundled_world().questions["train"],
            retriever=DictionaryRetriever({f"query {i}": passages for i in range(ENVS)}),
            scorer=None,
        )
    env = vector.unwrapped
    assert isinstance(env, IGSearchVectorEnv)
    rates = []
    for repeat in range(repeats + 1):
        env.reset(seed=repeat)
        rounds = 6 if bundled else 60
        start = time.perf_counter()
        for round_number in range(5 * rounds):
            env.step(_actions(env, round_number % 5, bundled))
        if repeat:  # the first is a warm-up
            rates.append(5 * rounds * ENVS / (time.perf_counter() - start))
    return Line(name, statistics.median(rates), "env steps/s", target)


def _actions(env: IGSearchVectorEnv, turn: int, bundled: bool) -> Sequence[str]:
    if turn == 4:
        return [NOTHING] * ENVS
    if not bundled:
        return [PROTOCOL.write(Search(f"query {i}")) for i in range(ENVS)]
    words = [t.question.text.rstrip("?").split()[-3 - turn :] for t in env.trajectories]
    return [PROTOCOL.write(Search(" ".join(query))) for query in words]


def against_peers(repeats: int, folder: Path) -> list[Line]:
    """Our steps per second divided by those of the fastest peer; every round measures all sides in turn."""
    questions = [Question(f"q{i}", f"Who wrote book {i}?", ("something",), "made up") for i in range(EPISODES)]
    with ExitStack() as stack:
        url = stack.enter_context(stub_server())
        theirs: dict[str, Callable[[], object]] = {}
        for package in PEERS:
            try:
                python = install(package, folder)
                for threads in THREADS:
                    options = {"url": url, "threads": threads, "questions": [q.text for q in questions]}
                    options |= {"turns": TURNS, "shown": PASSAGES[-1].text}
                    version, play = stack.enter_context(driver(python, package, options))
                    play()
                    theirs[f"{package} {version}, {threads} thread{'s' * (threads > 1)}"] = play
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                print(f"{package} is skipped: {error}", file=sys.stderr)
        if not theirs:
            return []
        http = HttpRetriever(url)
        dictionary = DictionaryRetriever({f"query {i}": PASSAGES for i in range(len(TURNS) - 1)})
        ours: dict[str, Callable[[], object]] = {
            "ours, same stub": player(questions, http, ENVS),
            "ours, same stub, one environment": player(questions, http, 1),
            "ours, in-process": player(questions, dictionary, ENVS),
        }
        times = interleaved({**theirs, **ours}, repeats)
    steps = EPISODES * len(TURNS)
    rates = {name: steps / statistics.median(seconds) for name, seconds in times.items()}
    best = max(theirs, key=rates.__getitem__)
    detail = "steps/s: " + "; ".join(f"{name}: {rate:,.0f}" for name, rate in rates.items())

    def line(side: str, what: str, target: float | None) -> Line:
        name = f"environment steps/s over the fastest peer, {what}"
        return Line(name, ratio(times[best], times[side]), target=target, detail=detail if target == 1.0 else "")

    return [
        line("ours, same stub", "same HTTP stub", 1.0),
        line("ours, same stub, one environment", "same HTTP stub, ours one environment at a time", None),
        line("ours, in-process", "our in-process retriever", 5.0),
    ]


def player(questions: Sequence[Question], retriever: Retriever, envs: int) -> Callable[[], None]:
    """A function that plays one episode per question in a vector of `envs`, and checks that they are complete."""
    env = IGSearchVectorEnv(envs, questions, retriever, scorer=None, autoreset_mode="Disabled")

    def play() -> None:
        for start in range(0, len(questions), envs):
            env.reset(options={"questions": questions[start : start + envs]})
            for turn in TURNS:
                observations, _, terminations, _, _ = env.step([turn] * envs)
                assert terminations.all() or all(PASSAGES[-1].text in text for text in observations)
            assert terminations.all()

    return play


def install(package: str, folder: Path) -> Path:
    """The Python of the peers' virtual environment, with the package installed."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / f"{package}.installed"
    commands = [] if python.exists() else [[sys.executable, "-m", "venv", str(folder)]]
    if not done.exists() or done.read_text() != str(PEERS[package]):
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        commands.append([*pip, *PEERS[package]])
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if run.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {_last_line(run.stderr)}")
    done.write_text(str(PEERS[package]))
    return python


@contextmanager
def driver(python: Path, package: str, options: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yields the version of a peer and a function that makes `peer_driver.py` play every question once."""
    command = [str(python), str(Path(__file__).with_name("peer_driver.py")), package, json.dumps(options)]
    environ = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    pipe = subprocess.PIPE
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environ) as process,
    ):

        def ask(request: str) -> Any:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(request)
            process.stdin.flush()
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise RuntimeError(f"its driver stopped: {_last_line(errors.read())}")
            return json.loads(line)

        def play() -> None:
            steps = ask("play\n")["steps"]
            assert steps == EPISODES * len(TURNS), f"{package} played {steps} steps"

        try:
            yield ask("")["version"], play
        finally:
            process.kill()


def _last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1][:300]


if __name__ == "__main__":
    for measured in tyro.cli(lines, description=__doc__):
        print(f"{measured.name}: {measured.value:,.3g} {measured.unit} (target: {measured.target}) {measured.detail}")
