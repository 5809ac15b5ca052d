"""Question files as they are published: one small file of each form, with what must be read from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_files import HOTPOT, MUSIQUE, WIKI2, flashrag_form, hub_form, json_strings

from igsearch_env import ConfigurationError, QuestionError, load_questions
from igsearch_env.answer_values import AnswerValues
from igsearch_env.oracles import check_supporting

Writer = Callable[[Path, Any], object]


def as_json(path: Path, content: Any) -> None:
    """A JSON file in one line."""
    path.write_text(json.dumps(content), encoding="utf-8")


def as_indented(path: Path, content: Any) -> None:
    """A JSON file over many lines."""
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")


def as_lines(path: Path, content: Any) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")


def as_text(path: Path, content: Any) -> None:
    """A text file."""
    path.write_text(content, encoding="utf-8")


def as_parquet(path: Path, content: Any) -> None:
    """A Parquet file."""
    pq.write_table(pa.Table.from_pylist(content), path)


MESSAGES = [
    {"role": "system", "content": "You are helpful. Question: none."},
    {"role": "user", "content": "Answer inside <answer>, e.g. <answer> Beijing </answer>. Question: Who painted it?\n"},
]
VERL = {
    "data_source": "searchR1_popqa",
    "prompt": MESSAGES,
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Mira", "M. Solm"]}},
    "extra_info": {"index": 7, "split": "test"},
}
TRIVIA = {
    "Answer": {
        "Aliases": ["Sunset Blvd", "Sunset Boulevard"],
        "MatchedWikiEntityName": "",
        "NormalizedAliases": ["sunset blvd", "sunset boulevard"],
        "NormalizedValue": "sunset boulevard",
        "Type": "WikipediaEntity",
        "Value": "Sunset Boulevard",
    },
    "EntityPages": [{"DocSource": "TagMe", "Filename": "A.txt", "Title": "Andrew Lloyd Webber"}],
    "Question": "Which musical premiered on 10th December 1993?",
    "QuestionId": "tc_33",
    "QuestionSource": "http://www.triviacountry.com/",
    "SearchResults": [{"Title": "x", "Url": "http://x", "Description": "long " * 50}],
}
HUB_TRIVIA = {
    "question": "Which musical premiered on 10th December 1993?",
    "question_id": "tc_33",
    "question_source": "http://www.triviacountry.com/",
    "entity_pages": {"title": ["Andrew Lloyd Webber"], "wiki_context": ["long " * 50]},
    "search_results": {"title": ["x"], "search_context": ["long"]},
    "answer": {
        "aliases": ["Sunset Blvd", "Sunset Boulevard"],
        "normalized_aliases": ["sunset blvd", "sunset boulevard"],
        "type": "WikipediaEntity",
        "value": "Sunset Boulevard",
    },
}
SQUAD_QAS = [
    {
        "answers": [{"answer_start": 1, "text": "in 1902"}, {"answer_start": 1, "text": "in 1902"}],
        "question": "When was it founded?",
        "id": "5733be284776f4190066117e",
    },
    {"answers": [], "question": "When was it sold?", "id": "sold", "is_impossible": True},
]
SQUAD = {"version": "v2.0", "data": [{"title": "Karith_Town", "paragraphs": [{"context": "Long.", "qas": SQUAD_QAS}]}]}
HUB_SQUAD = [
    {
        "id": "5733be284776f4190066117e",
        "title": "Karith_Town",
        "context": "Long.",
        "question": "When was it founded?",
        "answers": {"text": ["in 1902", "in 1902"], "answer_start": [1, 1]},
    },
    {**{key: "x" for key in ("id", "title", "context", "question")}, "answers": {"text": [], "answer_start": []}},
]
KILT = {
    "id": "6847",
    "input": "who was the first king of Karith",
    "output": [
        {"answer": "Ada I", "provenance": [{"wikipedia_id": "1", "title": "Kings of Karith", "section": "x"}]},
        {"answer": "Queen Ada"},
        {"provenance": [{"title": "Karith"}]},
    ],
    "meta": {"left_context": ""},
}
DPR = {
    "dataset": "nq_dev_psgs_w100",
    "question": "who sings it",
    "answers": ["Ada Noor"],
    "positive_ctxs": [{"title": "Ada Noor", "text": "long"}, {"title": "Other", "text": "long"}],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{"title": "Bad", "text": "long"}],
}
POPQA = (
    "id\tsubj\tprop\tobj\tsubj_id\tprop_id\ts_wiki_title\tquestion\tpossible_answers\n"
    '4222362\tGeorge Rankin\toccupation\tpolitician\t1850297\t22\tGeorge Rankin\tWhat is his job?\t"[""politician"", '
    '""pol""]"\n'
)
UNANSWERABLE = {**MUSIQUE[0], "answerable": False, "paragraphs": MUSIQUE[0]["paragraphs"][:1]}
UNANSWERABLE["question_decomposition"] = [{"id": 1, "question": "x", "answer": "y", "paragraph_support_idx": None}]

SOLM = ("Mira Solm", "Karith & Vale")
# The file, how it is written, its content; and of each question data set, id, split, answers, supporting titles.
FORMS: dict[str, tuple[str, Writer, Any, list[tuple[Any, ...]]]] = {
    "HotpotQA": (
        "hotpot_dev_distractor_v1.json",
        as_json,
        HOTPOT,
        [
            ("hotpotqa", "5a8b57f25542995d1e6f1371", "dev", ("1902",), SOLM),
            ("hotpotqa", "5a8c7595554299585d9e36b6", "dev", ("yes",), ("Ostue", "Lurm")),
        ],
    ),
    "HotpotQA, Hub": (
        "validation-00000-of-00001.parquet",
        as_parquet,
        [hub_form(row) for row in HOTPOT][:1],
        [("hotpotqa", "5a8b57f25542995d1e6f1371", "dev", ("1902",), SOLM)],
    ),
    "2WikiMultiHopQA": (
        "2wiki_train.json",
        as_indented,
        WIKI2,
        [("2wikimultihopqa", "8813f87c0bdd11eba7f7acde48001122", "train", ("Karith",), ("Salt Road", "Ivo Brandt"))],
    ),
    "2WikiMultiHopQA, Hub": (
        "dev.parquet",
        as_parquet,
        [json_strings(row) for row in WIKI2],
        [("2wikimultihopqa", "8813f87c0bdd11eba7f7acde48001122", "dev", ("Karith",), ("Salt Road", "Ivo Brandt"))],
    ),
    "MuSiQue-Answerable": (
        "musique_ans_v1.0_dev.jsonl",
        as_lines,
        MUSIQUE,
        [
            (
                "musique",
                "2hop__460946_294723",
                "dev",
                ("Ada Noor", "Ada", "Ada Noor-Lind"),
                ("Green (album)", "Tom Lind"),
            )
        ],
    ),
    "MuSiQue-Full": (
        "musique_full_v1.0_train.jsonl",
        as_lines,
        [UNANSWERABLE, MUSIQUE[0]],
        [
            (
                "musique",
                "2hop__460946_294723",
                "train",
                ("Ada Noor", "Ada", "Ada Noor-Lind"),
                ("Green (album)", "Tom Lind"),
            )
        ],
    ),
    "NQ-open": (
        "nq_open_validation.jsonl",
        as_lines,
        [{"question": "when was it", "answer": ["14 December 1972 UTC", "December 1972"]}],
        [("nq", "dev_0", "dev", ("14 December 1972 UTC", "December 1972"), ())],
    ),
    "DPR table": (
        "nq-test.qa.csv",
        as_text,
        'who sings it\t[\'Ada "A" Noor\', "Ada\'s"]\nwhere is it\t["Karith"]\n',
        [("nq", "test_0", "test", ('Ada "A" Noor', "Ada's"), ()), ("nq", "test_1", "test", ("Karith",), ())],
    ),
    "DPR json": ("biencoder-nq-dev.json", as_indented, [DPR], [("nq", "dev_0", "dev", ("Ada Noor",), ("Ada Noor",))]),
    "TriviaQA": (
        "unfiltered-web-dev.json",
        as_indented,
        {"Data": [TRIVIA], "Domain": "Web", "VerifiedEval": False, "Version": 1.0},
        [("triviaqa", "tc_33", "dev", ("Sunset Boulevard", "Sunset Blvd"), ())],
    ),
    "TriviaQA, Hub": (
        "validation.parquet",
        as_parquet,
        [HUB_TRIVIA],
        [("triviaqa", "tc_33", "dev", ("Sunset Boulevard", "Sunset Blvd"), ())],
    ),
    "PopQA": (
        "popQA.tsv",
        as_text,
        POPQA,
        [("popqa", "4222362", None, ("politician", "pol"), ("George Rankin",))],
    ),
    "DPR table, quoted": (
        "trivia-dev.qa.csv",
        as_text,
        'who sings it\t"[""Ada Noor"", ""A\'s""]"\n',
        [("triviaqa", "dev_0", "dev", ("Ada Noor", "A's"), ())],
    ),
    "Bamboogle": (
        "Bamboogle Prerelease - Sheet1.csv",
        as_text,
        'Question,Answer\n"Who, in 1812, was president when Citibank was founded?",james madison\n',
        [("bamboogle", "bamboogle_0", None, ("james madison",), ())],
    ),
    "verl": ("test.parquet", as_parquet, [VERL], [("popqa", "test_7", "test", ("Mira", "M. Solm"), ())]),
    "verl, JSON in strings": (
        "popqa.jsonl",
        as_lines,
        [VERL | {name: json.dumps(VERL[name]) for name in ("reward_model", "extra_info")}],
        [("popqa", "test_7", "test", ("Mira", "M. Solm"), ())],
    ),
    "verl, ground_truth alone": (
        "bamboogle.test.jsonl",
        as_lines,
        [{"prompt": "Who painted it?", "ground_truth": "Mira"}, {"question": "Is it?", "ground_truth": False}],
        [("bamboogle", "test_0", "test", ("Mira",), ()), ("bamboogle", "test_1", "test", ("no",), ())],
    ),
    "FlashRAG": (
        "dev.jsonl",
        as_lines,
        [flashrag_form(HOTPOT[0], "dev_3") | {"dataset": "HotpotQA"}],
        [("hotpotqa", "dev_3", "dev", ("1902",), SOLM)],
    ),
    "SQuAD": (
        "dev-v2.0.json",
        as_json,
        SQUAD,
        [(None, "5733be284776f4190066117e", "dev", ("in 1902",), ("Karith Town",))],
    ),
    "SQuAD, Hub": (
        "squad.parquet",
        as_parquet,
        HUB_SQUAD,
        [("squad", "5733be284776f4190066117e", None, ("in 1902",), ("Karith Town",))],
    ),
    "KILT": (
        "nq-dev-kilt.jsonl",
        as_lines,
        [KILT],
        [("nq", "6847", "dev", ("Ada I", "Queen Ada"), ("Kings of Karith", "Karith"))],
    ),
}


# Forms by the first word of their name in the table above, where the log calls them something else.
NAMED = {
    **dict.fromkeys(("HotpotQA", "2WikiMultiHopQA"), "HotpotQA or 2WikiMultiHopQA"),
    **dict.fromkeys(("NQ", "Bamboogle"), "question and answer"),
    **dict.fromkeys(("DPR table", "DPR json"), "DPR"),
    "MuSiQue": "MuSiQue",
    "verl": "Search-R1 or verl",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_published_form(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name, write, content, expected = FORMS[form]
    path = tmp_path / name
    write(path, content)
    with caplog.at_level(logging.INFO, logger="igsearch_env"):
        found = load_questions(path)
    assert [(q.id, q.split, q.golden_answers, q.supporting_titles) for q in found] == [row[1:] for row in expected]
    if expected[0][0] is not None:
        assert [question.dataset for question in found] == [row[0] for row in expected]
    recognised = [record.getMessage() for record in caplog.records if "recognised" in record.getMessage()]
    assert len(recognised) == 1
    assert recognised[0].startswith(f"{path}: recognised ")
    assert (
        f" in the form of {NAMED.get(form.split(',')[0].split('-')[0], form.split(',')[0])}; questions: "
        in recognised[0]
    )
    assert "long" not in str([dict(question.metadata) for question in found])  # no contexts


def test_questions_of_the_forms_are_read_whole(tmp_path: Path) -> None:
    def first(form: str) -> Any:
        name, write, content, _ = FORMS[form]
        write(tmp_path / name, content)
        return load_questions(tmp_path / name)[0]

    assert first("verl").text == "Who painted it?"
    assert first("TriviaQA").text == first("TriviaQA, Hub").text == "Which musical premiered on 10th December 1993?"
    assert first("KILT").text == "who was the first king of Karith"
    assert first("DPR table").text == "who sings it"
    assert dict(first("HotpotQA").metadata) == {
        "type": "bridge",
        "level": "hard",
        "split": "dev",
        "supporting_titles": [*SOLM],
    }


@pytest.mark.parametrize(
    ("value", "texts", "empty"),
    [
        (["Mira", None, "", "  ", "Sorel"], ["Mira", "Sorel"], 3),
        ("Mira", ["Mira"], 0),
        (1902, ["1902"], 0),
        (1902.0, ["1902"], 0),
        (0.25, ["0.25"], 0),
        (float("nan"), [], 1),
        (True, ["yes"], 0),
        ([False, "False"], ["no", "False"], 0),
        ([["Mira", "Sorel"], ["Ada"]], ["Mira", "Sorel", "Ada"], 0),
        (np.array(["Mira", "Sorel"]), ["Mira", "Sorel"], 0),
        (np.array([3, 4]), ["3", "4"], 0),
        ({"target": ["Mira"]}, ["Mira"], 0),
        ({"target": np.array([True])}, ["yes"], 0),
        ('{"target": ["Mira"]}', ["Mira"], 0),
        ("{'target': ['Mira', \"O'Neil\"]}", ["Mira", "O'Neil"], 0),
        ("{Mira}", ["{Mira}"], 0),
        ('["Mira", "O\'Neil"]', ["Mira", "O'Neil"], 0),
        ("['Mira', \"O'Neil\", 'it\\'s']", ["Mira", "O'Neil", "it's"], 0),
        ("[citation needed]", ["[citation needed]"], 0),
        ("(Mira)", ["(Mira)"], 0),
        ([], [], 0),
        (None, [], 1),
    ],
)
def test_values_of_answers(value: Any, texts: list[str], empty: int) -> None:
    assert AnswerValues.read(value, "x", ("target",)) == AnswerValues(texts, empty)


@pytest.mark.parametrize(
    "value",
    [
        {"other": 1},
        [{"target": "x"}, {"y": 1}],
        float("inf"),
        b"Mira",
        "['Mira' 'Sorel']",
        "['Mira'\n 'Sorel']",
        "['a', open('x')]",
        "{'target': array(['Mira'], dtype=object)}",
        '{"other": 1}',
    ],
)
def test_values_that_are_no_answers(value: Any) -> None:
    with pytest.raises(QuestionError, match=r"^x, row 1: answer (is|has) .*; (it must be|write)"):
        AnswerValues.read(value, "x, row 1: answer", ("target",))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Who?"}, r"no field with answers \(found \['question'\]\); add one of golden_answers, .*"),
        ({"text": "Who?", "answer": "x"}, r"no field 'question' \(found \['answer', 'text'\]\); add it"),
        ({"question": "Who?", "answer": "x", "paragraphs": ["y"]}, "paragraph 0 is not an object with title"),
        ({"question": "Who?", "answer": "x", "supporting_facts": ["y"]}, "supporting_facts must be a list of"),
        ({"input": "Who?", "output": [{"provenance": []}]}, "no answer in output"),
        (VERL | {"prompt": "Answer in <answer> and </answer>. Who?"}, "has no 'Question:' before one, with nothing"),
        (VERL | {"prompt": "Question: Who?\nThink first."}, "has no 'Question:' before one, with nothing after it"),
        (VERL | {"reward_model": {"style": "rule"}}, "reward_model.ground_truth.target"),
        ({"Data": ["x"]}, "Data 1: 'x' is not an object"),
    ],
)
def test_rows_of_no_form_are_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    good = {"id": "0", "question": "Who?", "golden_answers": ["x"]}
    as_lines(tmp_path / "x.jsonl", [good, row])
    with pytest.raises(QuestionError, match=said) as caught:
        load_questions(tmp_path / "x.jsonl")
    assert str(caught.value).startswith(f"{tmp_path / 'x.jsonl'}, line 2")


def test_a_downloaded_folder_has_the_splits_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "nq_open" / "data"
    folder.mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        as_parquet(folder / f"{name}.parquet", [{"question": f"{name}?", "answer": [name]}] * 2)
    for place in (tmp_path / "nq_open", folder):
        found = [(q.dataset, q.id, q.split) for q in load_questions(place)]
        train = [("nq", f"train_{number}", "train") for number in range(4)]
        assert found == [*train, ("nq", "dev_0", "dev"), ("nq", "dev_1", "dev")]
    (question,) = load_questions(f"{tmp_path / 'nq_open'}:validation[1:]")
    assert question.text == "validation-00000-of-00001?"


def test_a_folder_of_several_data_sets(tmp_path: Path) -> None:
    for name in ("nq", "hotpotqa", "mine"):
        (tmp_path / "all" / name).mkdir(parents=True)
        as_lines(tmp_path / "all" / name / "test.jsonl", [{"id": "0", "question": "Who?", "golden_answers": ["x"]}])
    assert {(q.dataset, q.split) for q in load_questions(tmp_path / "all")} == {
        ("nq", "test"),
        ("hotpotqa", "test"),
        ("mine", "test"),
    }


@pytest.mark.parametrize("answers", [{"golden_answers": ["unknown"]}, {"answer": "unknown"}])
def test_a_question_can_say_that_no_page_answers_it(tmp_path: Path, answers: dict[str, Any]) -> None:
    """Not the same as a question whose data do not name the pages: the oracles refuse that one."""
    rows = [{"question": "Who?", **answers, "supporting_titles": []}, {"question": "What?", **answers}]
    as_lines(tmp_path / "x.jsonl", rows)
    none, unnamed = load_questions(tmp_path / "x.jsonl")
    check_supporting(none, "support")
    with pytest.raises(ConfigurationError, match="has no supporting_titles"):
        check_supporting(unnamed, "support")


def test_supporting_titles_of_any_form(tmp_path: Path) -> None:
    as_lines(tmp_path / "x.jsonl", [{"question": "Who?", "answer": "x", "supporting_titles": ["Karith", "Ostue"]}])
    assert load_questions(tmp_path / "x.jsonl")[0].supporting_titles == ("Karith", "Ostue")


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"id": "a", "question": "Who?", "golden_answers": ["x", None, "*"]},
        {"id": "a", "question": "Who?", "golden_answers": ["x", None, "*"], "other": 1},
        MUSIQUE[0],
        UNANSWERABLE,
    ]
    as_lines(tmp_path / "x.jsonl", rows)
    found = load_questions(tmp_path / "x.jsonl")
    assert [(question.dataset, question.id) for question in found] == [("x", "a"), ("musique", "2hop__460946_294723")]
    (said,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert said == (
        f"{tmp_path / 'x.jsonl'}: left out: 1 empty answers, 1 answers that normalise to nothing, 1 repeated rows, "
        "1 rows marked as unanswerable"
    )


def test_made_ids_are_numbers_of_rows_in_a_data_set_and_split(tmp_path: Path) -> None:
    rows = [
        {"question": "One?", "answer": "x", "split": "test"},
        {"question": "Two?", "answer": "*", "split": "test"},  # can't be scored, and has its number
        {"question": "Three?", "answer": "x", "split": "test"},
        {"question": "Four?", "answer": "x", "split": "train"},
        {"question": "Five?", "answer": "x", "split": "test", "dataset": "other"},
        {"question": "Six?", "answer": "x"},
    ]
    as_lines(tmp_path / "mine.jsonl", rows)
    ids = [(question.dataset, question.id) for question in load_questions(tmp_path / "mine.jsonl")]
    assert ids == [
        ("mine", "test_0"),
        ("mine", "test_2"),
        ("mine", "train_0"),
        ("other", "test_0"),
        ("mine", "mine_0"),
    ]


def test_a_split_may_have_the_ids_of_another(tmp_path: Path) -> None:
    rows = [{"id": "0", "question": f"{split}?", "answer": "x", "split": split} for split in ("train", "dev", "dev")]
    as_lines(tmp_path / "x.jsonl", rows)
    assert [question.text for question in load_questions(f"{tmp_path / 'x.jsonl'}:dev")] == ["dev?"]
    with pytest.raises(QuestionError, match=r"line 2: id '0' is already used by another question at .*line 1"):
        load_questions(tmp_path / "x.jsonl")


def test_rows_that_verl_calls_test_are_of_dev_where_test_has_no_answers(tmp_path: Path) -> None:
    rows = [VERL | {"data_source": f"searchR1_{name}"} for name in ("hotpotqa", "2wikimultihopqa", "musique", "nq")]
    as_parquet(tmp_path / "test.parquet", rows)
    assert [question.id for question in load_questions(tmp_path / "test.parquet")] == [*["dev_7"] * 3, "test_7"]


def test_contexts_do_not_stay_in_memory(tmp_path: Path) -> None:
    texts = [["Page", ["word " * 200]]] * 10
    rows = [{**HOTPOT[0], "_id": str(number), "context": texts} for number in range(20)]
    as_json(tmp_path / "hotpot_train_v1.1.json", rows)
    for question in load_questions(tmp_path / "hotpot_train_v1.1.json"):
        assert len(json.dumps(dict(question.metadata))) < 200
