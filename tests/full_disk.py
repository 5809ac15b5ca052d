"""A checkpoint of a sharded policy on a full disk, by the processes that a launcher started, for test_distributed.py.

full_disk.py FOLDER WHERE
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

from algorithms.common.distributed import tensor_files
from algorithms.common.distributed.config import DistributedConfig
from algorithms.common.distributed.failures import end_process
from algorithms.common.distributed.processes import Processes
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy, PolicyModule
from algorithms.common.run.checkpoint import CheckpointError, save_checkpoint
from algorithms.common.training.config import OptimizerConfig
from algorithms.common.training.learner import Learner


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main(folder: str, where: str) -> None:
    """Prints the error of every process."""
    config = DistributedConfig(sharding="fsdp2", timeout_minutes=4)
    processes = Processes.start(config, "cpu")
    policy = Policy.load(PolicyConfig(device="cpu"))
    learner = Learner(
        PolicyModule(policy),
        OptimizerConfig(),
        processes,
        config,
        lr=1e-3,
        weight_decay=0.0,
        pad_id=policy.tokenizer.pad_id,
        device=policy.device,
    )
    if where == "policy":
        Policy.save = no_space  # type: ignore[method-assign]
    else:
        tensor_files.save_file = no_space  # type: ignore[assignment]
    try:
        save_checkpoint(Path(folder), policy, learner, None, 1, {}, 2)
    except CheckpointError as error:
        print(f"reported {processes.rank}: {error}", flush=True)
    processes.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
    end_process()
