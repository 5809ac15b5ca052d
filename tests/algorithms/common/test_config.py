"""Configuration: command line, YAML file, overrides, and what is said of a mistake."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from algorithms.common.config import TrainConfig, as_dict, parse_config
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.model.config import PolicyConfig
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.training.config import LossConfig, OptimizerConfig
from algorithms.gigpo import GiGPOConfig
from algorithms.grpo import GRPOConfig
from algorithms.ig_grpo import IGGRPOConfig
from algorithms.igpo import IGPOConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.information_gain import InformationGainConfig


def write(folder: Path, text: str) -> str:
    """A YAML file with this text; its name."""
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def parse(*arguments: str) -> IGGRPOConfig:
    """The configuration of `python algorithms/ig_grpo.py` with these arguments."""
    return parse_config(IGGRPOConfig, arguments)


def test_no_argument_gives_the_defaults() -> None:
    assert parse() == IGGRPOConfig()


def test_steps_seed_and_run_dir() -> None:
    config = parse("--steps", "3", "--seed", "7", "--run-dir", "runs/mine")
    assert (config.steps, config.seed, config.run_dir) == (3, 7, Path("runs/mine"))
    assert dataclasses.replace(config, steps=IGGRPOConfig().steps, seed=0, run_dir=None) == IGGRPOConfig()


def test_sections_lists_and_options_of_the_algorithm() -> None:
    config = parse(
        *("--rollout.group-size", "5", "--env.questions", "a.jsonl", "b.jsonl", "--loss.dual-clip", "3.0"),
        *("--no-scale-by-std", "--alpha", "0.5", "--information-gain.soft-clip-form", "log"),
    )
    assert config.rollout.group_size == 5
    assert config.env.questions == ("a.jsonl", "b.jsonl")
    assert config.loss.dual_clip == 3.0
    assert (config.scale_by_std, config.alpha) == (False, 0.5)
    assert config.information_gain.soft_clip_form == "log"


def test_an_option_of_another_algorithm_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_config(GRPOConfig, ["--alpha", "0.5"])
    assert stop.value.code == 2
    assert "--alpha" in capsys.readouterr().err


def test_an_unknown_option_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse("--stepz", "3")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--stepz" in error
    assert "--steps" in error


# ---------------------------------------------------------------- YAML

EXAMPLE = """
steps: 12
run_dir: runs/from_file
scale_by_std: false
env:
  questions: [train.jsonl, more.jsonl]
  prompt: "Answer: {question}\\n"
loss:
  dual_clip: 3.0
  horizon: null
optimizer:
  lr: 1.0e-6
