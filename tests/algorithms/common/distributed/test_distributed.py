"""Several processes: the same numbers as one, whole groups on each, and a clear end when one of them dies."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from launching import ENVIRONMENT, TWO
from models import turn_end
from paths import ROOT
from training_runs import question_file, without_times

from algorithms.common.command import explained
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import collect
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.run.layout import checkpoints
from algorithms.common.run.run import Run
from algorithms.grpo import GRPO, GRPOConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_world

# Its name for several processes on one machine, also where there is no GPU.
ACCELERATE = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)


def launched(*command: str, processes: int = 2, launcher: tuple[str, ...] = TWO) -> subprocess.CompletedProcess[str]:
    """What a command printed, under a launcher or alone."""
    if processes == 1:
        launcher = (sys.executable,)
    done = subprocess.run(
        [*launcher, *command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-20000:]}"
    return done


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fourteen questions as a file."""
    return question_file(tmp_path_factory.mktemp("questions") / "questions.jsonl", 14)


def options(questions: str, run_dir: Path) -> list[str]:
    """A short run with mini-batches, several micro-batches and questions that do not divide evenly."""
    return [
        *("--eval-every", "2", "--eval-limit", "1", "--save-every", "1", "--env.questions", questions),
        *("--env.eval-questions", questions, "--rollout.questions-per-step", "5", "--rollout.group-size", "3"),
        *("--rollout.max-new-tokens", "12", "--optimizer.num-minibatches", "2", "--optimizer.token-budget", "400"),
        *("--run-dir", str(run_dir)),
    ]


def near(rows: list[dict[str, Any]], others: list[dict[str, Any]], tolerance: float) -> None:
    """Metrics must be the same but for rounding; a sharded run also measures the mismatch with its sampling copy."""
    for row, other in zip(rows, others, strict=True):
        unshared = (key for key in row.keys() ^ other.keys() if not key.startswith(("mismatch/", "importance/")))
        assert set(unshared) == set()
        for key in row.keys() & other.keys():
            assert other[key] == pytest.approx(row[key], rel=tolerance, abs=tolerance), key


# ---------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_an_update_of_two_processes_is_that_of_one(sharding: str, tmp_path: Path) -> None:
    policy = Policy.load(PolicyConfig(device="cpu"))
    asked = bundled_world().questions["train"][:6]
    decoder = Decoder(policy, turn_end(policy), slots=24, max_new_tokens=12, temperature=1.0)
    collect(decoder, EpisodeStepper(asked, None, None), asked, group_size=4, seed=(0,)).save(tmp_path / "buffer.gz")
    results = []
    for processes, how in ((1, "none"), (2, sharding)):
        output = tmp_path / f"{processes}.pt"
        script = str(ROOT / "tests" / "one_update.py")
        launched(
            script,
            str(tmp_path / "buffer.gz"),
            str(tmp_path / f"run{processes}"),
            str(output),
            how,
            processes=processes,
        )
        results.append(torch.load(output, weights_only=True))
    one, two = results
    assert (one["size"], two["size"]) == (1, 2)
    moved = max(float((b - a).abs().max()) for a, b in zip(one["before"], one["after"], strict=True))
    apart = max(float((b - a).abs().max()) for a, b in zip(one["after"], two["after"], strict=True))
    assert moved > 3e-4
    assert apart < 1e-5  # rounding, which Adam's first step enlarges where a gradient is tiny
    near([one["metrics"]], [two["metrics"]], 1e-5)


@pytest.mark.parametrize(
    ("algorithm", "extra"),
    [
        ("ig_grpo", ("--rollout.recompute-logprobs", "--distributed.sharding", "fsdp2")),
        ("reinforce_plus_plus", ("--loss.kl-coef", "0.01", "--policy.lora.rank", "4")),
        ("ppo", ("--distributed.sharding", "fsdp2", "--policy.gradient-checkpointing")),
    ],
)
def test_a_run_of_two_processes_is_that_of_one_and_either_goes_on_with_the_other(
    algorithm: str, extra: tuple[str, ...], questions: str, tmp_path: Path
) -> None:
    alone = [word for word in extra if word not in ("--distributed.sharding", "fsdp2")]
    file = f"algorithms/{algorithm}.py"
    launched(file, "--steps", "2", *options(questions, tmp_path / "one"), *alone, processes=1)
    launched(file, "--steps", "1", *options(questions, tmp_path / "two"), *extra)
    shards = list((checkpoints(tmp_path / "two" / "checkpoints")[0] / "optimizer").glob("*.safetensors"))
    weights = {file.name: file.stat().st_size for file in shards}
    assert set(weights) == {"00000.safetensors", "00001.safetensors"}
    assert (min(weights.values()) > 0.4 * sum(weights.values())) == ("fsdp2" in extra)  # else rank 0 writes everything
    resumed = launched(file, "--steps", "2", *options(questions, tmp_path / "two"), *alone, processes=1)
    assert "resuming" in resumed.stdout
    one, two = without_times(tmp_path / "one"), without_times(tmp_path / "two")
    near([r for r in one if "reward" in r], [r for r in two if "reward" in r], 2e-4)
    launched(file, "--steps", "3", *options(questions, tmp_path / "one"), *extra)  # and the other way round
    assert [row["step"] for row in without_times(tmp_path / "one") if "reward" in row] == [1, 2, 3]


