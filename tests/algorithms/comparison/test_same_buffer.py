"""The comparison of algorithms on one buffer: what it computes, and its command."""

from __future__ import annotations

import gzip
import json
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buffers import reward_buffer
from paths import ROOT

from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.comparison import same_buffer as side_by_side
from algorithms.comparison.advantages import relation
from algorithms.comparison.buffer_statistics import anchors_alone, gain_statistics, group_outcomes
from algorithms.comparison.registry import ALGORITHMS, INFORMATION_GAINS
from examples import same_buffer
from igsearch.testing.buffers import answer_turn, buffer_of, search_turn, trajectory
from igsearch_env.trajectory import Attempt, Gain, Trajectory

FILE = ROOT / "examples" / "same_buffer.py"
SEED = 4  # groups with equal and with different outcomes


def episode(outcome: float, gains: Sequence[float | None] = (), number: int = 0, found: str = "") -> Trajectory:
    """Searches of two query tokens and these gains, each of which found a text of its own, then an answer."""
    turns = [search_turn(range(5), (1, 3), gain) for gain in gains]
    for place, turn in enumerate(turns):
        turn.observation = f"{found} {place}" * 9
    finished = trajectory([*turns, answer_turn(range(4))], outcome, number)
    finished.attempts = [Attempt(len(finished.turns), "y", outcome)]
    return finished


def held(buffer: RolloutBuffer) -> dict[str, list[Gain | None]]:
    """The gains on the turns as those over random evidence, and the same ones as all others."""
    gains = [turn.gain for t in buffer.trajectories for turn in t.turns]
    return dict.fromkeys(INFORMATION_GAINS, gains)


def analyse(buffer: RolloutBuffer) -> dict[str, Any]:
    report = side_by_side.analyse(buffer, held(buffer))
    assert isinstance(report, dict)
    return report


# ---------------------------------------------------------------- advantages side by side


def test_a_turn_that_one_rewards_and_another_punishes_is_found() -> None:
    # The failed episode found the most: IG-GRPO pays its query more than GRPO takes for the outcome.
    buffer = buffer_of([[episode(0.0, [9.0]), episode(1.0, [0.0]), episode(1.0, [0.0]), episode(1.0, [0.0])]])
    report = analyse(buffer)
    first, answer = report["turns"][:2]
    assert first["advantage"]["grpo"] == pytest.approx(-1.5, abs=1e-4)
    clipped = INFORMATION_GAINS["random"].stabilise(9.0)
    assert first["advantage"]["ig_grpo"] == pytest.approx(-1.5 + 0.3 * clipped / 2, abs=1e-4)
    assert answer["advantage"]["ig_grpo"] == answer["advantage"]["grpo"]
    assert [row["disputed"] for row in report["turns"]] == [
        any(v > 0 for k, v in row["advantage"].items() if not ALGORITHMS[k].whitened)
        and any(v < 0 for k, v in row["advantage"].items() if not ALGORITHMS[k].whitened)
        for row in report["turns"]
    ]
    assert (first["gain"]["random"], answer["gain"]["random"]) == (9.0, None)
    assert [row["written"] for row in report["turns"][:2]] == ["search x", "answer y"]


def test_signs_that_differ_from_grpos_are_counted() -> None:
    buffer = buffer_of([[episode(0.0, [1.0]), episode(0.0, [-1.0]), episode(0.0, [0.01]), episode(0.0)]])
    algorithms = analyse(buffer)["algorithms"]
    ig_grpo, grpo = algorithms["ig_grpo"], algorithms["grpo"]
    assert (grpo["zero_tokens"], grpo["zero_groups"], grpo["correlation"]) == (1.0, 1.0, None)
    # Two of seven turns, and two of each one's five tokens, carry what the outcomes do not.
    assert ig_grpo["sign_differs"] == pytest.approx(2 / 7)
    assert ig_grpo["sign_opposite"] == 0
    assert ig_grpo["zero_tokens"] == pytest.approx(1 - 4 / 31)
    assert (ig_grpo["zero_groups"], ig_grpo["like_grpo"]) == (0.0, "")
    assert algorithms["dr_grpo"]["like_grpo"] == "equal"
    assert algorithms["dr_grpo"]["why"] == "no learning signal"


def test_algorithms_that_say_the_same_are_flagged() -> None:
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    buffer = buffer_of(
        [[episode(r, [None], number, str(i)) for i, r in enumerate(g)] for number, g in enumerate(rewards)]
    )
    algorithms = analyse(buffer)["algorithms"]
    like = {name: row["like_grpo"] for name, row in algorithms.items()}
    assert like["ig_grpo"] == "equal"
    assert algorithms["ig_grpo"]["why"] == "no search has an information gain"
    # Population over sample deviation of four.
    assert like["igpo"] == f"equal up to a factor {np.sqrt(4 / 3):.3g}"
    assert like["dr_grpo"] == like["rloo"] == like["mr_search"] == "equal up to a factor per group"
    assert like["gigpo"] == like["reinforce_plus_plus"] == ""
    assert algorithms["mr_search"]["same_as"] == ["ig_grpo_potential", "rloo"]
    assert "no second attempts" in algorithms["mr_search"]["why"]
    assert algorithms["ppo"]["same_as"] == ["reinforce_plus_plus"]


