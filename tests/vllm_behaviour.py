"""What vLLM does that engines rely on, as plain data: from the real one, or from `fake_vllm.py`, if installed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

DIGITS = 5  # of log-probs
CALLS = {  # that engines make
    "LLM": ("__init__", "collective_rpc", "reset_prefix_cache", "sleep", "wake_up"),
    "LLMEngine": ("add_request", "step", "has_unfinished_requests", "abort_request", "is_sleeping"),
    "EngineCore": ("shutdown",),
    "Worker": ("reload_weights",),
    "Platform": ("is_sleep_mode_available", "is_cpu"),
}


def behaviour(model: str, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """Greedy turns of the model, and what happens to requests; `prompts` are continued."""
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind

    llm = LLM(
        model=model,
        tokenizer=model,
        dtype="float32",
        gpu_memory_utilization=0.2,
        max_model_len=128,
        enable_prefix_caching=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        seed=0,
        enable_chunked_prefill=False,
        max_num_batched_tokens=256,
        enforce_eager=True,
    )
    engine = llm.llm_engine

    def params(length: int, **options: Any) -> Any:
        greedy = {"temperature": 0.0, "logprobs": 0, "skip_special_tokens": False} | options
        return SamplingParams(max_tokens=length, output_kind=RequestOutputKind.FINAL_ONLY, **greedy)

    def add(name: str, length: int, prompt: Sequence[int] = prompts[0], **options: Any) -> None:
        engine.add_request(name, {"type": "token", "prompt_token_ids": list(prompt)}, params(length, **options))

    def steps() -> list[list[str]]:
        names = []
        while engine.has_unfinished_requests():
            names.append([output.request_id for output in engine.step()])
        return names

    def turns(options: dict[str, Any]) -> list[dict[str, Any]]:
        for number, prompt in enumerate(prompts):
            add(str(number), 24, prompt, **options)
        outputs: dict[str, Any] = {}
        while engine.has_unfinished_requests():
            outputs |= {output.request_id: output for output in engine.step()}
        return [turn(outputs[str(number)]) for number in range(len(prompts))]

    found: dict[str, Any] = {"platform": [current_platform.is_sleep_mode_available(), current_platform.is_cpu()]}
    for name, length in (("a", 2), ("b", 6), ("c", 4)):
        add(name, length)
    found["finished by step"] = steps()
    found["turns to the end of a tag"] = turns({"stop": ["</search>"], "include_stop_str_in_output": True})
    found["sampled twice"] = turns({"temperature": 1.0, "seed": 7}) == turns({"temperature": 1.0, "seed": 7})
    found["too long"] = refused(lambda: add("long", 4, [7] * 200))
    found["unfinished after a refusal"] = engine.has_unfinished_requests()
    add("a", 20)
    engine.step()
    found["cache reset while a turn is written"] = llm.reset_prefix_cache()
    engine.abort_request(["a", "unknown"])
    found["after an abort"] = [engine.has_unfinished_requests(), llm.reset_prefix_cache()]
    llm.sleep(level=2)
    add("a", 2)
    found["asleep"] = [engine.is_sleeping(), len(engine.step()), engine.has_unfinished_requests()]
    found["woken in parts"] = [llm.wake_up(tags=["weights"]), engine.is_sleeping(), llm.wake_up(tags=["kv_cache"])]
    found["after waking"] = [engine.is_sleeping(), steps()]
    found["temperatures"] = [params(1, temperature=0.005).temperature, refused(lambda: params(1, temperature=2.5))]
    found["unknown argument"] = refused(lambda: LLM(model=model, nonsense=1))
    return found


def turn(output: Any) -> dict[str, Any]:
    """A finished turn: what engines read of it."""
    (written,) = output.outputs
    chosen = [row[token].logprob for token, row in zip(written.token_ids, written.logprobs, strict=True)]
    return {
        "finished": output.finished,
        "ids": list(written.token_ids),
        "log-probs": [round(float(x), DIGITS) + 0.0 for x in chosen],
        "finish_reason": written.finish_reason,
    }


def refused(call: Callable[[], object]) -> bool:
    """Whether a call raises an error."""
    try:
        call()
    except Exception:
        return True
    return False


def signatures(classes: dict[str, Any]) -> dict[str, dict[str, list[str]]]:
    """Parameters of each call, with their defaults if they are plain values."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, calls in CALLS.items():
        for call in calls:
            parameters = inspect.signature(getattr(classes[name], call)).parameters.values()
            found.setdefault(name, {})[call] = [described(p) for p in parameters if p.name != "self"]
    return found


def described(parameter: inspect.Parameter) -> str:
    """`name=default`; the name alone if it has none, and after * or ** if it takes any."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    default = parameter.default
    plain = default is None or isinstance(default, (bool, int, float, str))
    return f"{stars}{parameter.name}" + (f"={default!r}" if default is not parameter.empty and plain else "")
