"""Names of benchmarks and splits in any spelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from igsearch_env.benchmark_names import NAMES, canonical_split, dataset_name, dataset_of_path, split_in
from igsearch_env.question_sets import BENCHMARKS, evaluation_rows
from igsearch_env.questions import Question


def test_the_names_are_those_of_the_benchmarks() -> None:
    assert set(NAMES) == set(BENCHMARKS)
    assert [dataset_name(name) for name in BENCHMARKS] == list(BENCHMARKS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            (name, "nq")
            for name in ("NQ", "nq-test", "nq_open", "natural_questions", "searchR1_nq", "Natural Questions")
        ),
        *((name, "2wikimultihopqa") for name in ("2WikiMultihopQA", "2wiki", "2WikiMultiHopQA-dev", "searchR1_2wiki")),
        *((name, "triviaqa") for name in ("trivia_qa", "TriviaQA", "triviaqa_rc", "mandarjoshi/trivia_qa")),
        *((name, "popqa") for name in ("popQA", "PopQA", "akariasai/PopQA")),
        *((name, "hotpotqa") for name in ("HotpotQA", "hotpot_qa", "hotpotqa/hotpot_qa", "hotpotqa-fullwiki")),
        *((name, "musique") for name in ("MuSiQue", "musique_ans", "MuSiQue-Answerable", "dgslibisey/MuSiQue")),
        *((name, "bamboogle") for name in ("bamboogle", "Bamboogle", "searchR1_bamboogle")),
        *((name, name) for name in ("mine", "nq_hard", "nq_hotpotqa", "hotpotqa+2wikimultihopqa", "Trivia", "wikiqa")),
    ],
)
def test_names_of_data_sets(name: str, expected: str) -> None:
    assert dataset_name(name) == expected


@pytest.mark.parametrize(
    ("path", "dataset", "split"),
    [
        ("hotpot_dev_distractor_v1.json", "hotpotqa", "dev"),
        ("hotpot_train_v1.1.json", "hotpotqa", "train"),
        ("musique_ans_v1.0_dev.jsonl", "musique", "dev"),
        ("musique_full_v1.0_train.jsonl.gz", "musique", "train"),
        ("nq-dev.qa.csv", "nq", "dev"),
        ("nq-test.qa.csv.zst", "nq", "test"),
        ("trivia-test.qa.csv", "triviaqa", "test"),
        ("NQ-open.train.jsonl", "nq", "train"),
        ("popQA.tsv", "popqa", None),
        ("nq_open/validation-00000-of-00001.parquet", "nq", "dev"),
        ("hotpot_qa/distractor/train-00001-of-00002.parquet", "hotpotqa", "train"),
        ("trivia_qa/data/test.parquet", "triviaqa", "test"),
        ("2WikiMultihopQA/dev.json", "2wikimultihopqa", "dev"),
        ("mine/latest.jsonl", "latest", None),
        ("my_train_dev.jsonl", "my_train_dev", None),
        ("webquestions-test.qa.csv", "webquestions-test", "test"),
    ],
)
def test_names_of_files(path: str, dataset: str, split: str | None) -> None:
    assert dataset_of_path(Path(path)) == dataset
    assert split_in(Path(path).name) == split


def test_validation_splits_are_dev() -> None:
    assert [canonical_split(name) for name in ("validation", "valid", "VAL", "dev", "extra")] == [*["dev"] * 4, "extra"]
    rows = [Question("1", "Who?", ("x",), "hotpotqa", {"split": "validation"})]
    assert evaluation_rows(rows).questions == rows
    assert evaluation_rows(rows, "validation").questions == rows