def test_two_processes_collect_ahead_as_one_does(questions: str, tmp_path: Path) -> None:
    """With evaluations in between and, as groups are replaced, rollouts that the main threads play."""
    command = ("algorithms/grpo.py", "--steps", "4", "--dynamic-sampling", "--rollout.max-staleness", "1")
    launched(*command, *options(questions, tmp_path / "one"), processes=1)
    launched(*command, *options(questions, tmp_path / "two"), "--distributed.sharding", "fsdp2")
    one, two = ([row for row in without_times(tmp_path / name) if "reward" in row] for name in ("one", "two"))
    near(one, two, 2e-4)
    staleness = [row["staleness/mean"] for row in two]
    assert staleness[0] == 0 < max(staleness)
    assert min(staleness[1:]) < 1  # groups were replaced


# ---------------------------------------------------------------- what goes wrong


def test_a_killed_process_ends_the_run_with_a_message_and_the_run_resumes(questions: str, tmp_path: Path) -> None:
    command = ["algorithms/grpo.py", "--steps", "3"]
    launched(*command, *options(questions, tmp_path / "whole"))
    process = subprocess.Popen(
        [*TWO, *command, *options(questions, tmp_path / "killed")],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and not checkpoints(tmp_path / "killed" / "checkpoints"):
        time.sleep(0.01)
    workers = [child for child in psutil.Process(process.pid).children() if "grpo.py" in " ".join(child.cmdline())]
    assert len(workers) == 2
    victim = max(workers, key=lambda child: int(child.environ()["RANK"]))
    os.kill(victim.pid, signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode != 0
    assert re.search(r"the same command resumes after step \d", output), output
    assert "Signal 9 (SIGKILL)" in output  # the launcher says which one
    resumed = launched(*command, *options(questions, tmp_path / "killed"))
    assert "resuming" in resumed.stdout
    assert without_times(tmp_path / "killed") == without_times(tmp_path / "whole")


# A thread of gloo that still needs the interpreter when the program ends: without `end_process` it crashes the process.
LEAVING = """
import atexit, threading, time
import torch
import torch.distributed as dist
from algorithms.common.distributed.failures import end_process

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
group, busy = dist.group.WORLD, threading.Event()

def still_busy(_):
    busy.set()
    time.sleep(0.5)

left = dist.all_reduce(torch.ones(1), async_op=True).get_future().then(still_busy)
busy.wait()
dist.destroy_process_group()
atexit.register(print, "handler ran")
print("done")
end_process({message!r})
"""


@pytest.mark.parametrize(("message", "code"), [(None, 0), ("error: no luck", 1)])
def test_a_process_of_several_ends_whatever_the_threads_of_gloo_do(message: str | None, code: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEAVING.format(message=message)],
        cwd=ROOT,
        env={**ENVIRONMENT, "WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == code, ended.stderr[-4000:]
    assert ended.stdout == "done\nhandler ran\n"
    assert ended.stderr.splitlines() == ([] if message is None else [message])


@pytest.mark.parametrize("where", ["policy", "shards"])
def test_a_full_disk_ends_a_sharded_run_at_once_and_leaves_nothing(where: str, tmp_path: Path) -> None:
    output = launched(str(ROOT / "tests" / "full_disk.py"), str(tmp_path), where).stdout
    for rank in range(2):
        assert f"reported {rank}: " in output
    assert output.count("not written (OSError: [Errno 28] No space left on device)") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_process_that_runs_out_of_memory_goes_on_in_smaller_pieces(where: str, tmp_path: Path) -> None:
    logged = []
    for rank in ("none", "0"):
        script, output = str(ROOT / "tests" / "one_process_without_room.py"), tmp_path / rank
        assert ("out of memory at" in launched(script, where, rank, str(output)).stdout) == (rank == "0")
        logged.append(json.loads(output.read_text()))
    assert len(logged[0]) == 4  # two steps of two processes
    np.testing.assert_allclose(logged[0], logged[1], rtol=1e-5)


def test_what_ends_a_run_is_explained_unless_it_is_a_mistake_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1")
    assert explained(RuntimeError("shapes differ")) is None
    assert explained(closed) is None  # of one process it is a mistake
    monkeypatch.setenv("RANK", "3")
    assert re.search(r"^process 3: another process has ended .* resumes from the last", str(explained(closed)))
    assert explained(RuntimeError("shapes differ")) is None
    full = explained(OSError(errno.ENOSPC, "No space left on device", "metrics.jsonl"))
    assert re.search(r"'metrics\.jsonl': free disk space and run the same command again to resume", str(full))
    assert explained(FileNotFoundError(errno.ENOENT, "No such file")) is None


def test_a_critic_beside_bfloat16_weights_is_sharded(questions: str, tmp_path: Path) -> None:
    sharded = ("--policy.dtype", "bfloat16", "--distributed.sharding", "fsdp2")
    launched("algorithms/ppo.py", "--steps", "1", *options(questions, tmp_path / "run"), *sharded)
    assert [row["step"] for row in without_times(tmp_path / "run") if "loss/value" in row] == [1]


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigurationError, match=r"4 processes on a machine with 2 GPUs"):
        Processes.start(DistributedConfig())


def test_a_number_of_processes_without_a_launcher_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")  # as some clusters set it for every job
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigurationError, match=r"WORLD_SIZE=8.*torchrun"):
        Processes.start(DistributedConfig())


@pytest.mark.parametrize("launcher", [TWO, ACCELERATE], ids=["torchrun", "accelerate"])
def test_every_process_needs_a_question(launcher: tuple[str, ...], questions: str, tmp_path: Path) -> None:
    command = (
        "algorithms/grpo.py",
        *options(questions, tmp_path / "run"),
        "--rollout.questions-per-step",
        "1",
    )
    with pytest.raises(AssertionError, match=r"rollout\.questions_per_step=1 for 2 processes"):
        launched(*command, launcher=launcher)


def test_sharding_needs_a_launcher(tmp_path: Path) -> None:
    config = GRPOConfig(run_dir=tmp_path, distributed=DistributedConfig(sharding="fsdp2"))
    with pytest.raises(ConfigurationError, match=r"fsdp2.*torchrun"):
        Run(GRPO(config), config)


def test_a_launcher_that_shards_by_itself_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigurationError, match=r"--distributed\.sharding"):
        Processes.start(DistributedConfig())
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    with pytest.raises(ConfigurationError, match=r"policy\.device='cuda:1' for 2 processes"):
        Processes.start(DistributedConfig(), "cuda:1")


