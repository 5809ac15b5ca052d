"""The published settings in algorithms/configs: each parses, names its sources, says what was published, and trains."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from paths import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from algorithms.common.algorithm import Algorithm
from algorithms.common.base.command_line import option_types
from algorithms.common.config import TrainConfig, as_dict, parse_config
from algorithms.common.rollout.environment import make_rules
from algorithms.common.run.metrics_log import read_metrics
from algorithms.common.trainer import train
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_world

FILES = {path.name: path for path in sorted((ROOT / "algorithms" / "configs").glob("*.yaml"))}
SOURCES = ("IG-Search", "AutoRefine", "Search-R1", "GiGPO", "GRAFT", "MR-Search", "IGPO", "verl", "ours")
# For a CPU: everything else is a default.
SMALL = {"bundled.yaml", "smollm2-135m.yaml"}
# The setting of a paper, or ours: these say everything that a large model needs.
COMPLETE = sorted({*FILES} - SMALL)
# Nothing but what was said: the bundled policy reads no other prompt.
CHAT = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"

# What the papers or their code state: file, key, value, where it stands.
PUBLISHED = [
    ("ig-search-3b.yaml", "alpha", 0.3, "IG-Search, Eq. 4"),
    ("ig-search-3b.yaml", "information_gain.num_random", 3, "IG-Search: N"),
    ("ig-search-3b.yaml", "information_gain.baseline", "random", "IG-Search, Eq. 2"),
    ("ig-search-3b.yaml", "information_gain.head_weight", 3.0, "IG-Search, released code"),
    ("ig-search-3b.yaml", "rollout.group_size", 5, "IG-Search: G"),
    ("ig-search-3b.yaml", "env.top_k", 3, "IG-Search"),
    ("ig-search-3b.yaml", "env.max_searches", 5, "IG-Search"),
    ("ig-search-3b.yaml", "env.protocol", "autorefine", "IG-Search"),
    ("ig-search-3b.yaml", "optimizer.lr", 1e-6, "IG-Search"),
    ("ig-search-3b.yaml", "steps", 200, "IG-Search"),
    ("ig-search-3b.yaml", "policy.path", "Qwen/Qwen2.5-3B", "IG-Search, Table 1"),
    ("ig-search-7b.yaml", "policy.path", "Qwen/Qwen2.5-7B-Instruct", "IG-Search, Table 3"),
    ("ig-search-3b.yaml", "rollout.questions_per_step", 256, "AutoRefine, cmd/train.sh"),
    ("ig-search-3b.yaml", "optimizer.num_minibatches", 256 * 5 // 256, "AutoRefine: 256 trajectories each"),
    ("ig-search-3b.yaml", "loss.kl_coef", 0.001, "AutoRefine"),
    ("ig-search-3b.yaml", "rollout.max_new_tokens", 512, "AutoRefine"),
    ("search-r1-grpo-3b.yaml", "rollout.questions_per_step", 512, "Search-R1, train_grpo.sh"),
    ("search-r1-grpo-3b.yaml", "rollout.group_size", 5, "Search-R1, train_grpo.sh"),
    ("search-r1-grpo-3b.yaml", "optimizer.num_minibatches", 512 * 5 // 256, "Search-R1: 256 trajectories each"),
    ("search-r1-grpo-3b.yaml", "optimizer.warmup_steps", int(0.285 * 1005), "Search-R1, train_grpo.sh"),
    ("search-r1-grpo-3b.yaml", "steps", 1005, "Search-R1, train_grpo.sh"),
    ("search-r1-grpo-3b.yaml", "env.max_observation_tokens", 500, "Search-R1, train_grpo.sh"),
    ("search-r1-grpo-3b.yaml", "env.outcome_reward", "em", "Search-R1"),
    ("search-r1-ppo-3b.yaml", "rollout.group_size", 1, "Search-R1, train_ppo.sh"),
    ("search-r1-ppo-3b.yaml", "optimizer.num_minibatches", 512 // 256, "Search-R1: 256 trajectories each"),
    ("search-r1-ppo-3b.yaml", "kl_in_reward", 0.001, "Search-R1, train_ppo.sh"),
    ("search-r1-ppo-3b.yaml", "critic.lr", 1e-5, "Search-R1, train_ppo.sh"),
    ("search-r1-ppo-3b.yaml", "critic.warmup_steps", int(0.015 * 1005), "Search-R1, train_ppo.sh"),
    ("gigpo-3b.yaml", "omega", 1.0, "GiGPO, run_search.sh"),
    ("gigpo-3b.yaml", "gamma", 0.95, "GiGPO, run_search.sh"),
    ("gigpo-3b.yaml", "similarity", 0.9, "GiGPO, run_search.sh"),
    ("gigpo-3b.yaml", "invalid_penalty", 0.01, "GiGPO, run_search.sh"),
    ("gigpo-3b.yaml", "rollout.questions_per_step", 256, "GiGPO, run_search.sh"),
    ("gigpo-3b.yaml", "optimizer.warmup_steps", int(0.1 * (169_615 // 256)), "GiGPO, run_search.sh"),
    ("graft-3b.yaml", "gamma", 0.99, "GRAFT, 4.1"),
    ("graft-3b.yaml", "graph_lambda", 0.6, "GRAFT, 4.1: SearchQA"),
    ("graft-3b.yaml", "similarity", 0.9, "GRAFT, E.2: SearchQA"),
    ("graft-3b.yaml", "rollout.group_size", 5, "GRAFT, E.2"),
    ("graft-3b.yaml", "loss.kl_coef", 0.001, "GRAFT, E.2"),
    ("mr-search-3b.yaml", "env.attempts", 3, "MR-Search, A.1.3"),
    ("mr-search-3b.yaml", "env.max_searches", 3, "MR-Search, A.1.3"),
    ("mr-search-3b.yaml", "gamma", 1.0, "MR-Search, Eq. 8"),
    ("mr-search-3b.yaml", "steps", 300, "MR-Search, A.1.3"),
    ("mr-search-3b.yaml", "policy.context_length", 8192, "MR-Search, A.1.3"),
    ("mr-search-3b.yaml", "loss.kl_coef", 0.0, "MR-Search, nq_train_7b.sh"),
    ("igpo-7b.yaml", "rollout.group_size", 16, "IGPO, policy_optimization.sh"),
    ("igpo-7b.yaml", "rollout.questions_per_step", 32, "IGPO, policy_optimization.sh"),
    ("igpo-7b.yaml", "information_gain.baseline", "previous", "IGPO, Eq. 5"),
    ("igpo-7b.yaml", "information_gain.head_weight", 1.0, "IGPO, Eq. 5"),
    ("igpo-7b.yaml", "loss.aggregation", "seq-mean-token-sum", "IGPO"),
]
# Of every file about a paper.
EVERYWHERE = {"optimizer.lr": 1e-6, "env.top_k": 3, "policy.dtype": "float32", "policy.compute_dtype": "bfloat16"}
PAPERS = [name for name in COMPLETE if not name.startswith("qwen")]


def command(name: str) -> list[str]:
    """The words of the command on the first line of a file, from the algorithm's file on."""
    first = FILES[name].read_text(encoding="utf-8").splitlines()[0]
    words = shlex.split(first.removeprefix("#"))
    places = [place for place, word in enumerate(words) if re.fullmatch(r"algorithms/\w+\.py", word)]
    assert len(places) == 1, f"{name}: its first line must be the command that runs it, not {first!r}"
    return words[places[0] :]


