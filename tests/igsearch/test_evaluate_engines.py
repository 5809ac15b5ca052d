"""`igsearch evaluate` with every engine: the predictions of the built-in decoder, and what ends it is said.

vLLM is a fake here (`fake_vllm.py`) that generates with the bundled policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch
from models import bundled_policy
from services import free_port, serving

from algorithms.common.evaluation.results import read_result
from algorithms.common.evaluation.scores import QuestionResult
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.without_weights import policy_without_weights
from igsearch.commands import evaluate
from igsearch.evaluation.config import EngineConfig
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import POLICY_FOLDER

MODEL = str(POLICY_FOLDER)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake package, and what vLLM in process sets for good, restored."""
    fake_vllm.install(monkeypatch)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@contextmanager
def engine(name: str, model: str = MODEL, **options: Any) -> Iterator[EngineConfig]:
    """The section `rollout`; a server runs meanwhile."""
    with ExitStack() as stack:
        address = ""
        if name == "vllm_server":
            address = stack.enter_context(serving(fake_vllm.Server(model, **options).app))
        yield EngineConfig(name, address)


def rows(output: Path, **options: Any) -> list[QuestionResult]:
    """The rows of an evaluation of fourteen questions, of a file that it writes."""
    evaluate.main(evaluate.Args(**{"limit": 2, "batch_size": 5, "output": output, **options}))
    return [row for members in read_result(output).rows.values() for row in members]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[QuestionResult]:
    """What the built-in decoder answers."""
    return rows(tmp_path_factory.mktemp("builtin") / "out.json")


@pytest.mark.parametrize("name", ["transformers", "vllm", "vllm_server"])
def test_every_engine_gives_the_answers_of_the_built_in_decoder(
    name: str, expected: list[QuestionResult], tmp_path: Path
) -> None:
    at_once = 14 if name == "transformers" else 5  # each of its calls takes seconds
    with engine(name) as config:
        assert rows(tmp_path / "out.json", rollout=config, batch_size=at_once) == expected
    result = read_result(tmp_path / "out.json")
    assert result.header["settings"]["rollout"]["engine"] == name
    assert result.fingerprint is not None
    assert "engine" not in result.fingerprint  # it changes rounding alone
    assert result.fingerprint["decoding"]["dtype"] == "float32"


@pytest.mark.parametrize(("name", "by_the_fake"), [("vllm", 1), ("vllm_server", 0)])
def test_no_weights_are_loaded_where_an_engine_has_them(
    name: str, by_the_fake: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[PolicyConfig] = []
    load = Policy.load
    with engine(name) as config, monkeypatch.context() as patched:  # a server has loaded its model before
        patched.setattr(Policy, "load", lambda config: loaded.append(config) or load(config))  # type: ignore[func-returns-value]
        rows(tmp_path / "out.json", rollout=config, limit=1)
        assert len(loaded) == by_the_fake


def test_a_policy_without_weights_reads_and_ends_turns_as_the_policy_does() -> None:
    empty, full = policy_without_weights(PolicyConfig()), bundled_policy()
    assert empty.device.type == "meta"
    assert (empty.context_length, empty.tokenizer.eos_ids) == (full.context_length, full.tokenizer.eos_ids)
    assert empty.tokenizer.encode_prompt("Where?") == full.tokenizer.encode_prompt("Where?")
    assert policy_without_weights(PolicyConfig(context_length=99)).context_length == 99


def test_a_folder_that_is_damaged_is_named_without_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"policy\.path=.* can't be loaded"):
        policy_without_weights(PolicyConfig(path=str(tmp_path)))
    with pytest.raises(ConfigurationError, match=r"no config\.json in \./nowhere"):
        policy_without_weights(PolicyConfig(path="./nowhere"))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the bundled policy that changes what it answers."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = Policy.load(PolicyConfig(device="cpu", lora=LoraConfig(rank=2)))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in policy.adapter.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    policy.save(folder)
    return folder


def test_the_weights_of_an_adapter_are_sent_to_vllm(
    adapter: Path, expected: list[QuestionResult], tmp_path: Path
) -> None:
    merged = rows(tmp_path / "builtin.json", policy=str(adapter), limit=1)
    assert merged != [row for row in expected if row.id in {other.id for other in merged}]
    assert rows(tmp_path / "vllm.json", policy=str(adapter), limit=1, rollout=EngineConfig("vllm")) == merged
    with (
        engine("vllm_server") as config,
        pytest.raises(ConfigurationError, match=r"is an adapter, .*merge it into its model \(igsearch export\)"),
    ):
        rows(tmp_path / "server.json", policy=str(adapter), rollout=config)


def test_a_server_of_another_model_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    bundled_policy().save(other)
    with (
        engine("vllm_server", str(other)) as config,
        pytest.raises(ConfigurationError, match=r"serves '.*other', but the policy is 'bundled': .*served-model-name"),
    ):
        rows(tmp_path / "out.json", rollout=config)


def test_the_precision_is_that_of_the_server(tmp_path: Path) -> None:
    with engine("vllm_server", dtype="torch.bfloat16") as config:
        rows(tmp_path / "out.json", rollout=config, limit=1)
        fingerprint = read_result(tmp_path / "out.json").fingerprint
        assert fingerprint is not None
        assert fingerprint["decoding"]["dtype"] == "bfloat16"
        with pytest.raises(ConfigurationError, match=r"dtype='float16': .*runs in bfloat16; leave the option out"):
            rows(tmp_path / "other.json", rollout=config, dtype="float16")


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RuntimeError, match=rf"{address}.* can't be connected to for GET /health .*check that it runs"):
        rows(tmp_path / "out.json", rollout=EngineConfig("vllm_server", address))


def test_a_server_that_ends_leaves_its_answers_and_another_one_resumes(
    expected: list[QuestionResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[None] = []
    generate = fake_vllm.Core.generate

    def ends(core: fake_vllm.Core, *arguments: Any) -> Any:
        served.append(None)
        if len(served) > 20:
            raise SystemError("out of memory")
        return generate(core, *arguments)

    output = tmp_path / "out.json"
    with engine("vllm_server") as config:
        monkeypatch.setattr(fake_vllm.Core, "generate", ends)
        with pytest.raises(
            evaluate.StoppedError, match=r"answered POST /v1/completions with status 500.*the same command resumes from"
        ):
            rows(output, rollout=config)
    kept = output.with_name("out.json.partial.jsonl").read_text().splitlines()[1:]
    assert 0 < len(kept) < len(expected)
    monkeypatch.setattr(fake_vllm.Core, "generate", generate)
    with engine("vllm_server") as config:
        assert rows(output, rollout=config) == expected
