"""Answers that other programs recorded: which question each answers, and the score of `igsearch evaluate`."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algorithms.common.evaluation.recorded_answers import read_answers
from algorithms.common.evaluation.results import Result, read_result
from igsearch.commands import compare as compare_results
from igsearch.commands import evaluate
from igsearch_env.errors import ConfigurationError, QuestionError

QUESTIONS: list[dict[str, Any]] = [
    {"id": "test_0", "question": "Where was Alan Brin born?", "golden_answers": ["Tolona"], "dataset": "nq"},
    {"id": "test_1", "question": "who founded  Vexo Glass", "golden_answers": ["Mira Sorel"], "dataset": "nq"},
    {"id": "test_0", "question": "Is Lurm a sea?", "golden_answers": ["yes"], "dataset": "bamboogle"},
]
PROMPT = "Answer inside <answer> and </answer>, for example <answer> Beijing </answer>. Question: {}\n"
INFORMATION = "<information>Doc 1(Title: x) <answer> Rome </answer></information>"
# What was answered, searched: right, wrong, right.
ANSWERS = [("Tolona.", ["Brin"]), ("Alan Brin", ["Vexo", "Glass"]), ("Yes", [])]


def responses() -> list[str]:
    """The three answers as transcripts."""
    return [
        "".join(f"<search> {query} </search>{INFORMATION}" for query in queries) + f"<answer> {text} </answer>"
        for text, queries in ANSWERS
    ]


def lines(path: Path, rows: list[Any]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(tmp_path: Path, answers: Path, **options: Any) -> Result:
    """Score a file; the result that was written."""
    output = tmp_path / "out.json"
    evaluate.main(evaluate.Args(answers=answers, output=output, **options))
    return read_result(output)


@pytest.fixture
def questions(tmp_path: Path) -> tuple[str, ...]:
    """A question file of two data sets."""
    return (str(lines(tmp_path / "questions.jsonl", QUESTIONS)),)


def flashrag() -> list[dict[str, Any]]:
    return [
        {**{key: value for key, value in row.items() if key != "dataset"}, "output": {"pred": text, "metric_score": {}}}
        for row, (text, _) in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def verl() -> list[dict[str, Any]]:
    return [
        {
            "input": f"system\nYou help.\nuser\n{PROMPT.format(row['question'])}\nassistant\n",
            "output": text,
            "gts": {"target": row["golden_answers"]},
            "score": 0.0,
            "step": 5,
        }
        for row, text in zip(QUESTIONS, responses(), strict=True)
    ]


def plain(name: str) -> list[dict[str, Any]]:
    return [
        {"id": row["id"], "data_source": row["dataset"], name: text}
        for row, (text, _) in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def whole() -> list[dict[str, Any]]:
    return [
        {"transcript": PROMPT.format(row["question"]) + text, "ground_truth": row["golden_answers"]}
        for row, text in zip(QUESTIONS, responses(), strict=True)
    ]


FORMS: dict[str, tuple[list[Any], bool, bool]] = {  # rows, whether they hold searches, and golden answers
    "FlashRAG": (flashrag(), False, True),
    "verl": (verl(), True, True),
    "whole": (whole(), True, True),
    "prompt in the response": (
        [
            {
                "question": row["question"],
                "response": PROMPT.format(row["question"]) + text,
                "answer": row["golden_answers"],
            }
            for row, text in zip(QUESTIONS, responses(), strict=True)
        ],
        True,
        True,
    ),
    **{name: (plain(name), False, False) for name in ("prediction", "pred", "answer", "output", "predicted_answer")},
    "messages": (
        [
            {
                "question": row["question"],
                "golden_answers": row["golden_answers"],
                "messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": text}],
            }
            for row, text in zip(QUESTIONS, responses(), strict=True)
        ],
        True,
        True,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_with_a_question_file(
    form: str, tmp_path: Path, questions: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    rows, has_searches, _ = FORMS[form]
    with caplog.at_level(logging.INFO, logger="algorithms"):
        found = run(tmp_path, lines(tmp_path / "answers.jsonl", rows), questions=questions)
    kind = "transcripts" if has_searches else "predictions"
    assert f"answers.jsonl: recognised JSON lines with 3 {kind} in " in caplog.text
    assert [(row.id, row.em) for row in found.rows["nq"]] == [("test_0", 1.0), ("test_1", 0.0)]
    assert [(row.id, row.em) for row in found.rows["bamboogle"]] == [("test_0", 1.0)]
    searches = [row.searches for name in ("nq", "bamboogle") for row in found.rows[name]]
    assert searches == ([1, 2, 0] if has_searches else [None] * 3)
    assert (found.scores["nq"].searches == 1.5) == has_searches
    assert found.rows["nq"][1].f1 == 0.0
    assert "NaN" not in (tmp_path / "out.json").read_text()


@pytest.mark.parametrize("form", [name for name, (_, _, golds) in FORMS.items() if golds])
def test_forms_with_golden_answers_of_their_own(form: str, tmp_path: Path) -> None:
    rows, _, _ = FORMS[form]
    answers = tmp_path / "popqa_test.json"
    for number, row in enumerate(rows):
        if "id" in row:
            row["id"] = f"test_{number}"
    answers.write_text(json.dumps(rows, indent=1))
    found = run(tmp_path, answers)
    assert [(row.id, row.em) for row in found.rows["popqa"]] == [("test_0", 1.0), ("test_1", 0.0), ("test_2", 1.0)]
    assert found.rows["popqa"][0].golden_answers == ["Tolona"]
    assert found.rows["popqa"][1].question.split() == QUESTIONS[1]["question"].split()
    assert "recorded" in (found.fingerprint or {})


def test_generations_in_parquet(tmp_path: Path, questions: tuple[str, ...]) -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": PROMPT.format(row["question"])}],
            "data_source": f"searchR1_{row['dataset']}",
            "reward_model": {"ground_truth": {"target": row["golden_answers"]}},
            "responses": [text],
        }
        for row, text in zip(QUESTIONS, responses(), strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    found = run(tmp_path, tmp_path / "test.parquet", questions=questions)
    assert [score.em for score in found.scores.values()] == [0.5, 1.0]
    for row in rows:
        row["extra_info"] = {"split": "test", "index": 3}
    rows[2] |= {"data_source": "hotpotqa"}  # whose rows with answers are of dev
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    (tmp_path / "out.json").unlink()
    found = run(tmp_path, tmp_path / "test.parquet")
    assert [(name, score.em, score.searches) for name, score in found.scores.items()] == [
        ("nq", 0.5, 1.5),
        ("hotpotqa", 1.0, 0.0),
    ]


@pytest.mark.parametrize("content", [{"a": "Tolona", "b": None}, {"answer": {"a": "Tolona", "b": ""}, "sp": {}}])
def test_predictions_by_id(tmp_path: Path, content: dict[str, Any]) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(content, indent=1))
    rows = [{**QUESTIONS[0], "id": "a"}, {**QUESTIONS[1], "id": "b"}]
    source = str(lines(tmp_path / "q.jsonl", rows))
    found = run(tmp_path, tmp_path / "predictions.json", questions=(source,))
    assert [row.em for row in found.rows["nq"]] == [1.0, 0.0]


def test_a_result_of_this_project_is_scored_again_and_compared(
    tmp_path: Path, questions: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(tmp_path, lines(tmp_path / "a.jsonl", verl()), questions=questions)
    (tmp_path / "out.json").rename(tmp_path / "first.json")
    again = run(tmp_path, tmp_path / "first.json")
    assert again.rows == first.rows
    assert again.scores == first.scores
    compare_results.main(compare_results.Args(tmp_path / "first.json", tmp_path / "out.json", tmp_path / "c.json"))
    warnings = json.loads((tmp_path / "c.json").read_text())["warnings"]
    assert warnings == [
        f"the {side} file scores recorded answers: their search engine, prompt and decoding are not known"
        for side in ("first", "second")
    ]
    assert "recorded answers" in capsys.readouterr().out


def test_recorded_answers_are_compared_with_an_own_evaluation(tmp_path: Path) -> None:
    passages = [{"id": "1", "contents": "Alan Brin\nAlan Brin was born in Tolona."}]
    source, corpus = lines(tmp_path / "q.jsonl", QUESTIONS), lines(tmp_path / "c.jsonl", passages)
    asked = {"questions": (str(source),), "output": tmp_path / "own.json"}
    evaluate.main(evaluate.Args(**asked, corpus=str(corpus), policy="search-question", top_k=1))
    run(tmp_path, lines(tmp_path / "a.jsonl", verl()), questions=(str(source),))
    compare_results.main(compare_results.Args(tmp_path / "own.json", tmp_path / "out.json", tmp_path / "d.json"))
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["warnings"] == [
        "the second file scores recorded answers: their search engine, prompt and decoding are not known"
    ]
    assert found["datasets"]["nq"]["n"] == 2


def test_missing_answers_are_wrong_and_others_are_left_out(
    tmp_path: Path, questions: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*flashrag()[1:], {"id": "test_9", "question": "Another?", "prediction": "x"}]
    found = run(tmp_path, lines(tmp_path / "a.jsonl", rows), questions=questions)
    assert [(row.prediction, row.em, row.stop_reason) for row in found.rows["nq"]] == [
        (None, 0.0, "no_answer"),
        ("Alan Brin", 0.0, "answered"),
    ]
    said = capsys.readouterr().err
    assert "warning: nq: 1 questions without an answer, counted as wrong" in said
    assert "1 answers to other questions left out" in said
    assert "1 questions without an answer" in found.header["notes"]["nq"]


def test_questions_of_one_text_are_answered_in_order(tmp_path: Path) -> None:
    rows = [{**QUESTIONS[0], "id": str(number), "golden_answers": [str(number)]} for number in range(3)]
    source = str(lines(tmp_path / "q.jsonl", rows))
    answers = [{"question": "Where was Alan Brin born", "prediction": number} for number in range(3)]
    found = run(tmp_path, lines(tmp_path / "a.jsonl", answers), questions=(source,))
    assert found.scores["nq"].em == 1.0


def test_a_transcript_without_an_answer_is_wrong_and_not_its_own_text(tmp_path: Path) -> None:
    rows = verl()
    rows[0]["output"] = "Tolona"  # beside transcripts, a text without tags is one too
    rows[2]["output"] = f"<search> Lurm </search>{INFORMATION}"
    found = run(tmp_path, lines(tmp_path / "nq_test.jsonl", rows))
    assert [row.prediction for row in found.rows["nq"]] == [None, "Alan Brin", None]
    assert [row.searches for row in found.rows["nq"]] == [0, 2, 1]


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        (
            [{"id": "test_0", "question": "Who?"}],
            ConfigurationError,
            r"line 1: no prediction \(found \['id', 'question",
        ),
        ([{"id": "test_0", "prediction": ["a", "b"]}], ConfigurationError, "prediction has 2 predictions; keep one"),
        ([{"id": "test_0", "prediction": {"a": 1}}], ConfigurationError, "prediction is .*; it must be a text"),
        ([{"id": "test_0", "output": {"x": 1}}], ConfigurationError, r"output has no pred \(found \['x'\]\)"),
        (flashrag()[:1], ConfigurationError, "no answer to any of the 1 questions of bamboogle; pass only questions"),
        ([*flashrag(), flashrag()[0]], ConfigurationError, "line 4: a second answer to question 'test_0' of nq"),
        ([{"id": "test_0", "prediction": "x"}], ConfigurationError, "may answer a question of bamboogle or of nq; add"),
    ],
)
def test_rows_that_can_not_be_scored_are_named(
    tmp_path: Path, questions: tuple[str, ...], rows: list[Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(tmp_path, lines(tmp_path / "a.jsonl", rows), questions=questions)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (plain("prediction"), "line 1: no golden answers; pass the question file as --questions"),
        ([{"prediction": "x", "golden_answers": [], "id": "1"}], "line 1: no golden answer is left"),
        ([{"prediction": "x", "gts": "{'target': array(['x'])}"}], "line 1: gts is .*an object that can't be read"),
        ([{"id": "1", "prediction": "x", "golden_answers": ["y"]}] * 2, "line 2: a second answer to question '1' of a"),
    ],
)
def test_golden_answers_that_are_not_there_are_named(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(QuestionError, match=said):
        run(tmp_path, lines(tmp_path / "a.jsonl", rows))


def test_recorded_answers_need_no_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path / "a.jsonl", verl())
    with pytest.raises(ConfigurationError, match="with corpus and policy: recorded answers need neither"):
        evaluate.main(evaluate.Args(answers=path, policy="search-question", corpus="c.jsonl"))
    monkeypatch.setattr(evaluate, "opened_player", None)
    monkeypatch.setattr(evaluate, "make_retriever", None)
    evaluate.main(evaluate.Args(answers=path))


def test_golden_answers_beside_predictions(tmp_path: Path) -> None:
    rows = [
        {"question": "a?", "answer": "x", "prediction": "X"},
        {"question": "b?", "answer": ["y", "z"], "pred": "z"},
        {"question": "c?", "possible_answers": '["u"]', "response": "u"},
        {"question": "d?", "answers": {"text": ["v"]}, "prediction": True},
    ]
    found = run(tmp_path, lines(tmp_path / "mine.jsonl", rows))
    assert [row.em for row in found.rows["mine"]] == [1.0, 1.0, 1.0, 0.0]
    assert found.rows["mine"][3].prediction == "yes"
    assert [answer.id for answer in read_answers(tmp_path / "mine.jsonl").answers] == [None] * 4
