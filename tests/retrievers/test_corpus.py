"""Corpus files: what is read, what is refused, and that a corpus on disk equals one in memory."""

from __future__ import annotations

import gzip
import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrievers import CorpusError, DiskCorpus, Passage, corpus_hash, load_corpus
from retrievers.corpus import write_corpus
from retrievers.files import atomic_write

ROWS = [
    {"id": "0", "contents": '"Karith"\nKarith stands on the Ostue.'},
    {"id": 1, "contents": "Lurm\nA sea.\nShallow — 浅い."},
    {"id": "x", "contents": 'A "quoted" word\nText', "extra": 3},
    {"id": "3", "contents": "only a text"},
]
READ = [
    Passage("0", "Karith", "Karith stands on the Ostue."),
    Passage("1", "Lurm", "A sea.\nShallow — 浅い."),
    Passage("x", 'A "quoted" word', "Text"),
    Passage("3", "", "only a text"),
]


def nfc(text: str) -> str:
    """The form in which accents are composed, in which corpora are read."""
    return unicodedata.normalize("NFC", text)


def write(path: Path, *rows: dict[str, Any] | str, end: str = "\n") -> Path:
    """A jsonl file of the rows; a string is a line as it stands."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + end, encoding="utf-8")
    return path


@contextmanager
def on_disk(path: Path, **options: bool) -> Iterator[DiskCorpus]:
    """The corpus on disk, closed afterwards."""
    corpus = DiskCorpus(path, **options)
    try:
        yield corpus
    finally:
        corpus.close()


def test_reads_flashrag_lines(tmp_path: Path) -> None:
    assert load_corpus(write(tmp_path / "c.jsonl", *ROWS[:2], "", *ROWS[2:])) == READ


def test_reads_compressed_files_alike(tmp_path: Path) -> None:
    plain = write(tmp_path / "c.jsonl", *ROWS)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert load_corpus(str(tmp_path / "c.jsonl.gz")) == READ


def test_verbatim_titles_keep_their_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *ROWS)
    assert [passage.title for passage in load_corpus(path, verbatim_titles=True)] == [
        '"Karith"',
        "Lurm",
        'A "quoted" word',
        "only a text",
    ]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"id": "9"}, "no field 'contents'"),
        ({"contents": "x"}, "no field 'id'"),
        ({"id": "9", "contents": ["x"]}, r"contents is .\['x'\]"),
        ({"id": True, "contents": "x"}, "id is 'True'"),
        ({"id": None, "contents": "x"}, "id is 'None'"),
        ({"id": 1.5, "contents": "x"}, "id is '1.5'"),
        ({"id": "9", "question": "Who?"}, "a question, not a passage"),
        ({"id": "1", "contents": "again"}, "'1' is already used on line 2"),
        ("{broken", "not a JSON object"),
        ("[]", "a list, not a JSON object"),
    ],
)
def test_bad_line_is_named_with_its_file(tmp_path: Path, bad: dict[str, Any] | str, said: str) -> None:
    path = write(tmp_path / "c.jsonl", *ROWS[:2], "", bad)
    with pytest.raises(CorpusError, match=said) as caught:
        load_corpus(path)
    assert f"{path}, line 4" in str(caught.value)


def test_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS[0])
    path.write_bytes(path.read_bytes() + '{"id": "2", "contents": "Orléans"}'.encode("latin-1"))
    with pytest.raises(CorpusError, match="line 2: not UTF-8"):
        load_corpus(path)


@pytest.mark.parametrize("read", [load_corpus, DiskCorpus])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_file_is_refused(tmp_path: Path, read: Any, content: str) -> None:
    (tmp_path / "empty.jsonl").write_text(content)
    with pytest.raises(CorpusError, match=r"empty\.jsonl: contains no passage"):
        read(tmp_path / "empty.jsonl")


@pytest.mark.parametrize("read", [load_corpus, DiskCorpus])
def test_missing_file_is_named(tmp_path: Path, read: Any) -> None:
    with pytest.raises(CorpusError, match=r"nowhere\.jsonl: no such file"):
        read(tmp_path / "nowhere.jsonl")


def test_corpus_on_disk_equals_the_one_in_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", ROWS[0], "", *ROWS[1:], "   ", end="")
    with on_disk(path) as corpus:
        assert list(corpus) == load_corpus(path) == READ
        assert len(corpus) == len(READ)
        assert corpus[-1] == READ[-1]
        assert corpus[1:3] == READ[1:3]
        assert corpus[::-1] == READ[::-1]
        with pytest.raises(IndexError):
            corpus[len(READ)]
    with on_disk(path, verbatim_titles=True) as corpus:
        assert list(corpus) == load_corpus(path, verbatim_titles=True)


def test_corpus_on_disk_reads_long_lines(tmp_path: Path) -> None:
    sizes = [65_000, 65_536, 70_000, 3_000_000, 5]
    passages = [Passage(str(i), f"T{i}", "é" * size) for i, size in enumerate(sizes)]
    write_corpus(passages, tmp_path / "c.jsonl")
    with on_disk(tmp_path / "c.jsonl") as corpus:
        assert [len(passage.text) for passage in corpus] == sizes
        assert corpus[3] == passages[3]


def test_corpus_on_disk_notices_that_its_file_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", *ROWS)
    with on_disk(path) as corpus:
        assert len(corpus) == 4
    write(path, {"id": "long", "contents": "A longer first line\nthan there was"}, ROWS[3])
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    with on_disk(path) as corpus:
        assert [passage.id for passage in corpus] == ["long", "3"]


def test_corpus_on_disk_names_a_bad_passage(tmp_path: Path) -> None:
    with on_disk(write(tmp_path / "c.jsonl", ROWS[0], {"id": "1"})) as corpus:
        assert corpus[0] == READ[0]
        with pytest.raises(CorpusError, match=r"c\.jsonl, passage 1: no field 'contents'"):
            corpus[1]


def test_corpus_on_disk_refuses_a_compressed_file(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b"{}"))
    with pytest.raises(CorpusError, match="not plain JSON lines with id and contents"):
        DiskCorpus(tmp_path / "c.jsonl.gz")


TITLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=8).map(nfc)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=20).map(nfc)


@given(st.lists(st.tuples(TITLE, TEXT), min_size=1, max_size=5))
def test_written_corpora_read_back(tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    passages = [Passage(str(i), title, text + "x") for i, (title, text) in enumerate(pairs)]
    write_corpus(passages, path)
    assert load_corpus(path) == passages


def test_corpus_hash_is_the_identity_of_a_corpus(tmp_path: Path) -> None:
    base = corpus_hash(READ)
    assert len(base) == 64
    assert int(base, 16) > 0
    assert corpus_hash([passage.with_score(2.0) for passage in READ]) == base
    with on_disk(write(tmp_path / "c.jsonl", *ROWS)) as corpus:
        assert corpus_hash(corpus) == base


@pytest.mark.parametrize(
    "other",
    [
        READ[::-1],
        READ[:-1],
        [*READ[:-1], Passage("4", "", "only a text")],
        [*READ[:-1], Passage("3", "x", "only a text")],
        [*READ[:-1], Passage("3", "", "only a text ")],
        [*READ[:-1], Passage("3", "only a text", "")],
    ],
    ids=["order", "count", "id", "title", "text", "text moved to title"],
)
def test_corpus_hash_changes_with(other: list[Passage]) -> None:
    assert corpus_hash(other) != corpus_hash(READ)


# ---------------------------------------------------------------- whole or not at all


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Passage]:
        yield READ[0]
        raise KeyboardInterrupt

    path = tmp_path / "c.jsonl"
    write_corpus(READ, path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_corpus(interrupted(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_write_one_file_at_once_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table"
    with atomic_write(path) as ours:
        ours.write_text("ours, whole")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with atomic_write(path) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours, whole"
    assert list(tmp_path.iterdir()) == [path]
