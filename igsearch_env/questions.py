"""Questions and their sources. Every source yields rows, and all rows pass the same checks.

    FILE.jsonl, FILE.jsonl.gz     FlashRAG: `id`, `question`, `golden_answers`
    FILE.parquet                  Search-R1: the same columns, or `data_source`, `reward_model`, `extra_info`
    FOLDER                        written by `save_to_disk` of the datasets library, with one or several splits
    hf:REPO/CONFIG:SPLIT          the Hugging Face Hub, e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test

Parquet requires pyarrow, the last two require the datasets library: `pip install igsearch[benchmarks]`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igsearch_env.errors import ConfigurationError, QuestionError
from retrievers.base import CorpusError
from retrievers.corpus import read_jsonl

SPLITS = ("train", "dev", "test")
_HUB = re.compile(r"hf:(?P<repo>[^/:]+/[^/:]+)(?:/(?P<config>[^/:]+))?:(?P<split>.+)")
_NUMBERED = re.compile(rf"({'|'.join(SPLITS)})_\d+")  # FlashRAG's ids
# Columns that are not read: the protocol writes the prompts, and FlashRAG's `metadata` holds whole contexts.
_UNREAD = ("prompt", "metadata")
_SEARCH_R1 = ("data_source", "ability", "reward_model", "extra_info")

# The location of a row, for error messages, and the row.
Rows = Iterator[tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `golden_answers`: accepted answers; information gain scores the first one."""

    id: str
    text: str
    golden_answers: tuple[str, ...]
    dataset: str
    metadata: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise QuestionError(f"question {self.id!r}: its text is empty; add a text or remove the question")
        answers = self.golden_answers
        if isinstance(answers, str) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
            raise QuestionError(
                f"question {self.id!r}: golden_answers is {answers!r}; "
                "it must be a tuple of at least one answer, none of them empty"
            )

    @property
    def split(self) -> str | None:
        """The split named in the metadata, else in the id (`dev_17`); None if neither names one."""
        named = self.metadata.get("split")
        if named is not None:
            return str(named)
        numbered = _NUMBERED.fullmatch(self.id)
        return numbered[1] if numbered else None


@dataclass(frozen=True, slots=True)
class HubSource:
    """Questions on the Hub: `hf:REPO:SPLIT` or `hf:REPO/CONFIG:SPLIT`."""

    repo: str
    config: str | None
    split: str

    @classmethod
    def read(cls, source: str) -> HubSource:
        """Parse `source`. Raises `QuestionError` for any other form."""
        found = _HUB.fullmatch(source)
        if found is None:
            raise QuestionError(
                f"{source}: not hf:REPO/CONFIG:SPLIT; write e.g. hf:RUC-NLPIR/FlashRAG_datasets/nq:test"
            )
        return cls(**found.groupdict())

    @property
    def dataset(self) -> str:
        """Data set name for questions without one."""
        return self.config or self.repo.rpartition("/")[2]


def load_questions(source: str | Path) -> list[Question]:
    """Load questions from a source in one of the forms above.

    A row without `dataset` gets the name of the file, the folder or the Hub configuration as its data set
    (`nq.test.jsonl` and `nq/test.jsonl`: nq). Raises `QuestionError`, naming source and row, for a malformed
    row, empty golden answers or a repeated id, and `ConfigurationError` if a library is missing.
    """
    rows, dataset = _open(source)
    questions: list[Question] = []
    first: dict[tuple[str, str], str] = {}
    for where, row in rows:
        question = _question(row, dataset, where)
        key = (question.dataset, question.id)
        if key in first:
            place = first[key].rpartition(", ")[2]
            raise QuestionError(f"{where}: id {question.id!r} is already used on {place}; ids must be unique")
        first[key] = where
        questions.append(question)
    if not questions:
        raise QuestionError(f"{source}: contains no questions; at least one is required")
    return questions


def check_unique(questions: Sequence[Question], where: str) -> None:
    """Raise `QuestionError` unless every (dataset, id) occurs once, since it identifies a group."""
    seen: set[tuple[str, str]] = set()
    for question in questions:
        key = (question.dataset, question.id)
        if key in seen:
            raise QuestionError(
                f"{where}: the id {question.id!r} occurs twice in data set {question.dataset!r}; ids must be unique"
            )
        seen.add(key)


def where(questions: Sequence[Question], condition: str | None) -> list[Question]:
    """The questions whose metadata match KEY=VALUE, ignoring case (`random500=true`); all of them if None.

    Raises `ConfigurationError` for a malformed condition, or if no question matches.
    """
    if condition is None:
        return list(questions)
    key, equals, value = condition.partition("=")
    if not equals:
        raise ConfigurationError(f"where={condition!r}: must be KEY=VALUE, e.g. random500=true")
    chosen = [question for question in questions if str(question.metadata.get(key)).lower() == value.lower()]
    if not chosen:
        known = sorted({name for question in questions for name in question.metadata})
        raise ConfigurationError(f"where={condition!r}: no question matches; known keys: {', '.join(known)}")
    return chosen


