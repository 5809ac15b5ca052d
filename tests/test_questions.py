"""Question files: what is read, and that every error names the file and the line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from igsearch_env import Question, QuestionError, load_questions

GOOD: dict[str, Any] = {"id": "a1", "question": "Who?", "golden_answers": ["Mira Sorel", "Sorel"]}


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    """A jsonl file of the rows; a string is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def row(**changes: Any) -> dict[str, Any]:
    """A good row but for the changes; None removes a field."""
    return {key: value for key, value in (GOOD | {"id": "a2"} | changes).items() if value is not None}


def test_reads_the_fields_and_keeps_the_others_as_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "trivia.dev.jsonl", GOOD | {"dataset": "nq", "split": "dev", "hops": [1, 2]}, "", row(id=7))
    first, second = load_questions(path)
    assert first == Question("a1", "Who?", ("Mira Sorel", "Sorel"), "nq")
    assert first.metadata == {"split": "dev", "hops": [1, 2]}
    assert (second.id, second.dataset, second.metadata) == ("7", "trivia", {})


def test_reads_text_of_any_script(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "1", "question": "日本の首都?", "golden_answers": ["東京"]}', encoding="utf-8")
    assert load_questions(path)[0].golden_answers == ("東京",)


def test_reads_compressed_files_alike(tmp_path: Path) -> None:
    plain = write(tmp_path / "nq.jsonl", GOOD, row())
    packed = tmp_path / "nq.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert load_questions(packed) == load_questions(str(plain))
    assert load_questions(packed)[0].dataset == "nq"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(question=None), "no field 'question'"),
        (row(golden_answers=None), "no field 'golden_answers'"),
        ({"question": "Who?", "golden_answers": ["x"]}, "no field 'id'"),
        (row(question="  "), "text is empty"),
        (row(golden_answers=[]), r"golden_answers is \(\)"),
        (row(golden_answers="Mira"), "golden_answers is 'Mira'"),
        (row(golden_answers={"x": 1}), "golden_answers is"),
        (row(golden_answers=["Mira", ""]), "none of them empty"),
        (row(golden_answers=["Mira", " \n"]), "none of them empty"),
        (row(golden_answers=["Mira", 7]), "golden_answers is"),
        (row(id="a1"), "'a1'"),
        ("{not json", "not a JSON object"),
        ('["a", "list"]', "a list, not a JSON object"),
        ("null", "not a JSON object"),
    ],
)
def test_bad_line_is_named_with_its_file(tmp_path: Path, bad: dict[str, Any] | str, said: str) -> None:
    path = write(tmp_path / "some.jsonl", GOOD, "", bad)
    with pytest.raises(QuestionError, match=said) as caught:
        load_questions(path)
    assert f"{path}, line 3" in str(caught.value)


def test_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "latin.jsonl", GOOD)
    path.write_bytes(path.read_bytes() + '{"id": "2", "question": "Où?", "golden_answers": ["x"]}'.encode("latin-1"))
    with pytest.raises(QuestionError, match="not UTF-8") as caught:
        load_questions(path)
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(QuestionError, match="no question") as caught:
        load_questions(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match="no such file") as caught:
        load_questions(tmp_path / "nowhere.jsonl")
    assert str(tmp_path / "nowhere.jsonl") in str(caught.value)


@pytest.mark.parametrize("damage", ["not compressed", "cut short"])
def test_damaged_compressed_file_is_named(tmp_path: Path, damage: str) -> None:
    packed = gzip.compress(json.dumps(GOOD).encode() * 100)
    path = tmp_path / "bad.jsonl.gz"
    path.write_bytes(json.dumps(GOOD).encode() if damage == "not compressed" else packed[: len(packed) // 2])
    with pytest.raises(QuestionError) as caught:
        load_questions(path)
    assert str(path) in str(caught.value)


def test_same_id_in_two_data_sets_is_two_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.jsonl", GOOD | {"dataset": "nq"}, GOOD | {"dataset": "popqa"})
    assert [question.dataset for question in load_questions(path)] == ["nq", "popqa"]


@pytest.mark.parametrize("golds", [(), ("",), ("Rome", " "), "Rome"])
def test_question_refuses_unusable_golden_answers(golds: Any) -> None:
    with pytest.raises(QuestionError, match="'q9'"):
        Question("q9", "Which city?", golds, "x")


def test_questions_compare_without_their_metadata() -> None:
    one, other = (Question("1", "Who?", ("x",), "nq", {"split": split}) for split in ("dev", "test"))
    assert one == other
    assert len({one, other}) == 1


DATASETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


@pytest.mark.parametrize("dataset", DATASETS)
def test_real_benchmarks_load(mini_data: Path, dataset: str) -> None:
    questions = load_questions(mini_data / f"{dataset}.jsonl")
    assert len(questions) == 40
    assert {question.dataset for question in questions} == {dataset}
    assert all(question.metadata["split"] in ("dev", "test", "train") for question in questions)
