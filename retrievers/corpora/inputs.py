"""The inputs of a corpus: what the command line names, with the benchmark and the split of each file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrievers.base import CorpusError
from retrievers.corpora import shapes
from retrievers.corpora.hub import HUB, KNOWN, download
from retrievers.corpora.writer import SPLITS, Input
from retrievers.passage_rows import corpus_rows

_SPLIT_WORDS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev", "test": "test"}
_NAMED = re.compile(rf"(?P<dataset>{'|'.join(shapes.DATASETS)})(?::(?P<split>{'|'.join(SPLITS)}))?=(?P<path>.+)")
_DATASETS_OF = {
    shapes.PARAGRAPHS: (shapes.MUSIQUE,),
    shapes.CONTEXT: (shapes.HOTPOTQA, shapes.WIKI2),
    shapes.ALIASES: (shapes.WIKI2,),
    shapes.PASSAGES: (),
}
_WHAT = {
    shapes.PARAGRAPHS: "a question of MuSiQue",
    shapes.CONTEXT: "a question of HotpotQA or 2WikiMultiHopQA",
    shapes.ALIASES: "names of answers of 2WikiMultiHopQA",
    shapes.PASSAGES: "a passage",
}


def find_inputs(names: Sequence[str]) -> list[Input]:
    """The files that the command line names; those on the Hub are downloaded.

    Raises `CorpusError` for a file that is not there, or whose first row is of no known shape.
    """
    inputs = list(_files(names))
    for source in inputs:
        _recognise(source)
    return inputs


def _files(names: Sequence[str]) -> Iterator[Input]:
    seen: dict[Path, str] = {}
    for name in names:
        named = _NAMED.fullmatch(name)
        dataset, split = (named["dataset"], named["split"]) if named else (None, None)
        place = named["path"] if named else name
        if place in KNOWN and not Path(place).exists():
            dataset, place = place, KNOWN[place].hub
        if place.startswith(HUB):
            files = [Input(found.name, found.path) for found in download(place)]
        elif Path(place).is_file():
            files = [Input(place, Path(place))]
        elif Path(place).is_dir():
            hub = f", or {KNOWN[place].hub} for the copy on the Hub" if place in KNOWN else ""
            raise CorpusError(f"{place}: a folder; pass the files in it ({place}/*.json){hub}")
        else:
            raise CorpusError(
                f"{place}: no such file; pass one, {', '.join(KNOWN)} (from the Hub), or hf:OWNER/REPO/PATH"
            )
        for file in files:
            if (real := file.path.resolve()) in seen:
                raise CorpusError(f"{file.name}: the same file as {seen[real]}; pass it once")
            seen[real] = file.name
            file.dataset, file.split = dataset, split or _split_of(file.name)
            yield file


def _split_of(name: str) -> str | None:
    """The split that the words of a file's name, or the name of its folder, say; None unless they say one."""
    path = Path(name.rpartition("@")[0] if name.startswith(HUB) else name)
    words = re.findall(r"[a-z]+", path.name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    found = found or {_SPLIT_WORDS.get(path.absolute().parent.name.lower(), "")} - {""}
    return found.pop() if len(found) == 1 else None


def _recognise(source: Input) -> None:
    """Set shape, data set and split by the first row."""
    where, row = next(corpus_rows(source.path), (str(source.path), None))
    if row is None:
        raise CorpusError(f"{where}: has no rows; download it again")
    row = shapes.plain(row)
    source.shape = shapes.shape_of(row, where)
    found = shapes.dataset_of(row, source.shape)
    if source.dataset is not None and (
        source.dataset not in _DATASETS_OF[source.shape] or found not in (None, source.dataset)
    ):
        raise CorpusError(
            f"{where}: {_WHAT[source.shape]} by its fields, not of {source.dataset}; pass it without a name"
        )
    if source.shape in (shapes.PASSAGES, shapes.ALIASES):
        source.dataset, source.split = found, None
        return
    source.dataset = source.dataset or found or shapes.dataset_named(source.name)
    if source.dataset is None:
        raise CorpusError(
            f"{where}: neither its fields nor its name say which benchmark it is of; pass it as "
            f"{shapes.HOTPOTQA}={source.name} or {shapes.WIKI2}={source.name}"
        )
    if source.split is None:
        raise CorpusError(
            f"{source.name}: the name does not say which split it is (train, dev or test); pass it as "
            f"{source.dataset}:dev={source.name}, or with another split"
        )
