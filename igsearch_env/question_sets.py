"""The seven benchmarks that search agents are evaluated on, and the selection of their rows from a file.

Search-R1 (arXiv 2503.09516), AutoRefine (2505.11277) and IG-Search (2604.15148) evaluate on these seven, in the splits
and sizes of FlashRAG (arXiv 2405.13576): `hf:RUC-NLPIR/FlashRAG_datasets/<name>:<split>`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from igsearch_env.benchmark_names import canonical_split
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question

PUBLISHED = "published"  # argument value: the split of each benchmark that papers report
ALL = "all"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One set: `name` is also FlashRAG's configuration; `size` counts the questions of the published split."""

    name: str
    family: str
    split: str
    size: int
    source: str
    note: str

    @property
    def hub(self) -> str:
        """Its source for `load_questions`."""
        return f"hf:RUC-NLPIR/FlashRAG_datasets/{self.name}:{self.split}"


_OPEN = "the open-domain split of Lee et al. 2019"
_NO_TEST = "the answers of its test split are not public"
BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("nq", "single-hop", "test", 3_610, "Natural Questions, Kwiatkowski et al. 2019", _OPEN),
        Benchmark("triviaqa", "single-hop", "test", 11_313, "TriviaQA, Joshi et al. 2017", _OPEN),
        Benchmark("popqa", "single-hop", "test", 14_267, "PopQA, Mallen et al. 2023", "all of it"),
        Benchmark("hotpotqa", "multi-hop", "dev", 7_405, "HotpotQA, Yang et al. 2018", _NO_TEST),
        Benchmark("2wikimultihopqa", "multi-hop", "dev", 12_576, "2WikiMultihopQA, Ho et al. 2020", _NO_TEST),
        Benchmark("musique", "multi-hop", "dev", 2_417, "MuSiQue-Answerable, Trivedi et al. 2022", _NO_TEST),
        Benchmark("bamboogle", "multi-hop", "test", 125, "Bamboogle, Press et al. 2023", "all of it"),
    )
}
FAMILIES: dict[str, tuple[str, ...]] = {
    family: tuple(name for name, benchmark in BENCHMARKS.items() if benchmark.family == family)
    for family in ("single-hop", "multi-hop")
}


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected questions, and the number of rows of other splits left out per data set."""

    questions: list[Question]
    left_out: dict[str, int]


def evaluation_rows(questions: Sequence[Question], split: str = PUBLISHED) -> Selection:
    """The questions of one split.

    `published`: of the seven benchmarks, rows of another split than the published one are left out (many files mix
    training rows and test rows); other data sets are kept whole. `all`: every row. Any other
    name: the rows of that split. Raises `ConfigurationError` if that leaves a data set empty.
    """
    kept = [question for question in questions if _belongs(question, split)]
    before, after = (Counter(question.dataset for question in rows) for rows in (questions, kept))
    for dataset in before:
        if not after[dataset]:
            splits = sorted({question.split or "unnamed" for question in questions if question.dataset == dataset})
            benchmark = BENCHMARKS.get(dataset)
            wanted = benchmark.split if benchmark and split == PUBLISHED else split
            source = f" ({benchmark.hub})" if benchmark and split == PUBLISHED else ""
            raise ConfigurationError(
                f"split={split!r}: {dataset} has no row of split {wanted!r}, its {before[dataset]:,} rows are of "
                f"split {', '.join(splits)}; pass a file with that split{source}, or another split (all: every row)"
            )
    return Selection(kept, {name: n - after[name] for name, n in before.items() if n > after[name]})


def _belongs(question: Question, split: str) -> bool:
    if split == PUBLISHED:
        benchmark = BENCHMARKS.get(question.dataset)
        return benchmark is None or question.split in (None, benchmark.split)
    return split == ALL or question.split == canonical_split(split)


def unlike_published(questions: Sequence[Question]) -> dict[str, str]:
    """How the questions of each benchmark differ from the published evaluation; without those that do not differ."""
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    notes = {name: _note(BENCHMARKS[name], rows) for name, rows in by_dataset.items() if name in BENCHMARKS}
    return {name: note for name, note in notes.items() if note}


def _note(benchmark: Benchmark, questions: Sequence[Question]) -> str:
    n, size = len(questions), benchmark.size
    others = sorted({question.split for question in questions if question.split not in (None, benchmark.split)})
    if others:
        return f"has rows of {', '.join(map(str, others))}; published results are on {benchmark.split}"
    if n < size:
        return f"{n:,} of the {size:,} questions of {benchmark.split}: partial, not comparable with published results"
    if n > size:
        return f"{n:,} questions where {size:,} are published: some are duplicates or of another split; check the files"
    return ""
