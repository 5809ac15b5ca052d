"""Export a trained policy as a folder that transformers, vLLM and the Hugging Face Hub accept, with a model card.

    igsearch export runs/ig_grpo-seed0 --output my-agent --dtype bfloat16
    igsearch export runs/ig_grpo-seed0 --output my-agent --push OWNER/my-agent --private

The folder has weights (safetensors, sharded by transformers if large), configuration, tokenizer with its chat template
and README.md, but no optimizer or training state. An adapter (LoRA) is merged into its base model, in float32;
`--no-merge` exports only the adapter. The generation settings are those of training: the end-of-turn tokens of the
policy, without the penalties and sampling defaults of the base model, which would change its output.

The folder is written atomically. An earlier export in its place is replaced, unless it was edited. `--push` uploads it
when it is complete, with the token of `hf auth login` or HF_TOKEN.
"""

from __future__ import annotations

import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.files import replacing
from algorithms.common.base.output_path import check_output_folder
from algorithms.common.export.facts import describe
from algorithms.common.export.folder import check_replaceable, write_mark
from algorithms.common.export.hub import HubError, check_target, push
from algorithms.common.export.model_card import model_card
from algorithms.common.export.trained_policy import find_policy
from algorithms.common.model.config import Dtype
from igsearch_env.errors import ConfigurationError, IGSearchError, check_literals
from retrievers.program import ends_in_one_line

SMALL_FILES = (".json", ".txt", ".model", ".jinja")  # configurations and tokenizers
CARD_SIZE = 2**16  # bytes, including the unused space of disk blocks


@dataclass(frozen=True)
class Args:
    """Options of the command."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    output: Path
    """Output folder; its name is the name of the model in the card."""
    checkpoint: str = "final"
    """final (of a finished run), best (by validation), last, or a checkpoint by name (step-000020)."""
    dtype: Dtype | None = None
    """Precision of the exported weights; None: as trained."""
    merge: bool = True
    """Merge an adapter into its base model; otherwise export only the adapter."""
    push: str = ""
    """Repository on the Hugging Face Hub, OWNER/NAME, to upload the complete folder to. Empty: no upload."""
    private: bool = False
    """Make the repository private; one that exists must be."""

    def __post_init__(self) -> None:
        check_literals(self)


def main(args: Args) -> None:
    """Export, and print the remaining steps."""
    if args.push:
        check_target(args.push)  # before the work of an export
    elif args.private:
        raise ConfigurationError("--private without --push: only a repository on the Hub can be private")
    check_output_folder(args.output, "--output")
    check_replaceable(args.output)
    trained = find_policy(args.run, args.checkpoint)
    if trained.adapter is None and not args.merge:
        raise ConfigurationError(
            f"--no-merge: {trained.folder} holds a complete model, not an adapter; omit the option"
        )

    from algorithms.common.export.weights import adapter_alone, whole_model  # slow: torch

    quiet()
    if args.merge:
        settings = trained.settings.get("policy", {})
        dtype, chat = args.dtype or settings.get("dtype") or "float32", bool(settings.get("chat"))
        weights = whole_model(trained.folder, dtype, merge=trained.adapter is not None, chat=chat)
    else:
        weights = adapter_alone(trained.folder, args.dtype)
    card = describe(trained, args.output.resolve().name, weights.dtype, merged=args.merge)
    small = sum(path.stat().st_size for path in trained.folder.iterdir() if path.suffix in SMALL_FILES)
    with replacing(args.output, weights.size + small + CARD_SIZE) as partial:
        weights.save(partial)
        (partial / "README.md").write_text(model_card(card), encoding="utf-8")
        for file in partial.iterdir():
            shutil.copymode(partial / "README.md", file)  # safetensors creates files that other users can't read
        write_mark(partial, {"run": args.run.resolve().name, "step": card.step, "dtype": card.dtype})
    policy = f"{args.checkpoint} policy of {args.run}{'' if card.step is None else f', step {card.step}'}"
    print(f"{args.output}: {policy}, {card.dtype}, {weights.size / 1e6:,.1f} MB of weights")
    if card.base_on_hub:
        print(f"README.md names {card.base} as its base model on the Hub")
    print("README.md names no licence yet: choose one before you publish it")
    if args.push:
        try:
            print(f"uploaded to {push(args.output, args.push, private=args.private)}")
        except KeyboardInterrupt:
            raise HubError(f"interrupted: {args.output} is complete, and not uploaded") from None


def quiet() -> None:
    """Disable progress bars and internal warnings of libraries."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def command() -> None:
    """Export from the command line."""
    options = parse_options(Args, description=__doc__)
    with ends_in_one_line(IGSearchError, OSError, interrupted=f"interrupted: {options.output} is unchanged"):
        main(options)