def test_gains_in_the_dead_zone_are_named_as_the_reason() -> None:
    report = analyse(buffer_of([[episode(1.0, [0.01]), episode(0.0, [-0.02])]]))
    assert report["algorithms"]["ig_grpo"]["like_grpo"] == "equal"
    assert report["algorithms"]["ig_grpo"]["why"] == "every information gain is in the dead zone"
    assert report["information_gain"]["random"]["searches"]["all"]["dead_zone"] == 1


def test_a_second_attempt_tells_mr_search_from_rloo() -> None:
    twice = trajectory([answer_turn(range(3)), answer_turn(range(3))], 1.0)
    twice.attempts = [Attempt(1, "x", 0.0), Attempt(2, "y", 1.0)]
    other = trajectory([answer_turn(range(3)), answer_turn(range(3))], 0.0)
    other.attempts = [Attempt(1, "x", 1.0), Attempt(2, "y", 0.0)]
    report = analyse(buffer_of([[twice, other]]))
    assert report["algorithms"]["mr_search"]["same_as"] == []
    assert any("last attempts" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([1, -1, 2, -2], "equal"),
        ([2, -2, 4, -4], "equal up to a factor 2"),
        ([2, -2, 6, -6], "equal up to a factor per group"),
        ([-1, 1, -2, 2], ""),  # the opposite is no likeness
        ([0, 0, 2, -2], ""),
        ([1, -1, 2, 2], ""),
    ],
)
def test_relation(ours: list[float], expected: str) -> None:
    theirs = np.array([1, -1, 2, -2], dtype=np.float32)
    assert relation(np.array(ours, dtype=np.float32), theirs, np.array([0, 0, 1, 1])) == expected


# ---------------------------------------------------------------- anchors, gains, outcomes


def test_turns_alone_with_their_anchor() -> None:
    # Both first turns share the question; the second turns found the same in the first pair, similar texts in the next.
    same = [episode(1.0, [None], found="a lake"), episode(0.0, [None], found="a lake")]
    near = [episode(1.0, [None], 1, "a lake in the north"), episode(0.0, [None], 1, "a lake in the North")]
    far = [episode(1.0, [None], 2, "a lake"), episode(0.0, [None], 2, "12345678")]
    alone = anchors_alone(buffer_of([same, near, far]))
    assert alone["exact"] == {"all": pytest.approx(4 / 12), "later": pytest.approx(4 / 6)}
    assert alone["similar"] == {"all": pytest.approx(2 / 12), "later": pytest.approx(2 / 6)}
    assert anchors_alone(reward_buffer([[1.0, 0.0]]))["exact"] == {"all": 0, "later": None}


def test_gigpo_without_later_turns_is_twice_grpo() -> None:
    gigpo = analyse(reward_buffer([[1.0, 0.0, 0.0]]))["algorithms"]["gigpo"]
    assert gigpo["like_grpo"] == "equal up to a factor 2"
    assert "one turn" in gigpo["why"]


def test_information_gain_statistics() -> None:
    groups = [
        [episode(1.0, [2.0, 4.0]), episode(0.0, [None, 1.0]), episode(0.0, [])],
        [episode(1.0, [-1.0], 1), episode(0.0, [-0.01, -3.0], 1)],
    ]
    buffer = buffer_of(groups)
    found = gain_statistics(buffer, held(buffer)["random"], 0.05)
    values = np.array([2.0, 4.0, 1.0, -1.0, -0.01, -3.0])
    assert found["searches"]["all"] == {
        "count": 6,
        "mean": pytest.approx(values.mean()),
        "variance": pytest.approx(values.var()),
        "min": -3.0,
        "max": 4.0,
        "positive": pytest.approx(3 / 6),
        "dead_zone": pytest.approx(1 / 6),
    }
    # A search that found nothing has no gain, but a number.
    assert list(found["searches"]) == ["all", "1", "2"]
    assert [found["searches"][number]["count"] for number in "12"] == [3, 3]
    assert found["searches"]["2"]["mean"] == pytest.approx(2 / 3)
    mean, last, outcome = np.array([3, 1, -1, -1.505]), np.array([4, 1, -1, -3]), np.array([1, 0, 1, 0])
    correlations = found["correlation_with_outcome"]
    assert correlations["mean"] == pytest.approx(np.corrcoef(mean, outcome)[0, 1])
    assert correlations["last"] == pytest.approx(np.corrcoef(last, outcome)[0, 1])
    halves = (mean[:2] - 2, mean[2:] + 1.2525)
    within = np.corrcoef(np.concatenate(halves), outcome - 0.5)[0, 1]
    assert correlations["mean_within_groups"] == pytest.approx(within)


def test_a_buffer_without_gains_has_no_statistics() -> None:
    report = analyse(reward_buffer([[1.0, 0.0]]))
    found = report["information_gain"]["random"]
    assert found["searches"] == {"all": {"count": 0}}
    assert set(found["correlation_with_outcome"].values()) == {None}
    assert sum("No information gain" in note for note in report["notes"]) == sum(
        entry.gains is not None for entry in ALGORITHMS.values()
    )