@cache
def classes(name: str) -> tuple[type[Algorithm], type[TrainConfig]]:
    """The algorithm that a file is for, and its configuration."""
    module = importlib.import_module(command(name)[0].removesuffix(".py").replace("/", "."))
    own = [found for _, found in inspect.getmembers(module, inspect.isclass) if found.__module__ == module.__name__]
    (algorithm,) = (found for found in own if issubclass(found, Algorithm))
    (config,) = (found for found in own if issubclass(found, TrainConfig))
    return algorithm, config


@cache
def parse(name: str, *overrides: str) -> TrainConfig:
    """The configuration of the command of a file, with more options."""
    words = [str(ROOT / word) if word.endswith(".yaml") else word for word in command(name)[1:]]
    return parse_config(classes(name)[1], [*words, *overrides])


def value(config: TrainConfig, key: str) -> Any:
    """The value of a dotted key."""
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", FILES)
def test_a_file_parses_as_the_algorithm_of_its_first_line(name: str) -> None:
    assert f"--config algorithms/configs/{name}" in " ".join(command(name))
    config = parse(name)
    content = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    # What the file says is what is trained with, but for what its own command overrides.
    for key, wanted in content.items():
        if not isinstance(wanted, dict):
            assert getattr(config, key) == wanted
    for preset in content.get("presets", {}):
        assert parse(name, "--preset", preset).preset == preset
    assert make_rules(config.env).protocol.question_prompt("Who?").count("Who?") == 1


