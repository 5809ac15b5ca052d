"""A corpus from published files: every shape, merging, coverage, and what is refused without leaving anything."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from official_files import (
    ALIASES,
    HOTPOT,
    MUSIQUE,
    WIKI2,
    flashrag_form,
    hub_form,
    json_strings,
    write_all,
    write_lines,
    write_list,
)

from retrievers import CorpusError, Passage, load_corpus
from retrievers.build_corpus import Args, build, main
from retrievers.reading import MissingPackageError

KARITH = ("Karith & Vale", "Karith & Vale is a harbour town. It was founded in 1902.")


def make(folder: Path, *inputs: str, limit: int | None = None) -> Path:
    """The folder of a corpus of the inputs."""
    build(Args(inputs, folder / "out", limit))
    return folder / "out"


def passages(folder: Path) -> list[tuple[str, str]]:
    """Titles and texts of a corpus."""
    return [(passage.title, passage.text) for passage in load_corpus(folder / "corpus.jsonl")]


def questions(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of the question files of a data set."""
    files = sorted(folder.glob(f"{name}.*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def refused(folder: Path, *inputs: str) -> str:
    """The message of the error, after which nothing is left of the output."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(CorpusError) as caught:
        make(folder, *inputs)
    assert sorted(folder.rglob("*")) == before
    return str(caught.value)


# ---------------------------------------------------------------- what is read


def test_the_official_files_become_one_corpus(tmp_path: Path) -> None:
    folder = make(tmp_path, *write_all(tmp_path))
    assert passages(folder) == [
        KARITH,
        ("Mira Solm", "Mira Solm is a painter. She comes from Karith & Vale."),
        ("Ostue", "The Ostue is a river."),
        ("Lurm", "The Lurm is a river. It is long."),
        ("Salt Road", "Salt Road is a 1961 film( in black and white). It was directed by Ivo Brandt."),
        ("Ivo Brandt", "Ivo Brandt was born in Karith."),
        ("Vale", "Vale is a village."),
        ("Tom Lind", "Tom Lind married Ada Noor."),
        ("Green (album)", "Green is by Tom Lind."),
    ]
    assert questions(folder, "hotpotqa")[0] == {
        "id": "5a8b57f25542995d1e6f1371",
        "question": "When was the harbour town that Mira Solm comes from founded?",
        "golden_answers": ["1902"],
        "supporting_titles": ["Mira Solm", "Karith & Vale"],
        "type": "bridge",
        "dataset": "hotpotqa",
        "split": "dev",
    }
    (wiki,) = questions(folder, "2wikimultihopqa")
    assert (wiki["golden_answers"], wiki["split"]) == (["Karith"], "train")
    assert wiki["supporting_titles"] == ["Salt Road", "Ivo Brandt"]
    (musique,) = questions(folder, "musique")
    assert musique["golden_answers"] == ["Ada Noor", "Ada", "Ada Noor-Lind"]
    assert musique["supporting_titles"] == ["Green (album)", "Tom Lind"]  # in the order of the hops


def parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    """A Parquet file; returns its path."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("ending", [".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("form", [dict, hub_form], ids=["official", "hub"])
def test_every_format_and_form_gives_the_same(tmp_path: Path, ending: str, form: Any) -> None:
    if ending == ".parquet" and form is dict:
        pytest.skip("Parquet has no lists of a text and a number")
    expected = make(tmp_path, write_list(tmp_path / "hotpot_dev.json", HOTPOT, indent=2))
    other = tmp_path / "other"
    other.mkdir()
    rows, path = [form(row) for row in HOTPOT], other / f"hotpot-validation-00000{ending}"
    if ending == ".parquet":
        parquet(path, rows)
    else:
        plain = other / "x"
        (write_list if ".json." in f"{ending}." else write_lines)(plain, rows)
        path.write_bytes(gzip.compress(plain.read_bytes()) if ending.endswith(".gz") else plain.read_bytes())
    folder = make(other, str(path))
    for name in ("corpus.jsonl", "hotpotqa.dev.jsonl"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes()


@pytest.mark.parametrize("form", [json_strings, dict])
def test_2wiki_with_json_in_strings_and_names_of_its_answers(tmp_path: Path, form: Any) -> None:
    file = write_lines(tmp_path / "2wiki-dev.jsonl", [form(row) for row in WIKI2])
    names = write_lines(tmp_path / "id_aliases.json", ALIASES)
    (question,) = questions(make(tmp_path, file, names), "2wikimultihopqa")  # the order of the inputs is free
    assert question["golden_answers"] == ["Karith", "Karith Town", "Old Karith", "Karithian"]
    assert question["supporting_titles"] == ["Salt Road", "Ivo Brandt"]


def test_flashrag_rows_with_the_paragraphs_in_their_metadata(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "dev.jsonl", [flashrag_form(row, f"dev_{n}") for n, row in enumerate(HOTPOT)])
    folder = make(tmp_path, file)
    first, second = questions(folder, "hotpotqa")
    assert (first["id"], first["golden_answers"], second["golden_answers"]) == ("dev_0", ["1902"], ["yes"])
    assert KARITH in passages(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "wiki-18.jsonl",
            '{"id": "0", "contents": "\\"Karith\\"\\nA town."}\n{"id": 1, "contents": "Lurm\\nA sea."}\n',
        ),
        (
            "corpus.jsonl",
            '{"_id": "x", "title": "Karith", "text": "A town."}\n{"_id": "", "title": "Lurm", "text": "A sea."}',
        ),
        ("any.json", '[{"title": "Karith", "text": "A town.", "idx": 0}, {"title": "Lurm", "text": ["A", "sea."]}]'),
        ("psgs_w100.tsv", 'id\ttext\ttitle\n1\t"A town."\tKarith\n2\tA sea.\tLurm\n'),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_published_corpora_are_converted(tmp_path: Path, name: str, content: str, packed: bool) -> None:
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert passages(make(tmp_path, str(path))) == [("Karith", "A town."), ("Lurm", "A sea.")]


def test_a_passage_without_a_title_is_kept(tmp_path: Path) -> None:
    rows = [{"id": 1, "contents": "A town."}, {"id": 2, "contents": "Lurm\n"}, {"id": 3, "contents": "Ostue\nA river."}]
    assert passages(make(tmp_path, write_lines(tmp_path / "c.jsonl", rows))) == [("", "A town."), ("Ostue", "A river.")]


def test_quotes_in_a_table_are_read_as_dpr_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "psgs.tsv"
    path.write_text('id\ttext\ttitle\n1\t"He said ""no""."\t"The ""X"""\n', encoding="utf-8")
    assert passages(make(tmp_path, str(path))) == [('The "X"', 'He said "no".')]


def test_a_file_without_ids_is_numbered_by_split(tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "_id"} for row in HOTPOT]
    folder = make(tmp_path, write_list(tmp_path / "hotpot_dev.json", rows))
    assert [question["id"] for question in questions(folder, "hotpotqa")] == ["dev_0", "dev_1"]


def test_splits_are_apart(tmp_path: Path) -> None:
    files = write_list(tmp_path / "hotpot_train.json", HOTPOT[:1]), write_list(tmp_path / "hotpot_dev.json", HOTPOT[1:])
    folder = make(tmp_path, *files)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["SOURCES.md", "corpus.jsonl", "hotpotqa.dev.jsonl", "hotpotqa.train.jsonl", "sources.json"]
    assert [row["split"] for row in questions(folder, "hotpotqa")] == ["dev", "train"]


def test_limit_takes_the_first_rows_of_each_file(tmp_path: Path) -> None:
    folder = make(tmp_path, *write_all(tmp_path), limit=1)
    assert [len(questions(folder, name)) for name in ("hotpotqa", "2wikimultihopqa", "musique")] == [1, 1, 1]
    assert "Lurm" not in dict(passages(folder))


def test_limit_keeps_all_names_of_answers(tmp_path: Path) -> None:
    names = write_lines(tmp_path / "id_aliases.json", ALIASES[::-1])
    folder = make(tmp_path, names, write_list(tmp_path / "dev.json", WIKI2), limit=1)
    assert "Karith Town" in questions(folder, "2wikimultihopqa")[0]["golden_answers"]


def test_a_test_file_gives_its_paragraphs_alone(tmp_path: Path) -> None:
    bare = [{key: row[key] for key in ("id", "paragraphs", "question")} for row in MUSIQUE]
    test = write_lines(tmp_path / "musique_ans_v1.0_test.jsonl", bare)
    folder = make(tmp_path, test)
    assert len(passages(folder)) == 3
    assert not questions(folder, "musique")
    assert json.loads((folder / "sources.json").read_text())["inputs"][0]["without_answer"] == 1


def test_questions_that_have_no_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*MUSIQUE, {**MUSIQUE[0], "id": "other", "answerable": False}]
    folder = make(tmp_path, write_lines(tmp_path / "musique_full_v1.0_dev.jsonl", rows))
    assert len(questions(folder, "musique")) == 1
    assert json.loads((folder / "sources.json").read_text())["inputs"][0]["without_answer"] == 1


# ---------------------------------------------------------------- merging, counts, sources


def test_the_same_passage_is_written_once_with_the_same_id(tmp_path: Path) -> None:
    rows = [
        {"title": "Café", "text": "A cafe in Karith."},
        {"title": "Cafe\u0301", "text": "A cafe  in\nkarith. "},  # another composition, white space and case
        {"title": "Café", "text": "A cafe in Karith, closed."},  # another text under one title stays
        {"title": "Bar", "text": "A cafe in Karith."},
    ]
    folder = make(tmp_path, write_list(tmp_path / "a.json", rows))
    first, closed, bar = load_corpus(folder / "corpus.jsonl")
    assert (first.text, closed.text, bar.title) == ("A cafe in Karith.", "A cafe in Karith, closed.", "Bar")
    other = tmp_path / "other"
    other.mkdir()
    again = load_corpus(make(other, write_list(other / "b.json", rows[:0:-1])) / "corpus.jsonl")
    assert {passage.id for passage in again} == {first.id, closed.id, bar.id}


def test_sources_count_everything(tmp_path: Path) -> None:
    folder = make(tmp_path, *write_all(tmp_path))
    record = json.loads((folder / "sources.json").read_text(encoding="utf-8"))
    hotpot, wiki, musique = record["inputs"]
    assert (hotpot["rows"], hotpot["paragraphs"], hotpot["passages"]) == (2, 6, 4)
    assert (hotpot["duplicates"], hotpot["empty"], wiki["duplicates"]) == (1, 1, 1)
    assert [source["licence"] for source in record["inputs"]] == ["CC BY-SA 4.0", "Apache-2.0", "CC BY 4.0"]
    assert (musique["bytes"], len(musique["sha256"])) == (Path(musique["name"]).stat().st_size, 64)
    assert record["corpus"]["passages"] == 9
    coverage = {row["dataset"]: row for row in record["questions"]}
    assert (coverage["hotpotqa"]["with_span"], coverage["hotpotqa"]["answers"]) == (1, 1)  # one answer is "yes"
    assert (coverage["hotpotqa"]["titles"], coverage["musique"]["complete"]) == (2, 1)
    page = (folder / "SOURCES.md").read_text(encoding="utf-8")
    for text in ("9 passages", musique["sha256"], "CC BY-SA", "2 of 2 (100.0%)"):
        assert text in page


def test_coverage_says_what_is_missing(tmp_path: Path) -> None:
    far = {**HOTPOT[0], "_id": "far", "answer": "902", "supporting_facts": [["Mira Solm", 0], ["Nowhere", 0]]}
    coverage = build(Args((write_list(tmp_path / "hotpot_dev.json", [HOTPOT[0], far]),), tmp_path / "out"))
    (counts,) = coverage.values()
    assert (counts.questions, counts.titles, counts.with_span, counts.answers) == (2, 1, 2, 1)  # 902 is part of 1902


def test_a_question_of_two_files_is_written_once(tmp_path: Path) -> None:
    files = [write_list(tmp_path / name, HOTPOT) for name in ("hotpot_dev_distractor.json", "hotpot_dev_fullwiki.json")]
    folder = make(tmp_path, *files)
    assert len(questions(folder, "hotpotqa")) == 2
    assert json.loads((folder / "sources.json").read_text())["inputs"][1]["repeated_questions"] == 2


def test_the_command_prints_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(Args(tuple(write_all(tmp_path)), tmp_path / "out"))
    shown = capsys.readouterr().out
    assert "hotpot_dev_distractor_v1.json: 2 rows, 4 new passages, 1 duplicates merged" in shown
    assert "| `musique.train.jsonl` | 1 | 1 of 1 (100.0%) | 1 of 1 (100.0%) | 1 |" in shown
    assert f"--corpus {tmp_path / 'out' / 'corpus.jsonl'}" in shown


# ---------------------------------------------------------------- what is refused


def changed(**fields: Any) -> list[dict[str, Any]]:
    """The rows of HotpotQA, the second of them with other fields; None removes one."""
    second = {key: value for key, value in {**HOTPOT[1], **fields}.items() if value is not None}
    return [HOTPOT[0], second]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (changed(context=None), "its fields are _id, answer"),
        (changed(context=[["Ostue"]]), r"context must be a list of \[title, sentences\]"),
        (changed(context={"title": ["a", "b"], "sentences": [["x"]]}), "context must be a list"),
        (changed(context="[["), "context: not JSON"),
        (changed(context=[[7, ["x"]]]), "a title is '7'"),
        (changed(context=[["a", [7]]]), "must be a list of sentences"),
        (changed(answer=None), "no answer; a row of the dev split needs one"),
        (changed(answer=" "), "no answer; a row of the dev split needs one"),
        (changed(answer=["a"]), "answer is .* must be a text"),
        (changed(question=""), "question is ''"),
        (changed(supporting_facts=7), "supporting_facts is '7'"),
        (changed(_id=HOTPOT[0]["_id"]), "already that of another question .*row 1"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    file = write_list(tmp_path / "hotpot_dev.json", rows)
    message = refused(tmp_path, file)
    assert message.startswith(f"{file}, row 2")
    with pytest.raises(CorpusError, match=said):
        make(tmp_path, file)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("hotpot_dev.json", b'[{"question": "a"', "row 1: the file ends before its list does: it is truncated"),
        ("hotpot_dev.json", json.dumps(HOTPOT).encode()[:-40], "row 2: the file ends before its list does"),
        ("hotpot_dev.json", b"[]", "has no rows"),
        ("hotpot_dev.json", b'["a", "b"]', "not a JSON list of objects"),
        (
            "x.jsonl",
            b'{"id": 1, "contents": "a\\nb"}\n{"id": 2}\n',
            r"line 2: its fields are id; accepted are: HotpotQA",
        ),
        ("x.jsonl", b'{"title": "a", "text": "b"}\n{"title": "a", ', "line 2: not a JSON object"),
        ("x.jsonl", b'{"title": "a", "text": "\xff"}\n', "line 1: not UTF-8"),
        ("x.jsonl", b'{"title": "a", "text": ""}\n', "none of its 1 rows has a paragraph with text"),
        ("x.jsonl", b'{"id": 1, "contents": 7}\n', "line 1: contents is '7'; it must be a string"),
        ("x.jsonl", b'{"id": 1, "contents": "a\\nb"}\n[]\n', "line 2: a list, not a JSON object"),
        ("x.txt", b"Karith is a town.", "no known format"),
        ("x.json", b"", "has no rows"),
        ("data.zip", b"PK\x03\x04....", "a zip archive; unpack it"),
        ("x.jsonl.bz2", b"BZh91AY", "corrupt"),
        ("x.jsonl", gzip.compress(b'{"a": 1}', mtime=0), "line 1: its fields are a; accepted are"),
        ("x.jsonl.gz", gzip.compress(b"wiki.jsonl" + b"\0" * 247 + b"ustar\0", mtime=0), "a tar archive; unpack it"),
        ("x.jsonl.gz", gzip.compress(b'{"title": "a", "text": "b"}\n' * 99, mtime=0)[:-9], "corrupt"),
        ("x.parquet", b"PAR1", "not a Parquet file"),
        ("x.json", b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of git-lfs"),
        (
            "x.tsv",
            b"1\tA town.\tKarith\n",
            "line 1: 3 columns that line 1 does not name; write their names into it",
        ),
        ("x.tsv", b"id\ttext\ttitle\n1\tA town.\n", "line 2: 2 columns, not the 3 of line 1"),
        ("x.tsv", b'id\ttext\ttitle\n1\t"A town.\tKarith\n', "line 2: not separated values (unexpected end of data)"),
        (
            "mixed_dev.json",
            json.dumps([HOTPOT[0], {"title": "a", "text": "b"}]).encode(),
            "row 2: a row of another shape",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path, str(tmp_path / name))
    assert message.startswith(str(tmp_path / name))
    assert said in message


def test_what_a_name_has_to_say(tmp_path: Path) -> None:
    bare = [{key: value for key, value in row.items() if key != "level"} for row in HOTPOT]
    file = write_list(tmp_path / "sample.json", bare)
    assert f"pass it as hotpotqa={file} or 2wikimultihopqa={file}" in refused(tmp_path, file)
    assert f"pass it as hotpotqa:dev={file}" in refused(tmp_path, f"hotpotqa={file}")
    assert "a question of HotpotQA or 2WikiMultiHopQA by its fields, not of musique" in refused(
        tmp_path, f"musique:dev={file}"
    )
    wiki = write_list(tmp_path / "wiki_dev.json", WIKI2)
    assert "not of hotpotqa" in refused(tmp_path, f"hotpotqa={wiki}")
    assert "pass it once" in refused(tmp_path, wiki, wiki)
    assert [row["split"] for row in questions(make(tmp_path, f"hotpotqa:train={file}"), "hotpotqa")] == ["train"] * 2


@pytest.mark.parametrize(
    ("place", "split"),
    [
        ("hotpot_train_v1.1.json", "train"),
        ("hotpot_dev_fullwiki_v1.json", "dev"),
        ("validation/0000.json", "dev"),
        ("dev/hotpot_train.json", "train"),
    ],
)
def test_the_split_is_read_from_file_and_folder(tmp_path: Path, place: str, split: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    folder = make(tmp_path, write_list(tmp_path / place, HOTPOT))
    assert {row["split"] for row in questions(folder, "hotpotqa")} == {split}


@pytest.mark.parametrize("place", ["latest/hotpot.json", "hotpot_train_dev.json", "my-test-files/hotpot.json"])
def test_a_split_is_not_guessed(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    assert "does not say which split" in refused(tmp_path, write_list(tmp_path / place, HOTPOT))


def test_answers_that_are_nowhere_and_inputs_without_passages_are_refused(tmp_path: Path) -> None:
    nowhere = write_list(tmp_path / "hotpot_dev.json", [{**HOTPOT[0], "answer": "Lisbon"}])
    assert "the answer of none of the 1 questions occurs" in refused(tmp_path, nowhere)
    empty = write_list(tmp_path / "hotpot_train.json", [{**HOTPOT[0], "context": []}])
    assert "none of its 1 rows has a paragraph" in refused(tmp_path, empty)
    assert "no passages" in refused(tmp_path, write_lines(tmp_path / "id_aliases.json", ALIASES))
    assert "no such file" in refused(tmp_path, str(tmp_path / "gone.json"))
    assert "a folder; pass the files in it" in refused(tmp_path, str(tmp_path))
    with pytest.raises(CorpusError, match="--limit 0: must be at least 1"):
        make(tmp_path, nowhere, limit=0)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("question_decomposition", [{"paragraph_support_idx": 7}], "paragraph_support_idx is 7, but no paragraph"),
        ("question_decomposition", [{"paragraph_support_idx": [7]}], "it must be a whole number"),
        ("paragraphs", [{"title": "a"}], "paragraph 0 is not an object with title and paragraph_text"),
        ("paragraphs", {"title": ["a"]}, "paragraphs is .* it must be a list"),
        ("paragraphs", [{"idx": {}, "title": "a", "paragraph_text": "b"}], "idx is '{}'; it must be a whole number"),
        ("answer_aliases", "Ada", "answer_aliases is 'Ada'; it must be a list"),
    ],
)
def test_a_bad_row_of_musique_is_named(tmp_path: Path, field: str, value: Any, said: str) -> None:
    file = write_lines(tmp_path / "musique_dev.jsonl", [*MUSIQUE, {**MUSIQUE[0], "id": "other", field: value}])
    with pytest.raises(CorpusError, match=said) as caught:
        make(tmp_path, file)
    assert str(caught.value).startswith(f"{file}, line 2: ")


def test_what_is_in_the_way_is_not_touched(tmp_path: Path) -> None:
    files = write_all(tmp_path)
    for place in ("out", "out.partial"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "thesis.txt").write_text("years of work")
        refused(tmp_path, *files)
        assert (tmp_path / place / "thesis.txt").read_text() == "years of work"
        (tmp_path / place / "thesis.txt").unlink()
    (tmp_path / "out.partial" / "corpus.jsonl").write_text("of a killed process")
    assert len(passages(make(tmp_path, *files))) == 9  # an empty folder and a leftover are no obstacle
    assert not (tmp_path / "out.partial").exists()


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("retrievers.build_corpus.write_sources", interrupt)
    files = write_all(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, *files)
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(tmp_path / "hotpot_dev.parquet", [hub_form(row) for row in HOTPOT])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'igsearch\[benchmarks\]"):
        make(tmp_path, file)


def test_the_command_line(tmp_path: Path) -> None:
    file = write_list(tmp_path / "hotpot_dev.json", HOTPOT)
    command = [sys.executable, "-m", "retrievers.build_corpus", "--output", str(tmp_path / "out"), "--inputs"]
    done = subprocess.run([*command, file], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Passage(load_corpus(tmp_path / "out" / "corpus.jsonl")[0].id, *KARITH) in load_corpus(
        tmp_path / "out" / "corpus.jsonl"
    )
    again = subprocess.run([*command, file], capture_output=True, text=True, timeout=120)
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        f"error: --output {tmp_path / 'out'}: exists and is not an empty folder; choose another one"
    ]
