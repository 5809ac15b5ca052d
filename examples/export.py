"""Export a trained policy as a folder that transformers, vLLM and the Hugging Face Hub accept, with a model card.

    python examples/export.py runs/ig_grpo-seed0 --output my-agent --dtype bfloat16

Weights (safetensors, sharded by transformers where they are large), configuration, tokenizer with its chat template and
README.md; nothing of the optimizer or the training state. An adapter (LoRA) is merged into its base model, in float32;
`--merge False` exports the adapter alone. The generation settings are those of training: the policy's ends of turn,
and none of the base model's penalties and sampling defaults, which would change what it writes.

The folder is whole or not there. An earlier export in its place is replaced, unless it was edited.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import yaml

from algorithms.common.checkpoint import checkpoints
from algorithms.common.logs import read_metrics
from algorithms.common.lora import ADAPTER_FILE, load_merged
from algorithms.common.model_card import ExportedPolicy, model_card
from algorithms.common.policy import DTYPES
from algorithms.common.results import Result, read_result
from algorithms.common.tokens import Tokens
from igsearch_env.errors import ConfigurationError, IGSearchError, check_choice
from igsearch_env.world.bundled import POLICY_FOLDER

MARK = "igsearch_export.json"  # in a folder that this script wrote: what it wrote there
ADAPTER_WEIGHTS = "adapter_model.safetensors"
SMALL_FILES = (".json", ".txt", ".model", ".jinja")  # configurations and tokenizers
CARD_SIZE = 2**16  # bytes, with what blocks of the disk waste


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run."""
    output: Path
    """Folder to write; its name is the model's in the card."""
    checkpoint: str = "final"
    """final (of a finished run), best (by validation), last, or a checkpoint by name (step-000020)."""
    dtype: str | None = None
    """Of the weights: float32, bfloat16 or float16. None: as they were trained."""
    merge: bool = True
    """Merge an adapter into its base model; False: export the adapter alone."""


def main(args: Args) -> None:
    """Export, and say what is left to do."""
    if args.dtype is not None:
        check_choice("dtype", args.dtype, DTYPES)
    settings = read_settings(args.run)
    folder, step = find_policy(args.run, args.checkpoint)
    adapter = read_json(folder / ADAPTER_FILE)
    if adapter is None and not args.merge:
        raise ConfigurationError(f"merge=False: {folder} holds a whole model and no adapter; leave the option out")
    check_replaceable(args.output)
    quiet()
    if adapter is None or args.merge:
        dtype = args.dtype or settings.get("policy", {}).get("dtype") or "float32"
        chat = bool(settings.get("policy", {}).get("chat"))
        size, save = model_writer(folder, DTYPES[dtype], merge=adapter is not None, chat=chat)
        adapter = None
    else:
        dtype, size, save = adapter_writer(folder, args.dtype)
    card = describe(args, settings, folder, step, dtype, adapter)
    small = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in SMALL_FILES)
    with replacing(args.output, size + small + CARD_SIZE) as partial:
        save(partial)
        (partial / "README.md").write_text(model_card(card), encoding="utf-8")
        for file in partial.iterdir():
            shutil.copymode(partial / "README.md", file)  # safetensors' own would keep others from reading it
        write_mark(partial, {"run": args.run.resolve().name, "step": step, "dtype": dtype})
    of_step = "" if step is None else f", step {step}"
    print(f"{args.output}: {args.checkpoint} policy of {args.run}{of_step}, {dtype}, {size / 1e6:,.1f} MB of weights")
    if card.base_on_hub:
        print(f"README.md names {card.base} as its base model on the Hub")
    print("README.md names no licence yet: choose one before you publish it")


# ---------------------------------------------------------------- what the run holds


