"""Run by `test_loading.py` under a launcher: loads a policy and writes what it took as JSON."""

from __future__ import annotations

import builtins
import hashlib
import json
import resource
import sys
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import transformers.modeling_utils

from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.failures import end_process
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import LoraConfig, PolicyConfig
from algorithms.common.model.policy import Policy
from igsearch_env.errors import ConfigurationError


def peak() -> int:
    """Bytes of this process's memory at its peak, with pages of files that it has mapped."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: str, output: str) -> None:
    """Load the policy in `folder` as one of several processes."""
    processes = Processes.start(DistributedConfig(), "cpu")
    opened = list[str]()

    def counted(function: Any) -> Any:
        def call(file: Any, *arguments: Any, **options: Any) -> Any:
            if str(file).endswith(".safetensors"):
                opened.append(str(file))
            return function(file, *arguments, **options)

        return call

    safetensors.safe_open = counted(safetensors.safe_open)
    transformers.modeling_utils.safe_open = counted(transformers.modeling_utils.safe_open)  # type: ignore[attr-defined]
    builtins.open = counted(builtins.open)
    Policy.load(PolicyConfig(device="cpu"), processes)  # imports everything
    opened.clear()
    torch.manual_seed(0)  # of the adapters
    before = peak()
    try:
        policy = Policy.load(PolicyConfig(path=folder, device="cpu", lora=LoraConfig(rank=2)), processes)
    except ConfigurationError as error:
        Path(f"{output}.{processes.rank}").write_text(json.dumps({"error": str(error)}), encoding="utf-8")
        end_process()
        return
    digest = hashlib.sha256()
    for tensor in (*policy.model.parameters(), *policy.model.buffers()):
        digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    found = {
        "digest": digest.hexdigest(),
        "bytes": sum(p.nbytes for p in policy.model.parameters()),
        "grown": peak() - before,
        "opened": len(opened),
        "tied": tied,
        "eos": sorted(policy.tokenizer.eos_ids),
        "name": policy.model.name_or_path,
    }
    Path(f"{output}.{processes.rank}").write_text(json.dumps(found), encoding="utf-8")
    processes.close()
    end_process()


if __name__ == "__main__":
    main(*sys.argv[1:])
