"""A file is read by what it holds, whatever its name, compression and encoding are."""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retrievers.formats.rows import format_of, read_rows
from retrievers.reading import FileError, MissingPackageError

ROWS = [
    {"id": "1", "title": "Orléans", "text": "A town on the Loire."},
    {"id": "2", "title": "東京", "text": "A, B\nC"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def zstandard(raw: bytes) -> bytes:
    """Compressed in two frames, as `pzstd` and concatenation do."""
    compress: Callable[[bytes], bytes] = pytest.importorskip("zstandard", reason="zstandard is not installed").compress
    return compress(raw[:40]) + compress(raw[40:])


def rows(path: Path) -> list[dict[str, Any]]:
    """All rows; their places name the file."""
    found = list(read_rows(path))
    assert all(where.startswith(str(path)) for where, _ in found)
    return [row for _, row in found]


@pytest.mark.parametrize("suffix", [".jsonl", ".gz", "", ".json"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstandard])
def test_compression_is_recognised_by_content(tmp_path: Path, pack: Callable[[bytes], bytes], suffix: str) -> None:
    if pack is bytes and suffix == ".gz":
        pytest.skip("a plain file that is called .gz is refused")
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(pack(LINES.encode()))
    assert rows(path) == ROWS
    assert format_of(path) == "JSON lines"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zstandard])
