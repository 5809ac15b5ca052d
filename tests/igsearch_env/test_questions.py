"""Sources of questions: what is read of each form, and that every error names the source and the row."""

from __future__ import annotations

import gzip
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from igsearch_env import ConfigurationError, Question, QuestionError, load_questions
from igsearch_env.question_lists import where

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
    assert (second.id, second.dataset, second.metadata) == ("7", "trivia", {"split": "dev"})


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
        (row(golden_answers=None), r"no field with answers \(found \['id', 'question'\]\); add one of golden_answers"),
        (row(question="  "), "text is empty"),
        (row(golden_answers=[]), "the row has no answer, or only null"),
        (row(golden_answers={"x": 1}), "golden_answers is \"{'x': 1}\"; it must be a list of strings"),
        (row(golden_answers=["Mira", {"x": 1}]), "golden_answers is"),
        (row(golden_answers=["", None]), "the row has no answer, or only null"),
        (row(golden_answers="['Mira' 'Sorel']"), "a list that can't be read; write it as JSON or Python does"),
        (row(golden_answers=[[[["Mira"]]]]), "nested more than 3 deep"),
        (row(id="a1", question="Where?"), "id 'a1' is already used by another question at .*line 1 .'Who"),
        (row(id="a1", golden_answers=["Other"]), "'a1'.*give one of the two another id"),
        (row(id=["a1"]), r"id is \"\['a1'\]\"; it must be a string"),
        (row(dataset=True), "dataset is 'True'; it must be a string"),
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


def test_golden_answers_that_an_empty_prediction_would_equal_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert Question("1", "Which?", ("*", "x", "The A"), "nq").golden_answers == ("x",)
    with pytest.raises(QuestionError, match=r"'9': golden_answers is \('The A', '\*'\); .*nothing is left.*remove"):
        Question("9", "Which?", ("The A", "*"), "nq")
    dollar, bracket, hash_sign = (
        row(id=i, golden_answers=g) for i, g in (("a", ["$", "x"]), ("b", ["("]), ("c", ["#"]))
    )
    path = write(tmp_path / "nq.jsonl", dollar, bracket, hash_sign, row(id="d"))
    found = load_questions(path)
    assert [question.id for question in found] == ["a", "d"]
    assert found[0].golden_answers == ("x",)
    first, second = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert first == f"{path}: left out: 1 answers that normalise to nothing"
    assert second.startswith(
        f"{path}: 2 questions are left out: {path}, line 2: question 'b': golden_answers is ('(',)"
    )
    only = write(tmp_path / "only.jsonl", bracket, hash_sign)
    with pytest.raises(QuestionError, match=r"no questions with an answer that can be scored \(.*line 1: question 'b'"):
        load_questions(only)


def test_questions_compare_without_their_metadata() -> None:
    one, other = (Question("1", "Who?", ("x",), "nq", {"split": split}) for split in ("dev", "test"))
    assert one == other
    assert len({one, other}) == 1


@pytest.mark.parametrize(
    ("metadata", "id", "split"),
    [
        ({"split": "train"}, "test_3", "train"),
        ({}, "test_3", "test"),
        ({}, "dev_1", "dev"),
        ({}, "dev_x", None),
        ({}, "17", None),
    ],
)
def test_a_question_knows_its_split_by_its_metadata_or_by_its_id(
    metadata: dict[str, Any], id: str, split: str | None
) -> None:
    assert Question(id, "Who?", ("x",), "nq", metadata).split == split