"""


def test_a_file_sets_what_it_names(tmp_path: Path) -> None:
    config = parse("--config", write(tmp_path, EXAMPLE))
    assert (config.steps, config.run_dir, config.scale_by_std) == (12, Path("runs/from_file"), False)
    assert config.env == EnvConfig(questions=("train.jsonl", "more.jsonl"), prompt="Answer: {question}\n")
    assert (config.loss.dual_clip, config.loss.horizon, config.optimizer.lr) == (3.0, None, 1e-6)
    assert config.rollout == RolloutConfig()


@pytest.mark.parametrize("form", ["--config FILE", "--config=FILE"])
@pytest.mark.parametrize("before", [True, False])
def test_the_command_line_overrides_the_file(tmp_path: Path, form: str, before: bool) -> None:
    file = [word.replace("FILE", write(tmp_path, EXAMPLE)) for word in form.split()]
    options = ["--steps=4", "--env.questions", "mine.jsonl", "--run_dir", "elsewhere", "--loss.dual-clip", "None"]
    config = parse(*(options + file if before else file + options))
    assert (config.steps, config.run_dir) == (4, Path("elsewhere"))
    assert config.env.questions == ("mine.jsonl",)
    assert config.loss.dual_clip is None
    assert config.optimizer.lr == 1e-6  # of the file still


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    config = parse("--config", write(tmp_path, "# nothing yet\n"))
    assert dataclasses.replace(config, config=None) == IGGRPOConfig()


def test_a_configuration_as_plain_data_comes_back_from_yaml(tmp_path: Path) -> None:
    arguments = ["--seed", "5", "--run-dir", "r", "--env.questions", "a", "b", "--loss.dual-clip", "2.5"]
    config = parse(*arguments, "--optimizer.lr", "1e-07", "--policy.context-length", "512", "--policy.chat")
    text = yaml.safe_dump(as_dict(config))
    assert yaml.safe_load(text) == as_dict(config)
    again = parse("--config", write(tmp_path, text))
    assert dataclasses.replace(again, config=None) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stpes: 3", "unknown key 'stpes'; did you mean 'steps'"),
        (
            "optimizer: {learning_rate: 1, schedul: cosine}",
            "unknown key 'optimizer.learning_rate'; did you mean 'lr' in the section 'optimizer'",
        ),
        ("optimizer: {lr_schedul: cosine}", "unknown key 'optimizer.lr_schedul'; did you mean 'lr_scheduler_type'"),
        ("policy: {chat: perhaps}", "'policy.chat' is 'perhaps'; it must be true or false"),
        ("scale_by_std: 1", "'scale_by_std' is 1; it must be true or false"),
        ("rollout: {groupsize: 4}", "unknown key 'rollout.groupsize'; did you mean 'group_size'"),
        ("3: 4", "unknown key '3'; known keys: steps"),
        ("optimizer: 3", "'optimizer' is 3; it must be a section"),
        ("loss: token-mean", "'loss' is 'token-mean'; it must be a section"),
        ("env: [bundled]", "'env' is .*; it must be a section"),
        ("rollout:", "'rollout' is None; it must be a section"),
        ("- steps", "a list; it must hold `key: value` lines"),
        ("just words", "a str; it must hold `key: value` lines"),
        ("steps: [3", "not YAML"),
        ("\tsteps: 3", "not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=rf"(?s)run\.yaml: .*{message}"):
        parse("--config", path)


def test_an_option_of_another_algorithm_in_the_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "alpha: 0.3")
    assert parse("--config", path).alpha == 0.3
    with pytest.raises(ConfigurationError, match="unknown key 'alpha'"):
        parse_config(GRPOConfig, ["--config", path])


@pytest.mark.parametrize("form", [["--config", "absent.yaml"], ["--config=absent.yaml"]])
def test_a_missing_file_is_named(form: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: no such file"):
        parse(*form)


def test_a_bundled_file_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("qwen2.5-3b-lora-1gpu", "qwen2.5-3b-lora-1gpu.yaml"):
        assert parse("--config", name).policy.lora.rank > 0
    (tmp_path / "bundled").write_text("seed: 7", encoding="utf-8")
    assert parse("--config", "bundled").seed == 7  # a file comes first
    with pytest.raises(ConfigurationError, match=r"--config smollm: no such file; did you mean smollm2-135m"):
        parse("--config", "smollm")
    with pytest.raises(ConfigurationError, match=r"--config zzz: no such file; bundled ones are bundled, .*smollm2"):
        parse("--config", "zzz")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "option", "said"),
    [
        ("steps: -1", ["--steps", "-1"], "steps=-1: must be at least 0"),
        (
            "optimizer: {lr_scheduler_type: cosin}",
            ["--optimizer.lr-scheduler-type", "cosin"],
            "optimizer.lr_scheduler_type='cosin': must be one",
        ),
        ("rollout: {group_size: 0}", ["--rollout.group-size", "0"], "rollout.group_size=0: must be at least 1"),
        ("steps: many", ["--steps", "many"], "many"),
    ],
)
def test_a_bad_value_is_named_with_its_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, option: list[str], said: str
) -> None:
    for arguments in (option, ["--config", write(tmp_path, text)]):
        with pytest.raises((SystemExit, ConfigurationError)) as stop:
            parse(*arguments)
        (line,) = [*capsys.readouterr().err.splitlines(), *([str(stop.value)] if stop.type is not SystemExit else [])]
        assert said in line
        assert stop.type is not SystemExit or stop.value.code == 2


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        (TrainConfig, {"steps": -1}, "steps=-1: must be at least 0"),
        (TrainConfig, {"seed": -3}, "seed=-3: must be at least 0"),
        (TrainConfig, {"save_total_limit": 0}, "save_total_limit=0: must be at least 1"),
        (
            TrainConfig,
            {"optimizer": OptimizerConfig(num_minibatches=1000)},
            "num_minibatches=1000: must be at most 128",
        ),
        (
            OptimizerConfig,
            {"lr_scheduler_type": "cosin"},
            "optimizer.lr_scheduler_type='cosin': .*did you mean 'cosine'",
        ),
        (OptimizerConfig, {"lr": float("nan")}, "optimizer.lr=nan: must be at least 0"),
        (RolloutConfig, {"temperature": 0.0}, "rollout.temperature=0.0: must be at least 0.001"),
        (EnvConfig, {"protocol": "searchr1"}, "env.protocol='searchr1': .*did you mean 'search_r1'"),
        (EnvConfig, {"outcome_reward": "F1"}, "env.outcome_reward='F1': must be one of 'em', 'f1', 'autorefine'"),
        (TrainConfig, {"report_to": ("wandb", "trackioo")}, "report_to='trackioo': must be one of 'wandb', 'trackio'"),
        (PolicyConfig, {"compute_dtype": "bf16"}, "policy.compute_dtype='bf16': .*did you mean 'bfloat16'"),
        (PolicyConfig, {"dtype": None}, "policy.dtype=None: must be one of 'float32'"),
        (RolloutConfig, {"engine": "vlm"}, "rollout.engine='vlm': .*did you mean 'vllm'"),
        (LossConfig, {"kl_estimator": "k4"}, "loss.kl_estimator='k4': must be one of 'k1', 'k2', 'k3'"),
        (LossConfig, {"importance_sampling": "seq"}, "loss.importance_sampling='seq': must be one of 'token'"),
        (LossConfig, {"importance_sampling_cap": 0.0}, "loss.importance_sampling_cap=0.0: must be"),
        (RolloutConfig, {"max_staleness": -1}, "rollout.max_staleness=-1: must be at least 0"),
        (DistributedConfig, {"sharding": "fsdp"}, "distributed.sharding='fsdp': .*did you mean 'fsdp2'"),
        (InformationGainConfig, {"context": "skelet"}, "information_gain.context='skelet': .*'skeleton'"),
        (IGGRPOConfig, {"credit": "all"}, "credit='all': must be one of 'own', 'return'"),
        (IGPOConfig, {"normalisation": "none"}, "normalisation='none': must be one of 'joint', 'separate'"),
        (GiGPOConfig, {"episode_statistics": "turns"}, "episode_statistics='turns': .*did you mean 'turn'"),
        (EnvConfig, {"max_failure_rate": 1.5}, "env.max_failure_rate=1.5: must be from 0 to 1"),
    ],
)
def test_an_unusable_value_is_an_error_in_code_too(
    section: type[object], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        section(**options)


@pytest.mark.parametrize(
    ("arguments", "exact", "needs_reference", "source"),
    [
        ((), True, False, "sampled"),
        (("--optimizer.epochs", "2"), True, True, "sampled"),
        ((), False, False, "in update"),
        (("--rollout.recompute-logprobs",), True, False, "in update"),
        ((), False, True, "recomputed"),  # the advantages need them before the update
        (("--optimizer.epochs", "2"), False, False, "recomputed"),
        (("--optimizer.num-minibatches", "2"), False, False, "recomputed"),
        (("--loss.importance-sampling-cap", "3.0"), True, False, "sampled"),  # the ratio is 1
        (("--loss.importance-sampling-cap", "None"), False, False, "in update"),
        (("--rollout.max-staleness", "1"), False, False, "in update"),
    ],
)
def test_where_the_log_probs_before_an_update_come_from(
    arguments: tuple[str, ...], exact: bool, needs_reference: bool, source: str
) -> None:
    assert parse(*arguments).old_logprobs(exact=exact, needs_reference=needs_reference) == source


def test_the_config_of_a_run_is_a_configuration_file(tmp_path: Path) -> None:
    """Though it names the file and the preset that it was made from, which need not exist any more."""
    made = parse("--alpha", "0.7", "--env.max-observation-tokens", "80", "--loss.dual-clip", "3.0", "--seed", "4")
    saved = {"algorithm": "ig_grpo", **as_dict(made), "config": "gone.yaml", "preset": "night"}
    file = write(tmp_path, yaml.safe_dump(saved))
    assert parse("--config", file, "--seed", "5") == dataclasses.replace(made, seed=5, config=Path(file))
    with pytest.raises(ConfigurationError, match="preset 'night': the file offers none"):
        parse("--config", write(tmp_path, "preset: night"))


def test_one_copy_of_sharded_weights_does_not_write_and_score_at_once() -> None:
    sections = {"rollout": RolloutConfig(engine="transformers", max_staleness=1)}
    TrainConfig(**sections)
    with pytest.raises(ConfigurationError, match=r"max_staleness=1 with rollout\.engine='transformers'.*builtin"):
        TrainConfig(**sections, distributed=DistributedConfig(sharding="fsdp2"))


@pytest.mark.parametrize(("exact", "cap"), [(True, None), (False, 2.0)])
def test_importance_weights_apply_where_the_sampler_differs_from_the_policy(exact: bool, cap: float | None) -> None:
    assert LossConfig().after_sampling(exact=exact).importance_sampling_cap == cap
    assert LossConfig(importance_sampling_cap=None).after_sampling(exact=exact).importance_sampling_cap is None
