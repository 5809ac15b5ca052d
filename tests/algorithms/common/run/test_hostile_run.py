"""A run folder and a policy folder of anyone: opening them runs no code, whatever file holds a pickle or names one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import hostile
import pytest
import torch
from models import learner_of, tiny_policy
from safetensors.torch import save_file

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.run.checkpoint import (
    CheckpointError,
    latest_intact,
    load_optimizers,
    load_weights,
    save_checkpoint,
)
from igsearch_env.errors import IGSearchError
from igsearch_env.world.bundled import POLICY_FOLDER
from retrievers import BM25Retriever, Passage, RetrieverError
from retrievers.digests import folder_digest
from retrievers.index.encoder import SentenceEncoder
from retrievers.rerank import RerankingRetriever


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of a tiny policy."""
    policy = tiny_policy()
    learner = learner_of(policy)
    ids_BT = torch.arange(3, 13).reshape(2, 5)
    learner.module(ids_BT, torch.arange(5).expand(2, 5) > 0)[0].sum().backward()
    learner.optimizer.step()
    return save_checkpoint(tmp_path / "checkpoints", policy, learner, None, 1, {}, 2)


def resume(checkpoint: Path) -> None:
    """Read a checkpoint as a run does."""
    found, _ = latest_intact(checkpoint.parent)
    assert found == checkpoint
    policy = tiny_policy(seed=1)
    load_weights(checkpoint, policy)
    load_optimizers(checkpoint, learner_of(policy), None)


def sign(checkpoint: Path) -> None:
    """Make state.json name the files as they are now, as someone who forges a checkpoint would."""
    state = json.loads((checkpoint / "state.json").read_text())
    files = (file for file in checkpoint.rglob("*") if file.is_file() and file.name != "state.json")
    (checkpoint / "state.json").write_text(json.dumps({**state, "files": folder_digest(checkpoint, files)}))


BESIDE = ("optimizer/.metadata", "optimizer/__0_0.distcp", "optimizer.pt", "critic.pt", "critic/.metadata")
INSTEAD = ("state.json", "model.safetensors", "optimizer/00000.safetensors", "optimizer/index.json")


@pytest.mark.parametrize("name", BESIDE)
def test_a_pickle_beside_a_checkpoint_is_never_read(name: str, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / name).parent.mkdir(exist_ok=True)
    (checkpoint / name).write_bytes(hostile.pickled(tmp_path / "ran"))
    resume(checkpoint)
    sign(checkpoint)
    resume(checkpoint)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", INSTEAD)
def test_a_pickle_in_place_of_a_file_is_refused(name: str, signed: bool, checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / name).write_bytes(hostile.pickled(tmp_path / "ran"))
    if signed and name != "state.json":
        sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"damaged") as error:
        resume(checkpoint)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "piece",
    [
        ["../../elsewhere.safetensors", 0, 1],
        ["00000.safetensors", 0, 10**30],
        ["00000.safetensors", 1, 2],
        ["00007.safetensors", 0, 1],
        [["00000.safetensors"], 0, 1],
        "00000.safetensors",
    ],
)
def test_a_forged_index_of_tensors_is_refused(piece: object, checkpoint: Path) -> None:
    path = checkpoint / "optimizer" / "index.json"
    index = json.loads(path.read_text())
    first = next(iter(index["tensors"].values()))
    first["pieces"] = [piece]
    path.write_text(json.dumps(index))
    sign(checkpoint)
    with pytest.raises(CheckpointError, match=r"step-000001: damaged"):
        resume(checkpoint)


def test_tensors_of_another_shape_or_of_a_foreign_optimizer_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "optimizer" / "index.json"
    index = json.loads(path.read_text())
    for change in (
        {"optimizer/x.step": {"shape": [], "dtype": "float32", "pieces": [["00000.safetensors", 0, 1]]}},
        {},
    ):
        tensors = {**index["tensors"], **change}
        if not change:
            first = next(name for name in tensors if name.endswith("exp_avg"))
            tensors[first] = {**tensors[first], "shape": [10**9, 10**9]}
        path.write_text(json.dumps({**index, "tensors": tensors}))
        sign(checkpoint)
        with pytest.raises(CheckpointError, match=r"damaged.*(which this algorithm|has shape \[1000000000)"):
            resume(checkpoint)


# ---------------------------------------------------------------- model folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the bundled policy, with a module that must never be imported."""
    copy = shutil.copytree(POLICY_FOLDER, tmp_path / "model")
    (copy / "modeling_evil.py").write_text(hostile.module(tmp_path / "ran"))
    return copy


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None removes one."""
    content = {**(json.loads(path.read_text()) if path.is_file() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


AUTO = {"AutoConfig": "modeling_evil.EvilConfig", "AutoModelForCausalLM": "modeling_evil.EvilModel"}
EVIL = {
    "code of an unknown model": lambda f, m: edit(f / "config.json", model_type="evil", auto_map=AUTO),
    "a kernel": lambda f, m: edit(f / "config.json", attn_implementation="someone/kernel"),
    "a pickle as weights": lambda f, m: (
        (f / "model.safetensors").unlink(),
        (f / "pytorch_model.bin").write_bytes(hostile.pickled(m)),
    ),
    "a pickle named safetensors": lambda f, m: (f / "model.safetensors").write_bytes(hostile.pickled(m)),
    "no weights": lambda f, m: save_file({"x": torch.zeros(1)}, f / "model.safetensors", {"format": "pt"}),
    "a damaged tokenizer": lambda f, m: (f / "tokenizer.json").write_text('{"version": "1.0"'),
    "an adapter by code": lambda f, m: edit(
        f / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(f), megatron_config={"a": 1}
    ),
    "an adapter of a pickle": lambda f, m: (
        edit(
            f / "adapter_config.json", peft_type="LORA", r=2, target_modules=["q_proj"], base_model_name_or_path=str(f)
        ),
        (f / "adapter_model.bin").write_bytes(hostile.pickled(m)),
    ),
    "deep brackets": lambda f, m: (f / "config.json").write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", EVIL)
def test_a_hostile_policy_is_refused_in_one_line_and_runs_nothing(kind: str, folder: Path, tmp_path: Path) -> None:
    EVIL[kind](folder, tmp_path / "ran")
    with pytest.raises(IGSearchError) as error:
        Policy.load(PolicyConfig(path=str(folder), device="cpu"))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_known_model_is_ignored(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_evil.EvilModel"})
    tokenizers = {"AutoTokenizer": ["modeling_evil.Evil", None]}
    edit(folder / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=tokenizers)
    Policy.load(PolicyConfig(path=str(folder), device="cpu"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["modeling_evil.Evil", "os.path", 3])
def test_an_encoder_with_modules_of_its_own_is_refused(kind: object, folder: Path, tmp_path: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(RetrieverError, match=r"modules\.json: module type .*only modules of sentence_transformers"):
        SentenceEncoder(str(folder), device="cpu")
    bm25 = BM25Retriever([Passage("1", "Title", "some words")])
    with pytest.raises(RetrieverError, match=r"modules\.json: module type"):
        RerankingRetriever(bm25, str(folder))
    assert not (tmp_path / "ran").exists()
