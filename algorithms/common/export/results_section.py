"""The results section of the card: the test scores of the run, and whether they are of the exported checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from algorithms.common.evaluation.results import Result
from algorithms.common.evaluation.scores import MacroAverage, Score
from algorithms.common.export.facts import ExportedPolicy
from algorithms.common.export.markdown import code_span, if_known
from igsearch_env.question_sets import BENCHMARKS


def results_section(run: ExportedPolicy) -> Iterator[str]:
    """The paragraphs of the section; the last one is the table."""
    if run.after is None and run.before is None:
        yield "The run was not tested."
        return
    if run.after is None:
        yield "The run was not tested after training: these results are of the policy before training."
    elif run.tested:
        before = "" if run.before is None else "before training and "
        yield f"Greedy decoding, {before}after step {run.step}, the exported checkpoint."
    else:
        exported = if_known("; this is step {}", run.step)
        tested = if_known(" of step {}", run.after.header.get("step"))
        yield f"**The exported checkpoint was not tested.** The results are{tested} of the same run{exported}."
    trained_in = run.setting("policy.dtype")
    if run.tested and trained_in is not None and trained_in != run.dtype:
        yield f"The test was run in {trained_in}; the exported weights are {run.dtype}."
    limit = run.setting("test_limit")
    if limit:
        yield f"Only the first {limit} test questions of each data set were evaluated."
    tests = {"before": run.before, "after": run.after}
    yield _table({label: result for label, result in tests.items() if result is not None})


def scored(test: Result) -> dict[str, Score]:
    """Scores by data set, without data sets for which every retrieval failed."""
    return {name: score for name, score in test.scores.items() if score.n}


def _table(tests: Mapping[str, Result]) -> str:
    """EM with its 95% interval by data set, one column per test; n, F1 and searches are those of the last test."""
    last = list(tests.values())[-1]
    heads = ["data set", "questions", *(f"EM {label} (95%)" for label in tests), "F1", "searches"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, score in scored(last).items():
        published = BENCHMARKS[name].size if name in BENCHMARKS else score.n
        n = f"{score.n:,}" if published == score.n else f"{score.n:,} of {published:,}"
        found = [scored(test).get(name) for test in tests.values()]
        ems = ["" if each is None else _em(each.em, each.em_ci95) for each in found]
        rows.append([code_span(name).replace("|", "\\|"), n, *ems, f"{score.f1:.3f}", f"{score.searches:.2f}"])
    averages = [MacroAverage.of(scores) if (scores := scored(test)) else None for test in tests.values()]
    ems = ["" if average is None else _em(average.em, average.em_ci95) for average in averages]
    rows.append(["macro-average", f"{sum(score.n for score in last.scores.values()):,}", *ems, "", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _em(em: float, interval: Sequence[float]) -> str:
    return f"{em:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
