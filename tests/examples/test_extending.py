"""The algorithm and the retriever of docs/extending.md, and that the page's code runs."""

from __future__ import annotations

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from recorded_calls import record_calls

from algorithms.common.base.command_line import parse_options
from algorithms.common.config import parse_config
from algorithms.common.run.metrics_log import read_metrics
from algorithms.rloo import RLOO
from examples.compare_algorithms import Args, make_jobs
from examples.your_own_algorithm import FirstSight, FirstSightConfig, in_sight
from examples.your_own_retriever import TitleRetriever
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch.testing.retriever_contract import CORPUS, RetrieverContract
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Invalid
from igsearch_env.reward_hacking import KINDS
from igsearch_env.trajectory import Trajectory, Turn
from igsearch_env.world.bundled import bundled_world
from retrievers import CorpusError, Passage

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
HIT, MISS = Passage("1", "Somewhere", "It is answer 0, they say."), Passage("2", "Elsewhere", "Nothing of the kind.")


def search(*passages: Passage, tokens: int = 2) -> Turn:
    """A search that found these."""
    return search_turn(range(tokens), passages=passages)


def episode(finds: Sequence[bool], outcome: float = 0.0, number: int = 0) -> Trajectory:
    """A search per entry, of as many tokens as it has searches before it and one, then an answer of one token."""
    gold = Passage("1", "Somewhere", f"It is answer {number}, they say.")
    turns = [search(MISS, gold if found else MISS, tokens=n) for n, found in enumerate(finds, start=1)]
    return trajectory([*turns, answer_turn([7])], outcome, number)


def advantages(groups: Sequence[Sequence[Trajectory]], **options: Any) -> list[float]:
    """What the example's algorithm makes of them."""
    return FirstSight(FirstSightConfig(**options)).advantages(buffer_of(groups)).tolist()


# ---------------------------------------------------------------- the algorithm


def test_searches_are_paid_for_the_way_to_the_answer() -> None:
    group = [episode([False, True], outcome=1.0), episode([True]), episode([False])]
    first, second = 0.5 * (0.8 - 0.5), 0.5 * 1.0  # the second search has nothing to compare with
    expected = [1 + first, 1 + second, 1 + second, 1]
    expected += [-0.5 + 0.5 * (1 - 0.4), -0.5]
    expected += [-0.5 + 0.5 * (0 - 0.9), -0.5]
    assert advantages([group], beta=0.5, gamma=0.8) == pytest.approx(expected)


