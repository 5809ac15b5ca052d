"""Training questions that a corpus can answer: rows as they were, counts, and what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from examples import select_questions
from examples.select_questions import Args, main
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question, load_questions


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Three questions, two of which the corpus answers."""
    rows = [
        {"id": "train_0", "question": "Where was Ada Lovelace born?", "golden_answers": ["London"], "level": 2},
        {"id": "train_1", "question": "Who wrote Hamlet?", "golden_answers": ["Shakespeare", "W. Shakespeare"]},
        {"id": "train_2", "question": "Über wen?", "golden_answers": ["Ümit"], "supporting_titles": ["Ümits Seite"]},
    ]
    passages = [
        {"id": "0", "contents": '"Ada Lovelace"\nAda Lovelace was born in London.'},
        {"id": "1", "contents": '"Hamlet"\nHamlet is a play.'},
        {"id": "2", "contents": '"Ümits Seite"\nÜmit schreibt.'},
    ]
    for name, content in (("nq.jsonl", rows), ("corpus.jsonl", passages)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(tmp_path / "nq.jsonl"), str(tmp_path / "corpus.jsonl")


def test_rows_are_written_as_they_were(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, corpus = files
    output = tmp_path / "train.jsonl"
    main(Args((f"{questions}:train",), corpus, output))
    source = load_questions(questions)
    kept = load_questions(output)
    assert kept == [source[0], source[2]]
    assert kept[0].metadata["level"] == 2
    assert kept[1].supporting_titles == ("Ümits Seite",)
    assert {question.dataset for question in kept} == {"nq"}  # though the new file has another name
    printed = capsys.readouterr().out
    assert "67%" in printed
    assert f"2 questions in {output}" in printed


def test_a_corpus_that_answers_nothing_is_refused(files: tuple[str, str], tmp_path: Path) -> None:
    questions, _ = files
    other = tmp_path / "other.jsonl"
    rows = [{"id": str(n), "contents": '"Ada Lovelace"\nA mathematician.'} for n in range(3)]
    other.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="hold the answer of none of 3 questions; choose a corpus"):
        main(Args((questions,), str(other), tmp_path / "train.jsonl"))
    assert not (tmp_path / "train.jsonl").exists()


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_must_be_positive(files: tuple[str, str], tmp_path: Path, top_k: int) -> None:
    with pytest.raises(ConfigurationError, match=f"top_k={top_k}"):
        main(Args(files[:1], files[1], tmp_path / "train.jsonl", top_k=top_k))


@pytest.mark.parametrize("most", [1, 3, 9, None])
def test_a_data_set_may_be_limited(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, most: int | None
) -> None:
    monkeypatch.setattr(select_questions, "BATCH", 2)
    sizes = {"nq": 6, "musique": 2, "popqa": 9}
    sources = []
    for name, size in sizes.items():
        rows = [{"id": f"{name}-{n}", "question": f"Which {n}?", "golden_answers": ["tea"]} for n in range(size)]
        rows[0]["golden_answers"] = ["nothing of the kind"]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        sources.append(str(tmp_path / f"{name}.jsonl"))
    corpus = tmp_path / "corpus.jsonl"
    passages = [{"id": str(n), "contents": f'"Which"\nWhich tea {n}?'} for n in range(3)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in passages), encoding="utf-8")

    def selected(seed: int) -> list[Question]:
        main(Args(tuple(sources), str(corpus), tmp_path / "train.jsonl", max_per_dataset=most, seed=seed))
        return load_questions(tmp_path / "train.jsonl")

    kept = selected(3)
    printed = capsys.readouterr().out
    assert Counter(question.dataset for question in kept) == {
        n: min(size - 1, most or size) for n, size in sizes.items()
    }
    everything = [question.id for source in sources for question in load_questions(source)]
    assert [question.id for question in kept] == [
        name for name in everything if name in {q.id for q in kept}
    ]  # in order
    assert kept == selected(3)
    assert not any(question.id.endswith("-0") for question in kept)
    if most == 1:
        assert len({tuple(question.id for question in selected(seed)) for seed in range(8)}) > 4
        searched = re.search(r"popqa\W+9\W+(\d+)", printed)
        assert searched is not None
        assert int(searched[1]) in (2, 4)  # not all nine


def test_a_limit_of_nothing_is_refused(files: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_per_dataset=0"):
        main(Args(files[:1], files[1], tmp_path / "train.jsonl", max_per_dataset=0))
