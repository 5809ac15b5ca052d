"""`Question.from_dict` reads one row as `load_questions` reads a file of them, and `to_dict` is its inverse."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_question_shapes import FORMS, VERL

from igsearch_env import ConfigurationError, Question, QuestionError, load_questions
from igsearch_env.plain import plain
from igsearch_env.question_shapes import question_rows
from igsearch_env.question_sources import open_source
from igsearch_env.world.bundled import bundled_world

UNANSWERED: dict[str, list[Any]] = {"text": [], "answer_start": []}
ROW = {"id": "7", "question": "Who?", "golden_answers": ["Mira"]}


@pytest.mark.parametrize("form", FORMS)
def test_a_row_of_every_published_form(form: str, tmp_path: Path) -> None:
    name, write, content, _ = FORMS[form]
    write(tmp_path / name, content)
    expected = {question.text: question for question in load_questions(tmp_path / name)}
    rows = [inner for where, row in open_source(tmp_path / name).rows for _, inner in question_rows(row, where)]
    found = []
    for row in rows:
        before = repr(row)
        if row.get("answerable") is False or row.get("is_impossible") or row.get("answers") == UNANSWERED:
            with pytest.raises(QuestionError, match="unanswerable"):
                Question.from_dict(row)
        else:
            found.append(Question.from_dict(row, dataset=next(iter(expected.values())).dataset))
        assert repr(row) == before
    assert {question.text for question in found} == set(expected)
    for question in found:
        same = expected[question.text]
        assert (question.golden_answers, question.supporting_titles) == (same.golden_answers, same.supporting_titles)
        assert question.dataset == same.dataset
        assert question.id == same.id or "id" not in str(rows).lower() or form.startswith(("verl", "Bamboogle"))


@pytest.mark.parametrize(
    ("row", "dataset", "said"),
    [
        (ROW | {"dataset": "NQ"}, "x", "nq"),
        (ROW, "mine", "mine"),
        (ROW | {"question": "Who?", "possible_answers": ["x"], "golden_answers": None}, "custom", "popqa"),
    ],
)
def test_the_data_set_of_a_row(row: dict[str, Any], dataset: str, said: str) -> None:
    assert Question.from_dict(row, dataset=dataset).dataset == said


def test_ids_of_rows_without_one() -> None:
    first, second = ({"question": text, "answer": "x"} for text in ("Who?", "Where?"))
    ids = [Question.from_dict(row).id for row in (first, second, dict(first))]
    assert ids[0] == ids[2] != ids[1]
    assert Question.from_dict(first | {"split": "validation"}).id.startswith("dev_")
    assert Question.from_dict(VERL).id == "test_7"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([ROW], r"\[.* is a list: the row must be a dictionary"),
        ("Who?", "'Who\\?' is a str: the row must be a dictionary"),
        ({}, r"no field with answers \(found \[\]\); add one of golden_answers"),
        ({"golden_answers": ["x"]}, "no field 'question'"),
        ({"question": "Who?"}, "no field with answers"),
        (ROW | {"question": 7.5}, r"question is '7\.5'; it must be a string"),
        (ROW | {"question": " "}, "question '7': its text is empty"),
        (ROW | {"id": ["x"]}, r"id is .* must be a string"),
        (ROW | {"golden_answers": [None, ""]}, "question '7': the row has no answer"),
        (ROW | {"golden_answers": ["The"]}, "nothing is left of them"),
        (ROW | {"golden_answers": [object]}, "golden_answers"),
        (ROW | {"answerable": False}, "marked as unanswerable"),
        ({"data": [{"paragraphs": [{"qas": [ROW, ROW]}]}]}, "holds 2 questions: pass a row of one"),
        ({"Data": []}, "holds 0 questions"),
        (ROW | {"supporting_titles": "x"}, "supporting_titles is 'x'; it must be a list"),
    ],
)
def test_rows_that_are_no_question_are_named(row: Any, said: str) -> None:
    with pytest.raises(QuestionError, match=rf"^Question\.from_dict: .*{said}"):
        Question.from_dict(row)


def same(one: Question, other: Question) -> bool:
    """Whether two questions are equal, metadata included."""
    return one == other and dict(one.metadata) == dict(other.metadata)


def test_a_dictionary_is_read_back() -> None:
    for question in bundled_world().questions["train"][:50]:
        read = Question.from_dict(json.loads(json.dumps(question.to_dict())))
        assert read == question
        assert dict(read.metadata) == plain(question.metadata)


def test_a_dictionary_is_a_row_of_a_file(tmp_path: Path) -> None:
    metadata = {"split": "train", "hops": 2, "supporting_titles": ["A", "B"], "level": None}
    question = Question("a_1", "Wer? ☃", ("Mira", "x"), "mine", metadata)
    (tmp_path / "x.jsonl").write_text(json.dumps(question.to_dict()) + "\n", encoding="utf-8")
    (read,) = load_questions(tmp_path / "x.jsonl")
    assert same(read, question)
    assert same(Question.from_dict(question.to_dict()), question)


def test_a_dictionary_is_plain_data() -> None:
    metadata = {
        "id": "not this",
        "hops": np.int64(2),
        "seen": datetime.date(2024, 7, 26),
        "tags": {"b", "a"},
        "scores": np.array([0.5, np.nan]),
        "nested": {1: ("x",)},
    }
    row = Question("q", "Who?", ("x",), "mine", metadata).to_dict()
    assert json.loads(json.dumps(row)) == row
    assert row["id"] == "q"
    assert (row["hops"], row["seen"], row["tags"]) == (2, "2024-07-26", ["a", "b"])
    assert (row["scores"], row["nested"]) == ([0.5, None], {"1": ["x"]})


@pytest.mark.parametrize(
    "question",
    [
        Question("q", "Who?", ('["a","b"]',), "mine"),
        Question("q", "Who?", ("<unk>", " Mira ", "Mira", "Mira"), "mine"),
        Question("q", "Who?", ("Mira",), "HotpotQA"),
        Question("q", "Who?", ("Mira",), ""),
        Question("", "Who?", ("Mira",), "nq"),
        Question("7", " Who?\n", ("1902", "yes"), "nq"),
        Question("q", "Who?", ("x",), "mine", {"is_impossible": True, "answerable": False}),
        Question("q", "Who?", ("x",), "mine", {"split": "validation", "context": "long", "prompt": [{"role": "user"}]}),
        Question("q", "Who?", ("x",), "mine", {"reward_model": 1, "ground_truth": "y", "extra_info": {"index": 3}}),
        Question("q", "Who?", ("x",), "mine", {"Question": "y", "_id": "z", "data": [1], "supporting_titles": ["A"]}),
    ],
    ids=["list", "repeated", "benchmark", "no data set", "no id", "numbers", "marks", "unread", "verl", "names"],
)
def test_what_published_forms_interpret_is_read_as_it_was_written(question: Question, tmp_path: Path) -> None:
    row = json.loads(json.dumps(question.to_dict()))
    assert same(Question.from_dict(row), question)
    assert same(Question.from_dict(row, dataset="other"), question)
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    (read,) = load_questions(tmp_path / "x.jsonl")
    assert same(read, question)


def test_rows_that_were_written_take_the_split_of_their_file(tmp_path: Path) -> None:
    rows = [Question(f"q{n}", "Who?", ("x",), "Mine", {"split": "dev"} if n else {}).to_dict() for n in range(2)]
    path = tmp_path / "x.train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (*rows, rows[0])), encoding="utf-8")
    assert [(q.id, q.split, q.dataset) for q in load_questions(f"{path}:train")] == [("q0", "train", "Mine")]
    assert [q.id for q in load_questions(f"{path}:dev")] == ["q1"]


def test_a_written_row_without_its_types_is_read_by_the_rules_of_published_forms() -> None:
    row = Question("q", "Who?", ("a", "b"), "mine").to_dict()
    read = Question.from_dict({**row, "golden_answers": "['a', 'b']"})
    assert same(read, Question("q", "Who?", ("a", "b"), "mine"))
    read = Question.from_dict({**row, "golden_answers": np.array(["a", "b"], dtype=object)})
    assert same(read, Question("q", "Who?", ("a", "b"), "mine"))


@pytest.mark.parametrize("dataset", [None, 7, ["nq"]], ids=str)
def test_a_data_set_that_is_no_string(dataset: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"dataset=.*must be a string, the data set of a row"):
        Question.from_dict(ROW, dataset=dataset)
