"""Requests whose answers by a real vLLM are recorded, and how the fakes of the tests are compared with them.

`tests/golden/vllm/NAME.json` holds the exchanges of `EXCHANGES[NAME]`. `tests/with_vllm/test_rollouts.py` and
`tests/with_vllm/test_adapters.py` compare the recordings with the real server, and write them with
IGSEARCH_RECORD_VLLM=1;
`tests/algorithms/common/rollout/test_fake_vllm.py` compares the fakes with the recordings.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import torch
from models import bundled_policy, turn_end
from paths import TESTS

from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.lora import adapter_config, adapter_weights
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.engines.vllm_local import sampling
from algorithms.common.rollout.engines.weight_files import WeightFiles
from algorithms.common.rollout.probe import _random_adapter
from igsearch_env.endpoint_forms import VLLM_SAMPLING

Json = dict[str, Any]
FOLDER = TESTS / "golden" / "vllm"
NAME = "bundled"  # --served-model-name
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
QUESTION = "Where was Zose Drartov born?\n"
# What the answers say of this call or this machine alone, and what nobody reads in the server's configuration.
CALL = {"id", "created", "root", "request_id"}
CONFIGURATION = {
    "model_config": {"logprobs_mode", "dtype", "max_model_len"},
    "lora_config": {"max_lora_rank", "lora_dtype", "target_modules"},
}
CLOSE = 1e-3  # nats: the fakes compute in other kernels


def _exchanges() -> dict[str, list[Json]]:
    policy = bundled_policy()
    encode = policy.tokenizer.encode
    prompt = list(encode(QUESTION))

    def turn(**changes: Any) -> Json:
        options = sampling(turn_end(policy), 3, 24, 0.0)
        return {"model": NAME, "prompt": prompt, "return_token_ids": True, **options, **changes}

    def score(**fields: Any) -> Json:  # at temperature 0, so that the token after the prompt is always the same
        return {"model": NAME, "max_tokens": 1, **VLLM_SAMPLING, "temperature": 0.0, **fields}

    def get(name: str, path: str) -> Json:
        return {"name": name, "method": "GET", "path": path, "body": None}

    def post(name: str, path: str, body: Json | None = None) -> Json:
        return {"name": name, "method": "POST", "path": path, "body": body}

    def reload(name: str, path: str) -> Json:
        return post(name, "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})

    texts = [prompt, list(encode("A city"))]
    answer = [text + list(encode(" born city")) for text in texts]
    eos = policy.tokenizer.hf_tokenizer.eos_token_id
    info, completions = "/server_info?config_format=json", "/v1/completions"
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    rollouts = [
        get("health", "/health"),
        get("models", "/v1/models"),
        get("configuration", info),
        post("greedy turn", completions, turn()),
        post("sampled turn", completions, turn(temperature=1.0)),
        post("long turn", completions, turn(max_tokens=3)),
        post("prompt too long", completions, turn(prompt=prompt * 150)),
        post("unknown model", completions, turn(model="another")),
        post("turn of another temperature", completions, turn(temperature=3.0)),
        reload("reload", "MODEL"),
        post("reset of the prefix cache", "/reset_prefix_cache"),
        get("adapters are off", load),
    ]
    scoring = [
        get("models", "/v1/models"),
        post(
            "labels",
            completions,
            score(prompt=texts, logprobs=1, logprob_token_ids=[7, 9], return_tokens_as_token_ids=True),
        ),
        post("log-probs of prompts", completions, score(prompt=answer, prompt_logprobs=0)),
        post("echo", completions, score(prompt=answer, logprobs=1, echo=True, return_tokens_as_token_ids=True)),
        post("five log-probs", completions, score(prompt=[prompt], logprobs=5, return_tokens_as_token_ids=True)),
        post(
            "special token",
            completions,
            {
                "model": NAME,
                "prompt": [eos],
                "allowed_token_ids": [eos],
                "max_tokens": 1,
                "skip_special_tokens": True,
                "ignore_eos": True,
            },
        ),
        post("prompt too long", completions, score(prompt=[prompt * 150], prompt_logprobs=0)),
        post("id out of the vocabulary", completions, score(prompt=[[10**6]], prompt_logprobs=0)),
        post("unknown model", completions, {**score(prompt=texts), "model": "another"}),
        post("tokenise", "/tokenize", {"model": NAME, "prompt": QUESTION, "add_special_tokens": False}),
        post("detokenise", "/detokenize", {"model": NAME, "tokens": prompt}),
    ]
    chat = [
        post(
            "chat",
            "/v1/chat/completions",
            {
                "model": NAME,
                "messages": [{"role": "user", "content": QUESTION}],
                "temperature": 1.0,
                "seed": 3,
                "max_tokens": 16,
            },
        ),
    ]
    adapters = [
        get("configuration", info),
        get("adapters are on", load),
        post("load", load, {"lora_name": "first", "lora_path": "ADAPTER"}),
        post("load again", load, {"lora_name": "first", "lora_path": "ADAPTER"}),
        post("load without a folder", load, {"lora_name": "second", "lora_path": "/nowhere/adapter"}),
        get("models", "/v1/models"),
        post("greedy turn", completions, turn(model="first")),
        post("greedy turn without an adapter", completions, turn()),
        post("unload", unload, {"lora_name": "first"}),
        post("unload again", unload, {"lora_name": "first"}),
        post("turn of an adapter that is gone", completions, turn(model="first")),
    ]
    broken = [reload("reload without a folder", "/nowhere/weights")]
    return {"rollouts": rollouts, "broken": broken, "scoring": scoring, "chat": chat, "adapters": adapters}


EXCHANGES = _exchanges()


def random_adapter(folder: Path) -> Path:
    """An adapter in peft's form that changes all layers, the same each time."""
    torch.manual_seed(0)
    policy = Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=8)))
    with torch.no_grad(), _random_adapter(policy.model):
        return WeightFiles(folder).write_adapter(
            adapter_weights(policy.model), adapter_config(policy.model).save_pretrained
        )


