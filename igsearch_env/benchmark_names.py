"""Spellings of benchmark names and of splits in published files: `searchR1_nq`, `hotpot_dev_distractor_v1.json`."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

# The words of a name, joined, that stand for a benchmark.
_SPELLINGS = {
    "nq": ("nq", "nqopen", "nqqa", "naturalquestions", "naturalquestion", "naturalquestionsopen"),
    "triviaqa": ("triviaqa", "triviaqarc", "triviaqaunfiltered"),
    "popqa": ("popqa",),
    "hotpotqa": ("hotpotqa", "hotpot"),
    "2wikimultihopqa": ("2wikimultihopqa", "2wikimultihop", "2wikimqa", "2wikiqa", "2wiki"),
    "musique": ("musique", "musiqueans", "musiquefull"),
    "bamboogle": ("bamboogle", "bamboogleprereleasesheet1"),
}
NAMES = tuple(_SPELLINGS)
_HIDDEN_TEST = frozenset(("hotpotqa", "2wikimultihopqa", "musique"))  # the answers of their test splits are not public
_NAME_OF = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}
_SPLIT_OF = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}

# Words of a name that say nothing about which benchmark it is.
_ENDINGS = frozenset(("json", "jsonl", "csv", "tsv", "txt", "parquet", "arrow", "gz", "zst", "bz2", "xz"))
_PLACES = _ENDINGS | _SPLIT_OF.keys() | {"data", "default", "distractor", "fullwiki", "of", "part", "shard"}
_ORIGINS = frozenset(
    (
        *("search", "r1", "searchr1", "kilt", "open", "biencoder", "psgs", "w100"),
        *("rc", "unfiltered", "filtered", "nocontext", "web"),
    )
)
_EDITIONS = frozenset(("ans", "answerable", "full", "wikipedia", "verified"))
_UNSAID = _PLACES | _ORIGINS | _EDITIONS
_NUMBER = re.compile(r"v?\d+")


def canonical_split(split: str) -> str:
    """`dev` for a validation split in any spelling; any other name as it is."""
    return _SPLIT_OF.get(split.casefold(), split)


def evaluation_split(split: str | None, dataset: str) -> str | None:
    """The split of a row with answers that Search-R1 or verl says to be of `split`.

    Their evaluation file is called `test`; its rows of benchmarks without public test answers are of `dev`.
    """
    return "dev" if split == "test" and dataset in _HIDDEN_TEST else split


def split_in(name: str) -> str | None:
    """The split that the words of a name say; None unless they say exactly one."""
    found = {_SPLIT_OF[word] for word in _words(name) if word in _SPLIT_OF}
    return found.pop() if len(found) == 1 else None


def benchmark_in(name: str) -> str | None:
    """The benchmark whose name this is, in any case and spelling; None if it is another name.

    Splits, versions, file endings and editions (`ans`, `distractor`) may stand beside it, and OWNER/ before it. A name
    with any other word (`nq_hard`, `nq_hotpotqa`) is not that of a benchmark.
    """
    for part in (name, name.rpartition("/")[2]):
        found = _NAME_OF.get("".join(_words(part, _UNSAID)))
        if found is not None:
            return found
    return None


def dataset_name(name: str) -> str:
    """The name of the benchmark in `igsearch_env.question_sets`, or the name as it is if it is not one of them."""
    return benchmark_in(name) or name


def dataset_of_path(path: Path) -> str:
    """The data set that a file or folder is of, by its name or that of the folders around it.

    A name that consists of a split and numbers (`test.jsonl`, `train-00000-of-00001.parquet`), and a folder `data`,
    leave it to the folder around them, at most three levels up.
    """
    absolute = path.absolute()
    for place in (absolute, *absolute.parents[:3]):
        if place.name and _words(place.name, _PLACES):
            return benchmark_in(place.name) or place.name.split(".")[0] or place.name
    return path.name.split(".")[0]


def _words(name: str, without: Collection[str] = ()) -> list[str]:
    """The words of a name; with `without`, those that are none of these and no number."""
    words: list[str] = re.findall(r"[^\W_]+", name.casefold())
    return [word for word in words if word not in without and not (without and _NUMBER.fullmatch(word))]
