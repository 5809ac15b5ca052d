"""The policy of a warm start on disk: whole or not there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from algorithms.common.base.files import flush_to_disk
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import load_model
from algorithms.common.run.checkpoint import write_policy
from algorithms.common.training.learner import Learner


def write_result(target: Path, policy: Policy, learner: Learner, card: str) -> None:
    """Write the policy and `card`, its README.md, to the folder `target`. Every process must call it.

    An adapter is merged, so that a run may add one of its own; it is kept in `adapter` beside `target`.
    """
    adapter = policy.adapter is not None
    # No folder of the final name until all is in it: by that name a warm start is known to be finished.
    written = target.with_name("adapter" if adapter else f".partial-whole-{target.name}")
    write_policy(written, policy, learner)

    def publish() -> None:
        whole = written
        if adapter:
            whole = target.with_name(f".partial-merged-{target.name}")
            shutil.rmtree(whole, ignore_errors=True)
            load_model(str(written), dtype=policy.model.dtype).save_pretrained(whole)
            policy.tokenizer.hf_tokenizer.save_pretrained(whole)
        (whole / "README.md").write_text(card, encoding="utf-8")
        for file in whole.rglob("*"):
            flush_to_disk(file)
        os.replace(whole, target)
        flush_to_disk(target.parent)

    learner.processes.run_on_main(publish)
