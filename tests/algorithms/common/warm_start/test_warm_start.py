"""Warm starts: what they learn and leave behind, that interrupted ones end alike, and what they refuse."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_templates import CHATML, chat_policy
from helpers import FailingRetriever
from launching import ENVIRONMENT, TWO
from models import bundled_policy
from paths import ROOT
from recorded_calls import record_calls
from safetensors.torch import load_file
from warm_starts import make_warm_start, titled_questions, warm_config

import algorithms.common.warm_start.episodes as episodes
import algorithms.common.warm_start.result as result
import algorithms.common.warm_start.warm_start as module
from algorithms.common.base.errors import TrainingError
from algorithms.common.command import run_command
from algorithms.common.config import TrainConfig
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.buffer import RolloutBuffer
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.sampler import Sampler
from algorithms.common.run.checkpoint import CheckpointError
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.trainer import train
from algorithms.common.training.config import WarmStartConfig
from algorithms.common.training.supervised import supervised_update
from algorithms.common.warm_start.episodes import demonstrated, sampled
from algorithms.common.warm_start.warm_start import warm_started
from algorithms.grpo import GRPO, GRPOConfig
from igsearch.commands.warm_start import main
from igsearch_env.demonstrator import succeeded
from igsearch_env.errors import ConfigurationError, QuestionError
from igsearch_env.protocols import Invalid
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import BM25Retriever, Passage, RetrievalError
from retrievers.lock import LOCK, OWNER, LockedError, ProcessLock


@pytest.fixture(scope="module", autouse=True)
def small_parts() -> Any:
    """Parts of eight questions, so that a round has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "PART", 8)
        yield


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty questions to train on, five dev questions."""
    return titled_questions(tmp_path_factory.mktemp("questions") / "questions.jsonl", 40)


@pytest.fixture(scope="module")
def whole(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a warm start that nothing interrupted. Tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("whole") / "warm"
    make_warm_start(questions, folder)
    return folder


def weights(folder: Path) -> bytes:
    """The file of weights of a warm start's policy."""
    return (folder / "policy" / "model.safetensors").read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what it makes


