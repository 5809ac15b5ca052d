"""A policy without weights, which are in an engine: its tokenizer, configuration and context length."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.model.pretrained import DTYPES, load_tokenizer, model_path
from algorithms.common.model.source import ADAPTER_FILE, ModelSource
from algorithms.common.model.untrusted import unreadable
from igsearch_env.errors import ConfigurationError


def is_adapter(config: PolicyConfig) -> bool:
    """Whether a policy is the folder of an adapter, which has the configuration of its base model elsewhere."""
    return (Path(config.path) / ADAPTER_FILE).is_file()


def policy_without_weights(config: PolicyConfig) -> Policy:
    """The policy of a configuration, on torch's device `meta`: it takes no memory, and no pass of it is possible.

    Raises `ConfigurationError` as `Policy.load` does.
    """
    path = model_path(config)
    source = ModelSource.parse(path)
    try:
        source.check()
        model, tokenizer = _empty_model(source, config), load_tokenizer(path)
    except ConfigurationError:
        raise
    except Exception as error:  # a damaged file gives errors of transformers and tokenizers
        raise unreadable(f"policy.path={config.path!r}", error) from error
    return Policy(
        model,
        tokenizer,
        chat=config.chat,
        chat_template=config.chat_template,
        context_length=config.context_length,
    )


def _empty_model(source: ModelSource, config: PolicyConfig) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    settings = AutoConfig.from_pretrained(source.place, **source.options)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings, dtype=DTYPES[config.dtype])
    if source.gguf is None:
        with suppress(OSError):  # a folder may have none: the defaults are then those of the configuration
            model.generation_config = GenerationConfig.from_pretrained(source.place)
    return model