# ---------------------------------------------------------------- rows of each form


def _open(source: str | Path) -> tuple[Rows, str]:
    """The rows of a source, and the data set name for rows without one."""
    if str(source).startswith("hf:"):
        hub = HubSource.read(str(source))
        return _hub_rows(str(source), hub), hub.dataset
    path = Path(source)
    name = path.name.split(".")[0]
    if name in SPLITS and path.absolute().parent.name:
        name = path.absolute().parent.name
    if path.is_dir():
        return _saved_rows(path), name
    return _parquet_rows(path) if path.suffix == ".parquet" else _jsonl_rows(path), name


def _jsonl_rows(path: Path) -> Rows:
    try:
        for number, row in read_jsonl(path):
            yield f"{path}, line {number}", row
    except CorpusError as error:
        raise QuestionError(str(error)) from error


def _parquet_rows(path: Path) -> Rows:
    if not path.is_file():
        raise QuestionError(f"{path}: no such file; pass a .jsonl, .jsonl.gz or .parquet file")
    parquet = _optional("pyarrow.parquet", str(path))
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in _UNREAD]
            for batch in file.iter_batches(4_096, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (OSError, ValueError) as error:
        raise QuestionError(
            f"{path}: not a Parquet file, or corrupt after row {number} ({error}); download it again"
        ) from error


def _hub_rows(source: str, hub: HubSource) -> Rows:
    """Rows of a split on the Hub; without a network, those in the library's cache."""
    datasets = _optional("datasets", source)
    try:
        # Every request times out after HF_HUB_DOWNLOAD_TIMEOUT seconds (an environment variable, 10 by default).
        rows = datasets.load_dataset(hub.repo, hub.config, split=hub.split)
    except Exception as error:  # errors of its HTTP client, its parsers and its own code
        raise QuestionError(
            f"{source}: could not be loaded ({type(error).__name__}: {error}); check repository, configuration, "
            "split and network, or load it once while online: later loads can use the cache (HF_HUB_OFFLINE=1 skips "
            "the network)"
        ) from error
    return _dataset_rows(source, rows, hub.split.partition("[")[0])


def _saved_rows(folder: Path) -> Rows:
    datasets = _optional("datasets", str(folder))
    try:
        saved = datasets.load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise QuestionError(
            f"{folder}: not a folder written by save_to_disk of the datasets library ({error}); pass one, or a file"
        ) from error
    if isinstance(saved, Mapping):
        for split, rows in saved.items():
            yield from _dataset_rows(f"{folder}/{split}", rows, split)
    else:
        yield from _dataset_rows(str(folder), saved, None if saved.split is None else str(saved.split))


def _dataset_rows(where: str, dataset: Any, split: str | None) -> Rows:
    kept = dataset.remove_columns([name for name in dataset.column_names if name in _UNREAD]).with_format(None)
    for number, row in enumerate(kept, start=1):
        yield f"{where}, row {number}", _with_split(row, split)


def _optional(module: str, source: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{source}: reading it requires {module.split('.')[0]}, which can't be imported ({error}); "
            "pip install igsearch[benchmarks]"
        ) from error


# ---------------------------------------------------------------- fields of a row


def _with_split(row: dict[str, Any], split: Any) -> dict[str, Any]:
    """Add the split of the containing source to a row, unless the row or its id names one.

    Search-R1's test file labels dev questions of HotpotQA, 2Wiki and MuSiQue as `test`; their ids are right.
    """
    if split is None or row.get("split") is not None or _NUMBERED.fullmatch(str(row.get("id"))):
        return row
    return {**row, "split": str(split)}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of Search-R1 to FlashRAG's fields; any other row is returned unchanged."""
    if "reward_model" not in row:
        return row
    plain = {key: value for key, value in row.items() if key not in _SEARCH_R1}
    if row.get("data_source") is not None:
        plain.setdefault("dataset", row["data_source"])
    if row.get("golden_answers") is None:
        target = _inside(row, "reward_model", "ground_truth", "target")
        plain["golden_answers"] = [target] if isinstance(target, str) else target
    return _with_split(plain, _inside(row, "extra_info", "split"))


def _inside(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _question(row: dict[str, Any], default_dataset: str, where: str) -> Question:
    searchr1 = "reward_model" in row
    row = _plain(row)
    for name in ("id", "question", "golden_answers"):
        if row.get(name) is None:
            other = " or reward_model.ground_truth.target" if name == "golden_answers" and searchr1 else ""
            raise QuestionError(f"{where}: no field {name!r}{other} (found {sorted(row)}); add it")
    answers = row["golden_answers"]
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise QuestionError(f"{where}: golden_answers is {answers!r}; it must be a list of strings")
    known = {"id", "question", "golden_answers", "dataset"}
    try:
        return Question(
            id=str(row["id"]),
            text=str(row["question"]),
            golden_answers=tuple(answers),
            dataset=str(row.get("dataset", default_dataset)),
            metadata={key: value for key, value in row.items() if key not in known},
        )
    except QuestionError as error:
        raise QuestionError(f"{where}: {error}") from error
