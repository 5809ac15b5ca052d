"""A configuration from the command line and a YAML file.

The file has the keys of the options, sections nested; `--config FILE.yaml --section.key value` overrides it. Unknown
keys are errors.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tyro
import yaml

from algorithms.common.config import TrainConfig
from igsearch_env.errors import ConfigurationError

C = TypeVar("C", bound=TrainConfig)


def parse_config(config_class: type[C], argv: Sequence[str] | None = None, description: str | None = None) -> C:
    """Configuration from the command line, on top of the YAML file that `--config` names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    file = _config_file(arguments)
    from_yaml = yaml_arguments(config_class, file) if file is not None else []
    # What comes later wins, so the command line overrides the file.
    return tyro.cli(
        config_class,
        args=[*(word for option in from_yaml for word in option), *arguments],
        description=description,
        config=(tyro.conf.FlagConversionOff,),
    )


def _config_file(arguments: Sequence[str]) -> Path | None:
    for place, argument in enumerate(arguments):
        if argument == "--config" and place + 1 < len(arguments):
            return Path(arguments[place + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def yaml_arguments(config_class: type[TrainConfig], path: Path) -> list[list[str]]:
    """A YAML file as command-line options, one list each. Raises `ConfigurationError` on an unknown key."""
    if not path.is_file():
        raise ConfigurationError(f"--config {path}: no such file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path}: not YAML ({error}); mend the file") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: a {type(content).__name__}; it must hold `key: value` lines")
    return list(_options(config_class, content, str(path), ""))


def _options(cls: type[Any], content: dict[str, Any], where: str, prefix: str) -> Iterator[list[str]]:
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigurationError(f"{where}: unknown key {prefix + str(key)!r}; {hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigurationError(f"{where}: {prefix + key!r} is {value!r}; it is a section of keys")
            yield from _options(hints[key], value, where, f"{prefix}{key}.")
        else:
            option = f"--{prefix}{key}".replace("_", "-")
            yield [option, *map(str, value)] if isinstance(value, list) else [f"{option}={value}"]
