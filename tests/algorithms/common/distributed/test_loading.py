"""Of several processes one reads the weights; the others get them, and hold no more than their copy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import ENVIRONMENT, TWO
from models import ARCHITECTURES, WINDOWED, save_tiny_policy, tiny_policy, tokenizer
from paths import ROOT
from transformers import Qwen2Config, Qwen2ForCausalLM

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.broadcast import _materialize, _tensors, load_once, without_weights

WORKER = Path(__file__).with_name("loading_worker.py")


def loaded(folder: Path, output: Path, launcher: tuple[str, ...]) -> list[dict[str, Any]]:
    """What each process found."""
    command = [*launcher, str(WORKER), str(folder), str(output)]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(path.read_text()) for path in sorted(output.parent.glob(f"{output.name}.*"))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 150 MB in float32, saved in bfloat16, with a tied output layer."""
    folder = tmp_path_factory.mktemp("model")
    shape = {"hidden_size": 512, "intermediate_size": 2_048, "num_attention_heads": 8, "num_key_value_heads": 2}
    config = Qwen2Config(**shape, num_hidden_layers=10, vocab_size=len(tokenizer()), tie_word_embeddings=True)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def test_two_processes_read_the_files_once_and_have_the_same_weights(model: Path, tmp_path: Path) -> None:
    first, second = loaded(model, tmp_path / "two", TWO)
    (alone,) = loaded(model, tmp_path / "one", (sys.executable,))
    assert first["bytes"] > 120e6
    for found in (first, second):
        assert {key: found[key] for key in ("digest", "tied", "eos", "name")} == {
            key: alone[key] for key in ("digest", "tied", "eos", "name")
        }
    assert alone["tied"]
    assert (first["opened"], second["opened"]) == (alone["opened"], 0)
    assert alone["opened"] > 0
    # Its own copy; the first process also maps the file, which is half as large.
    assert second["grown"] < 1.25 * second["bytes"]
    assert first["grown"] < 2.0 * first["bytes"]


def test_every_process_says_what_is_wrong_with_a_model(tmp_path: Path) -> None:
    save_tiny_policy(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    found = loaded(tmp_path / "model", tmp_path / "out", TWO)
    assert len(found) == 2
    assert found[0] == found[1]
    assert "can't be loaded" in found[0]["error"]


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *WINDOWED])
@torch.no_grad()
def test_a_model_without_weights_gets_them_back(architecture: str) -> None:
    model = tiny_policy(architecture).model
    copy = without_weights(model)
    assert all(tensor.is_meta for tensor in _tensors(copy).values())
    assert not any(tensor.is_meta for tensor in _tensors(model).values())
    _materialize(copy, torch.device("cpu"))
    for mine, theirs in zip(_tensors(copy).values(), _tensors(model).values(), strict=True):
        assert (mine.dtype, mine.shape, mine.requires_grad) == (theirs.dtype, theirs.shape, theirs.requires_grad)
        mine.data.copy_(theirs)
    ids = torch.randint(3, 500, (2, 30))
    assert torch.equal(copy(ids).logits, model(ids).logits)


def test_one_process_loads_as_before() -> None:
    module = torch.nn.Linear(2, 2)
    assert load_once(lambda: module, torch.device("cpu"), Processes()) is module