def test_a_warm_start_is_logged_update_by_update(whole: Path) -> None:
    rows = read_metrics(whole / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert {row["warm_start/round"] for row in rows if "warm_start/round" in row} == {0, 1}
    assert rows[-1]["warm_start/round"] == 1
    assert all(row["warm_start/lr"] > 0 for row in rows)
    losses = [row["warm_start/loss"] for row in rows[:3]]  # of the demonstrations, which a policy writes differently
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.9 * losses[0]
    first = next(row for row in rows if row.get("warm_start/round") == 0)
    assert first["warm_start/valid_turns"] == 1.0
    assert first["warm_start/em"] == first["warm_start/answer_read"] > 0


def test_only_successful_episodes_are_trained_on(whole: Path) -> None:
    parts = sorted(whole.glob("round-*/part-*.jsonl.gz"))
    assert {path.parent.name for path in parts} == {"round-0", "round-1"}
    kept = [(path.parent.name, t) for path in parts for t in RolloutBuffer.load(path).trajectories]
    assert kept
    for name, trajectory in kept:
        assert succeeded(trajectory)
        assert not any(isinstance(turn.action, Invalid) for turn in trajectory.turns)
        sampled = any(any(turn.logprobs) for turn in trajectory.turns)
        assert sampled == (name != "round-0")
    for path in parts:
        for group in RolloutBuffer.load(path).groups:
            texts = [t.transcript() for t in group.trajectories]
            assert len(set(texts)) == len(texts) <= episodes.KEPT


def test_no_more_demonstrations_are_played_than_wanted(whole: Path) -> None:
    found = [len(RolloutBuffer.load(path).trajectories) for path in sorted(whole.glob("round-0/part-*"))]
    assert sum(found[:-1]) < 14 <= sum(found)


def test_the_policy_has_a_card_and_loads(whole: Path) -> None:
    card = (whole / "policy" / "README.md").read_text(encoding="utf-8")
    assert "`bundled`" in card
    assert "| birthplace |" in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-generation"
    assert Policy.load(PolicyConfig(path=str(whole / "policy"), device="cpu")).context_length == 1024
    assert not list(whole.glob(".*"))  # nothing half-written, no lock
    assert not {LOCK, OWNER} & {path.name for path in whole.iterdir()}


def test_a_run_trains_the_policy_of_its_warm_start(questions: Path, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "warm")
    before = contents(folder)
    started = warm_config(questions, folder)
    run_dir = tmp_path / "run"
    config = GRPOConfig(
        steps=1,
        run_dir=run_dir,
        seed=3,  # runs of several seeds share it
        policy=started.policy,
        env=replace(started.env, dev_questions=(f"{questions}:dev[:2]",)),
        warm_start=started.warm_start,
        rollout=RolloutConfig(questions_per_step=2, group_size=2),
        eval_limit=1,
    )
    run = train(GRPO(config), config)
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["policy"]["path"] == str(folder / "policy") == run.config.policy.path
    assert contents(folder) == before
    assert [q.id for q in run.dev_questions] == ["dev_0", "dev_1"]
    assert len(run.test_questions) == 5
    again = warm_started(warm_config(questions, folder, policy={"path": str(folder / "policy")}))
    assert again.policy.path == str(folder / "policy")  # as a run's config.yaml has it


def test_without_a_folder_nothing_is_made(questions: Path) -> None:
    config = warm_config(questions, None)
    assert warm_started(config) is config
    with pytest.raises(ConfigurationError, match=r"warm_start\.folder is not set: .*--warm-start\.folder FOLDER"):
        main(config)


def test_the_script_prints_the_folder_of_the_policy(
    questions: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(warm_config(questions, whole)) == whole / "policy"
    assert capsys.readouterr().out == f"{whole / 'policy'}\n"


@pytest.mark.parametrize(
    ("stop", "status"), [(KeyboardInterrupt, None), (TrainingError("no luck"), 1), (LockedError("in use"), 2)]
)
def test_a_command_ends_with_one_line(
    stop: Any, status: int | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["warm_start.py"])
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def action(config: TrainConfig) -> None:
        raise stop

    monkeypatch.setattr("sys.excepthook", None)  # which is replaced, to print the message
    if status is None:
        with pytest.raises(KeyboardInterrupt, match=r"^interrupted: the same command resumes$"):
            run_command(TrainConfig, action)
        return
    with pytest.raises(SystemExit, match=str(status)):
        run_command(TrainConfig, action)
    assert capsys.readouterr().err == f"error: {stop}\n"


@pytest.mark.parametrize("protocol", ["search_r1", "autorefine"])
def test_an_adapter_is_merged_and_another_can_be_trained(questions: Path, tmp_path: Path, protocol: str) -> None:
    lora = {"lora": LoraConfig(rank=2)}
    env = {"protocol": protocol}
    few = {"rounds": 0, "demonstrations": 8}
    path = make_warm_start(questions, tmp_path / "warm", policy=lora, env=env, warm_start=few)
    assert (tmp_path / "warm" / "adapter" / "adapter_config.json").is_file()
    merged = Policy.load(PolicyConfig(path=str(path), device="cpu"))
    assert merged.adapter is None
    base = Policy.load(PolicyConfig(device="cpu")).model.state_dict()
    assert any((value != base[name]).any() for name, value in merged.model.state_dict().items())
    assert Policy.load(PolicyConfig(path=str(path), device="cpu", lora=LoraConfig(rank=2))).adapter is not None


def test_a_chat_template_is_used(questions: Path, tmp_path: Path) -> None:
    chat_policy(CHATML).save(tmp_path / "model")
    options = {"path": str(tmp_path / "model"), "chat": True}
    few = {"rounds": 0, "demonstrations": 4}
    path = make_warm_start(
        questions, tmp_path / "warm", policy=options, warm_start=few, rollout=RolloutConfig(max_new_tokens=99)
    )
    part = RolloutBuffer.load(next((tmp_path / "warm").glob("round-0/part-*")))
    tokenizer = Policy.load(PolicyConfig(path=str(path), chat=True, device="cpu")).tokenizer
    for trajectory in part.trajectories:
        assert tokenizer.decode_whole(trajectory.prompt_ids).endswith("<|im_start|>assistant\n")


# ---------------------------------------------------------------- several processes


def test_two_processes_make_the_warm_start_of_one(tmp_path: Path) -> None:
    asked = titled_questions(tmp_path / "questions.jsonl", 15)
    make_warm_start(asked, tmp_path / "one")
    options = [
        *("--policy.device", "cpu", "--env.corpus", "bundled"),
        *("--env.questions", f"{asked}:train", "--env.eval-questions", f"{asked}:dev"),
        *("--env.max-searches", "2", "--eval-limit", "1", "--warm-start.demonstrations", "14"),
        *("--warm-start.questions", "12", "--warm-start.samples", "2", "--warm-start.batch-size", "5"),
        *("--warm-start.save-every", "2", "--warm-start.lr", "5e-4", "--warm-start.folder", str(tmp_path / "two")),
    ]
    command = [*TWO, "examples/warm_start.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("update 1 of") == 2  # printed by one process: a line a round
    assert done.stdout.splitlines()[-1] == str(tmp_path / "two" / "policy")
    rows, others = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    for row, other in zip(rows, others, strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)
    one, two = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], rtol=0, atol=1e-4) for name in one)
    assert not (tmp_path / "two" / LOCK).exists()
    # Either number of processes may go on with it, or train from it.
    assert make_warm_start(asked, tmp_path / "two") == tmp_path / "two" / "policy"


