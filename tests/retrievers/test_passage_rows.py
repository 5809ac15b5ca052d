"""The corpora that people have are read as they are: shapes of published ones, and what is left out or refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest

from retrievers import CorpusError, Passage, load_corpus, open_retriever
from retrievers.corpus import survey_corpus
from retrievers.passage_rows import passage_of

KARITH, LURM = Passage("1", "Karith", "Karith stands on the Ostue."), Passage("2", "Lurm", "A sea.")
UNTITLED = [Passage("0", "", 'Karith stands on the "Ostue".'), Passage("1", "", "Lurm, a sea.")]
TEXT, TEXT2 = KARITH.text, LURM.text


def lines(*rows: Mapping[str, object]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)


SHAPES = {
    "FlashRAG": (
        "c.jsonl",
        lines({"id": "1", "contents": f'"Karith"\n{TEXT}'}, {"id": 2, "contents": f"Lurm\n{TEXT2}"}),
    ),
    "FlashRAG with fields": (
        "c.jsonl",
        lines(
            {"id": "1", "title": "Karith", "text": TEXT, "contents": f'"Karith"\n{TEXT}'},
            {"id": "2", "title": "Lurm", "text": TEXT2, "contents": f'"Lurm"\n{TEXT2}'},
        ),
    ),
    "Windows line ends": (
        "c.jsonl",
        '{"id": "1", "contents": "\\"Karith\\"\\r\\n' + TEXT + '"}\r\n'
        '{"id": "2", "contents": "Lurm\\r\\n' + TEXT2 + '"}\r\n',
    ),
    "Pyserini with titles": (
        "c.jsonl",
        lines({"id": "1", "title": "Karith", "contents": TEXT}, {"id": "2", "title": "Lurm", "contents": TEXT2}),
    ),
    "BEIR": (
        "c.jsonl",
        lines(
            {"_id": "1", "title": "Karith", "text": TEXT, "metadata": {"url": "x"}},
            {"_id": "2", "title": "Lurm", "text": TEXT2, "metadata": {}},
        ),
    ),
    "DPR": ("psgs_w100.tsv", f'id\ttext\ttitle\n1\t"{TEXT}"\tKarith\n2\t"{TEXT2}"\tLurm\n'),
    "csv": ("c.csv", f"id,title,text\n1,Karith,{TEXT}\n2,Lurm,{TEXT2}\n"),
    "Tevatron": (
        "c.jsonl",
        lines({"docid": "1", "title": "Karith", "text": TEXT}, {"docid": "2", "title": "Lurm", "text": TEXT2}),
    ),
    "a JSON list": (
        "c.json",
        json.dumps([{"id": 1, "title": "Karith", "text": TEXT}, {"id": 2, "title": "Lurm", "text": TEXT2}]),
    ),
    "KILT": (
        "kilt.json",
        lines(
            {
                "_id": "1",
                "wikipedia_id": "1",
                "wikipedia_title": "Karith",
                "text": [TEXT, "Section::::History.\n"],
                "anchors": [],
            },
            {"_id": "2", "wikipedia_id": "2", "wikipedia_title": "Lurm", "text": [TEXT2], "anchors": []},
        ),
    ),
    "embeddings": (
        "c.jsonl",
        lines(
            {"id": 1.0, "Title": "Karith", "Text": TEXT, "emb": [0.1]},
            {"id": 2.0, "Title": "Lurm", "Text": TEXT2, "emb": [0.1]},
        ),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path: Path, shape: str) -> None:
    name, content = SHAPES[shape]
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    assert load_corpus(tmp_path / name) == [KARITH, LURM]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("collection.tsv", '0\tKarith stands on the "Ostue".\n1\tLurm, a sea.\n'),
        ("c.jsonl", lines({"pid": 0, "passage": UNTITLED[0].text}, {"pid": 1, "passage": UNTITLED[1].text})),
        ("c.jsonl", lines({"text": UNTITLED[0].text}, {"text": UNTITLED[1].text})),
        ("c.jsonl", lines({"id": "0", "contents": UNTITLED[0].text}, {"id": "1", "contents": UNTITLED[1].text})),
    ],
    ids=["MS MARCO", "MS MARCO v2", "without ids", "contents in one line"],
)
def test_shapes_without_titles(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert load_corpus(tmp_path / name) == UNTITLED


def test_documents_of_ms_marco(tmp_path: Path) -> None:
    (tmp_path / "msmarco-docs.tsv").write_text(f"D1\thttp://x\tKarith\t{TEXT}\n")
    assert load_corpus(tmp_path / "msmarco-docs.tsv") == [Passage("D1", "Karith", TEXT)]


@pytest.mark.parametrize("source", ["", " "])
def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    (tmp_path / "corpus.jsonl").write_text(lines({"id": "1", "contents": "A town."}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=f"corpus or retriever is '{source}'; pass a file, a folder"):
        open_retriever(source)


def test_composed_and_decomposed_corpora_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(lines({"id": "1", "title": "Beyonce\u0301", "text": "Orle\u0301ans"}))
    assert load_corpus(tmp_path / "c.jsonl") == [Passage("1", "Beyoncé", "Orléans")]


def test_a_folder_of_parts_is_opened(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for number, passage in enumerate((KARITH, LURM)):
        row = {"id": passage.id, "title": passage.title, "text": passage.text}
        (tmp_path / "shards" / f"part-{number}.jsonl").write_text(lines(row))
    assert load_corpus(tmp_path / "shards") == [KARITH, LURM]
    for retriever in ("auto", "bm25"):
        engine = open_retriever(str(tmp_path / "shards"), retriever)
        assert [passage.id for passage in engine.search(["Ostue"], 1)[0]] == ["1"]


def test_a_title_of_its_own_wins_over_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    rows = [
        ("Karith", '"Karith"\nA town.'),
        ("Karith", "A town.\nIt is old."),
        ("Karith", '""\nA town.'),
        (None, "K\nA"),
    ]
    path.write_text(lines(*({"id": str(i), "title": t, "contents": text} for i, (t, text) in enumerate(rows))))
    assert [(p.title, p.text) for p in load_corpus(path)] == [
        ("Karith", "A town."),
        ("Karith", "A town.\nIt is old."),
        ("Karith", "A town."),
        ("K", "A"),
    ]


@pytest.mark.parametrize("title", ["Kar ith\nLurm", " Kar ith \r\n\n Lurm\n", ["Kar ith", "Lurm"]])
@pytest.mark.parametrize("text", ["text", "contents"])
def test_a_title_is_one_line(tmp_path: Path, title: object, text: str) -> None:
    (tmp_path / "c.jsonl").write_text(lines({"id": "1", "title": title, text: "A town."}))
    survey_corpus(tmp_path / "c.jsonl", copy=tmp_path / "copy.jsonl")
    for name in ("c.jsonl", "copy.jsonl"):
        assert load_corpus(tmp_path / name) == [Passage("1", "Kar ith Lurm", "A town.")]


@pytest.mark.parametrize(("id", "read"), [(1.0, "1"), (Decimal("2.00"), "2"), (3, "3"), ("4.0", "4.0")])
def test_whole_numbers_are_ids(id: object, read: str) -> None:
    assert passage_of({"id": id, "text": "x"}, "row 1") == Passage(read, "", "x")


@pytest.mark.parametrize("id", [2.5, Decimal("2.5"), Decimal("NaN"), Decimal("Infinity"), True, None, ["1"]])
def test_other_values_are_no_ids(id: object) -> None:
    with pytest.raises(CorpusError, match=r"row 1: id is .*; it must be a string or a whole number"):
        passage_of({"id": id, "text": "x"}, "row 1")


def test_a_message_is_short_whatever_the_row_has() -> None:
    with pytest.raises(CorpusError, match="and 980 others") as caught:
        passage_of({f"{number} {'x' * 100}": "" for number in range(1_000)}, "row 1")
    assert len(str(caught.value)) < 1_500


def test_an_id_of_another_file_is_named_with_it(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(lines({"id": "1", "contents": name}))
    for read in (load_corpus, survey_corpus):
        with pytest.raises(CorpusError, match=r"b\.jsonl, line 1: id '1' is already used on .*a\.jsonl, line 1;"):
            read(tmp_path)


def test_empty_passages_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "c.jsonl"
    empty: list[dict[str, object]] = [
        {"id": "3", "title": "", "text": ""},
        {"id": "4", "title": " ", "text": None},
        {"id": "5", "title": None, "text": "\n"},
    ]
    kept: list[dict[str, object]] = [{"id": p.id, "title": p.title, "text": p.text} for p in (KARITH, LURM)]
    titled: dict[str, object] = {"id": "6", "title": "Only a title", "text": ""}
    path.write_text(lines(*empty, *kept, titled))
    with caplog.at_level(logging.INFO, "retrievers"):
        assert load_corpus(path) == [KARITH, LURM, Passage("6", "Only a title", "")]
    assert caplog.messages == [
        f"{path}: JSON lines with id, title, text",
        f"{path}: 3 passages without title and text are left out",
    ]
    survey = survey_corpus(path, copy=tmp_path / "copy.jsonl")
    assert (survey.passages, survey.empty, survey.recognised) == (3, 3, "JSON lines with id, title, text")
    assert load_corpus(tmp_path / "copy.jsonl") == load_corpus(path)
    path.write_text(lines(*empty))
    for read in (load_corpus, survey_corpus):
        with pytest.raises(CorpusError, match="contains no passages but 3 without title and text"):
            read(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.tsv", "1\tKarith\tA town.\n", "line 1: 3 columns that line 1 does not name; write their names"),
        ("c.jsonl", lines({"question": "Who?", "golden_answers": ["me"]}), "line 1: a question, not a passage"),
        ("c.jsonl", lines({"id": "1", "name": "x"}), "line 1: no field 'contents' or 'text'"),
        ("c.jsonl", lines({"id": "1", "text": "x"}, {"text": "y"}), "line 2: no field 'id'"),
        (
            "c.jsonl",
            lines({"text": "x"}, {"_id": "1", "text": "y"}),
            "line 2: a field '_id', which the first row lacks",
        ),
        ("c.jsonl", lines({"id": "1", "text": {"a": 1}}), "line 1: text is"),
        ("c.jsonl", lines({"id": "", "text": "x"}), "line 1: id is ''"),
        ("c.csv", "id,text\n1,x\n1,y\n", "line 3: id '1' is already used on line 2"),
        ("c.jsonl", '{"id": "1", "contents": "\\ud800"}\n', "line 1: the text has half of a surrogate pair"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    for read in (load_corpus, survey_corpus):
        with pytest.raises(CorpusError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}, ")
        assert said in str(caught.value)
