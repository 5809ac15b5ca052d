"""Scores of rows, and evaluations that are stopped, resumed, hit by failures and compared."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import PASSAGES, played, search
from rich.console import Console
from scipy import stats

from algorithms.common.evaluation.intervals import mcnemar, mean_of_shares_ci95, wilson_ci95
from algorithms.common.evaluation.results import PartialResult, read_result, write_result
from algorithms.common.evaluation.scores import (
    MacroAverage,
    QuestionResult,
    Score,
    macro_average,
    macro_averages,
    score,
    score_rows,
)
from algorithms.common.evaluation.tables import print_scores
from igsearch.commands import compare as compare_results
from igsearch.commands import evaluate
from igsearch_env.errors import ConfigurationError
from igsearch_env.questions import Question
from igsearch_env.trajectory import ANSWERED, NO_ANSWER, RETRIEVAL_FAILED, Trajectory
from igsearch_env.world.bundled import bundled_world
from retrievers import BM25Retriever, Passage, RetrievalError


def row(dataset: str = "nq", id: str = "0", em: float = 1.0, **changes: Any) -> QuestionResult:
    """A row of an answered question."""
    fields: dict[str, Any] = {"question": f"q{id}?", "golden_answers": ["yes"], "prediction": "yes", "f1": em}
    fields |= {"searches": 1, "queries": ["q"], "stop_reason": ANSWERED}
    return QuestionResult(dataset=dataset, id=id, em=em, **(fields | changes))


def rows(dataset: str, ems: Sequence[float]) -> list[QuestionResult]:
    """Rows of a data set."""
    return [row(dataset, str(i), em) for i, em in enumerate(ems)]


# ---------------------------------------------------------------- rows and scores


def test_the_table_of_a_run_in_the_bundled_world_fits_80_columns() -> None:
    families = dict.fromkeys(question.dataset for question in bundled_world().questions["test"])
    scores = dict.fromkeys(families, Score(100, 0.875, 0.875, 2.25))
    shown = io.StringIO()
    console = Console(width=80, file=shown)
    print_scores(console, "ig_grpo, seed 0: greedy test EM", scores, scores)
    printed = shown.getvalue()
    assert "…" not in printed
    assert all("0.80 to 0.93" in line for line in printed.splitlines() if any(name in line for name in families))


def test_the_table_of_an_evaluation_tells_sizes_failures_and_the_averages_of_families() -> None:
    scores = {
        "nq": Score(3_610, 0.4, 0.5, 2.0),
        "bamboogle": Score(120, 0.2, 0.3, 3.0, failed=5, answer_found=0.25, em_found=0.8),
        "own [set]": Score(7, 1.0, 1.0, 1.0, answer_found=0.0),
    }
    average = MacroAverage(list(scores), 0.5333, 0.6, (0.4, 0.6), 2.0, 0.125, 0.8)
    shown = io.StringIO()
    print_scores(Console(width=120, file=shown), "a [policy]", None, scores, {"all": average})
    title, *lines = (line.strip() for line in shown.getvalue().splitlines())
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[0] in "│┃"]
    assert title == "a [policy]"
    assert cells == [
        ["data set", "n", "EM", "95% CI", "F1", "searches", "found", "EM if found", "failed"],
        ["nq", "3,610", "0.400", "0.384 to 0.416", "0.500", "2.00", "", "", ""],
        ["bamboogle", "120 of 125", "0.200", "0.138 to 0.280", "0.300", "3.00", "0.250", "0.800", "5"],
        ["own [set]", "7", "1.000", "0.646 to 1.000", "1.000", "1.00", "0.000", "", ""],
        ["macro-average, all", "sets: 3", "0.533", "0.400 to 0.600", "0.600", "2.00", "0.125", "0.800", ""],
    ]


def test_a_row_is_what_an_episode_left() -> None:
    question = Question("7", "Where?", ("Tolona", "the Tolona"), "birthplace")
    trajectory = played(question, (search("Alan Brin"), PASSAGES[:2]), ("nonsense", ()), (search("Tolona"), ()))
    trajectory.prediction, trajectory.stop_reason = "in Tolona", ANSWERED
    made = QuestionResult.of(trajectory)
    assert (made.dataset, made.id, made.golden_answers) == ("birthplace", "7", ["Tolona", "the Tolona"])
    assert (made.em, made.f1, made.searches, made.queries) == (0.0, pytest.approx(2 / 3), 2, ["Alan Brin", "Tolona"])
    assert not made.failed


@pytest.mark.parametrize(
    ("golds", "titles", "observation", "found"),
    [
        (("Tolona",), (), "Alan Brin was born in Tolona.", True),
        (("Tolona",), (), "Alan Brin was born", False),  # the observation is cut before the answer
        (("Mira", "tolona"), (), "Alan Brin was born in Tolona.", True),
        (("yes",), (), "Alan Brin was born in Tolona.", None),
        (("yes",), ("Alan Brin",), "Alan Brin was born", True),
        (("no",), ("Alan Brin", "Mira"), "Alan Brin was born", False),
        (("unknown",), (), "Alan Brin was born in Tolona.", None),
    ],
)
def test_a_row_says_whether_the_episode_read_its_answer(
    golds: tuple[str, ...], titles: tuple[str, ...], observation: str, found: bool | None
) -> None:
    question = Question("7", "Where?", golds, "x", metadata={"supporting_titles": titles})
    passage = Passage("p0", "Alan Brin", "was born in Tolona.")
    trajectory = played(question, (search("Alan Brin"), (passage,)))
    trajectory.turns[0].observation, trajectory.stop_reason = observation, ANSWERED
    assert QuestionResult.of(trajectory).answer_found is found


def test_what_was_found_and_what_was_made_of_it_multiply_to_the_share_found_and_answered() -> None:
    many = [row("nq", str(n), float(n < 3), answer_found=n < 4) for n in range(8)]
    few = [
        row("popqa", "0", 0.0, answer_found=True),
        *(row("popqa", str(n), 1.0, answer_found=False) for n in (1, 2, 3)),
    ]
    unknown = [row("mine", "0", 1.0), row("mine", "1", stop_reason=RETRIEVAL_FAILED, answer_found=True)]
    scores = score_rows([*many, *few, *unknown])
    assert [(s.answer_found, s.em_found) for s in scores.values()][:2] == [(0.5, 0.75), (0.25, 0.0)]
    assert math.isnan(scores["mine"].answer_found)
    average = macro_averages([*many, *few, *unknown])["all"]
    assert average.answer_found == pytest.approx(0.375)
    assert average.answer_found * average.em_found == pytest.approx((0.5 * 0.75 + 0) / 2)
    assert math.isnan(MacroAverage.of({"mine": scores["mine"]}).em_found)
    assert math.isnan(macro_averages([r for r in few if not r.answer_found])["all"].em_found)


def test_an_episode_without_an_answer_is_wrong_and_a_failed_retrieval_is_nothing() -> None:
    question = Question("7", "Where?", ("Tolona",), "x")
    ends = [("Tolona", ANSWERED), (None, NO_ANSWER), (None, RETRIEVAL_FAILED), ("Tolona", ANSWERED)]
    trajectories = [Trajectory(question, "", [], prediction, 0.0, reason) for prediction, reason in ends]
    (found,) = score(trajectories).values()
    assert (found.n, found.em, found.failed) == (3, pytest.approx(2 / 3), 1)


def test_a_data_set_of_nothing_but_failures_has_no_score() -> None:
    found = score_rows([row(stop_reason=RETRIEVAL_FAILED)])["nq"]
    assert (found.n, found.failed) == (0, 1)
    assert math.isnan(found.em)


def test_macro_averages_count_each_set_once_within_its_family() -> None:
    members = {"nq": [1, 1, 0, 0], "popqa": [1], "musique": [0] * 30, "bamboogle": [1, 0], "mine": [1, 1]}
    made = [r for name, ems in members.items() for r in rows(name, ems)]
    found = macro_averages(made)
    assert found["single-hop"].em == pytest.approx((0.5 + 1) / 2)
    assert found["multi-hop"].em == pytest.approx((0 + 0.5) / 2)
    assert found["all"].em == pytest.approx((0.5 + 1 + 0 + 0.5 + 1) / 5) == macro_average(score_rows(made))
    assert found["all"].datasets == list(members)
    assert found["multi-hop"].datasets == ["musique", "bamboogle"]
    for average in found.values():
        assert average.em_ci95[0] <= average.em <= average.em_ci95[1]
    assert set(macro_averages(rows("mine", [1]))) == {"all"}


def test_a_score_is_a_mean_of_samples_not_of_batches() -> None:
    """124 wrong and 1 right, as in a batch of 124 and a batch of 1, are 0.8%, not 50%."""
    assert score_rows(rows("bamboogle", [0] * 124 + [1]))["bamboogle"].em == 1 / 125


@pytest.mark.parametrize(("correct", "n"), [(0, 20), (1, 20), (20, 20), (7, 10), (49, 3_610)])
def test_the_interval_of_a_share_is_wilsons(correct: int, n: int) -> None:
    expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
    found = score_rows(rows("nq", [1] * correct + [0] * (n - correct)))["nq"].em_ci95
    assert found == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found[0] == 0, found[1] == 1) == (correct == 0, correct == n)


def test_the_interval_of_a_mean_of_shares_is_the_published_one() -> None:
    """Newcombe's (1998) method 10 for 56/70 - 48/80 is 0.0524 to 0.3339; p - q is 2 x the mean of p and 1 - q, - 1."""
    low, high = mean_of_shares_ci95([(56 / 70, 70), (1 - 48 / 80, 80)])
    assert (2 * low - 1, 2 * high - 1) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert mean_of_shares_ci95([(0.3, 50)]) == pytest.approx(wilson_ci95(0.3, 50), abs=1e-12)