def read_settings(run: Path) -> dict[str, Any]:
    """config.yaml of a run."""
    path = run / "config.yaml"
    if not path.is_file():
        inside = next((parent for parent in run.absolute().parents if (parent / "config.yaml").is_file()), None)
        repair = f"it is inside one: give {inside}" if inside else "give the folder that a training command named"
        raise ConfigurationError(f"{run}: not the folder of a run (no config.yaml in it); {repair}")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML ({error}); restore the file") from error
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: a {type(settings).__name__}; it must hold the run's settings, restore it")
    return settings


def find_policy(run: Path, checkpoint: str) -> tuple[Path, int | None]:
    """The folder of a policy of the run, and its step where the run says it."""
    saved = checkpoints(run / "checkpoints")
    found = {"final": run / "policy", "best": run / "best", **({"last": saved[-1]} if saved else {})}
    found |= {folder.name: folder for folder in saved}
    found = {name: folder for name, folder in found.items() if _holds_policy(folder)}
    if checkpoint not in found:
        if not found:
            repair = "it has no policy yet: one is there from its first checkpoint on (save_every)"
        elif checkpoint == "final":
            repair = f"it has not finished: run it to its end, or export one of its checkpoints ({', '.join(found)})"
        else:
            repair = f"it has {', '.join(found)}"
        raise ConfigurationError(f"checkpoint={checkpoint!r}: {run} has no such policy; {repair}")
    folder = found[checkpoint]
    if checkpoint == "final":
        test = read_test(run / "test_after.json")
        return folder, None if test is None else test.header.get("step")
    if checkpoint == "best":
        return folder, (read_json(folder / "best.json") or {}).get("step")
    return folder, int(folder.name.removeprefix("step-"))


def _holds_policy(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", ADAPTER_FILE))


def read_test(path: Path) -> Result | None:
    """A test of the run, if it was made."""
    return read_result(path) if path.is_file() else None


def read_json(path: Path) -> dict[str, Any] | None:
    """An object in a file, if the file is there."""
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path}: damaged ({error}); restore it, or export another checkpoint") from error
    return content


def describe(
    args: Args, settings: Mapping[str, Any], folder: Path, step: int | None, dtype: str, adapter: dict[str, Any] | None
) -> ExportedPolicy:
    """What the card says."""
    trained = read_json(folder / ADAPTER_FILE) or {}
    base = trained.get("base_model_name_or_path") or settings.get("policy", {}).get("path")
    if base == str(POLICY_FOLDER):
        base = "bundled"
    libraries = ("igsearch", "torch", "transformers", *(["peft"] if trained else []))
    return ExportedPolicy(
        name=args.output.resolve().name,
        settings=settings,
        checkpoint=args.checkpoint,
        step=step,
        dtype=dtype,
        base=base,
        base_on_hub=base is not None and is_hub_name(base, args.run),
        adapter=adapter,
        before=read_test(args.run / "test_before.json"),
        after=read_test(args.run / "test_after.json"),
        validation_em=(read_json(folder / "best.json") or {}).get("dev/em"),
        information_gain=any("information_gain/mean" in row for row in read_metrics(args.run / "metrics.jsonl")),
        versions={name: version(name) for name in libraries} | {"Python": platform.python_version()},
    )