def test_groups_without_a_difference_in_outcome() -> None:
    found = group_outcomes(reward_buffer([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.5, 0.5]]))
    assert found == {
        "count": 5,
        "all_equal": pytest.approx(4 / 5),
        "all_fail": pytest.approx(2 / 5),
        "all_succeed": pytest.approx(2 / 5),
    }


def test_a_group_of_one_keeps_its_reward() -> None:
    report = analyse(buffer_of([[episode(1.0)], [episode(0.0, number=1)]]))
    assert report["turns"][0]["advantage"]["grpo"] == pytest.approx(1, abs=1e-5)
    assert report["turns"][0]["advantage"]["mr_search"] == 0
    assert any("group of one" in note for note in report["notes"])


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a collected buffer and its numbers, and what was printed."""
    folder = tmp_path_factory.mktemp("same_buffer")
    files = ("--save", str(folder / "buffer.gz"), "--output", str(folder / "numbers.json"))
    sizes = ("--questions-per-step", "3", "--group-size", "4", "--seed", str(SEED), "--show", "1")
    done = subprocess.run(
        [sys.executable, str(FILE), *sizes, *files], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_command_collects_prints_and_writes(collected: tuple[Path, str]) -> None:
    folder, printed = collected
    numbers = json.loads((folder / "numbers.json").read_text())
    buffer = RolloutBuffer.load(folder / "buffer.gz")
    assert [len(group.trajectories) for group in buffer.groups] == [4, 4, 4]
    assert len(numbers["turns"]) == sum(len(t.turns) for t in buffer.trajectories)
    assert numbers["questions"][0][0] in printed
    assert numbers["questions"][1][0] not in printed  # --show 1
    assert set(numbers["algorithms"]) == set(ALGORITHMS)
    assert all(set(row["advantage"]) == set(numbers["algorithms"]) for row in numbers["turns"])
    for baseline in ("random", "previous"):
        assert numbers["information_gain"][baseline]["searches"]["all"]["count"] > 0
    labels = [entry.label for entry in ALGORITHMS.values()]  # heads of columns, none of them cut
    for words in (*labels, *numbers["algorithms"], *numbers["notes"], "ppo is equal to reinforce_plus_plus", "anchors"):
        assert words in printed


def test_a_saved_buffer_gives_the_same_numbers_without_a_policy(
    collected: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, printed = collected
    monkeypatch.setattr(same_buffer.Policy, "load", None)
    same_buffer.main(same_buffer.Args(buffer=folder / "buffer.gz", show=1, output=folder / "again.json"))
    assert (folder / "again.json").read_bytes() == (folder / "numbers.json").read_bytes()
    assert capsys.readouterr().out == printed


def test_the_policy_measures_what_a_file_lacks(collected: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = collected
    buffer = RolloutBuffer.load(folder / "buffer.gz")
    buffer.metadata.clear()
    buffer.save(tmp_path / "one_gain.gz")
    files = {"buffer": tmp_path / "one_gain.gz", "output": tmp_path / "numbers.json", "show": 0}
    same_buffer.main(same_buffer.Args(**files))
    without = json.loads((tmp_path / "numbers.json").read_text())
    assert any("igpo is left out" in note for note in without["notes"])
    assert "igpo" not in without["algorithms"]
    same_buffer.main(same_buffer.Args(**files, policy="bundled", seed=SEED))
    measured, before = (json.loads((place / "numbers.json").read_text()) for place in (tmp_path, folder))
    for row, other in zip(measured["turns"], before["turns"], strict=True):
        assert row["gain"] == pytest.approx(other["gain"], abs=1e-4)


def test_attempts(tmp_path: Path) -> None:
    output = tmp_path / "numbers.json"
    same_buffer.main(same_buffer.Args(questions_per_step=2, group_size=2, attempts=2, show=0, output=output))
    assert any("last attempts" in note for note in json.loads(output.read_text())["notes"])


def refusal(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which the command refuses this buffer."""
    monkeypatch.setattr(sys, "argv", [str(FILE), "--buffer", str(path)])
    with pytest.raises(SystemExit, match=r"^2$"):
        runpy.run_path(str(FILE), run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_files_that_can_not_be_used_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "buffer.gz"
    assert (
        refusal(path, monkeypatch, capsys) == f"error: {path}: no such file; give a file written by RolloutBuffer.save"
    )
    path.write_text("no buffer")
    assert refusal(path, monkeypatch, capsys).startswith(f"error: {path}: not a saved buffer")
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"format": 0}))
    assert refusal(path, monkeypatch, capsys).startswith(f"error: {path}: format 0")


def test_buffers_that_teach_nothing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "buffer.gz"
    RolloutBuffer([]).save(path)
    assert refusal(path, monkeypatch, capsys).startswith("error: the buffer has no trajectory")
    buffer_of([[trajectory([answer_turn([])])]]).save(path)
    assert refusal(path, monkeypatch, capsys).startswith("error: 1 trajectories have no policy token")
