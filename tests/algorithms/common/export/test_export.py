"""What others load: an exported folder without this project, its card, and what an export refuses."""

from __future__ import annotations

import errno
import json
import re
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import hub_server
from huggingface_hub import ModelCard
from models import save_tiny_policy, tokenizer, turn_end
from paths import ROOT
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from algorithms.common.evaluation.results import Result
from algorithms.common.evaluation.scores import Score
from algorithms.common.export.facts import ExportedPolicy, is_hub_name
from algorithms.common.export.folder import MARK
from algorithms.common.export.model_card import model_card
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.config import RolloutConfig
from algorithms.common.rollout.decoder import Decoder
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.trainer import train
from algorithms.grpo import GRPO, GRPOConfig
from igsearch.commands import export
from igsearch.commands.export import Args
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world.bundled import bundled_retriever, bundled_world

TRACES = ("algorithms", "igsearch_env", "packed_")  # of this project, in a process or a configuration
MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json"}
OWN_FILES = {"README.md", MARK}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with a checkpoint of each; the first one did best in validation."""
    folder = tmp_path_factory.mktemp("trained")
    questions = folder / "questions.jsonl"
    rows = [
        {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
        for q in bundled_world().questions["train"][:14]
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = GRPOConfig(
        steps=2,
        eval_every=0,
        save_every=1,
        run_dir=folder / "grpo",
        env=EnvConfig(questions=(str(questions),), eval_questions=(str(questions),)),
        rollout=RolloutConfig(questions_per_step=3, group_size=3, max_new_tokens=12),
    )
    train(GRPO(config), config)
    best = folder / "grpo" / "best"
    shutil.rmtree(best, ignore_errors=True)
    shutil.copytree(folder / "grpo" / "checkpoints" / "step-000001", best)
    (best / "best.json").write_text(json.dumps({"step": 1, "dev/em": 0.625}))
    return folder / "grpo"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to break."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def exported(run: Path, output: Path, **options: Any) -> Path:
    """The folder of an export."""
    export.main(Args(run, output, **options))
    return output


def front_matter(folder: Path) -> dict[str, Any]:
    """The card's YAML."""
    content: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    return content


def files(folder: Path) -> set[str]:
    """Names in a folder."""
    return {path.name for path in folder.iterdir()}


def greedy_turns(folder: Path, questions: list[Question]) -> list[tuple[int, ...]]:
    """The tokens of the policy's first turn at each question, as this project writes them."""
    policy = Policy.load(PolicyConfig(path=str(folder), device="cpu"))
    decoder = Decoder(policy, turn_end(policy), slots=8, max_new_tokens=12, temperature=0.0)
    engine = EpisodeStepper(
        questions, bundled_retriever(), None, EpisodeRules(protocol=make_protocol("search_r1", "bare"))
    )
    return [t.turns[0].completion_ids for t in play(decoder, engine, questions, seed=(0,))]


# Runs where nothing of this project is: every card's snippet, then greedy tokens after each prompt.
STRANGER = """
import json, sys
prompts, sizes = json.loads(sys.argv[1])
for snippet in sys.argv[2:]:
    exec(snippet)
    tokens = []
    for prompt, size in zip(prompts, sizes):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=size, do_sample=False)
        tokens.append(out[0, ids["input_ids"].shape[1]:].tolist())
    print(json.dumps({"tokens": tokens, "dtype": str(model.dtype), "modules": sorted(sys.modules)}))
"""


def test_a_process_without_this_project_writes_the_same_tokens(trained: Path, tmp_path: Path) -> None:
    questions = bundled_world().questions["test"][::100]
    expected = greedy_turns(trained / "policy", questions)
    whole = exported(trained, tmp_path / "whole")
    adapter = exported(lora_run(tmp_path, trained / "policy"), tmp_path / "adapter", merge=False)
    cards = [(folder / "README.md").read_text(encoding="utf-8") for folder in (whole, adapter)]
    snippets = [re.findall("```python\n(.*?)```", card, re.DOTALL)[0] for card in cards]
    prompts = [f"{question.text}\n" for question in questions]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, json.dumps([prompts, [len(ids) for ids in expected]]), *snippets],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    turn, metadata, adapter_turn, adapter_metadata = done.stdout.strip().splitlines()
    found, other = json.loads(metadata), json.loads(adapter_metadata)
    assert found["tokens"] == [list(ids) for ids in expected]
    assert found["dtype"] == "torch.float32"
    assert not [name for name in found["modules"] if name.startswith(TRACES)]
    assert turn.endswith(("</search>", "</answer>", "<|endoftext|>"))
    assert other["tokens"] != found["tokens"]  # the adapter is loaded, and does something
    assert "peft" in other["modules"]
    assert adapter_turn