def is_hub_name(name: str, run: Path) -> bool:
    """Whether a model is one of the Hub rather than `bundled` or a folder, here or where the run was started."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if name == "bundled" or any((place / name).exists() for place in (Path(), *run.absolute().parents)):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


# ---------------------------------------------------------------- what is written


def quiet() -> None:
    """No progress bars of libraries, and no warnings of what they say to each other."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def model_writer(folder: Path, dtype: torch.dtype, *, merge: bool, chat: bool) -> tuple[int, Callable[[Path], None]]:
    """Bytes of the weights in `dtype`, and what writes model and tokenizer. `chat`: trained in the chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        if merge:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Found missing adapter keys")
                model = load_merged(folder, dtype=torch.float32).to(dtype)
        else:
            model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
            if found["missing_keys"]:
                raise ValueError(f"no weights for {', '.join(sorted(found['missing_keys']))}")
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except IGSearchError:
        raise
    except Exception as error:  # safetensors, peft and transformers each raise their own
        raise ConfigurationError(
            f"{folder}: can't be loaded ({type(error).__name__}: {error}); export another checkpoint"
        ) from error
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ConfigurationError(
                f"{folder}: {name} is not finite in {dtype}; export another dtype, or another checkpoint"
            )
    own = getattr(model.generation_config, "eos_token_id", None)
    tokens = Tokens(tokenizer, chat=chat, eos_ids=own if isinstance(own, list) else [own])
    ends = sorted(tokens.eos_ids)
    model.generation_config = GenerationConfig(
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=tokens.pad_id,
        bos_token_id=tokenizer.bos_token_id,
    )

    def write(target: Path) -> None:
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)

    return sum(weight.nbytes for weight in model.parameters()), write


def adapter_writer(folder: Path, dtype: str | None) -> tuple[str, int, Callable[[Path], None]]:
    """Precision and bytes of an adapter's weights, and what writes it with its tokenizer."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    try:
        weights = load_file(folder / ADAPTER_WEIGHTS)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConfigurationError(f"{folder}: can't be loaded ({error}); export another checkpoint") from error
    if dtype is not None:
        weights = {name: weight.to(DTYPES[dtype]) for name, weight in weights.items()}

    def write(target: Path) -> None:
        save_file(weights, target / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        shutil.copyfile(folder / ADAPTER_FILE, target / ADAPTER_FILE)
        tokenizer.save_pretrained(target)

    held = "+".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}))
    return held, sum(weight.nbytes for weight in weights.values()), write


# ---------------------------------------------------------------- whole or not there


def check_replaceable(output: Path) -> None:
    """Raise `ConfigurationError` unless `output` is free, empty, or an export as this script left it."""
    elsewhere = "give another --output, or move it away"
    if not output.exists():
        return
    if not output.is_dir():
        raise ConfigurationError(f"output={output}: a file is there; {elsewhere}")
    held = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    if not held:
        return
    mark = read_json(output / MARK)
    if mark is None:
        raise ConfigurationError(f"output={output}: it holds something else ({min(held)}, ...); {elsewhere}")
    added = sorted(held - {MARK, *mark["files"]})
    if added:
        raise ConfigurationError(f"output={output}: {added[0]} was added to this export; {elsewhere}")
    if "README.md" in held and _hash(output / "README.md") != mark["readme"]:
        raise ConfigurationError(f"output={output}: its README.md was edited; keep it elsewhere, then delete it there")


def write_mark(folder: Path, facts: Mapping[str, Any]) -> None:
    """Note what an export consists of."""
    files = sorted(path.name for path in folder.iterdir())
    content = {**facts, "files": files, "readme": _hash(folder / "README.md")}
    (folder / MARK).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def replacing(output: Path, size: int) -> Iterator[Path]:
    """A folder to write `size` bytes to, which takes the place of `output` in the end.

    Whatever stops the writing leaves `output` as it was and nothing beside it.
    """
    output = output.resolve()
    partial, old = (output.with_name(output.name + ending) for ending in (".partial", ".old"))
    output.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(output.parent).free
    room = f"{size / 1e6:,.1f} MB are needed, {free / 1e6:,.1f} MB were free in {output.parent}"
    if free < size:
        raise ConfigurationError(f"output={output}: {room}; make room, or give another --output or --dtype")
    try:
        partial.mkdir()
        yield partial
        if output.exists():
            output.rename(old)
        partial.rename(output)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors and tokenizers have errors of their own, which say what the system said.
        if isinstance(error, OSError) or "os error" in str(error):
            raise ConfigurationError(f"output={output}: could not be written ({error}); {room}") from error
        raise


if __name__ == "__main__":
    options = tyro.cli(Args, description=__doc__, config=(tyro.conf.FlagConversionOff,))
    try:
        main(options)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {options.output} is as it was")
    except (IGSearchError, OSError) as error:
        sys.exit(f"error: {error}")