@given(st.lists(st.lists(st.lists(st.booleans(), max_size=3), min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_equation_read_plainly(finds: list[list[list[bool]]]) -> None:
    expected = []
    for group in finds:
        ways = [row.index(True) + 1 if True in row else len(row) for row in group]
        returns = [
            [0.9 ** (way - 1 - n) if True in row else 0.0 for n in range(way)]
            for row, way in zip(group, ways, strict=True)
        ]
        for i, row in enumerate(group):
            for n in range(len(row)):
                others = [r[n] for j, r in enumerate(returns) if j != i and n < len(r)]
                credit = returns[i][n] - (np.mean(others) if others else 0.0) if n < ways[i] else 0.0
                expected += [0.5 * credit] * (n + 1)
            expected.append(0.0)
    groups = [[episode(row, number=number) for row in group] for number, group in enumerate(finds)]
    assert advantages(groups) == pytest.approx(expected, abs=1e-6)


def test_what_happens_after_the_find_changes_nothing_but_rloo() -> None:
    group = [episode([True, True, False], outcome=1.0), episode([True])]
    assert advantages([group], beta=1.0) == pytest.approx([1.0] * 7 + [-1.0] * 2)


def test_without_weight_or_searches_it_is_rloo() -> None:
    searching = buffer_of([[episode([False, True], 1.0), episode([]), episode([True])], [episode([True], 1.0, 1)]])
    np.testing.assert_array_equal(
        FirstSight(FirstSightConfig(beta=0.0)).advantages(searching),
        RLOO(FirstSightConfig()).advantages(searching),
    )
    assert advantages([[episode([], 1.0), episode([])]]) == [1.0, -1.0]


def test_an_invalid_turn_is_no_search_but_takes_its_place() -> None:
    stumbling = trajectory([Turn("?", Invalid("no tag"), completion_ids=(1, 2, 3)), search(HIT), answer_turn([7])])
    assert advantages([[stumbling, episode([False])]], beta=1.0) == pytest.approx([0, 0, 0, 1, 1, 0, -1, 0])


@pytest.mark.parametrize(
    ("golden_answers", "seen"),
    [
        (("the MINOAN palace",), True),
        (("Crete", "Knossos"), True),
        (("Crete",), False),
        (("noan palace",), False),
        (("palace knossos",), False),
        (("The",), False),
        ((), False),
    ],
)
def test_an_answer_in_sight_is_whole_words_of_one_passage(golden_answers: tuple[str, ...], seen: bool) -> None:
    turn = search(Passage("1", "Evans", "He dug up a Minoan palace."), Passage("2", "Knossos", "A site."))
    assert in_sight(golden_answers, turn) is seen


@pytest.mark.parametrize("options", [{"beta": -0.1}, {"gamma": 1.1}, {"beta": float("nan")}])
def test_knobs_out_of_range_are_named(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        FirstSightConfig(**options)


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few questions of the bundled world as a file, so that evaluations are short."""
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:14]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_script(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """What `python examples/<name>` does, without the seconds that another process takes to import torch."""
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def metrics_of_the_page() -> set[str]:
    """The names in the table of `metrics.jsonl` that every run has: means of a kind need a search of that kind."""
    table = PAGE.split("| in `metrics.jsonl`")[1].split("\n\n")[0]
    names = {name for line in table.splitlines()[2:] for name in re.findall(r"`([\w/]+)`", line.split(" | ")[0])}
    return {name.replace("KIND", kind) for name in names if not name.endswith("KIND_mean") for kind in KINDS}


def test_it_trains_as_a_command_and_leaves_the_metrics_that_the_page_reads(
    questions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--steps", "2", "--beta", "1.0", "--env.questions", questions, "--env.eval-questions", questions]
    options += [
        "--rollout.questions-per-step",
        "3",
        "--rollout.group-size",
        "3",
        "--rollout.max-new-tokens",
        "12",
    ]
    run_script("your_own_algorithm.py", monkeypatch, *options, "--run-dir", str(tmp_path / "run"))
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1, 2]
    names = {name for name in metrics_of_the_page() if not name.startswith("information_gain/")}
    assert len(names) > 8
    assert names <= {key for row in rows for key in row}


# ---------------------------------------------------------------- the retriever


class TestTitleRetriever(RetrieverContract):
    @pytest.fixture
    def retriever(self) -> TitleRetriever:
        return TitleRetriever(CORPUS)

    def test_never_padded(self, retriever: TitleRetriever) -> None:
        found = retriever.search(["Tagus", "zzz qqq", "Tagus zzz", "!?"], len(CORPUS))
        assert [[passage.id for passage in passages] for passages in found] == [["15"], [], ["15"], []]


@pytest.mark.parametrize(
    ("query", "best"),
    [("the capital of Germany: Paris?", "11"), ("physicist MARIE CURIE of Paris, France", "14"), ("herring", "16")],
)
def test_titles_come_first(query: str, best: str) -> None:
    assert TitleRetriever(CORPUS).search([query], 3)[0][0].id == best


def test_scores_are_named_titles_and_the_share_of_words() -> None:
    retriever = TitleRetriever(
        [Passage("1", "New York", "A city."), Passage("2", "York", "Old."), Passage("3", "?", "!")]
    )
    assert [p.score for p in retriever.search(["new york lies"], 3)[0]] == pytest.approx([1 + 2 / 3, 1 + 1 / 3])


def test_it_needs_a_passage() -> None:
    with pytest.raises(CorpusError, match="at least one"):
        TitleRetriever([])


def test_the_example_compares_and_plays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_script("your_own_retriever.py", monkeypatch)
    printed = capsys.readouterr().out
    assert len(re.findall(r"EM 0\.\d{3}", printed)) == 4
    assert printed.count("answered: outcome 1.00") == 1


# ---------------------------------------------------------------- the page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The blocks of the page, each under the name in its first line, in a folder outside the repository."""
    sources = (ROOT / "retrievers" / "base.py").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == PAGE.count("```") / 2
    for block in blocks:
        name = re.match(r"# (\w+\.py)\n", block)
        assert name or block in sources  # an excerpt
        assert not re.search(r"(from|import) (examples|tests|buffers|helpers)", block)  # these are not installed
        if name:
            (tmp_path / name[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("own_algorithm", "own_retriever"):
        sys.modules.pop(name, None)


def run_file(path: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    """What `python PATH OPTIONS` does."""
    monkeypatch.setattr(sys, "argv", [str(path), *options])
    runpy.run_path(str(path), run_name="__main__")


def test_the_environment_of_the_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file(folder / "own_environment.py", monkeypatch)
    printed = capsys.readouterr().out
    assert len(re.findall(r"information gain [+-]\d\.\d\d nats, reward", printed)) == 2
    assert re.findall(r"answered (.*): reward (.*)", printed) == [("Orla Venn", "1.00"), ("Tarn", "1.00")]


def test_the_tests_of_the_page(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_own_retriever.py", "test_own_algorithm.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 25


def test_the_training_of_the_page(folder: Path, questions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = importlib.import_module("own_retriever").OverlapRetriever
    searched: list[str] = []
    record_calls(monkeypatch, retriever, "search", searched)
    options = ["--env.questions", questions, "--env.eval-questions", questions, "--rollout.questions-per-step", "2"]
    options += ["--rollout.group-size", "2", "--rollout.max-new-tokens", "12", "--steps", "1", "--weight", "0.2"]
    run_file(folder / "own_training.py", monkeypatch, *options, "--run-dir", str(folder / "run"))
    assert searched
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1]
    gains = {name for name in metrics_of_the_page() if name.startswith("information_gain/")}
    assert gains <= {key for row in rows for key in row}
    assert "weight: 0.2" in (folder / "run" / "config.yaml").read_text(encoding="utf-8")


def test_the_commands_of_the_page_are_valid(folder: Path) -> None:
    config_class = importlib.import_module("own_algorithm").PaidQueriesConfig
    own = re.findall(r"`(?:python own_(?:algorithm|training)\.py|igsearch train own_algorithm\.py) (.*?)`", PAGE)
    assert len(own) == 3
    for options in own:
        parse_config(config_class, shlex.split(options))
    commands = [shlex.split(line) for line in re.findall(r"^    python (.*)$", PAGE, re.MULTILINE)]
    assert [file for file, *_ in commands] == ["examples/compare_algorithms.py"] * 2
    for _, *options in commands:
        assert any("examples/your_own_algorithm.py" in job.command for job in make_jobs(parse_options(Args, options)))


def test_the_members_that_the_page_names_exist() -> None:
    owners = {"buffer": buffer_of([[episode([True])]]), "turn": search(), "trajectory": episode([True])}
    named = re.findall(rf"`({'|'.join(owners)})\.(\w+)", PAGE)
    assert {owner for owner, _ in named} == set(owners)
    for owner, name in named:
        assert hasattr(owners[owner], name), name