def test_a_folder_holds_a_model_and_nothing_of_the_training(trained: Path, tmp_path: Path) -> None:
    for checkpoint in ("final", "last", "best", "step-000001"):
        folder = exported(trained, tmp_path / checkpoint, checkpoint=checkpoint)
        assert files(folder) == MODEL_FILES | TOKENIZER_FILES | OWN_FILES
        assert not any(trace in (folder / "config.json").read_text() for trace in (*TRACES, "attn_implementation"))
        settings = json.loads((folder / "generation_config.json").read_text())
        assert settings["eos_token_id"] == tokenizer().eos_token_id
    steps = {name: load_file(trained / "checkpoints" / name / "model.safetensors") for name in ("step-000001",)}
    for checkpoint, source in (
        ("best", steps["step-000001"]),
        ("final", load_file(trained / "policy/model.safetensors")),
    ):
        weights = load_file(tmp_path / checkpoint / "model.safetensors")
        assert weights.keys() == source.keys()
        assert all(torch.equal(weights[name], source[name]) for name in weights)


def test_weights_are_cast(trained: Path, tmp_path: Path) -> None:
    folder = exported(trained, tmp_path / "half", dtype="bfloat16")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    source = load_file(trained / "policy" / "model.safetensors")
    for name, weight in load_file(folder / "model.safetensors").items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, source[name].to(torch.bfloat16))
    assert "The test was run in float32; the exported weights are bfloat16." in (folder / "README.md").read_text()


# ---------------------------------------------------------------- adapters