@pytest.mark.parametrize("name", FILES)
def test_options_in_comments_exist(name: str) -> None:
    known = {f"--{key.replace('_', '-')}" for key in option_types(classes(name)[1])} | {"--help", "--nproc-per-node"}
    comments = "\n".join(re.findall(r"#.*", FILES[name].read_text(encoding="utf-8")))
    assert set(re.findall(r"--[a-z][\w.-]*\w", comments)) <= known


@pytest.mark.parametrize("name", FILES)
def test_flags_on_the_command_line_override_a_file(name: str) -> None:
    assert parse(name, "--policy.chat", "--no-policy.gradient-checkpointing").policy.chat
    policy = parse(name, "--no-policy.chat", "--policy.gradient-checkpointing").policy
    assert (policy.chat, policy.gradient_checkpointing) == (False, True)


@pytest.mark.parametrize("name", FILES)
def test_every_value_names_its_source(name: str) -> None:
    for number, line in enumerate(FILES[name].read_text(encoding="utf-8").splitlines(), start=1):
        said, _, comment = line.partition(" #")
        if not said.strip() or said.lstrip().startswith("#") or said.rstrip().endswith(":"):
            continue  # comments, and keys of sections and lists
        named = any(re.search(rf"(?<![\w-]){re.escape(source)}(?![\w-])", comment) for source in SOURCES)
        assert named, f"{name}, line {number}: {line!r} names none of {', '.join(SOURCES)}"


@pytest.mark.parametrize(("name", "key", "published", "source"), PUBLISHED)
def test_what_is_published_is_what_is_set(name: str, key: str, published: Any, source: str) -> None:
    assert value(parse(name), key) == published, source


@pytest.mark.parametrize("name", PAPERS)
def test_settings_that_all_papers_share(name: str) -> None:
    config = parse(name)
    assert {key: value(config, key) for key in EVERYWHERE} == EVERYWHERE
    assert config.env.questions == tuple(f"hf:RUC-NLPIR/FlashRAG_datasets/{name}:train" for name in ("nq", "hotpotqa"))


@pytest.mark.parametrize("name", COMPLETE)
def test_no_test_question_is_looked_at_while_training(name: str) -> None:
    test_sets = {"nq:test", "triviaqa:test", "popqa:test", "hotpotqa:dev", "2wikimultihopqa:dev", "musique:dev"}
    asked = {source.rpartition("/")[2].partition("[")[0] for source in parse(name).env.eval_questions}
    assert not asked & test_sets


def test_no_question_of_the_final_evaluation_is_looked_at_while_a_small_model_trains() -> None:
    env = parse("smollm2-135m.yaml").env
    for dev, final in zip(env.dev_questions, env.eval_questions, strict=True):
        (dev_file, first), (final_file, last) = dev.split("dev["), final.split("dev[:")
        assert dev_file == final_file
        assert int(first.partition(":")[0]) >= int(last.removesuffix("]"))


