"""Options of `igsearch evaluate` that have no effect are refused, by name; what is recorded holds no credentials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from igsearch.commands import evaluate
from igsearch.evaluation.config import EngineConfig
from igsearch_env.errors import ConfigurationError

SCRIPTED = {"policy": "search-question"}
VLLM, SERVER = EngineConfig("vllm"), EngineConfig("vllm_server", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "policy='search-question' with dtype: a scripted policy has no model"),
        ({"dtype": "float32"}, "with dtype: a scripted policy"),
        ({"chat": True}, "with chat: a scripted policy"),
        ({"chat": True, "context_length": 512}, "with chat and context_length: a scripted policy"),
        ({"chat": True, "chat_template_arguments": '{"x": 1}'}, "with chat and chat_template_arguments: a scripted"),
        ({"chat_template_date": "2026-01-01"}, "with chat_template_date: a scripted"),
        ({"max_new_tokens": 64}, "with max_new_tokens: a scripted"),
        ({"max_observation_tokens": 64}, "with max_observation_tokens: a scripted"),
        ({"kv_cache_tokens": 64}, "with kv_cache_tokens: a scripted"),
        ({"prompt": "search_r1"}, "with prompt: a scripted"),
        ({"system_prompt": "Be brief."}, "with system_prompt: a scripted"),
        ({"rollout": EngineConfig("transformers")}, "with rollout.engine: a scripted"),
        ({"rollout": SERVER}, "with rollout.engine and rollout.server_url: a scripted"),
    ],
    ids=str,
)
def test_a_scripted_policy_refuses_the_options_of_a_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate.main(evaluate.Args(**SCRIPTED, **options))


@pytest.mark.parametrize(
    "options",
    [{"top_k": 5}, {"max_searches": 2}, {"protocol": "autorefine"}, {"attempts": 2}, {"batch_size": 3}],
    ids=str,
)
def test_a_scripted_policy_plays_by_the_rules_of_an_episode(options: dict[str, Any]) -> None:
    evaluate.main(evaluate.Args(**SCRIPTED, **options, limit=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat16"}, "with dtype: recorded answers need neither a policy nor a corpus"),
        ({"rollout": VLLM, "top_k": 5}, "with top_k and rollout.engine: recorded answers"),
        ({"batch_size": 3, "rerank": "x"}, "with rerank and batch_size: recorded answers"),
    ],
    ids=str,
)
def test_recorded_answers_refuse_the_options_of_playing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate.main(evaluate.Args(answers=Path("answers.json"), **options))


@pytest.mark.parametrize("engine", [VLLM, SERVER], ids=["vllm", "vllm_server"])
def test_vllm_takes_no_size_of_the_cache(engine: EngineConfig) -> None:
    with pytest.raises(ConfigurationError, match="with kv_cache_tokens: vLLM sizes its KV cache itself"):
        evaluate.main(evaluate.Args(rollout=engine, kv_cache_tokens=64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "vllm_server"}, "vllm_server needs an address"),
        ({"server_url": "http://127.0.0.1:9"}, "no other engine takes one"),
        ({"engine": "vllm", "server_url": "http://127.0.0.1:9"}, "no other engine takes one"),
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"gpu_memory_utilization": 0.9}, "only vllm in this process takes a fraction"),
        ({"engine": "transformers", "gpu_memory_utilization": 0.9}, "only vllm in this process takes a fraction"),
        ({"engine": "vllm", "gpu_memory_utilization": 1.5}, "gpu_memory_utilization=1.5: must be from 0.01 to 1"),
    ],
    ids=str,
)
def test_options_of_an_engine_that_does_not_take_them_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        EngineConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0: must be at least 1"),
        ({"kv_cache_tokens": 0}, "kv_cache_tokens=0: must be at least 1"),
        ({"batch_size": 0}, "batch_size=0: must be at least 1"),
        ({"limit": -1}, "limit=-1: must be at least 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate.main(evaluate.Args(policy="no/such-model", **options))


def test_the_password_of_a_server_is_not_written() -> None:
    args = evaluate.Args(rollout=EngineConfig("vllm_server", "http://me:secret@127.0.0.1:9"), policy="x")
    assert "secret" not in repr(args)
    assert "secret" not in json.dumps(evaluate.settings(args))
    assert evaluate.settings(args)["rollout"]["engine"] == "vllm_server"


def test_several_processes_do_not_score_recorded_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigurationError, match=r"answers=.*in 4 processes.*without torchrun"):
        evaluate.main(evaluate.Args(answers=tmp_path / "answers.json"))


@pytest.mark.parametrize(
    ("output", "rank", "message"),
    [
        ("out.json", "0", r"^lost; the same command resumes from .*out\.json\.partial\.jsonl$"),
        (None, "0", r"^lost; answers are not kept without --output$"),
        ("out.json", "1", r"^lost$"),
    ],
    ids=["kept", "not kept", "another process"],
)
def test_a_stopped_evaluation_says_how_to_resume_once(
    output: str | None, rank: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    args = evaluate.Args(output=None if output is None else tmp_path / output)
    with pytest.raises(evaluate.StoppedError, match=message), evaluate.resumable(args, None):
        raise ConfigurationError("lost")
    resume = message.removeprefix("^lost").removesuffix("$").removeprefix("; ")
    with pytest.raises(KeyboardInterrupt, match=rf"^(interrupted: {resume})?$"), evaluate.resumable(args, None):
        raise KeyboardInterrupt


@pytest.mark.parametrize("output", [True, False])
def test_an_interruption_before_the_first_question_promises_nothing(
    output: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "main", interrupted)
    monkeypatch.setattr("sys.argv", ["evaluate", *(("--output", str(tmp_path / "out.json")) if output else ())])
    monkeypatch.setattr(evaluate, "raise_on_sigterm", lambda: None)
    monkeypatch.setattr("sys.excepthook", None)  # which is replaced, to print the message
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted$"):
        evaluate.command()