def adapter_folder(base: Path, folder: Path) -> Path:
    """An adapter over the model in `base` whose product is not zero, with a tokenizer that has a chat template."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    words = AutoTokenizer.from_pretrained(base)
    words.chat_template = "{% for m in messages %}<user> {{ m.content }}{% endfor %}"
    words.save_pretrained(folder)
    return folder


def lora_run(tmp_path: Path, base: Path, settings: dict[str, Any] | None = None) -> Path:
    """The folder of a run that trained an adapter."""
    run = tmp_path / "lora"
    adapter_folder(base, run / "policy")
    (run / "policy" / "optimizer.pt").write_bytes(b"not for others")
    content = {"algorithm": "ig_grpo", "policy": {"path": str(base), "dtype": "float32"}, **(settings or {})}
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    return run


def logits(model: Any) -> torch.Tensor:
    """Of 40 tokens."""
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(300, 340)[None]).logits
    return found


def with_adapter(base: Path, folder: Path) -> torch.Tensor:
    """Logits of the adapter beside its base, unmerged."""
    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return logits(peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder))


@pytest.mark.parametrize("architecture", ["qwen2", "gpt_neox", "gemma3"])
def test_a_merged_adapter_is_the_model_with_it(architecture: str, tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base", architecture=architecture)
    run = lora_run(tmp_path, base)
    folder = exported(run, tmp_path / "out")
    assert files(folder) == MODEL_FILES | TOKENIZER_FILES | OWN_FILES | {"chat_template.jinja"}
    merged = logits(AutoModelForCausalLM.from_pretrained(folder))
    torch.testing.assert_close(merged, with_adapter(base, run / "policy"), atol=1e-5, rtol=1e-5)
    assert (merged - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-2
    said = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "x y"}], tokenize=False
    )
    assert said == "<user> x y"
    assert front_matter(folder)["library_name"] == "transformers"


def test_merging_is_in_float32_and_rounds_once(tmp_path: Path) -> None:
    run = lora_run(tmp_path, save_tiny_policy(tmp_path / "base"))
    exact = load_file(exported(run, tmp_path / "exact") / "model.safetensors")
    once = load_file(exported(run, tmp_path / "once", dtype="bfloat16") / "model.safetensors")
    assert all(torch.equal(once[name], exact[name].to(torch.bfloat16)) for name in exact)


def test_an_adapter_alone(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    run = lora_run(tmp_path, base)
    folder = exported(run, tmp_path / "out", merge=False, dtype="bfloat16")
    adapter = {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    assert files(folder) == adapter | TOKENIZER_FILES | OWN_FILES
    weights = load_file(folder / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    torch.testing.assert_close(with_adapter(base, folder), with_adapter(base, run / "policy"), atol=0.1, rtol=0.1)
    front = front_matter(folder)
    assert front["library_name"] == "peft"
    assert "base_model" not in front  # a folder of this machine is none
    assert "vllm serve BASE_MODEL --enable-lora --lora-modules out=./out\n" in (folder / "README.md").read_text()


def test_generation_settings_are_those_of_training(tmp_path: Path) -> None:
    """A base model's penalties would change what others' greedy decoding writes."""
    base = save_tiny_policy(tmp_path / "base")
    own = {"eos_token_id": [5, 7], "repetition_penalty": 1.3, "do_sample": True, "top_p": 0.5}
    (base / "generation_config.json").write_text(json.dumps(own))
    run = lora_run(tmp_path, base)
    folder = exported(run, tmp_path / "out")
    settings = json.loads((folder / "generation_config.json").read_text())
    ends = Policy.load(PolicyConfig(path=str(run / "policy"), device="cpu")).tokenizer.eos_ids
    assert {5, 7} < ends == set(settings["eos_token_id"])
    assert not {"repetition_penalty", "do_sample", "top_p"} & settings.keys()


# ---------------------------------------------------------------- the card


def test_the_card_tells_the_run_and_the_hub_reads_it(trained: Path, tmp_path: Path) -> None:
    folder = exported(trained, tmp_path / "my-agent")
    card = ModelCard.load(folder / "README.md")
    assert card.data.tags == ["igsearch", "search-agent", "reinforcement-learning", "grpo"]
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert card.data.license is None
    assert "# license: not chosen yet" in (folder / "README.md").read_text()
    assert card.data.model_name == "my-agent"
    tested = json.loads((trained / "test_after.json").read_text())["datasets"]
    results = {r.dataset_name: r for r in card.data.eval_results if r.metric_type == "exact_match"}
    assert {name: r.metric_value for name, r in results.items()} == {n: round(d["em"], 4) for n, d in tested.items()}
    assert all(r.verified is False for r in card.data.eval_results)
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()  # as the Hub's own tools write it again
    for name, found in tested.items():
        low, high = found["em_ci95"]
        assert f"{found['em']:.3f} ({low:.3f} to {high:.3f})" in card.text
        assert f"`{name}`" in card.text
    for part in ("2 of 2 steps", "seed 0", "arXiv 2402.03300", "2,984 passages", "exact match", "No search is left."):
        assert part in card.text
    settings = re.findall("```yaml\n(.*?)```", card.text, re.DOTALL)[0]
    assert yaml.safe_load(settings) == yaml.safe_load((trained / "config.yaml").read_text())
    assert not re.search(r"\bNone\b", card.text)


@pytest.mark.parametrize("chat", [True, False])
def test_the_snippet_writes_the_prompt_as_training_did(
    chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_tiny_policy(tmp_path / "base")
    settings = {"policy": {"path": str(base), "chat": chat}, "env": {"prompt": "search_r1"}}
    folder = exported(lora_run(tmp_path, base, settings), tmp_path / "out")
    (snippet,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    capsys.readouterr()
    exec(snippet.replace("max_new_tokens=512", "max_new_tokens=3"), names)
    assert capsys.readouterr().out.strip()
    policy = Policy.load(PolicyConfig(path=str(folder), device="cpu", chat=chat))
    expected = policy.tokenizer.encode_prompt(make_protocol().question_prompt("Your question?"))
    assert names["inputs"]["input_ids"][0].tolist() == list(expected)
    assert len(names["output"][0]) <= len(expected) + 3


def test_figures_of_another_checkpoint_are_told_apart(run: Path, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "out", checkpoint="best")
    text = (folder / "README.md").read_text()
    assert (
        "**The exported checkpoint was not tested.** The results are of step 2 of the same run; this is step 1." in text
    )
    assert "the best by validation (EM 0.625)" in text
    assert "model-index" not in front_matter(folder)
    (run / "test_after.json").unlink()
    text = (exported(run, tmp_path / "out", checkpoint="best") / "README.md").read_text()
    assert "not tested after training: these results are of the policy before training" in text
    (run / "test_before.json").unlink()
    assert "The run was not tested." in (exported(run, tmp_path / "out", checkpoint="best") / "README.md").read_text()


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Front matter, as the Hub's tools read it, and text."""
    read = ModelCard(card)
    return read.data.to_dict(), read.text


