"""Parts of local question files: PATH:SPLIT and PATH:SPLIT[A:B]."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igsearch_env import QuestionError, load_questions
from igsearch_env.question_sources import LocalSource

SPLITS = ["train"] * 5 + ["test"] * 3 + ["dev"]
ROWS = [
    {"id": str(number), "question": f"Who {number}?", "golden_answers": ["Mira"], "split": split}
    for number, split in enumerate(SPLITS)
]


def file(path: Path, rows: list[dict[str, object]] | None = None) -> Path:
    """A jsonl file."""
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def ids(source: object) -> str:
    """Of the questions of a source, joined."""
    return "".join(question.id for question in load_questions(str(source)))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("", "012345678"),
        (":train", "01234"),
        (":test", "567"),
        (":dev", "8"),
        (":validation", "8"),
        (":train[:2]", "01"),
        (":train[2:]", "234"),
        (":train[1:3]", "12"),
        (":train[:]", "01234"),
        (":train[3:99]", "34"),
        (":test[1:2]", "6"),
    ],
)
@pytest.mark.parametrize("name", ["nq.jsonl", "nq.jsonl.gz", "nq.parquet", "a:b.jsonl", "a:train.jsonl"])
def test_every_part_of_every_file(tmp_path: Path, name: str, part: str, expected: str) -> None:
    path = tmp_path / name
    pq.write_table(pa.Table.from_pylist(ROWS), path) if name.endswith(".parquet") else file(path)
    assert ids(f"{path}{part}") == expected
    assert {question.dataset for question in load_questions(f"{path}{part}")} == {name.split(".")[0]}


def test_parts_of_a_folder(tmp_path: Path) -> None:
    rows = {
        split: datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "split"} for row in ROWS[a:b]])
        for split, (a, b) in {"train": (0, 5), "test": (5, 8)}.items()
    }
    datasets.DatasetDict(rows).save_to_disk(str(tmp_path / "saved"))
    assert ids(tmp_path / "saved") == "01234567"
    assert ids(f"{tmp_path / 'saved'}:test") == "567"
    assert ids(f"{tmp_path / 'saved'}:train[1:3]") == "12"


def test_splits_that_ids_name(tmp_path: Path) -> None:
    rows = [{**row, "id": f"{row['split']}_{number}", "split": None} for number, row in enumerate(ROWS)]
    path = file(tmp_path / "nq.jsonl", [{k: v for k, v in row.items() if v is not None} for row in rows])
    assert ids(f"{path}:test[:1]") == "test_5"


def test_what_exists_under_the_whole_name_is_that_file(tmp_path: Path) -> None:
    file(tmp_path / "nq.jsonl")
    other = file(tmp_path / "nq.jsonl:train", ROWS[7:])
    assert ids(other) == "78"
    assert ids(f"{other}:dev") == "8"
    inside = file(tmp_path / "of:2026" / "nq.jsonl")
    assert ids(f"{inside}:test") == "567"


@pytest.mark.parametrize(
    "part", [":", ":train[1]", ":train[-2:]", ":train[:10%]", ":train[1:2:3]", ":train[a:b]", ":Train", ":train ", ":1"]
)
def test_any_other_part_is_refused_with_the_forms(tmp_path: Path, part: str) -> None:
    path = file(tmp_path / "nq.jsonl")
    with pytest.raises(QuestionError, match=r"names no part of .*nq\.jsonl; write .*nq\.jsonl:SPLIT or .*:SPLIT\[A:B"):
        load_questions(f"{path}{part}")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (":extra", r"no rows of split 'extra' \(it has 1 of dev, 3 of test, 5 of train\)"),
        (":test[3:]", r"no rows \[3:\] of split 'test'"),
        (":test[2:1]", r"no rows \[2:1\] of split 'test'"),
        (":test[:0]", r"no rows \[0:0\] of split 'test'"),
    ],
)
def test_an_empty_part_is_refused_with_what_there_is(tmp_path: Path, part: str, said: str) -> None:
    path = file(tmp_path / "nq.jsonl")
    with pytest.raises(QuestionError, match=f"nq.jsonl{part.replace('[', '.').replace(']', '.')}: {said}"):
        load_questions(f"{path}{part}")


def test_rows_without_a_split_have_no_part(tmp_path: Path) -> None:
    path = file(tmp_path / "nq.jsonl", [{k: v for k, v in row.items() if k != "split"} for row in ROWS])
    with pytest.raises(QuestionError, match=r"\(it has 9 of unnamed\).*give the file alone for all of its rows"):
        load_questions(f"{path}:train")


def test_a_missing_file_is_named_without_its_part(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"none\.jsonl: no such file"):
        load_questions(f"{tmp_path / 'none.jsonl'}:train[:3]")
    assert LocalSource.read("none.jsonl") == LocalSource(Path("none.jsonl"))


def test_sources_of_the_hub_are_the_librarys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()  # which is no beginning of the source
    rows = datasets.Dataset.from_list(ROWS)
    asked = []

    def load_dataset(repo: str, config: str, split: str) -> datasets.Dataset:
        asked.append((repo, config, split))
        return rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert ids("hf:org/repo/nq:train[:10%]") == "012345678"
    assert asked == [("org/repo", "nq", "train[:10%]")]


@pytest.mark.parametrize("titles", ["Paris", [1], [""], {"a": 1}])
def test_supporting_titles_are_a_list_of_strings(tmp_path: Path, titles: object) -> None:
    path = file(tmp_path / "nq.jsonl", [{**ROWS[0], "supporting_titles": titles}])
    with pytest.raises(QuestionError, match=r"line 1: supporting_titles is .*; it must be a list of strings"):
        load_questions(path)
    good = load_questions(file(path, [{**ROWS[0], "supporting_titles": ["Paris", "Rome", "Paris"]}, ROWS[1]]))
    assert [question.supporting_titles for question in good] == [("Paris", "Rome"), ()]


@pytest.mark.parametrize("source", ["", " "])
def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    file(tmp_path / "nq.jsonl")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QuestionError, match=rf"questions is '{source}'; pass a file or folder"):
        load_questions(source)


@pytest.mark.parametrize("field", ["answer", "golden_answers", "answers", "possible_answers"])
def test_rows_of_other_splits_need_no_answers(tmp_path: Path, field: str) -> None:
    """As `hotpotqa/hotpot_qa` is downloaded: the answers of its test split are null."""
    folder = tmp_path / "hotpotqa"
    for split, answer in (("train", "Mira"), ("validation", "Sorel"), ("test", None)):
        file(folder / f"{split}-00000-of-00001.jsonl", [{"id": split, "question": "Who?", field: answer}])
    assert ids(f"{folder}:validation") == "validation"
    assert ids(f"{folder}:train") == "train"
    with pytest.raises(QuestionError, match=rf"test-.*, line 1: {field} is null; .* name a split with answers"):
        load_questions(folder)
    with pytest.raises(QuestionError, match=r"no rows of split 'hidden' .it has 1 of dev, 1 of test, 1 of train"):
        load_questions(f"{folder}:hidden")


def test_questions_inside_documents_have_the_split_of_their_file(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        asked = {"Question": "Who?", "QuestionId": split, "Answer": {"Value": "Mira"}}
        file(tmp_path / "triviaqa" / f"web-{split}.json", [{"Data": [asked]}])
    assert {question.id: question.split for question in load_questions(tmp_path / "triviaqa")} == {
        "train": "train",
        "dev": "dev",
    }
    assert ids(f"{tmp_path / 'triviaqa'}:dev") == "dev"
