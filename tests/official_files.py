"""Small files in the shapes in which HotpotQA, 2WikiMultiHopQA, MuSiQue and corpora are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HOTPOT = [
    {
        "_id": "5a8b57f25542995d1e6f1371",
        "answer": "1902",
        "question": "When was the harbour town that Mira Solm comes from founded?",
        "supporting_facts": [["Mira Solm", 0], ["Mira Solm", 1], ["Karith &amp; Vale", 0]],
        "context": [
            ["Karith &amp; Vale", ["Karith & Vale is a harbour town.", " It was founded in 1902."]],
            ["Mira Solm", ["Mira Solm is a painter.", " She comes from Karith & Vale."]],
            ["Ostue", ["The Ostue is a river."]],
        ],
        "type": "bridge",
        "level": "hard",
    },
    {
        "_id": "5a8c7595554299585d9e36b6",
        "answer": "yes",
        "question": "Are the Ostue and the Lurm both rivers?",
        "supporting_facts": [["Ostue", 0], ["Lurm", 0]],
        "context": [
            ["Ostue", ["The Ostue is a river."]],
            ["Lurm", ["The Lurm is a river.", " It is long."]],
            ["Empty", []],
        ],
        "type": "comparison",
        "level": "medium",
    },
]
WIKI2 = [
    {
        "_id": "8813f87c0bdd11eba7f7acde48001122",
        "type": "compositional",
        "question": "Where was the director of film Salt Road born?",
        "context": [
            ["Salt Road", ["Salt Road is a 1961 film( in black and white).", "It was directed by Ivo Brandt."]],
            ["Ivo Brandt", ["Ivo Brandt was born in Karith."]],
            ["Ostue", ["The Ostue is a  river ."]],
        ],
        "entity_ids": "Q1_Q2",
        "supporting_facts": [["Salt Road", 1], ["Ivo Brandt", 0]],
        "evidences": [["Salt Road", "director", "Ivo Brandt"], ["Ivo Brandt", "place of birth", "Karith"]],
        "answer": "Karith",
        "evidences_id": [["Q1", "director", "Q2"], ["Q2", "place of birth", "Q3"]],
        "answer_id": "Q3",
    }
]
ALIASES = [
    {"Q_id": "Q3", "aliases": ["Karith Town", "Old Karith"], "demonyms": ["Karithian"]},
    {"Q_id": "Q9", "aliases": [], "demonyms": []},
]
MUSIQUE = [
    {
        "id": "2hop__460946_294723",
        "paragraphs": [
            {"idx": 0, "title": "Vale", "paragraph_text": "Vale is a village.", "is_supporting": False},
            {"idx": 1, "title": "Tom Lind", "paragraph_text": "Tom Lind married Ada Noor.", "is_supporting": True},
            {"idx": 2, "title": "Green (album)", "paragraph_text": "Green is by Tom Lind.", "is_supporting": True},
        ],
        "question": "Who is the spouse of the Green performer?",
        "question_decomposition": [
            {"id": 460946, "question": "Green >> performer", "answer": "Tom Lind", "paragraph_support_idx": 2},
            {"id": 294723, "question": "#1 >> spouse", "answer": "Ada Noor", "paragraph_support_idx": 1},
        ],
        "answer": "Ada Noor",
        "answer_aliases": ["Ada", "Ada Noor-Lind", "Ada"],
        "answerable": True,
    }
]


def hub_form(row: dict[str, Any]) -> dict[str, Any]:
    """A row of HotpotQA as the Hub stores it: lists by field."""
    titles, sentences = zip(*row["context"], strict=True)
    facts, numbers = zip(*row["supporting_facts"], strict=True)
    rest = {key: value for key, value in row.items() if key not in ("_id", "context", "supporting_facts")}
    return {
        "id": row["_id"],
        **rest,
        "context": {"title": list(titles), "sentences": list(sentences)},
        "supporting_facts": {"title": list(facts), "sent_id": list(numbers)},
    }


def json_strings(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose nested fields are JSON inside strings, as in a Parquet copy of 2WikiMultiHopQA."""
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()}


def flashrag_form(row: dict[str, Any], id: str) -> dict[str, Any]:
    """A row of FlashRAG with the original's fields in `metadata`."""
    hub = hub_form(row)
    metadata = {key: hub[key] for key in ("type", "level", "context", "supporting_facts")}
    return {"id": id, "question": row["question"], "golden_answers": [row["answer"]], "metadata": metadata}


def write_list(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    """A file of one JSON list; returns its path."""
    path.write_text(json.dumps(rows, **options), encoding="utf-8")
    return str(path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """A file of JSON lines; returns its path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_all(folder: Path) -> list[str]:
    """The official files of all three benchmarks, with their names."""
    return [
        write_list(folder / "hotpot_dev_distractor_v1.json", HOTPOT),
        write_list(folder / "2wiki_train.json", WIKI2),
        write_lines(folder / "musique_ans_v1.0_train.jsonl", MUSIQUE),
    ]