@pytest.mark.parametrize(
    ("place", "dataset"),
    [("nq/test.jsonl", "nq"), ("nq.test.jsonl", "nq"), ("x/popqa.jsonl", "popqa"), ("musique/dev.jsonl", "musique")],
)
def test_a_data_set_is_named_after_its_file_or_after_the_folder_of_a_split(
    tmp_path: Path, place: str, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    write(path, GOOD)
    assert load_questions(path)[0].dataset == dataset
    monkeypatch.chdir(path.parent)
    assert load_questions(path.name)[0].dataset == dataset


def test_questions_are_chosen_by_their_metadata() -> None:
    questions = [Question(str(i), "Who?", ("x",), "nq", {"random500": i > 1, "hop": i}) for i in range(3)]
    assert where(questions, None) == questions
    assert where(questions, "random500=TRUE") == questions[2:]
    assert where(questions, "hop=1") == questions[1:2]
    with pytest.raises(ConfigurationError, match="where='random500': must be KEY=VALUE"):
        where(questions, "random500")
    with pytest.raises(ConfigurationError, match="where='hop=9': no question matches; known keys: hop, random500"):
        where(questions, "hop=9")


# ---------------------------------------------------------------- parquet, as Search-R1 writes it


def search_r1(number: int, target: Any = ("Ostue",), **changes: Any) -> dict[str, Any]:
    """A row of Search-R1's parquet files."""
    made = {
        "id": f"test_{number}",
        "question": f"Which river is number {number}?",
        "golden_answers": None,
        "data_source": "nq",
        "prompt": [{"role": "user", "content": "Answer the question ..."}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": target}},
        "extra_info": {"split": "test", "index": number},
        "metadata": {"context": ["long"]},
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    """A parquet file of the rows."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


@pytest.mark.parametrize("target", [["Ostue", "the Ostue"], np.array(["Ostue", "the Ostue"])])
def test_reads_parquet_of_search_r1(tmp_path: Path, target: Any) -> None:
    path = parquet(tmp_path / "test.parquet", search_r1(0, target), search_r1(1, target, data_source="popqa"))
    first, second = load_questions(path)
    assert first == Question("test_0", "Which river is number 0?", ("Ostue", "the Ostue"), "nq")
    assert (second.id, second.dataset) == ("test_1", "popqa")
    assert first.metadata == {}  # neither the prompt of another framework nor whole contexts
    assert first.split == "test"


def test_a_target_that_is_one_string_is_one_answer(tmp_path: Path) -> None:
    (question,) = load_questions(parquet(tmp_path / "x.parquet", search_r1(0, "Ostue")))
    assert question.golden_answers == ("Ostue",)


def test_golden_answers_go_before_the_target(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", search_r1(0, ["other"], golden_answers=["Ostue"]))
    assert load_questions(path)[0].golden_answers == ("Ostue",)


def test_the_id_knows_the_split_better_than_search_r1s_extra_info(tmp_path: Path) -> None:
    """Its test file says `test` of the dev questions of HotpotQA, 2Wiki and MuSiQue."""
    rows = [search_r1(0, data_source="hotpotqa", id="dev_7"), search_r1(1, id="seven")]
    first, second = load_questions(parquet(tmp_path / "x.parquet", *rows))
    assert (first.split, second.split) == ("dev", "test")


def test_reads_parquet_with_flashrags_columns(tmp_path: Path) -> None:
    rows = [GOOD | {"split": "dev"}, row(split="train")]
    first, second = load_questions(parquet(tmp_path / "nq.parquet", *rows))
    assert first == Question("a1", "Who?", ("Mira Sorel", "Sorel"), "nq")
    assert (first.split, second.split) == ("dev", "train")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (search_r1(1, reward_model={"style": "rule"}), "'golden_answers' or reward_model.ground_truth.target"),
        (search_r1(1, []), "the row has no answer, or only null"),
        (search_r1(1, [""]), "the row has no answer, or only null"),
        (search_r1(1, ""), "the row has no answer, or only null"),
        (search_r1(1, question=None), "no field 'question', and the prompt 'Answer the question ...' is not"),
        (search_r1(1, question=" "), "text is empty"),
        (search_r1(1, id="test_0"), "id 'test_0' is already used by another question at .*row 1"),
    ],
)
def test_bad_row_is_named_with_its_parquet_file(tmp_path: Path, bad: dict[str, Any], said: str) -> None:
    target = bad["reward_model"].get("ground_truth", {}).get("target")
    good = search_r1(0, "Ostue" if isinstance(target, str) else ["Ostue"])  # a column has one type
    path = parquet(tmp_path / "some.parquet", good, bad)
    with pytest.raises(QuestionError, match=said) as caught:
        load_questions(path)
    assert f"{path}, row 2" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"PAR1" * 20])
def test_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(QuestionError, match="not a Parquet file, or corrupt") as caught:
        load_questions(path)
    assert str(path) in str(caught.value)


def test_missing_and_empty_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(QuestionError, match=r"gone\.parquet: no such file"):
        load_questions(tmp_path / "gone.parquet")
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(QuestionError, match=r"empty\.parquet: contains no question"):
        load_questions(tmp_path / "empty.parquet")


# ---------------------------------------------------------------- the datasets library


def saved(*rows: dict[str, Any], split: str | None = None) -> datasets.Dataset:
    """Rows as the library holds them."""
    return datasets.Dataset.from_list(list(rows), split=split)


def test_reads_a_saved_folder(tmp_path: Path) -> None:
    saved(GOOD, row(), split="dev").save_to_disk(tmp_path / "nq")
    first, second = load_questions(tmp_path / "nq")
    assert first == Question("a1", "Who?", ("Mira Sorel", "Sorel"), "nq")
    assert (first.split, second.id) == ("dev", "a2")


def test_reads_a_saved_folder_of_several_splits(tmp_path: Path) -> None:
    both = datasets.DatasetDict({"train": saved(GOOD | {"id": "t"}), "test": saved(row(id="dev_5"), row(id="e"))})
    both.save_to_disk(tmp_path / "musique")
    found = load_questions(str(tmp_path / "musique"))
    assert [(q.id, q.dataset, q.split) for q in found] == [
        ("t", "musique", "train"),
        ("dev_5", "musique", "dev"),
        ("e", "musique", "test"),
    ]


def test_bad_row_of_a_saved_folder_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": saved(GOOD, row(question=" "))}).save_to_disk(tmp_path / "nq")
    with pytest.raises(QuestionError, match=r"nq/train, row 2: .*text is empty"):
        load_questions(tmp_path / "nq")


def test_folder_that_the_library_did_not_write_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(QuestionError, match="notes: a folder without data files"):
        load_questions(tmp_path / "notes")


def test_reads_a_split_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(repo: str, config: str | None, split: str) -> datasets.Dataset:
        asked.append((repo, config, split))
        return saved(GOOD | {"metadata": {"x": 1}}, row(id="test_9"))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    first, second = load_questions("hf:RUC-NLPIR/FlashRAG_datasets/nq:test[:2]")
    assert asked == [("RUC-NLPIR/FlashRAG_datasets", "nq", "test[:2]")]
    assert (first.dataset, first.split, first.metadata) == ("nq", "test", {"split": "test"})
    assert second.split == "test"
    assert load_questions("hf:some/set:dev")[0].dataset == "set"
    assert asked[1] == ("some/set", None, "dev")


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'RUC-NLPIR/FlashRAG_datasets' on the Hub"),
        ValueError("BuilderConfig 'nqq' not found. Available: ['nq']"),
        RuntimeError("read timed out"),
    ],
)
def test_a_hub_that_does_not_answer_is_one_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def load_dataset(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(QuestionError, match="hf:a/b/nq:test: could not be loaded") as caught:
        load_questions("hf:a/b/nq:test")
    assert str(error) in str(caught.value)
    assert "HF_HUB_OFFLINE" in str(caught.value)


@pytest.mark.parametrize("source", ["hf:nq", "hf:a/b", "hf:a/b/c/d:test", "hf:a/b/nq:"])
def test_a_hub_source_has_one_form(source: str) -> None:
    with pytest.raises(QuestionError, match=r"not hf:REPO/CONFIG:SPLIT; write e\.g\."):
        load_questions(source)


@pytest.mark.parametrize(
    ("module", "source"), [("pyarrow.parquet", "x.parquet"), ("datasets", "folder"), ("datasets", "hf:a/b/nq:test")]
)
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, module: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.parquet").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "dataset_dict.json").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'igsearch\[benchmarks\]") as caught:
        load_questions(source)
    assert source in str(caught.value)


def test_the_environment_and_its_questions_import_no_heavy_library() -> None:
    program = (
        "import igsearch_env, igsearch_env.question_sets, sys; print({'torch', 'pyarrow', 'datasets'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


DATASETS = ("nq", "triviaqa", "popqa", "hotpotqa", "2wikimultihopqa", "musique", "bamboogle")


@pytest.mark.parametrize("dataset", DATASETS)
def test_real_benchmarks_load(mini_data: Path, dataset: str) -> None:
    questions = load_questions(mini_data / f"{dataset}.jsonl")
    assert len(questions) == 40
    assert {question.dataset for question in questions} == {dataset}
    assert all(question.metadata["split"] in ("dev", "test", "train") for question in questions)