def test_a_card_of_a_run_on_hub_models_and_data() -> None:
    scores = {"nq": Score(3_610, 0.41, 0.5, 1.5, 3), "popqa": Score(10, 0.5, 0.5, 1.0)}
    settings = {
        "algorithm": "ig_grpo",
        "policy": {"path": "Qwen/Qwen2.5-3B-Instruct", "dtype": "bfloat16", "chat": True},
        "env": {
            "questions": ["hf:RUC-NLPIR/FlashRAG_datasets/nq:train", "hf:RUC-NLPIR/FlashRAG_datasets/hotpotqa:train"],
            "eval_questions": ["hf:RUC-NLPIR/FlashRAG_datasets/nq:test", "popqa.jsonl"],
            "corpus": "http://user:secret@10.0.0.1:8000/retrieve",
            "protocol": "autorefine",
            "prompt": "autorefine",
        },
    }
    card = ExportedPolicy(
        name="agent",
        settings=settings,
        step=200,
        dtype="bfloat16",
        base="Qwen/Qwen2.5-3B-Instruct",
        base_on_hub=True,
        adapter={"r": 20},
        after=Result({"step": 200}, scores, {}),
    )
    front, text = parts(model_card(card))
    assert (front["base_model"], front["base_model_relation"]) == ("Qwen/Qwen2.5-3B-Instruct", "adapter")
    assert front["datasets"] == ["RUC-NLPIR/FlashRAG_datasets"]
    nq, popqa = (result["dataset"] for result in front["model-index"][0]["results"])
    assert nq == {"type": "RUC-NLPIR/FlashRAG_datasets", "name": "nq", "config": "nq", "split": "test"}
    assert popqa == {"type": "popqa", "name": "popqa"}
    assert "10 of 14,267" in text  # a part of the benchmark
    assert "Retrieval failed for 3 test questions" in text
    assert "vllm serve Qwen/Qwen2.5-3B-Instruct --enable-lora --lora-modules agent=./agent --max-lora-rank 32" in text
    assert "<documents>" in text
    assert "/v1/chat/completions" in text
    assert "secret" not in text


def test_a_card_says_nothing_that_is_not_known() -> None:
    card = ExportedPolicy(name="a", settings={}, step=None, dtype="float32", base=None)
    front, text = parts(model_card(card))
    assert front["tags"] == ["igsearch", "search-agent", "reinforcement-learning"]
    assert not re.search(r"\b(None|nan)\b", text)


def test_a_card_evaluates_under_the_rules_of_training() -> None:
    env = {"attempts": 3, "max_searches": 2, "max_observation_tokens": 400}
    settings = {"env": env, "policy": {"context_length": 4096}, "rollout": {"max_new_tokens": 64}}
    text = model_card(ExportedPolicy("a", settings, None, "float32", None))
    command = next(line for line in text.splitlines() if line.startswith("igsearch evaluate"))
    for option in ("--attempts 3", "--max-searches 2", "--max-observation-tokens 400", "--context-length 4096"):
        assert option in command


