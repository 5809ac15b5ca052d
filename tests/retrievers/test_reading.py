"""Hostile files give an error that names file and line, in bounded memory."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from igsearch_env.errors import QuestionError
from igsearch_env.questions import load_questions
from retrievers import CorpusError
from retrievers.corpus import load_corpus
from retrievers.reading import FileError, parse_json, read_yaml

GOOD = b'{"id": "1", "contents": "t", "question": "q?", "golden_answers": ["a"]}\n'
BAD = {
    "brackets": (b"[" * 100_000, "brackets nested 100000 deep; at most 64"),
    "braces": (b'{"a":' * 50_000, "nested 50000 deep"),
    "digits": (b'{"id": ' + b"9" * 5_000 + b"}", "a number of more than 100 digits"),
    "id": (b'{"id": "\\ud800", "contents": "x", "question": "q", "golden_answers": ["a"]}', "half of a surrogate pair"),
    "text": (b'{"id": "2", "contents": "\\udfff", "question": "\\udfff", "golden_answers": ["a"]}', "surrogate pair"),
    "latin": (b'{"id": "caf\xe9"}', "not UTF-8"),
    "surrogate bytes": (b'{"id": "\xed\xa0\x80"}', "not UTF-8"),
    "nested id": (b'{"id": [1], "contents": "x", "question": "q", "golden_answers": ["a"]}', "id is '.1.'; it must be"),
}


@pytest.mark.parametrize("kind", BAD)
def test_file_and_line_are_named(kind: str, tmp_path: Path) -> None:
    line, reason = BAD[kind]
    path = tmp_path / "x.jsonl"
    path.write_bytes(GOOD + line + b"\n")
    for load, error in ((load_corpus, CorpusError), (load_questions, QuestionError)):
        with pytest.raises(error, match=rf"x\.jsonl, line 2: .*{reason}") as found:
            load(path)  # type: ignore[operator]
        assert "\n" not in str(found.value)


def test_brackets_and_digits_in_strings_are_text() -> None:
    text = "[" * 500 + "9" * 500 + '\\"{'
    assert parse_json(f'["{text}", "\\ud83d\\ude00"]'.encode(), "x") == [text.replace("\\", ""), "😀"]


def test_a_huge_line_of_a_gzip_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b'{"id": "')
        for _ in range(600):  # 600 MB without an end of line, in 3 MB
            file.write(b"x" * 1_000_000)
    program = "import sys; from retrievers.corpus import load_corpus; load_corpus(sys.argv[1])"
    limit = 1_500 * 2**20

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=bound, check=False)
    assert f"CorpusError: {path}, line 1: longer than 64 MiB" in done.stderr


# Few bytes that stand for 43 million values.
BOMB = b"a0: &a0 [1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a: 1\nb: 2024-13-45", r"line 2: .*month must be in 1\.\.12"),
        (b"a: 1\nb: \xe9", r"line 2: not UTF-8"),
        (b"a: [" + b"[" * 100_000, r"line 1: nested more than 64 deep"),
        (b"a: 1\nb: " + b"9" * 5_000, r"line 2: .*digits"),
        (b"a: !!timestamp x", r"line 1: not a value"),
        (b"a: !!python/object/apply:os.getcwd []", r"line 1: could not determine a constructor"),
        (b"a: &a [*a]", r"nested more than 64 deep"),
        (b"a: '\x00'", r"special characters are not allowed"),
        (BOMB, "values"),
    ],
)
def test_a_yaml_file_is_plain_and_small(text: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(FileError, match=rf"x\.yaml.*{reason}") as error:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)