# ---------------------------------------------------------------- one of them


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 21])
def test_shares_cover_everything_once_and_are_of_like_length(count: int, size: int) -> None:
    shares = [Processes(rank, size).share(count) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_part_of_a_batch_is_played_as_the_whole_batch_plays_it() -> None:
    policy = Policy.load(PolicyConfig(device="cpu"))
    asked = bundled_world().questions["train"][:4]
    engine, rollout = EpisodeStepper(asked, None, None), RolloutConfig(max_new_tokens=12)

    def written(first: int, last: int) -> list[tuple[int, ...]]:
        decoder = Decoder(policy, turn_end(policy), slots=8, max_new_tokens=rollout.max_new_tokens, temperature=1.0)
        buffer = collect(decoder, engine, asked[first:last], group_size=2, seed=(3,), first=first)
        return [turn.completion_ids for t in buffer.trajectories for turn in t.turns]

    assert written(0, 2) + written(2, 4) == written(0, 4)


def test_only_errors_about_other_processes_are_translated() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), Processes(0, 2).guard("x"):
        raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match=r"process 0 of 2, x.*another process has ended"), Processes(0, 2).guard("x"):
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4242")
    nccl = "NCCL error in: NCCLUtils.cpp:94, invalid usage\nLast error:\nDuplicate GPU detected : rank 0 and rank 1"
    with pytest.raises(RuntimeError, match=r"Duplicate GPU detected"), Processes(0, 2).guard("x"):
        raise RuntimeError(nccl)
    with pytest.raises(RuntimeError, match=r"^Connection"), Processes().guard("x"):
        raise RuntimeError("Connection closed by peer")


def test_shares_of_what_is_computed_of_a_buffer_join_in_order() -> None:
    assert np.array_equal(Processes().gather(np.arange(3))[0], np.arange(3))
    assert Processes().all_gather_flat([1, 2]) == [1, 2]