@pytest.mark.parametrize("name", [*COMPLETE, "smollm2-135m.yaml"])
def test_sizes_fit_one_another(name: str) -> None:
    config = parse(name)
    episode = config.policy.context_length
    assert episode is not None
    assert config.rollout.max_new_tokens + (config.env.max_observation_tokens or 0) < episode
    assert config.rollout.kv_cache_tokens >= 8 * episode
    assert min(config.rollout.token_budget, config.optimizer.token_budget) >= episode
    trajectories = config.rollout.questions_per_step * config.rollout.group_size
    assert trajectories % config.optimizer.num_minibatches == 0
    assert config.rollout.questions_per_step % 8 == 0  # eight processes play equally many groups


def test_the_headline_file_is_the_published_setting_but_for_what_it_marks() -> None:
    """Lines marked `differs` are the only differences from ig-search-3b.yaml."""
    text = FILES["qwen2.5-3b-nq-hotpotqa.yaml"].read_text(encoding="utf-8")
    marked = {line.partition(":")[0].strip() for line in text.splitlines() if re.search(r"# ours, differs", line)}
    ours, published = (as_dict(parse(name)) for name in ("qwen2.5-3b-nq-hotpotqa.yaml", "ig-search-3b.yaml"))
    different = {
        key.rpartition(".")[2]
        for key, one, other in ((key, one, flat(published)[key]) for key, one in flat(ours).items())
        if one != other and key != "config"
    }
    assert different == marked
    assert command("qwen2.5-3b-nq-hotpotqa.yaml") == [
        *("algorithms/ig_grpo.py", "--config", "algorithms/configs/qwen2.5-3b-nq-hotpotqa.yaml")
    ]


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys."""
    result: dict[str, Any] = {}
    for key, found in content.items():
        result |= flat(found, f"{prefix}{key}.") if isinstance(found, dict) else {prefix + key: found}
    return result


# ---------------------------------------------------------------- every file trains


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled policy with a chat template and a long context, as the models of the files have."""
    folder = tmp_path_factory.mktemp("stand-in") / "policy"
    tokenizer = AutoTokenizer.from_pretrained(POLICY_FOLDER)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER)
    model.config.max_position_embeddings = 32_768
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three questions of the bundled world."""
    path = tmp_path_factory.mktemp("questions") / "few.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for q in bundled_world().questions["train"][:3]:
            row = {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_file_trains_two_steps_on_a_cpu(name: str, stand_in: Path, questions: Path, tmp_path: Path) -> None:
    """Model, questions, corpus and sizes are small ones, and one process holds all; the rest is what the file says."""
    config = parse(
        name,
        *("--steps", "2", "--eval-every", "0", "--threads", "1", "--run-dir", str(tmp_path / "run")),
        *("--policy.path", str(stand_in), "--policy.device", "cpu", "--env.prompt", "bare"),
        *("--env.questions", str(questions), "--env.eval-questions", str(questions), "--env.corpus", "bundled"),
        *("--env.dev-questions", str(questions), "--warm-start.folder", "None"),
        *("--rollout.questions-per-step", "2", "--rollout.max-new-tokens", "12", "--distributed.sharding", "none"),
    )
    algorithm = classes(name)[0](config)  # type: ignore[call-arg]
    run = train(algorithm, config)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward" in row]
    assert [row["step"] for row in rows] == [1, 2]
    assert all(np.isfinite(found) for row in rows for found in row.values())
    assert all(row["searches"] > 0 for row in rows)
    assert any(row["policy/grad_norm"] > 0 for row in rows)
    assert ("information_gain/mean" in rows[0]) == algorithm.needs_information_gain
    frozen = [weight for weight in run.policy.model.parameters() if not weight.requires_grad]
    assert bool(frozen) == (config.policy.lora.rank > 0)
    assert (run.dir / "policy").is_dir()
