"""`SOURCES.md` for readers and `sources.json` for programs: what a corpus was made of, and what it covers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrievers.corpora.shapes import HOTPOTQA, MUSIQUE, PASSAGES, WIKI2
from retrievers.corpora.writer import CORPUS, Coverage, Input, question_file
from retrievers.digests import file_digest

PAGE, RECORD = "SOURCES.md", "sources.json"
LICENCES = {
    HOTPOTQA: "CC BY-SA 4.0",
    WIKI2: "Apache-2.0",
    MUSIQUE: "CC BY 4.0",
    PASSAGES: "that of its publisher",
}
TEXT_LICENCE = (
    "The paragraphs of HotpotQA, 2WikiMultiHopQA and MuSiQue are text of Wikipedia (CC BY-SA), whatever the licence of "
    "the questions is. Passages of other corpora keep the licence of their publishers."
)
_COUNTS = (
    ("rows", "rows"),
    ("paragraphs", "paragraphs"),
    ("passages", "new passages"),
    ("duplicates", "duplicates merged"),
    ("empty", "empty paragraphs left out"),
    ("questions", "questions"),
    ("repeated_questions", "repeated questions merged"),
    ("without_answer", "rows without an answer"),
    ("without_paragraphs", "rows without paragraphs"),
)


def write_sources(
    folder: Path, inputs: Sequence[Input], coverage: Mapping[tuple[str, str], Coverage], passages: int, characters: int
) -> None:
    """Write both files into the folder of the corpus."""
    digests = {source.name: file_digest(source.path) for source in inputs}
    corpus = file_digest(folder / CORPUS)
    record: dict[str, Any] = {
        "corpus": {"file": CORPUS, "passages": passages, "characters": characters, **corpus},
        "inputs": [_record(source, digests[source.name]) for source in inputs],
        "questions": [
            {"file": question_file(dataset, split), "dataset": dataset, "split": split, **asdict(counts)}
            for (dataset, split), counts in coverage.items()
        ],
        "text_licence": TEXT_LICENCE,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(_page(record), encoding="utf-8")


def licence_of(source: Input) -> str:
    """The licence of an input, as its publisher states it."""
    return LICENCES[source.dataset or PASSAGES]


def _record(source: Input, digest: Mapping[str, Any]) -> dict[str, Any]:
    fields = asdict(source)
    del fields["path"]
    return {**fields, "bytes": digest["bytes"], "sha256": digest["sha256"], "licence": licence_of(source)}


def _page(record: Mapping[str, Any]) -> str:
    corpus = record["corpus"]
    lines = [
        "# Sources",
        "",
        f"`{CORPUS}`: {corpus['passages']:,} passages, {corpus['characters'] / 1e6:,.1f} million characters, "
        f"SHA-256 {corpus['sha256']}. Made by `python -m retrievers.build_corpus`.",
        "",
        TEXT_LICENCE,
        "",
        "## Inputs",
        *_table(
            ("input", "what", "licence", *(title for _, title in _COUNTS), "bytes", "SHA-256"),
            [
                (
                    f"`{found['name']}`",
                    " ".join(filter(None, (found["dataset"] or found["shape"], found["split"]))),
                    found["licence"],
                    *(f"{found[key]:,}" for key, _ in _COUNTS),
                    f"{found['bytes']:,}",
                    found["sha256"],
                )
                for found in record["inputs"]
            ],
        ),
    ]
    if record["questions"]:
        lines += ["", "## Questions", *coverage_table(record["questions"]), "", COVERAGE_NOTE]
    return "\n".join(lines) + "\n"


COVERAGE_NOTE = (
    "Supporting titles: all of them are titles in the corpus, of the questions whose titles are known. Answer: it "
    "occurs, as whole words, in a paragraph that came with the question, of the questions with another answer than yes "
    "or no."
)


def coverage_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A Markdown table of what the corpus holds of the questions of each split."""
    return _table(
        ("file", "questions", "supporting titles", "answer", "both"),
        [
            (
                f"`{row['file']}`",
                f"{row['questions']:,}",
                _share(row["titles"], row["with_titles"]),
                _share(row["answers"], row["with_span"]),
                f"{row['complete']:,}",
            )
            for row in rows
        ],
    )


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({part / whole:.1%})" if whole else "none known"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