def test_the_macro_average_of_nothing_but_failures_is_not_certain() -> None:
    average = macro_averages([*rows("nq", [0] * 20), *rows("popqa", [0] * 20)])["all"]
    assert average.em_ci95 == pytest.approx((0, 0.161 / 2**0.5), abs=1e-3)


def test_a_file_of_an_earlier_version_has_wilson_intervals(tmp_path: Path) -> None:
    made = rows("nq", [0] * 20)
    write_result(tmp_path / "r.json", made, score_rows(made))
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["datasets"]["nq"]["em_ci95"] == pytest.approx([0, 0.161], abs=1e-3)
    content["datasets"]["nq"]["em_ci95"] = [0.0, 0.0]  # as the bootstrap of earlier versions had it
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert read_result(tmp_path / "r.json").scores["nq"].em_ci95 == pytest.approx((0, 0.161), abs=1e-3)


@pytest.mark.parametrize(
    ("gained", "lost", "p"), [(0, 0, 1), (5, 0, 0.0625), (6, 0, 0.03125), (8, 2, 0.109375), (2, 8, 0.109375), (5, 5, 1)]
)
def test_mcnemars_exact_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


# ---------------------------------------------------------------- files


def test_a_result_file_is_read_back(tmp_path: Path) -> None:
    made = [*rows("nq", [1, 0]), *rows("mine", [1])]
    scores = {**score_rows(made), "nq": Score(2, 0.5, 0.5, 1.0, failed=3)}
    write_result(tmp_path / "r.json", made, scores, {"nq": {"published": 3610, "complete": False}}, policy="x")
    found = read_result(tmp_path / "r.json")
    assert found.scores == scores
    assert found.rows == {"nq": made[:2], "mine": made[2:]}
    assert (found.header["policy"], found.fingerprint) == ("x", None)
    content = json.loads((tmp_path / "r.json").read_text())
    assert (content["datasets"]["nq"]["published"], content["datasets"]["nq"]["complete"]) == (3610, False)
    assert "complete" not in content["datasets"]["mine"]
    assert content["macro_averages"]["single-hop"]["em"] == 0.5


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"datasets": {"nq": {"rows": [{"id": 1}]}}}'])
def test_what_is_no_result_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=r"x\.json: not a result file"):
        read_result(path)
    with pytest.raises(ConfigurationError, match=r"gone\.json: not a result file"):
        read_result(tmp_path / "gone.json")