def test_truncated_and_damaged_files_are_named(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "corpus.jsonl"
    packed = pack(LINES.encode() * 50)
    for damaged in (packed[: len(packed) // 2], packed[:20] + b"\0" * 10 + packed[30:]):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"corpus\.jsonl.*(corrupt|not a JSON object)"):
            rows(path)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text.encode("utf-8-sig"),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
        lambda text: text.encode("utf-32"),
        lambda text: text.encode("utf-32-le"),
        lambda text: text.encode("utf-32-be"),
        lambda text: gzip.compress(text.encode("utf-16")),
    ],
    ids=[
        *("utf-8 with mark", "utf-16", "utf-16-be with mark", "utf-16-le", "utf-16-be"),
        *("utf-32", "utf-32-le", "utf-32-be", "utf-16 in gzip"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_are_recognised(tmp_path: Path, encode: Callable[[str], bytes], end: str) -> None:
    path = tmp_path / "corpus.jsonl"
    for text in (LINES, json.dumps(ROWS, indent=1, ensure_ascii=False)):
        path.write_bytes(encode(text.replace("\n", end)))
        assert rows(path) == ROWS
    path.write_bytes(encode("".join(f"{row['id']}\t{row['title']}{end}" for row in ROWS)))
    assert rows(path) == [{"column 1": row["id"], "column 2": row["title"]} for row in ROWS]


def test_a_large_utf_16_file_is_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    many = [{"id": str(i), "text": "é東😀" * 50} for i in range(2_000)]
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in many).encode("utf-16"))
    assert rows(path) == many


def test_cut_utf_16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(LINES.encode("utf-16")[:-1])
    with pytest.raises(FileError, match=r"corpus\.jsonl.*: corrupt"):
        rows(path)


def texts(*found: str) -> list[dict[str, str]]:
    """Rows of these texts, numbered from 1."""
    return [{"id": str(number), "text": text} for number, text in enumerate(found, start=1)]


TEXTS = {"column 1": "0", "column 2": 'He said "no", and left.'}


@pytest.mark.parametrize(
    ("name", "content", "found", "form"),
    [
        ("a.json", '[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}], "a JSON list"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', [{"a": 1}, {"a": 2}], "JSON lines"),
        ("a.json", '{\n "Data": [{"a": 1}]\n}', [{"Data": [{"a": 1}]}], "one JSON object"),
        ("a.json", '{"Data": [\n{"a": 1}]}', [{"Data": [{"a": 1}]}], "one JSON object"),
        ("a.json", '{"Data": [{"a": 1}]}', [{"Data": [{"a": 1}]}], "JSON lines"),
        ("a", 'id\ttext\n1\t"A ""b"" c"\n', [{"id": "1", "text": 'A "b" c'}], "tab-separated values"),
        ("a.tsv", 'id\ttext\n1\t"A\nb"\n', [{"id": "1", "text": "A\nb"}], "tab-separated values"),
        ("a.tsv", 'id\ttext\n1\t"A" b\n', [{"id": "1", "text": '"A" b'}], "tab-separated values"),
        # A quote begins one text and another one ends a later text.
        ("a.tsv", 'id\ttext\n1\t"A\n2\tB"\n', texts('"A', 'B"'), "tab-separated values"),
        ("a.tsv", 'id\ttext\n1\t"A\n2\tB\n', texts('"A', "B"), "tab-separated values"),
        ("a.tsv", "id\ttext\n1\tA\nid\ttext\n\t\n2\tB\n", texts("A", "B"), "tab-separated values"),
        ("a.tsv", '0\tHe said "no", and left.\n', [TEXTS], "tab-separated values"),
        ("a.tsv", "0\ttext\r\n\r\n", [{"column 1": "0", "column 2": "text"}], "tab-separated values"),
        (
            "a.csv",
            'Question,Answer\n"Who, then?",Me\n',
            [{"Question": "Who, then?", "Answer": "Me"}],
            "comma-separated values",
        ),
        ("a", "id,title,text\n1,T,x\n", [{"id": "1", "title": "T", "text": "x"}], "comma-separated values"),
        ("a.csv", "id;title;text\n1;T;x, y\n", [{"id": "1", "title": "T", "text": "x, y"}], "values separated by ;"),
        ("a.csv", "who?,me\n", [{"column 1": "who?", "column 2": "me"}], "comma-separated values"),
    ],
)
def test_formats_are_recognised(tmp_path: Path, name: str, content: str, found: list[Any], form: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert rows(path) == found
    assert format_of(path) == form


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2: a list, not a JSON object"),
        ("a.json", '[{"a": 1}, ', "row 2: the file ends before its list does"),
        ("a.json", '{\n "a": [1,\n', "not JSON"),
        ("a.tsv", "id\ttext\n1\n", "line 2: 1 columns, not the 2 of line 1"),
        ("a.tsv", "id\tid\n1\t2\n", "line 1: the columns are 'id, id'; each needs a name of its own"),
        ("a.tsv", 'id\ttext\n1\t"A"\n2\t"B\n', "not separated values"),
        ("a.txt", "Some text.", "no known format"),
        ("a.csv", "Some text.", "no known format"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FileError) as caught:
        rows(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


@pytest.mark.parametrize("quoted", [True, False])
def test_quotes_are_recognised_where_they_begin(tmp_path: Path, quoted: bool) -> None:
    path = tmp_path / "a.tsv"
    plain = [f"text {number}" for number in range(300)]
    last = ['"A ""b"" c"', '"D\ne"'] if quoted else ['"A ""b"" c', "D"]
    numbered = enumerate(plain + last + plain, start=1)
    path.write_text("id\ttext\n" + "".join(f"{number}\t{text}\n" for number, text in numbered) + "603\n")
    with pytest.raises(FileError, match=f"line {605 if quoted else 604}: 1 columns, not the 2"):
        rows(path)
    path.write_text(path.read_text().removesuffix("603\n"))
    assert rows(path) == texts(*plain, *(['A "b" c', "D\ne"] if quoted else last), *plain)


def test_zstandard_that_ends_behind_a_row_is_truncated(tmp_path: Path) -> None:
    library = pytest.importorskip("zstandard", reason="zstandard is not installed")
    packer = library.ZstdCompressor().compressobj()
    path = tmp_path / "corpus.jsonl.zst"
    path.write_bytes(packer.compress(LINES.encode()) + packer.flush(library.COMPRESSOBJ_FLUSH_BLOCK))
    with pytest.raises(FileError, match=r"corrupt .the file ends before its last frame does"):
        rows(path)


@pytest.mark.parametrize("other", ["queries/q.jsonl", "queries.jsonl", "qrels/test.jsonl"])
@pytest.mark.parametrize("corpus", ["corpus/part-0.jsonl", "corpus-0.jsonl", "corpus.jsonl"])
def test_of_a_folder_with_queries_the_corpus_is_read(tmp_path: Path, corpus: str, other: str) -> None:
    for name, content in ((corpus, LINES), (other, '{"_id": "3", "text": "a question"}\n')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "corpus.jsonl.offsets.npy").write_bytes(b"\0")
    assert rows(tmp_path) == ROWS


def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "a.jsonl").chmod(0)
    if os.access(tmp_path / "a.jsonl", os.R_OK):
        pytest.skip("this user may read every file")
    with pytest.raises(FileError, match=r"a\.jsonl: can't be opened .Permission denied.; make it readable"):
        rows(tmp_path / "a.jsonl")


class TestFilesOfArrow:
    @pytest.fixture
    def pyarrow(self) -> Any:
        return pytest.importorskip("pyarrow", reason="pyarrow is not installed")

    @pytest.mark.parametrize("name", ["corpus.parquet", "corpus"])
    def test_parquet(self, tmp_path: Path, pyarrow: Any, name: str) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name)
        assert rows(tmp_path / name) == ROWS
        assert [row for _, row in read_rows(tmp_path / name, ("text", "nothing"))] == [
            {key: row[key] for key in ("id", "title")} for row in ROWS
        ]
        assert format_of(tmp_path / name) == "Parquet"

    @pytest.mark.parametrize("kind", ["new_stream", "new_file"])
    def test_arrow(self, tmp_path: Path, pyarrow: Any, kind: str) -> None:
        ipc = pytest.importorskip("pyarrow.ipc")
        table = pyarrow.Table.from_pylist(ROWS * 3_000)
        path = tmp_path / "data-00000-of-00001.arrow"
        with getattr(ipc, kind)(str(path), table.schema) as writer:
            writer.write_table(table)
        assert rows(path) == ROWS * 3_000
        assert format_of(path) == "Arrow"
        path.write_bytes(path.read_bytes()[:-200] if kind == "new_file" else path.read_bytes()[:1_000])
        with pytest.raises(FileError, match="not an Arrow file, or corrupt after row"):
            rows(path)

    @pytest.mark.parametrize("kind", ["parquet", "stream"])
    def test_columns_of_one_name_are_refused(self, tmp_path: Path, pyarrow: Any, kind: str) -> None:
        path = tmp_path / "corpus"
        table = pyarrow.Table.from_arrays([pyarrow.array(["1"])] * 3, names=["id", "text", "text"])
        if kind == "parquet":
            pytest.importorskip("pyarrow.parquet").write_table(table, path)
        else:
            with pytest.importorskip("pyarrow.ipc").new_stream(str(path), table.schema) as writer:
                writer.write_table(table)
        with pytest.raises(FileError, match="corpus: several columns are called 'text'; give each a name of its own"):
            rows(path)
        assert [row for _, row in read_rows(path, ("text",))] == [{"id": "1"}]

    def test_of_saved_splits_the_corpus_is_read(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        data = datasets.Dataset.from_list(ROWS)
        datasets.DatasetDict({"queries": data.select([0]), "corpus": data}).save_to_disk(tmp_path / "beir")
        assert rows(tmp_path / "beir") == ROWS

    def test_saved_to_disk(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets", reason="datasets is not installed")
        data = datasets.Dataset.from_list(ROWS)
        data.select([1, 0]).save_to_disk(tmp_path / "one")
        datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "splits")
        assert rows(tmp_path / "one") == ROWS[::-1]
        assert list(read_rows(tmp_path / "splits")) == [
            (f"{tmp_path}/splits/train, row 1", ROWS[0]),
            (f"{tmp_path}/splits/train, row 2", ROWS[1]),
            (f"{tmp_path}/splits/test, row 1", ROWS[1]),
        ]
        assert format_of(tmp_path / "splits") == "a folder of save_to_disk"

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "corpus").write_bytes(b"PAR1")
        monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
        with pytest.raises(MissingPackageError, match=r"corpus: .*pip install 'igsearch\[benchmarks\]"):
            rows(tmp_path / "corpus")


def test_a_missing_zstandard_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "corpus.jsonl").write_bytes(b"(\xb5/\xfd")
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(MissingPackageError, match=r"corpus\.jsonl: .*zstandard.*pip install 'igsearch\[benchmarks\]"):
        rows(tmp_path / "corpus.jsonl")


def test_folders_are_read_in_the_order_of_their_parts(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        part = tmp_path / "data" / f"part-{number}.jsonl"
        part.parent.mkdir(exist_ok=True)
        part.write_text(json.dumps({"id": number}) + "\n")
    (tmp_path / "README.md").write_text("# About")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "part-3.jsonl").write_text('{"id": 3}\n')
    assert [row["id"] for _, row in read_rows(tmp_path)] == [1, 2, 10]
    assert format_of(tmp_path) == "3 files of JSON lines"
    (tmp_path / "corpus.jsonl").write_text('{"id": 0}\n')
    assert [row["id"] for _, row in read_rows(tmp_path)] == [0]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for number, place in ((1, "data/a"), (2, "elsewhere")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / f"part-{number}.jsonl").write_text(json.dumps({"id": number}) + "\n")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data")
    assert sorted(row["id"] for _, row in read_rows(tmp_path / "data")) == [1, 2]


@pytest.mark.parametrize(
    ("files", "said"),
    [((), "a folder without data files"), (("a.jsonl", "b.tsv"), r"files of several formats \(\.jsonl, \.tsv\)")],
)
def test_other_folders_are_refused(tmp_path: Path, files: tuple[str, ...], said: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(FileError, match=said):
        rows(tmp_path)