def test_what_could_break_markdown_or_yaml_is_kept_apart() -> None:
    prompt = "```\n---\n</details> {question} it's `so` | # not a heading\n```python\nboom(\n"
    name = "a: b |c* <i>"
    settings = {"algorithm": "own: [x]", "env": {"prompt": prompt, "corpus": "a`b|c"}}
    scores = {"x|y`z": Score(1, 1.0, 1.0, 1.0)}
    after = Result({"step": 3}, scores, {})
    card = ExportedPolicy(name, settings, 3, "float32", None, after=after)
    front, text = parts(model_card(card))
    assert front["model-index"][0]["name"] == name
    assert front["tags"][-1] == "own: [x]"
    assert r"# a: b \|c\* \<i\>" in text
    assert f"````\n{prompt}````\n" in text
    assert r"| ``x\|y`z`` | 1 |" in text
    outside = re.sub(r"^(`{3,})[^\n`]*\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert "boom" not in outside
    assert outside.count("</details>") == 1


@pytest.mark.parametrize("path", sorted((ROOT / "algorithms").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_every_algorithm_is_cited(path: Path) -> None:
    settings = {"algorithm": path.stem}
    text = model_card(ExportedPolicy("a", settings, None, "float32", None))
    number = re.findall(r"eprint = \{(\d{4}\.\d{5})\}", text)
    assert len(number) == 1
    assert f"arXiv {number[0]}" in (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")


def test_which_names_are_the_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "project" / "runs" / "lora"
    (tmp_path / "project" / "runs" / "cold").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name, known in (("Qwen/Qwen2.5-3B", True), ("gpt2", True), ("runs/cold", False), ("bundled", False)):
        assert is_hub_name(name, run) is known
    assert not is_hub_name("/models/gone", run)


# ---------------------------------------------------------------- refusals


def test_runs_that_hold_no_such_policy(run: Path, tmp_path: Path) -> None:
    def refused(message: str, folder: Path = run, **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=message):
            exported(folder, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused("not the folder of a run .*give the --run-dir of a training command", tmp_path / "nowhere")
    refused(f"it is inside a run: give {run}", run / "policy")
    refused("no such policy; choose one of final, best, last, step-000001, step-000002", checkpoint="step-000009")
    refused("dtype='bf16': must be one of.*did you mean 'bfloat16'", dtype="bf16")
    refused("holds a complete model, not an adapter", merge=False)
    shutil.rmtree(run / "policy")
    refused(r"has not finished: .* \(best, last, step-000001, step-000002\)")
    assert exported(run, tmp_path / "last", checkpoint="last").is_dir()
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "best")
    refused("it has no policy yet: .*save_every", checkpoint="last")
    (run / "config.yaml").write_text("{")
    refused("config.yaml: not YAML")


def test_broken_weights_are_refused(run: Path, tmp_path: Path) -> None:
    def refused(message: str, folder: Path = run, **options: Any) -> None:
        with pytest.raises(ConfigurationError, match=message):
            exported(folder, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    path = run / "policy" / "model.safetensors"
    weights = load_file(path)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file({**weights, name: weights[name] * 1e6}, path, metadata={"format": "pt"})
    refused(f"{name} is not finite in torch.float16; export another dtype", dtype="float16")
    save_file({key: value for key, value in weights.items() if key != name}, path, metadata={"format": "pt"})
    refused(f"1 weights of Qwen2ForCausalLM are missing, such as {name}")
    path.write_bytes(path.read_bytes()[:1000])
    refused("can't be loaded .*export another checkpoint")


def test_broken_adapters_are_refused(tmp_path: Path) -> None:
    base = save_tiny_policy(tmp_path / "base")
    run = lora_run(tmp_path, base)
    path = run / "policy" / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[1:]), path, metadata={"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as users may
        with pytest.raises(ConfigurationError, match=r"policy: Found missing adapter keys"):
            exported(run, tmp_path / "out")
    shutil.rmtree(base)
    with pytest.raises(ConfigurationError, match=f"an adapter of '{base}', which can't be loaded"):
        exported(run, tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(ConfigurationError, match="can't be loaded"):
        exported(run, tmp_path / "out", merge=False)
    assert not (tmp_path / "out").exists()


def test_only_an_untouched_export_is_replaced(trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    exported(trained, output)  # an empty folder is free
    exported(trained, output, dtype="bfloat16")
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    (output / "LICENSE").write_text("mine")
    with pytest.raises(ConfigurationError, match="LICENSE was added to this export; give another --output"):
        exported(trained, output)
    (output / "LICENSE").unlink()
    (output / "README.md").write_text("mine")
    with pytest.raises(ConfigurationError, match=r"README\.md was edited"):
        exported(trained, output)
    assert (output / "README.md").read_text() == "mine"
    (output / MARK).unlink()
    with pytest.raises(ConfigurationError, match=r"not an export \(it holds README\.md, \.\.\.\)"):
        exported(trained, output)
    with pytest.raises(ConfigurationError, match=r"README\.md: a file; give a folder"):
        exported(trained, output / "README.md")


def test_a_full_disk_leaves_what_was_there(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = exported(trained, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
        with pytest.raises(ConfigurationError, match=r"4\.3 MB are needed, 1\.0 MB were free"):
            exported(trained, output)

    def stop(error: BaseException) -> None:
        def raises(card: ExportedPolicy) -> str:
            raise error

        monkeypatch.setattr("igsearch.commands.export.model_card", raises)

    message = "No space left on device"
    for error in (OSError(errno.ENOSPC, message), Exception(f"{message} (os error 28)")):  # Python's, and tokenizers'
        stop(error)
        with pytest.raises(ConfigurationError, match=r"could not be written .*No space left.*4\.3 MB are needed"):
            exported(trained, output)
    stop(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        exported(trained, output, dtype="bfloat16")
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert list(tmp_path.iterdir()) == [output]


def test_the_command_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = str(tmp_path / "nowhere")
    monkeypatch.setattr(sys, "argv", ["export.py", nowhere, "--output", "x", "--merge"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "examples" / "export.py"), run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {nowhere}: not the folder of a run")


def test_the_upload_begins_when_the_folder_is_complete(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "my-agent"
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        held: list[set[str]] = []
        hub.seen = lambda path: held.append(files(output))
        exported(trained, output, push="me/my-agent", private=True)
        expected = files(output)
        assert {*MODEL_FILES, *TOKENIZER_FILES, *OWN_FILES} <= expected
        assert held == [expected] * len(held)
        assert hub.private == {"me/my-agent": True}
        assert {*hub.files["me/my-agent"]} >= expected - {MARK}
        assert hub.files["me/my-agent"]["model.safetensors"] == (output / "model.safetensors").read_bytes()
