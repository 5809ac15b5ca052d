"""Which model to train (`PolicyConfig`), and loading it from a folder or by name."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from algorithms.common.distributed.processes import Processes
from algorithms.common.model.broadcast import load_once
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.lora import adapter_base, add_adapter, merge_adapter
from algorithms.common.model.source import ADAPTER_FILE, ModelSource
from algorithms.common.model.text_parameters import freeze_parameters_without_text
from algorithms.common.model.untrusted import unreadable
from algorithms.common.model.variable_length import disable_cudnn_attention
from igsearch_env.errors import ConfigurationError
from igsearch_env.world.bundled import POLICY_FOLDER

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pretrained(config: PolicyConfig, processes: Processes | None = None) -> tuple[Any, Any, Any]:
    """Load model, tokenizer, and the peft model around the model (None without adapters), with transformers.

    Of several `processes`, the first one reads the weights. On a GPU they are read straight to it.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per file would hide the run's own
    path = model_path(config)
    place = config.device
    if place == "auto":
        place = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(place)
    if device.type == "cuda":
        disable_cudnn_attention()

    def load() -> Any:
        attention = config.attn_implementation
        with _explained(config):
            return load_model(path, dtype=DTYPES[config.dtype], attn_implementation=attention, device=device)

    model = load_once(load, device, processes or Processes())
    with _explained(config):
        tokenizer = load_tokenizer(path)
    adapter = None
    frozen = freeze_parameters_without_text(model)
    if frozen:
        print(
            f"policy: {len(frozen)} parameters that text does not reach stay as they are ({frozen[0]}, ...)",
            file=sys.stderr,
        )
    if config.lora.rank:
        if (Path(path) / ADAPTER_FILE).is_file():
            raise ConfigurationError(
                f"policy.path={config.path!r} is already an adapter, and one on top of another can't be saved "
                "separately: merge it first (igsearch export), or set policy.lora.rank to 0"
            )
        adapter = add_adapter(model, config.lora)
        model = adapter.get_base_model()
    return model, tokenizer, adapter


def model_path(config: PolicyConfig) -> str:
    """Folder or name of the model. Raises `ConfigurationError` for a path that is clearly local and holds no model."""
    path = str(POLICY_FOLDER) if config.path == "bundled" else config.path
    source = ModelSource.parse(path)
    looks_local = config.path == "bundled" or Path(path).is_absolute() or path.startswith(".")
    if (
        looks_local
        and source.gguf is None
        and not any((Path(path) / name).is_file() for name in ("config.json", ADAPTER_FILE))
    ):
        raise ConfigurationError(
            f"policy.path={config.path!r}: no config.json in {path}; give a folder written by save_pretrained, "
            "a model name, a .gguf file, or 'bundled'"
        )
    return path


@contextmanager
def _explained(config: PolicyConfig) -> Iterator[None]:
    """Turns errors of loading into a `ConfigurationError`, except that memory has run out."""
    try:
        yield
    except (ConfigurationError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a damaged file gives errors of transformers, safetensors, tokenizers, peft and torch
        if isinstance(error, ValueError) and config.attn_implementation != "auto":
            raise ConfigurationError(
                f"policy.attn_implementation={config.attn_implementation!r}: "
                f"{str(error).splitlines()[0]}; auto uses what the model supports"
            ) from error
        raise unreadable(f"policy.path={config.path!r}", error) from error


def load_model(
    path: str, *, dtype: torch.dtype, attn_implementation: str = "auto", device: torch.device | None = None
) -> Any:
    """A causal model of transformers from a folder or by name; an adapter's folder gives the merged model.

    It is on `device`, by default the CPU. Weights are read one by one to a GPU, so the CPU does not hold them all.

    Quantised weights are converted to `dtype` where transformers can do so, with a notice: they are trained, and saved,
    in that precision.

    Raises:
        ConfigurationError: weights are missing, would be initialised at random, or can't be converted.
        OSError: of transformers, if it can't be found.
    """
    import transformers
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

    options: dict[str, Any] = {"dtype": dtype}
    chosen = available_attention(attn_implementation)
    if chosen != "auto":
        options["attn_implementation"] = chosen
    if (Path(path) / ADAPTER_FILE).is_file():
        base = adapter_base(path)
        try:
            model = load_model(base, dtype=dtype, attn_implementation=chosen, device=device)
        except OSError as error:
            raise ConfigurationError(
                f"{path}: an adapter of {base!r}, which can't be loaded ({str(error).splitlines()[0]}); put the base "
                f"model there, or fix base_model_name_or_path in its {ADAPTER_FILE}"
            ) from error
        return merge_adapter(model, path)
    source = ModelSource.parse(path)
    source.check()
    config = full_precision(source, str(dtype).removeprefix("torch."))
    if source.gguf is not None and hasattr(transformers, "GgufConfig"):  # earlier versions always convert
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # both kinds are reported below
    if device is not None and device.type != "cpu":
        options["device_map"] = {"": device}
    model, found = AutoModelForCausalLM.from_pretrained(source.place, config=config, **source.options, **options)
    model.name_or_path = path  # by which an adapter names its base
    if type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigurationError(
            f"{path}: transformers loads no {type(model).__name__} from what it saves "
            f"({type(model.config).__name__}); give its text model, or train another architecture"
        )
    for what in ("missing", "mismatched"):
        names = sorted(key if isinstance(key, str) else key[0] for key in found[f"{what}_keys"])
        if names:  # transformers initialises them at random
            raise ConfigurationError(
                f"{path}: {len(names)} weights of {type(model).__name__} are {what}, such as {names[0]}; "
                "give a complete folder, as save_pretrained writes it"
            )
    return model


def load_tokenizer(path: str) -> Any:
    """The tokenizer of transformers, with its chat template, from where `load_model` takes the model."""
    from transformers import AutoTokenizer

    source = ModelSource.parse(path)
    return AutoTokenizer.from_pretrained(source.place, **source.options)


def full_precision(source: ModelSource, dtype: str) -> Any:
    """The configuration of a model, changed so that quantised weights are converted to `dtype`."""
    from transformers import AutoConfig
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    config = AutoConfig.from_pretrained(source.place, **source.options)
    for part in {id(part): part for part in (config, config.get_text_config())}.values():
        quantised = getattr(part, "quantization_config", None)
        if quantised is None:
            continue
        settings = quantised if isinstance(quantised, dict) else quantised.to_dict()
        method = str(settings.get("quant_method", "bitsandbytes"))
        kind = AUTO_QUANTIZATION_CONFIG_MAPPING.get(method)
        if kind is None or "dequantize" not in inspect.signature(kind).parameters:
            raise ConfigurationError(
                f"{source.place}: its weights are quantised ({method}), and training needs them in full "
                "precision; give the model that it was quantised from"
            )
        print(f"{source.place}: its weights ({method}) are converted to {dtype} and stay so", file=sys.stderr)
        part.quantization_config = {**settings, "dequantize": True}
    return config


def available_attention(name: str) -> str:
    """`name` if its library is installed and there is a GPU for it, else auto with a notice."""
    library = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(name)
    if library is None or (importlib.util.find_spec(library) is not None and torch.cuda.is_available()):
        return name
    reason = f"needs a GPU and the package that provides {library}"
    print(f"policy.attn_implementation={name!r} {reason}: using auto instead", file=sys.stderr)
    return "auto"
