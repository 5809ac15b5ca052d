"""Commands that start several processes."""

from __future__ import annotations

import os
import sys

from paths import ROOT

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# Several processes can't share one GPU. A process that a signal ends prints the stacks of its threads.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "CUDA_VISIBLE_DEVICES": "",
    "PYTHONFAULTHANDLER": "1",
}