def test_rows_of_an_unfinished_evaluation_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.partial.jsonl"
    first = PartialResult(path, {"top_k": 3})
    first.add(rows("nq", [1, 0]))
    first.add([row("nq", "lines\u2028apart")])
    again = PartialResult(path, {"top_k": 3})
    assert again.rows == first.rows
    assert list(again.rows) == [("nq", "0"), ("nq", "1"), ("nq", "lines\u2028apart")]


@pytest.mark.parametrize("cut", [1, 20, 150])
def test_a_half_written_line_is_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.partial.jsonl"
    made = rows("nq", [1, 0, 1])
    PartialResult(path, {"top_k": 3}).add(made)
    path.write_bytes(path.read_bytes()[:-cut])
    again = PartialResult(path, {"top_k": 3})
    assert list(again.rows.values()) == made[:2]
    again.add(made[2:])
    assert list(PartialResult(path, {"top_k": 3}).rows.values()) == made


@pytest.mark.parametrize("content", ["", '{"fingerprint": {"to'])
def test_a_file_without_a_whole_fingerprint_is_begun_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.partial.jsonl"
    path.write_text(content)
    assert PartialResult(path, {"top_k": 3}).rows == {}
    assert json.loads(path.read_text()) == {"fingerprint": {"top_k": 3}}


