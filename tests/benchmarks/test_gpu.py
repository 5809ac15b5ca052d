"""The measurements on a GPU: how parts are run, and that each works at tiny sizes on a CPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import on_gpu as runner
from benchmarks.gpu import machine, parity, sampling, training
from benchmarks.gpu.sizes import TINY, Report, Sizes
from benchmarks.information_gain import PREFIX
from benchmarks.machine_rates import best_seconds
from benchmarks.step_costs import Rates

RATES = Rates(((1, 1e12),), 1e12, 1e12)


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sizes, "rates", lambda sizes, policy: RATES)


def figures(part: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    report: Report = found.append
    part(TINY, report)  # type: ignore[operator]
    assert all(json.dumps(row) for row in found)
    return found


def test_versions_and_kernels() -> None:
    first, rate, *kernels = figures(machine.versions)
    assert first["torch"] == torch.__version__
    assert rate["GB/s"] == 1_000
    assert [row["kernels of"] for row in kernels] == ["prefill", "branches", "decode"]
    assert all(any("attention" in name for name in row["names"]) for row in kernels)  # type: ignore[attr-defined]


def test_packed_passes_agree_with_plain_ones() -> None:
    rows = figures(parity.parity)
    assert [row["pass"] for row in rows] == ["prefill", "branches", "decode"]
    assert all(0 < row["difference"] < 1e-5 for row in rows)  # type: ignore[operator]


def test_a_pass_that_differs_is_reported_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "LIMITS", {torch.float32: 1e-9})
    found: list[dict[str, object]] = []
    with pytest.raises(AssertionError, match="more than the limit"):
        parity.parity(TINY, found.append)
    assert len(found) == 3


def test_the_decoder_by_slots() -> None:
    rows = figures(sampling.decoder)
    assert [row["slots"] for row in rows] == [2, 3]
    # Three steps that are timed, each with a token of every episode; prompts have 20 to 39 tokens.
    assert [row["decoded"] for row in rows] == [[2] * 3, [3] * 3]
    assert all(20 * row["slots"] <= row["read"] < 40 * row["slots"] for row in rows)  # type: ignore[operator]


def test_gain_over_its_floor() -> None:
    rows = figures(sampling.gain)
    # Two searches, each with the passages found and three random evidences of 30 tokens. An answer and its tag follow
    # each; the last token predicts nothing.
    answer = len(TINY.policy().tokenizer.encode(f"{PREFIX} the name of a city far away")) - 1
    assert [row["tokens"] for row in rows] == [2 * (3 * 30 + 4 * answer)] * 2


def test_an_update_and_its_utilisation() -> None:
    passes, first, second = figures(training.training)
    assert passes["tokens"] == 80
    # Weights of two layers and of the last matrix of a layer: 8 products with the former, without one with the latter.
    layers, last, output = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 768), 2 * 256 * 768, 256 * 1_225
    pairs = 2 * 40 * 41 // 2
    operations = 80 * (8 * layers - 2 * last) + 4.5 * 4 * 2 * 256 * pairs + 2 * 10 * 8 * output
    assert passes["TFLOP"] == pytest.approx(operations / 1e12)
    assert passes["MFU"] * passes["seconds"] == pytest.approx(operations / 1e12)  # type: ignore[operator] # of 1 TFLOP/s
    assert (first["AdamW"], second["AdamW"]) == (0, 1)


def test_sharding_on_one_rank() -> None:
    (row,) = figures(training.sharded)
    assert row["backend"] == "gloo"
    assert row["parameters"] == row["sharded with their gradients"] == 2 + 2 * 12  # embedding, norm; of each layer
    assert not torch.distributed.is_initialized()


def test_a_part_that_fails_or_takes_too_long_does_not_hold_the_next(tmp_path: Path) -> None:
    output = tmp_path / "figures.jsonl"

    def part(name: str, code: str, most: float) -> tuple[str, list[str], float]:
        write = f'open({str(output)!r}, \'a\').write(\'{{"part": "{name}", "figure": 1}}\\n\')'
        return name, [sys.executable, "-c", f"{write}; {code}"], most

    parts = [
        part("wrong", "raise ValueError('no card')", 20),
        part("slow", "import time; time.sleep(60)", 2),
        part("good", "pass", 20),
    ]
    runner.run_parts(parts, output, whole=60)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["part"] for row in rows if "figure" in row] == ["wrong", "slow", "good"]
    ended = {row["part"]: row for row in rows if "status" in row}
    assert {name: row["status"] for name, row in ended.items()} == {
        "wrong": "failed",
        "slow": "stopped",
        "good": "done",
    }
    assert ended["wrong"]["reason"] == "ValueError: no card"
    runner.run_parts(parts[2:], output, whole=0)
    assert json.loads(output.read_text().splitlines()[-1])["status"] == "left out"


@pytest.mark.parametrize("half", [1, 2])
def test_a_half_takes_less_than_five_minutes(half: int) -> None:
    assert sum(runner.BUDGETS[half].values()) <= runner.HALF < 300


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (runner.Args(half=3), "--half 3"),
        (runner.Args(only=("whole",)), "--only whole: half 1 has versions"),
        (runner.Args(part="other"), "--part other: choose from versions"),
    ],
)
def test_wrong_options(args: runner.Args, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        runner.main(args)
    assert message in capsys.readouterr().err


def test_the_best_of_several_calls_counts() -> None:
    times = iter([0.0, 9.0, 12.0, 12.0, 14.0])  # the first is of the warm-up, which has no end
    assert best_seconds(lambda: None, "cpu", lambda: next(times), most=3) == 2.0