def asked(address: str, exchanges: list[Json], paths: Mapping[str, Path]) -> list[Json]:
    """The exchanges with the answers of a server. `paths`: of the folders that requests name in capitals."""

    def put_in(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put_in(item) for key, item in value.items()}
        return str(paths[value]) if isinstance(value, str) and value in paths else value

    found = []
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
        for exchange in exchanges:
            answer = client.request(exchange["method"], exchange["path"], json=put_in(exchange["body"]))
            text = answer.text
            for name, path in paths.items():
                text = text.replace(str(path), name)
            content = json.loads(text) if "json" in answer.headers.get("content-type", "") else text
            found.append({**exchange, "status": answer.status_code, "answer": _plain(content)})
    return found


def _plain(content: Any) -> Any:
    """An answer without what is of one call or machine."""
    if isinstance(content, dict):
        if "vllm_config" in content:
            read = content["vllm_config"]
            content = {
                "vllm_config": {
                    part: read[part] and {key: read[part].get(key) for key in sorted(keys & read[part].keys())}
                    for part, keys in CONFIGURATION.items()
                    if part in read
                }
            }
        return {key: _plain(value) for key, value in content.items() if key not in CALL}
    return [_plain(item) for item in content] if isinstance(content, list) else content


def recorded(name: str) -> list[Json]:
    """The recording of that name."""
    exchanges: list[Json] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return exchanges


def compare_with_recording(name: str, address: str, paths: Mapping[str, Path]) -> None:
    """Assert that a real server answers as recorded; with IGSEARCH_RECORD_VLLM=1, write the recording first."""
    found = asked(address, EXCHANGES[name], paths)
    if os.environ.get("IGSEARCH_RECORD_VLLM"):
        FOLDER.mkdir(exist_ok=True)
        lines = ",\n".join(json.dumps(exchange, ensure_ascii=False) for exchange in found)
        (FOLDER / f"{name}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    for now, then in zip(found, recorded(name), strict=True):
        assert_same_form(then, now, now["name"])
        assert_same_form(now, then, now["name"])


def assert_same_form(fake: Any, real: Any, where: str, same_numbers: bool | None = None) -> None:
    """Assert that what a fake answers is a part of a real answer: keys, types, numbers, and no text but names.

    Numbers of sampled turns depend on random generators, and are compared by their type.
    """
    if same_numbers is None:
        same_numbers = "sampled" not in where and "chat" not in where
    match fake:
        case dict():
            assert isinstance(real, dict), f"{where}: {real!r} has no keys"
            assert fake.keys() <= real.keys(), f"{where}: {sorted(fake.keys() - real.keys())} are not vLLM's"
            for key, value in fake.items():
                assert_same_form(value, real[key], f"{where}/{key}", same_numbers)
        case list():
            assert isinstance(real, list), f"{where}: {real!r} is no list"
            if same_numbers and fake:
                assert len(fake) == len(real), where
            for place, (mine, theirs) in enumerate(zip(_sorted(fake), _sorted(real), strict=False)):
                assert_same_form(mine, theirs, f"{where}/{place}", same_numbers)
        case float() | int() if not isinstance(fake, bool):
            assert isinstance(real, (int, float)), f"{where}: {real!r} is no number"
            assert not same_numbers or abs(fake - real) < CLOSE, f"{where}: {fake} is {real}"
        case str() if where.rpartition("/")[2] in ("message", "detail", "answer", "system_fingerprint"):
            assert isinstance(real, str), f"{where}: {real!r} is no text"
        case _:
            assert type(fake) is type(real), f"{where}: {fake!r} is {real!r}"
            assert fake == real or not same_numbers, f"{where}: {fake!r} is {real!r}"


def _sorted(items: list[Any]) -> list[Any]:
    key: Callable[[Any], Any] = lambda item: item["index"]  # noqa: E731 # choices may come in any order
    return sorted(items, key=key) if items and isinstance(items[0], dict) and "index" in items[0] else items