def test_the_rows_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.partial.jsonl"
    PartialResult(path, {"top_k": 3, "chat": False}).add(rows("nq", [1]))
    with pytest.raises(ConfigurationError, match=r"\(top_k: 3 != 5\); run that command again, give another --output"):
        PartialResult(path, {"top_k": 5, "chat": False})
    assert PartialResult(path, {"top_k": 3, "chat": False}).rows


@pytest.mark.parametrize("damage", ["nonsense", '{"id": 3}', "[]", ""])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "x.partial.jsonl"
    PartialResult(path, {}).add(rows("nq", [1, 0]))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, *lines[1:]]) + "\n")
    with pytest.raises(ConfigurationError, match=r"partial\.jsonl, line 2: damaged .* delete the file"):
        PartialResult(path, {})


# ---------------------------------------------------------------- examples/evaluate.py, stopped and resumed


@pytest.fixture
def arguments(tmp_path: Path) -> dict[str, Any]:
    """22 questions of three sets in one file, asked four at once, over eight passages."""
    asked = [("Where was Alan Brin born?", "Tolona"), ("What did Mira Sorel work as?", "botanist")]
    names = ["nq"] * 9 + ["bamboogle"] * 8 + ["mine"] * 5
    lines = [
        {"id": f"test_{i}", "question": f"{asked[i % 2][0]} {i}", "golden_answers": [asked[i % 2][1]], "dataset": name}
        for i, name in enumerate(names)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    passages = [{"id": p.id, "contents": f"{p.title}\n{p.text}"} for p in PASSAGES]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in passages))
    files = {"questions": (str(tmp_path / "q.jsonl"),), "corpus": str(tmp_path / "c.jsonl")}
    return {**files, "policy": "search-question", "batch_size": 4, "output": tmp_path / "out.json"}


class Watched(BM25Retriever):
    """Records the queries that it gets; is interrupted or fails at a given one."""

    interrupt_at: int | None = None
    fails: tuple[str, ...] = ()

    def __init__(self, passages: Sequence[Passage]) -> None:
        super().__init__(passages)
        self.queries: list[str] = []

    def search(self, queries: Sequence[str], k: int) -> list[list[Passage]]:
        if self.interrupt_at is not None and len(self.queries) >= self.interrupt_at:
            raise KeyboardInterrupt
        self.queries += queries
        if any(query.endswith(self.fails) for query in queries if self.fails):
            raise RetrievalError("away")
        return super().search(queries, k)


