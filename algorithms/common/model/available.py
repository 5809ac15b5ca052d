"""Whether there is a model where a configuration says so, found out without torch, before anything else is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from algorithms.common.model.source import ADAPTER_FILE, HUB, ModelSource
from igsearch_env.errors import ConfigurationError
from retrievers.reading import one_line

HUB_SECONDS = 10.0  # for the answer of the Hub
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "merges.txt", "*.tiktoken", "tekken.json")
_WEIGHTS = ("*.safetensors", "*.bin", "*.safetensors.index.json", "*.bin.index.json")
_GIVE = "give a folder written by save_pretrained, a model name, a .gguf file, or 'bundled'"


def check_policy(path: str, *, option: str = "policy.path", weights: bool = True) -> None:
    """Raise `ConfigurationError` unless `path` is a complete model folder, a GGUF file, or a model on the Hub.

    The Hub is asked once, for at most `HUB_SECONDS`, and not about a model that is in its cache.

    Args:
        path: value of `policy.path`.
        option: its name, for messages.
        weights: whether this process reads them; an engine may have them elsewhere.
    """
    if path == "bundled":
        return
    where = f"{option}={path!r}"
    if not path.strip():
        raise ConfigurationError(f"{where}: empty; {_GIVE}")
    source = ModelSource.parse(path)
    if source.gguf is not None:
        if path.startswith(HUB):
            _check_hub(where, source.place)
        return
    folder = Path(path)
    if folder.is_dir():
        _check_folder(where, folder, weights)
        source.check()
    elif folder.exists():
        raise ConfigurationError(f"{where}: a file, and no .gguf file; {_GIVE}")
    elif folder.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1 or path.endswith("/"):
        raise ConfigurationError(f"{where}: no such folder; {_GIVE}")
    else:
        _check_hub(where, path)


def _check_folder(where: str, folder: Path, weights: bool) -> None:
    if not any((folder / name).is_file() for name in ("config.json", ADAPTER_FILE)):
        inside = [name for name in ("policy", "best") if (folder / name / "config.json").is_file()]
        inside += [f.relative_to(folder).as_posix() for f in sorted(folder.glob("checkpoints/step-*"))[-1:]]
        repair = f"the policy of a run is in a folder of its own: give {folder / inside[0]}" if inside else _GIVE
        if not inside and (folder / "config.yaml").is_file():
            repair = "it is the folder of a run that has saved no policy yet; wait for its first checkpoint"
        raise ConfigurationError(f"{where}: no config.json in this folder; {repair}")
    if not _holds(folder, _TOKENIZERS):
        raise ConfigurationError(
            f"{where}: no tokenizer in this folder (no tokenizer.json or tokenizer.model); save it there with "
            "tokenizer.save_pretrained"
        )
    if weights and not _holds(folder, _WEIGHTS):
        raise ConfigurationError(
            f"{where}: no weights in this folder (no .safetensors file); save them there with model.save_pretrained, "
            "or complete the download"
        )


def _holds(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(path.is_file() for pattern in patterns for path in folder.glob(pattern))


def _check_hub(where: str, name: str) -> None:
    """Raise `ConfigurationError` unless a model is in the cache of the Hub, or the Hub has it."""
    try:
        from huggingface_hub import HfApi, try_to_load_from_cache
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    except ImportError:
        return  # torch is missing, too: the message about that names the extra
    elsewhere = (
        f"download it where there is a network (hf download {name} --local-dir FOLDER) and give that folder, or use "
        "policy.path bundled, which needs none"
    )
    try:
        if any(isinstance(try_to_load_from_cache(name, file), str) for file in ("config.json", ADAPTER_FILE)):
            return
        if HF_HUB_OFFLINE:
            raise ConfigurationError(
                f"{where}: no such folder, and no such model in the cache of the Hub, which HF_HUB_OFFLINE says is all "
                f"there is; unset it, or {elsewhere}"
            )
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except ConfigurationError:
        raise
    except HFValidationError as error:
        raise ConfigurationError(f"{where}: no such folder, and not a name on the Hub; {_GIVE}") from error
    except GatedRepoError as error:
        raise ConfigurationError(
            f"{where}: a gated model; accept its conditions at https://huggingface.co/{name}, then hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"{where}: no such folder, and no such model on the Hub (or a private one: hf auth login); check the name, "
            f"or {_GIVE}"
        ) from error
    except Exception as error:  # of its HTTP client
        raise ConfigurationError(
            f"{where}: no such folder, and the Hub does not answer ({type(error).__name__}: {one_line(error)[:120]}); "
            f"{elsewhere}"
        ) from error


def check_device(device: str, available: Callable[[str], bool] | None = None) -> None:
    """Raise `ConfigurationError` if this machine has no such device; `auto` and `cpu` are always there.

    torch is imported only where its installation does not say already that it supports no GPU.

    Args:
        device: value of `policy.device`.
        available: of a kind of device; None: torch is asked.
    """
    kind = device.partition(":")[0]
    if kind in ("auto", "cpu"):
        return
    if kind == "gpu":
        raise ConfigurationError(f"policy.device={device!r}: torch calls it cuda; set it to cuda, or to auto")
    if kind == "cuda" and available is None and _torch_version().endswith("+cpu"):
        raise ConfigurationError(
            f"policy.device={device!r}: torch {_torch_version()} is installed, which supports no GPU; install torch "
            "with CUDA, or set policy.device to cpu or auto"
        )
    if not (available or _available)(device):
        raise ConfigurationError(
            f"policy.device={device!r}: torch finds no such device on this machine; set policy.device to cpu or auto, "
            "or check the driver with nvidia-smi"
        )


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def _available(device: str) -> bool:
    import torch  # slow

    try:
        torch.empty(0, device=device)
    except Exception:  # each kind of device raises its own errors
        return False
    return True


def is_first_here() -> bool:
    """Whether this is the only process of its machine, or the first of several."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
