"""The seven benchmarks: the published sizes, and which rows of a file belong to a published evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest

from igsearch_env import ConfigurationError, Question, load_questions
from igsearch_env.question_sets import BENCHMARKS, FAMILIES, evaluation_rows, unlike_published


def questions(dataset: str, split: str | None, n: int, first: int = 0) -> list[Question]:
    """Questions of a split."""
    metadata = {} if split is None else {"split": split}
    return [Question(f"{split}-{i}", "Who?", ("x",), dataset, metadata) for i in range(first, first + n)]


def test_the_published_splits_and_sizes() -> None:
    """As FlashRAG distributes them, which is what Search-R1 and its followers evaluate on."""
    assert {name: (b.split, b.size) for name, b in BENCHMARKS.items()} == {
        "nq": ("test", 3_610),
        "triviaqa": ("test", 11_313),
        "popqa": ("test", 14_267),
        "hotpotqa": ("dev", 7_405),
        "2wikimultihopqa": ("dev", 12_576),
        "musique": ("dev", 2_417),
        "bamboogle": ("test", 125),
    }
    assert FAMILIES == {
        "single-hop": ("nq", "triviaqa", "popqa"),
        "multi-hop": ("hotpotqa", "2wikimultihopqa", "musique", "bamboogle"),
    }
    assert BENCHMARKS["nq"].hub == "hf:RUC-NLPIR/FlashRAG_datasets/nq:test"
    assert "Answerable" in BENCHMARKS["musique"].source


def test_training_rows_beside_published_ones_are_left_out_and_counted() -> None:
    kept = [*questions("nq", "test", 3), *questions("hotpotqa", "dev", 2), *questions("mine", "train", 2)]
    others = [*questions("nq", "train", 4), *questions("nq", "dev", 1), *questions("hotpotqa", "test", 1)]
    selection = evaluation_rows([*others, *kept])
    assert selection.questions == kept
    assert selection.left_out == {"nq": 5, "hotpotqa": 1}


def test_rows_that_name_no_split_are_asked() -> None:
    asked = questions("nq", None, 3)
    assert evaluation_rows(asked).questions == asked
    assert evaluation_rows(asked).left_out == {}


def test_other_splits_can_be_asked_for() -> None:
    mixed = [*questions("nq", "test", 3), *questions("nq", "train", 4)]
    assert len(evaluation_rows(mixed, "all").questions) == 7
    selection = evaluation_rows(mixed, "train")
    assert {q.split for q in selection.questions} == {"train"}
    assert selection.left_out == {"nq": 3}


@pytest.mark.parametrize(
    ("dataset", "split", "said"),
    [
        ("nq", "published", r"nq has no row of split 'test', its 4 rows are of split train; .*nq:test"),
        ("nq", "dev", r"split='dev': nq has no row of split 'dev'"),
        ("mine", "dev", r"mine has no row of split 'dev'"),
    ],
)
def test_a_data_set_without_a_row_of_the_split_is_an_error(dataset: str, split: str, said: str) -> None:
    held = "test" if split == "published" else split
    with pytest.raises(ConfigurationError, match=said):
        evaluation_rows([*questions("bamboogle", held, 2), *questions(dataset, "train", 4)], split)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (questions("bamboogle", "test", 125), None),
        (questions("bamboogle", None, 125), None),
        (questions("bamboogle", "test", 124), "124 of the 125 questions of test: partial"),
        (questions("bamboogle", "test", 126), "126 questions where 125 are published: some are duplicates"),
        (questions("bamboogle", "train", 125), "has rows of train; published results are on test"),
        (questions("mine", "train", 3), None),
    ],
)
def test_what_keeps_a_set_from_being_the_published_one(asked: list[Question], said: str | None) -> None:
    notes = unlike_published(asked)
    assert (said is None) == (not notes)
    assert said is None or said in notes["bamboogle"]


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_real_files_hold_rows_of_the_published_split(mini_data: Path, dataset: str) -> None:
    selection = evaluation_rows(load_questions(mini_data / f"{dataset}.jsonl"))
    assert len(selection.questions) == 40
    assert "40 of the" in unlike_published(selection.questions)[dataset]


@pytest.mark.parametrize("dataset", BENCHMARKS)
def test_training_rows_of_the_full_files_are_left_out(mini_data: Path, dataset: str) -> None:
    path = mini_data.parent / f"{dataset}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    selection = evaluation_rows(load_questions(path))
    assert {question.split for question in selection.questions} == {BENCHMARKS[dataset].split}
    assert len(selection.questions) <= BENCHMARKS[dataset].size
    assert (unlike_published(selection.questions) == {}) == (dataset in ("musique", "bamboogle"))