def test_a_process_without_a_question_of_a_part_plays_none() -> None:
    class LastOfFew(Processes):
        def share(self, count: int) -> range:
            return range(count, count)

    policy = bundled_policy()
    asked = bundled_world().questions["train"][:1]
    stepper = EpisodeStepper(asked, bundled_retriever(), None, EpisodeRules())
    options = WarmStartConfig(samples=2)
    sampler = Sampler(policy, RolloutConfig(), stepper.rules.protocol.stop_strings, LastOfFew())
    assert sampled(sampler, stepper, options, LastOfFew(), 0, 1)(asked, 0) == []
    assert demonstrated(policy, stepper, options, LastOfFew(), 32, 0)(asked, 0) == []


# ---------------------------------------------------------------- interruptions


def at_call(number: int, function: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """A function that Ctrl-C interrupts at its call `number`."""
    calls = 0

    def interrupted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and not after:
            raise KeyboardInterrupt
        value = function(*args, **options)
        if calls == number:
            raise KeyboardInterrupt
        return value

    return interrupted


# Updates 1 to 3 are on demonstrations, from four parts; 4 and 5 on own episodes, from two. Checkpoints: 2, 3, 4, 5.
INTERRUPTIONS = {
    "in the demonstrations": (RolloutBuffer, "save", 2, False),
    "at an update before its checkpoint": (module, "supervised_update", 2, True),
    "at an update after a checkpoint": (module, "supervised_update", 3, False),
    "between rounds": (module, "save_checkpoint", 2, True),
    "in a round": (RolloutBuffer, "save", 6, False),
    "after a round was played": (module, "supervised_update", 4, False),
    "in the evaluation": (module, "play_greedy", 1, False),
    "while the policy is written": (result.os, "replace", 1, False),
}


@pytest.mark.parametrize("place", INTERRUPTIONS)
def test_an_interrupted_warm_start_ends_as_if_it_had_not_been(
    place: str, questions: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, number, after = INTERRUPTIONS[place]
    folder = tmp_path / "runs" / "warm"
    with monkeypatch.context() as patch:
        if owner is result.os:  # `os` is shared with those who write checkpoints
            patch.setattr(result, "os", type("Os", (), {"replace": at_call(number, result.os.replace)}))
        else:
            patch.setattr(owner, name, at_call(number, getattr(owner, name), after=after))
        with pytest.raises(KeyboardInterrupt):
            make_warm_start(questions, folder)
    assert not (folder / "policy").exists()
    assert not (folder / LOCK).exists()
    make_warm_start(questions, folder)
    assert weights(folder) == weights(whole)
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    assert contents(folder / "policy").keys() == contents(whole / "policy").keys()


def test_a_resumed_warm_start_keeps_its_number_of_threads_and_gives_it_back(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number decides how sums are rounded."""
    folder, seen = tmp_path / "warm", []

    def update(*arguments: Any, **options: Any) -> dict[str, float]:
        seen.append(torch.get_num_threads())
        if len(seen) == 2:
            raise KeyboardInterrupt
        return supervised_update(*arguments, **options)

    monkeypatch.setattr(module, "supervised_update", update)
    monkeypatch.setattr(module, "choose_threads", lambda: (3, ""))
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        make_warm_start(questions, folder)
    assert torch.get_num_threads() == before
    monkeypatch.setattr(module, "choose_threads", lambda: (2, "there are fewer processors now"))
    make_warm_start(questions, folder)
    assert set(seen) == {3}
    assert torch.get_num_threads() == before


def test_overwriting_a_run_does_not_begin_its_warm_start_again(
    questions: Path, whole: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "supervised_update", at_call(1, module.supervised_update))  # none is left to make
    make_warm_start(questions, unfinished, overwrite=True)
    assert weights(unfinished) == weights(whole)


# ---------------------------------------------------------------- what is in the folder


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """The folder of a warm start that stopped before its evaluation."""
    folder = shutil.copytree(whole, tmp_path / "unfinished")
    shutil.rmtree(folder / "policy")
    return folder


OTHERS = {
    "seed": {"seed": 1},
    "env.top_k": {"env": {"top_k": 2}},
    "env.corpus": {"env": {"corpus": "elsewhere.jsonl"}},
    "policy.path": {"policy": {"path": "elsewhere"}},
    "policy.lora.rank": {"policy": {"lora": LoraConfig(rank=2)}},
    "warm_start.lr": {"warm_start": {"lr": 1e-4}},
    "warm_start.rounds": {"warm_start": {"rounds": 3}},
    "rollout.max_new_tokens": {"rollout": RolloutConfig(max_new_tokens=33)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_settings_are_refused_until_it_is_finished(name: str, questions: Path, unfinished: Path) -> None:
    before = contents(unfinished)
    with pytest.raises(ConfigurationError, match=rf"holds a warm start with {re.escape(name)}=.*this command has"):
        make_warm_start(questions, unfinished, **OTHERS[name])
    assert contents(unfinished) == before


def test_a_finished_one_serves_runs_with_other_settings(questions: Path, whole: Path) -> None:
    for changes in ({"seed": 1}, OTHERS["env.top_k"], OTHERS["env.corpus"], OTHERS["policy.lora.rank"]):
        assert make_warm_start(questions, whole, **changes) == whole / "policy"
    # What a command leaves at its default is not asked for.
    config = warm_config(questions, whole)
    plain = GRPOConfig(policy=PolicyConfig(), env=config.env, warm_start=WarmStartConfig(folder=whole))
    assert warm_started(plain).policy.path == str(whole / "policy")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, OTHERS[name]) for name in ("policy.path", "warm_start.rounds")),
        ("env.protocol", {"env": {"protocol": "autorefine"}}),
        ("env.prompt", {"env": {"prompt": "search_r1"}}),
        ("policy.chat", {"policy": {"chat": True}}),
    ],
)
def test_a_finished_one_is_no_other_model_format_or_warm_start(
    name: str, changes: dict[str, Any], questions: Path, whole: Path
) -> None:
    with pytest.raises(ConfigurationError, match=rf"holds a warm start with {re.escape(name)}=.*delete that one"):
        make_warm_start(questions, whole, **changes)


@pytest.mark.parametrize("inside", ["notes.txt", "policy/config.json", "config.yaml", "data.jsonl", ".git/HEAD"])
def test_a_folder_with_anything_else_is_not_touched(inside: str, questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / inside).parent.mkdir(parents=True)
    (folder / inside).write_text("mine")
    before = contents(folder)
    with pytest.raises(ConfigurationError, match=r"warm_start\.folder=.*holds '.*but no warm_start\.yaml"):
        make_warm_start(questions, folder)
    assert contents(folder) == before


def test_a_folder_of_a_killed_process_is_taken(questions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "warm"
    folder.mkdir()
    for name in (LOCK, OWNER, ".partial-warm_start.yaml", ".time-17"):
        (folder / name).write_text("")
    with pytest.raises(QuestionError, match="no such file"):
        make_warm_start(tmp_path / "none.jsonl", folder)


def test_a_file_is_no_folder(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a file; give a folder"):
        make_warm_start(questions, questions)


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "\x00"])
def test_damaged_settings_are_refused(text: str, questions: Path, unfinished: Path) -> None:
    (unfinished / "warm_start.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"warm_start\.yaml.*restore it, or give another --warm-start\.folder"):
        make_warm_start(questions, unfinished)


def test_one_process_at_a_time(questions: Path, unfinished: Path) -> None:
    before = contents(unfinished)
    with (
        ProcessLock(unfinished),
        pytest.raises(CheckpointError, match=r"unfinished is in use by process \d+"),
    ):
        make_warm_start(questions, unfinished)
    assert contents(unfinished) == before


def test_the_folder_of_the_run_is_another_one(questions: Path, whole: Path, tmp_path: Path) -> None:
    config = warm_config(questions, tmp_path / "x")
    for run_dir in (tmp_path / "x", tmp_path / "y" / ".." / "x"):
        with pytest.raises(ConfigurationError, match="is the folder of the run, too"):
            warm_started(config, run_dir=run_dir)
    assert not (tmp_path / "x").exists()
    plain = GRPOConfig(steps=0, run_dir=whole, policy=config.policy, env=config.env)
    before = contents(whole)
    with pytest.raises(CheckpointError, match="holds a warm start, not a run; give another --run-dir"):
        train(GRPO(plain), plain)
    assert contents(whole) == before


# ---------------------------------------------------------------- damage


def test_a_damaged_part_is_named_with_its_repair(questions: Path, whole: Path, unfinished: Path) -> None:
    part = unfinished / "round-0" / "part-0001.jsonl.gz"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"round-0/part-0001\.jsonl\.gz is damaged .*or delete it; the same"):
        make_warm_start(questions, unfinished)
    part.unlink()
    make_warm_start(questions, unfinished)
    assert weights(unfinished) == weights(whole)


@pytest.mark.parametrize("missing", [True, False])
def test_a_part_of_a_policy_that_was_trained_since_is_not_made_by_its_successor(
    missing: bool, questions: Path, whole: Path, unfinished: Path
) -> None:
    part = unfinished / "round-1" / "part-0000.jsonl.gz"
    part.unlink() if missing else part.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"round-1/part-0000.*or delete it, and .*checkpoints with it"):
        make_warm_start(questions, unfinished)
    part.unlink(missing_ok=True)
    shutil.rmtree(unfinished / "checkpoints")
    make_warm_start(questions, unfinished)
    assert weights(unfinished) == weights(whole)


def test_counts_that_are_no_numbers_are_damage(questions: Path, unfinished: Path) -> None:
    part = unfinished / "round-0" / "part-0000.jsonl.gz"
    buffer = RolloutBuffer.load(part)
    buffer.metadata["episodes"] = "many"
    buffer.save(part)
    with pytest.raises(CheckpointError, match=r"part-0000\.jsonl\.gz is damaged .*episodes"):
        make_warm_start(questions, unfinished)


def test_a_damaged_checkpoint_is_refused_with_the_repair(questions: Path, unfinished: Path) -> None:
    (found,) = (unfinished / "checkpoints").glob("*/model.safetensors")
    found.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"This is a warm start: without .*checkpoints, it trains again"):
        make_warm_start(questions, unfinished)


# ---------------------------------------------------------------- errors


def test_questions_without_rows_of_the_split(questions: Path, tmp_path: Path) -> None:
    source = f"{questions}:test"
    with pytest.raises(QuestionError, match=r"no rows of split 'test' \(it has 5 of dev, 40 of train\)"):
        make_warm_start(questions, tmp_path / "warm", env={"questions": (source,)})
    assert not (tmp_path / "warm").exists()


def test_a_corpus_without_the_answers_gives_the_counts(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = BM25Retriever([Passage(str(i), "Weather", f"It rained for {i} hours.") for i in range(9)])
    config = warm_config(questions, tmp_path / "warm")
    with pytest.raises(TrainingError, match=r"none of 40 episodes .*\(0 had read a golden answer, 0 had no room"):
        warm_started(config, elsewhere)
    monkeypatch.setattr(episodes, "HOPELESS", 2)
    with pytest.raises(TrainingError, match=r"none of 16 episodes"):  # it does not play all that there are
        warm_started(warm_config(questions, tmp_path / "other"), elsewhere)


def test_turns_without_room_are_counted(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none of 40 episodes .*, 40 had no room left"):
        make_warm_start(questions, tmp_path / "warm", rollout=RolloutConfig(max_new_tokens=2))


def test_a_policy_that_never_succeeds_ends_with_its_demonstrations(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {"demonstrations": 2, "lr": 0.0, "temperature": 50.0}
    path = make_warm_start(questions, tmp_path / "warm", warm_start=few)
    assert (path / "model.safetensors").is_file()
    assert "none was successful, so this round trains nothing" in " ".join(capsys.readouterr().out.split())


def test_a_search_service_that_fails_leaves_no_part(questions: Path, whole: Path, tmp_path: Path) -> None:
    class Down(FailingRetriever):
        def search(self, queries: Any, k: int) -> Any:
            raise RetrievalError(self.MESSAGE)

    folder = tmp_path / "warm"
    with pytest.raises(TrainingError, match=r"retrieval failed for 8 of 8 episodes, more than env\.max_failure_rate"):
        warm_started(warm_config(questions, folder), Down(bundled_retriever()))
    assert not list(folder.glob("round-*/*"))
    make_warm_start(questions, folder)
    assert weights(folder) == weights(whole)


def test_a_chat_template_that_is_not_there(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="chat"):
        make_warm_start(questions, tmp_path / "warm", policy={"chat": True})
    assert not (tmp_path / "warm").exists()


def test_the_engine_sleeps_during_updates_and_has_the_newest_weights_otherwise(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    for name in ("sleep", "sync_weights", "decoder"):
        record_calls(monkeypatch, Sampler, name, events)
    record_calls(monkeypatch, module, "supervised_update", events)
    make_warm_start(questions, tmp_path, warm_start={"rounds": 2})
    before = {later: {events[i - 1] for i, event in enumerate(events) if event == later} for later in set(events)}
    assert before["supervised_update"] == {"sleep"}
    # A round of several parts has a decoder for each.
    assert before["decoder"] <= {"sync_weights", "decoder"}
    assert events.count("decoder") > 2
    assert events[-1] == "decoder"  # the evaluation
