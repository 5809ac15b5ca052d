"""Gains of scripted searches: the labels are what was read, and a policy that reads tells them apart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from algorithms.common.evaluation.auc import auc
from examples import gain_quality_text as module
from examples.gain_quality_text import MEASURES, Args, SearchRow, choose, label, main
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import Search
from igsearch_env.questions import Question
from igsearch_env.trajectory import Trajectory, Turn
from igsearch_env.world.bundled import bundled_world
from retrievers.base import Passage


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Questions of the bundled world with their supporting titles, and its corpus."""
    folder = tmp_path_factory.mktemp("text")
    world = bundled_world()
    titles = {passage.id: passage.title for passage in world.passages}
    with (folder / "questions.jsonl").open("w", encoding="utf-8") as file:
        for question in world.questions["train"][:240:4]:
            pages = [titles[hop.passage_id] for hop in question.metadata["hops"]]
            row = {"id": question.id, "question": question.text, "golden_answers": list(question.golden_answers)}
            file.write(json.dumps({**row, "dataset": question.dataset, "supporting_titles": pages}) + "\n")
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for passage in world.passages:
            file.write(json.dumps({"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}) + "\n")
    return folder / "questions.jsonl", folder / "corpus.jsonl"


def test_a_policy_that_reads_prefers_searches_that_found_the_answer(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "gain.json"
    questions, corpus = map(str, files)
    main(Args(questions=(questions,), corpus=corpus, num_questions=40, top_k=3, output=output))
    content = json.loads(output.read_text())
    rows = content["searches"]
    assert content["settings"]["num_questions"] == 40
    assert {row["plan"] for row in rows} == {"titles", "question", "other"}
    assert {row["label"] for row in rows} == {"answer", "bridge", "unrelated"}
    assert all(row["nats"].keys() == row["probability"].keys() == MEASURES.keys() for row in rows)
    compared = [row for row in rows if row["label"] != "bridge"]
    values = np.array([row["nats"]["random, N = 3"] for row in compared])
    assert auc(values, np.array([row["label"] == "answer" for row in compared])) > 0.8
    assert "40 questions" in capsys.readouterr().out


def turn(*passages: Passage, observation: str) -> Turn:
    """A search that found passages."""
    return Turn("", Search("query"), observation=observation, passages=passages)


@pytest.mark.parametrize(
    ("title", "text", "shown", "expected"),
    [
        ("Hop", "It is Lisbon.", "It is Lisbon.", "answer"),
        ("Elsewhere", "Lisbon is large.", "Lisbon is large.", "answer"),
        ("Hop", "A long text. It is Lisbon.", "A long text.", "bridge"),  # the answer is cut off
        ("Elsewhere", "Nothing.", "Nothing.", "unrelated"),
    ],
)
def test_a_label_is_what_the_policy_read(title: str, text: str, shown: str, expected: str) -> None:
    question = Question("1", "Where?", ("Lisbon",), "set", {"supporting_titles": ["Hop", "Other"]})
    found = turn(Passage("1", title, text), observation=f"Doc 1(Title: {title}) {shown}")
    assert label(Trajectory(question, "prompt", [found]), 0) == expected


def test_questions_are_taken_from_each_data_set_in_turn_without_yes_and_no() -> None:
    titles = {"supporting_titles": ["A"]}
    many = [Question(str(n), "Who?", ("Bo",), "many", titles) for n in range(20)]
    few = [Question(str(n), "Who?", ("Bo",), "few", titles) for n in range(3)]
    others = [Question("y", "Is it?", ("yes",), "few", titles), Question("u", "Who?", ("Bo",), "few")]
    chosen = choose([*many, *few, *others], 10, 0)
    assert sorted(question.dataset for question in chosen) == ["few"] * 3 + ["many"] * 7
    assert chosen == choose([*many, *few, *others], 10, 0)
    with pytest.raises(ConfigurationError, match="0 of 2 questions have supporting_titles"):
        choose(others, 10, 0)


def test_an_interrupted_measurement_is_resumed_and_gives_the_same(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions, corpus = map(str, files)
    monkeypatch.setattr(module, "BATCH", 2)
    monkeypatch.setattr(module, "MEASURES", {"random, N = 3": InformationGainConfig()})
    args = [Args(questions=(questions,), corpus=corpus, num_questions=6, output=tmp_path / f"{n}.json") for n in "ab"]
    main(args[0])
    measured, calls = module.measured, list[int]()

    def interrupted(*arguments: Any) -> list[SearchRow]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(module, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(args[1])
    partial = tmp_path / "b.json.partial.jsonl"
    partial.write_text(partial.read_text() + '["bundled 4", [{"pol')  # and the last line was not written whole
    with pytest.raises(ConfigurationError, match="started with other settings; run that command again"):
        main(replace(args[1], seed=1))
    main(args[1])
    assert len(calls) == 4  # one batch was left
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()
    assert not partial.exists()