@pytest.fixture
def retriever(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What every evaluation of the test searches with."""
    watched = Watched(PASSAGES)
    monkeypatch.setattr(evaluate, "make_retriever", lambda corpus, retriever, rerank: watched)
    return watched


@pytest.mark.parametrize("policy", ["search-question", "bundled"])
def test_every_attempt_is_played_and_the_file_says_how_many(
    policy: str, arguments: dict[str, Any], retriever: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Trajectory] = []
    monkeypatch.setattr(evaluate.QuestionResult, "of", lambda t, of=QuestionResult.of: played.append(t) or of(t))
    evaluate.main(evaluate.Args(**{**arguments, "policy": policy, "limit": 1}, attempts=2))
    assert [len(trajectory.attempts) for trajectory in played] == [2, 2, 2]
    assert (read_result(arguments["output"]).fingerprint or {})["attempts"] == 2


@pytest.mark.parametrize(
    ("changed", "message"), [({"limit": 1}, r"another evaluation \(.*nq\.n: 9 != 1"), ({"top_k": 2}, "top_k: 3 != 2")]
)
def test_a_finished_result_of_another_evaluation_is_not_replaced(
    changed: dict[str, Any], message: str, arguments: dict[str, Any]
) -> None:
    evaluate.main(evaluate.Args(**arguments))
    whole = arguments["output"].read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        evaluate.main(evaluate.Args(**arguments | changed))
    evaluate.main(evaluate.Args(**arguments))
    assert arguments["output"].read_bytes() == whole


def test_questions_are_not_silently_asked_about_the_bundled_world(arguments: dict[str, Any], tmp_path: Path) -> None:
    options = {**arguments, "limit": 1, "output": None}
    with pytest.raises(ConfigurationError, match=r"'test_0' of nq is not of the bundled .*give --corpus, a corpus"):
        evaluate.main(evaluate.Args(**options | {"corpus": None}))
    evaluate.main(evaluate.Args(**options | {"corpus": "bundled"}))
    own = [
        {"id": q.id, "question": q.text, "golden_answers": q.golden_answers, "dataset": q.dataset}
        for q in bundled_world().questions["test"][:2]
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    evaluate.main(evaluate.Args(**options | {"corpus": None, "questions": (str(tmp_path / "own.jsonl"),)}))


@pytest.mark.parametrize("stops", [(8,), (4, 12, 20), (0,)])
def test_a_resumed_evaluation_writes_the_same_bytes(
    arguments: dict[str, Any], retriever: Watched, stops: tuple[int, ...]
) -> None:
    output: Path = arguments["output"]
    evaluate.main(evaluate.Args(**arguments))
    whole = output.read_bytes()
    assert not output.with_name("out.json.partial.jsonl").exists()
    output.unlink()

    retriever.queries.clear()
    for stop in stops:
        retriever.interrupt_at = stop
        with pytest.raises(KeyboardInterrupt):
            evaluate.main(evaluate.Args(**arguments))
        assert not output.exists()
        assert len(output.with_name("out.json.partial.jsonl").read_text().splitlines()) == 1 + stop
    retriever.interrupt_at = None
    evaluate.main(evaluate.Args(**arguments))
    assert output.read_bytes() == whole
    assert len(retriever.queries) == len(set(retriever.queries)) == 22  # nothing was asked twice
    assert not output.with_name("out.json.partial.jsonl").exists()


def test_episodes_start_as_others_end(arguments: dict[str, Any], retriever: Watched, tmp_path: Path) -> None:
    """A killed evaluation has lost the episodes that were being played, and no others."""
    evaluate.main(evaluate.Args(**{**arguments, "policy": "bundled", "batch_size": 2}))
    asked = len(retriever.queries)
    arguments["output"].unlink()
    retriever.queries.clear()
    retriever.interrupt_at = asked // 2
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(evaluate.Args(**{**arguments, "policy": "bundled", "batch_size": 2}))
    kept = [json.loads(line)["question"] for line in (tmp_path / "out.json.partial.jsonl").read_text().splitlines()[1:]]
    questions = [json.loads(line)["question"] for line in Path(arguments["questions"][0]).read_text().splitlines()]
    begun = max(questions.index(question) for question in kept) + 1
    assert 4 < len(kept) < 22
    assert begun - len(kept) <= 1  # an episode at most was still being played beside the last one that ended


def test_a_policy_goes_on_with_the_same_numbers(arguments: dict[str, Any], retriever: Watched) -> None:
    arguments |= {"policy": "bundled", "batch_size": 2}
    evaluate.main(evaluate.Args(**arguments))
    whole = arguments["output"].read_bytes()
    retriever.interrupt_at = len(retriever.queries) + 20
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(evaluate.Args(**arguments))
    retriever.interrupt_at = None
    evaluate.main(evaluate.Args(**arguments))
    assert arguments["output"].read_bytes() == whole


def test_other_settings_do_not_go_on(arguments: dict[str, Any], retriever: Watched) -> None:
    retriever.interrupt_at = 8
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(evaluate.Args(**arguments))
    with pytest.raises(ConfigurationError, match=r"started with other settings \(top_k: 3 != 2\)"):
        evaluate.main(evaluate.Args(**{**arguments, "top_k": 2}))
    with pytest.raises(ConfigurationError, match=r"questions\.nq\.n: 9 != 3"):
        evaluate.main(evaluate.Args(**{**arguments, "limit": 3}))


def test_failed_retrievals_are_left_out_and_asked_again(
    arguments: dict[str, Any], retriever: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    output: Path = arguments["output"]
    evaluate.main(evaluate.Args(**arguments))
    whole = output.read_bytes()
    retriever.fails = ("born? 2", "born? 14", "as? 21")  # a failure takes the four questions of its call along
    evaluate.main(evaluate.Args(**{**arguments, "max_failure_rate": 1.0}))
    said = capsys.readouterr()
    assert "retrieval failed for 10 questions" in said.err
    datasets = json.loads(output.read_bytes())["datasets"]
    assert [(found["n"], found["failed"], len(found["rows"])) for found in datasets.values()] == [
        (5, 4, 5),
        (4, 4, 4),
        (3, 2, 3),
    ]
    assert "NaN" not in output.read_text()

    retriever.fails = ()
    retriever.queries.clear()
    evaluate.main(evaluate.Args(**{**arguments, "max_failure_rate": 1.0}))
    assert len(retriever.queries) == 10  # the others were kept
    again = json.loads(output.read_bytes())
    again["settings"]["max_failure_rate"] = 0.2
    assert again == json.loads(whole)
    assert not output.with_name("out.json.partial.jsonl").exists()


def test_too_many_failed_retrievals_stop_it_and_lose_nothing(arguments: dict[str, Any], retriever: Watched) -> None:
    retriever.fails = ("born? 4",)  # in the second call
    with pytest.raises(
        evaluate.StoppedError,
        match=r"failed for 4 of the last 8 questions.*max_failure_rate=0\.2 of 16 allows.*"
        r"the same command resumes from .*partial\.jsonl",
    ):
        evaluate.main(evaluate.Args(**arguments))
    assert len(retriever.queries) == 8
    retriever.fails = ()
    evaluate.main(evaluate.Args(**arguments))
    assert len(retriever.queries) == 8 + 18
    assert json.loads(arguments["output"].read_text())["datasets"]["nq"]["failed"] == 0


def test_failures_far_apart_do_not_add_up(arguments: dict[str, Any], retriever: Watched) -> None:
    retriever.fails = ("born? 0", "born? 8", "born? 16")  # 1 of the last 4 is the most
    evaluate.main(evaluate.Args(**{**arguments, "batch_size": 1, "max_failure_rate": 0.25}))
    assert {n: d["failed"] for n, d in json.loads(arguments["output"].read_text())["datasets"].items()} == {
        "nq": 2,
        "bamboogle": 1,
        "mine": 0,
    }
    retriever.fails = ("born? 0", "as? 3")
    arguments["output"] = arguments["output"].with_name("close.json")
    with pytest.raises(evaluate.StoppedError, match="failed for 2 of the last 4 questions"):
        evaluate.main(evaluate.Args(**{**arguments, "batch_size": 1, "max_failure_rate": 0.25}))


def test_a_set_of_nothing_but_failures_is_an_error(arguments: dict[str, Any], retriever: Watched) -> None:
    retriever.fails = ("?", *"0123456789")
    with pytest.raises(evaluate.StoppedError, match="for every question of"):
        evaluate.main(evaluate.Args(**{**arguments, "max_failure_rate": 1.0}))


def test_partial_benchmarks_are_said_to_be_partial(
    arguments: dict[str, Any], retriever: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.main(evaluate.Args(**arguments))
    said = capsys.readouterr()
    assert "warning: nq: 9 of the 3,610 questions of test: partial" in said.err
    assert "macro-average, single-hop" in said.out
    content = json.loads(arguments["output"].read_text())
    assert {name: found.get("complete") for name, found in content["datasets"].items()} == {
        "nq": False,
        "bamboogle": False,
        "mine": None,
    }
    assert content["datasets"]["nq"]["published"] == 3_610
    assert set(content["notes"]) == {"nq", "bamboogle"}


def test_training_rows_are_not_asked(
    arguments: dict[str, Any], retriever: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(arguments["questions"][0])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[:5]:
        line["split"] = "train"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluate.main(evaluate.Args(**arguments))
    assert "nq: 5 rows of other splits left out" in capsys.readouterr().err
    assert json.loads(arguments["output"].read_text())["datasets"]["nq"]["n"] == 4
    arguments["output"].unlink()
    evaluate.main(evaluate.Args(**{**arguments, "split": "all"}))
    content = json.loads(arguments["output"].read_text())
    assert content["datasets"]["nq"]["n"] == 9
    assert content["fingerprint"]["questions"]["nq"]["split"] == "test+train"
    assert "has rows of train" in content["notes"]["nq"]


# ---------------------------------------------------------------- examples/compare_results.py

PRINT = {"model": {"name": "a"}, "top_k": 3, "questions": {"nq": {"n": 40}, "musique": {"n": 40}}}


def result(path: Path, ems: dict[str, Sequence[float]], fingerprint: dict[str, Any] | None = None) -> Path:
    """A result file."""
    made = [r for name, values in ems.items() for r in rows(name, values)]
    header = {} if fingerprint is None else {"fingerprint": fingerprint}
    write_result(path, made, score_rows(made), **header)
    return path


def compare(tmp_path: Path, before: Path, after: Path) -> dict[str, Any]:
    """What the comparison writes."""
    compare_results.main(compare_results.Args(before, after, tmp_path / "c.json"))
    found: dict[str, Any] = json.loads((tmp_path / "c.json").read_text())
    return found


def test_two_results_are_compared_pairwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = result(tmp_path / "a.json", {"nq": [0] * 30 + [1] * 10, "musique": [1, 0] * 20}, PRINT)
    after = result(tmp_path / "b.json", {"nq": [0] * 15 + [1] * 25, "musique": [0, 1] * 20}, PRINT)
    found = compare(tmp_path, before, after)
    nq, musique = found["datasets"]["nq"], found["datasets"]["musique"]
    assert (nq["n"], nq["dropped"], nq["before"], nq["after"]) == (40, 0, 0.25, 0.625)
    assert nq["difference"] == pytest.approx(0.375)
    assert nq["ci95"][0] > 0
    assert (nq["verdict"], musique["verdict"]) == ("better", "inside the noise")
    assert (nq["p"], musique["p"]) == (pytest.approx(2 / 2**15), 1)
    assert found["macro_averages"]["all"]["difference"] == pytest.approx(0.375 / 2)
    assert found["macro_averages"]["single-hop"]["difference"] == pytest.approx(0.375)
    assert found["warnings"] == []
    turned = compare(tmp_path, after, before)
    assert turned["datasets"]["nq"]["verdict"] == "worse"
    assert capsys.readouterr().err == ""


def test_a_few_questions_are_no_verdict(tmp_path: Path) -> None:
    before, after = (result(tmp_path / f"{em}.json", {"nq": [em] * 5}, PRINT) for em in (0, 1))
    assert compare(tmp_path, before, after)["datasets"]["nq"]["verdict"] == "inside the noise"


def test_only_common_questions_count_and_the_others_are_told(tmp_path: Path) -> None:
    before = result(tmp_path / "a.json", {"nq": [0] * 10, "popqa": [1]}, PRINT)
    made = [row("nq", str(i), 1.0) for i in range(3, 13)]
    made[0] = row("nq", "3", 1.0, question="another text")
    made[1] = row("nq", "4", 1.0, golden_answers=["another"])
    made[2] = row("nq", "5", 0.0, stop_reason=RETRIEVAL_FAILED)
    write_result(tmp_path / "b.json", made, score_rows(made), fingerprint=PRINT)
    found = compare(tmp_path, before, tmp_path / "b.json")
    assert (found["datasets"]["nq"]["n"], found["datasets"]["nq"]["dropped"]) == (4, 12)
    assert set(found["datasets"]) == {"nq"}
    assert found["warnings"] == ["popqa: no question in common, left out"]


def test_what_makes_results_incomparable_is_a_warning_above_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**PRINT, "model": {"name": "b"}, "top_k": 5}
    before = result(tmp_path / "a.json", {"nq": [0, 1]}, PRINT)
    after = result(tmp_path / "b.json", {"nq": [1, 1]}, other)
    assert compare(tmp_path, before, after)["warnings"] == ["top_k: 3 != 5"]
    said = capsys.readouterr()
    assert said.err == "warning: top_k: 3 != 5\n"
    assert "warning: top_k: 3 != 5" in said.out


def test_a_file_without_a_fingerprint_is_a_warning(tmp_path: Path) -> None:
    before = result(tmp_path / "a.json", {"nq": [0, 1]})
    after = result(tmp_path / "b.json", {"nq": [1, 1]}, PRINT)
    (warning,) = compare(tmp_path, before, after)["warnings"]
    assert "no fingerprint in the first file" in warning


def test_results_without_a_common_question_are_an_error(tmp_path: Path) -> None:
    before = result(tmp_path / "a.json", {"nq": [0, 1]}, PRINT)
    after = result(tmp_path / "b.json", {"popqa": [1, 1]}, PRINT)
    with pytest.raises(ConfigurationError, match="no question in common"):
        compare(tmp_path, before, after)
