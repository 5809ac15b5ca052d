"""YAML files with options, as arguments of a command line. The keys are the names of options, nested by section."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_type_hints

from algorithms.common.base.option_words import check_value, is_flag, may_be_left_open, option_types, spelled
from algorithms.common.base.other_names import ANSWERS, name_here
from igsearch_env.errors import ConfigurationError, check_choice
from retrievers.reading import FileError, read_yaml

NOTHING: Mapping[str, str] = MappingProxyType({})

PRESETS, PRESET = "presets", "preset"


def yaml_arguments(
    cls: type[Any], path: Path, renamed: Mapping[str, str] = NOTHING, preset: str | None = None
) -> list[str]:
    """A YAML file as command-line arguments. Raises `ConfigurationError` on an unknown or renamed key.

    The file may offer sizes under `presets`: options by a name, which override the others. `preset` chooses one; None:
    the one that the file itself names as `preset`, if any. The config.yaml of a run is accepted, too.
    """
    if not path.is_file():
        raise ConfigurationError(f"--config {path}: no such file")
    try:
        content = read_yaml(path) or {}
    except FileError as error:
        raise ConfigurationError(str(error)) from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: a {type(content).__name__}; it must hold `key: value` lines")
    if content.pop("algorithm", None) is not None:  # the config.yaml of a run, which holds the options of its own file
        content = {key: value for key, value in content.items() if key not in ("config", PRESET)}
    parts = _presets(cls, path, content.pop(PRESETS, {}), renamed)
    chosen = preset or str(content.get(PRESET) or "")
    if chosen and not parts:
        raise ConfigurationError(f"{path}: {PRESET} {chosen!r}: the file offers none, it has no section {PRESETS!r}")
    if chosen:
        check_choice(f"{path}: {PRESET}", chosen, parts)
    options = [*_options(cls, cls, content, str(path), "", renamed), *(parts[chosen] if chosen else ())]
    return [word for option in options for word in option]


def _presets(cls: type[Any], path: Path, offered: Any, renamed: Mapping[str, str]) -> dict[str, list[Iterable[str]]]:
    """The options of each preset of a file; all are checked, also those that are not chosen."""
    if not isinstance(offered, dict) or not all(isinstance(options, dict) for options in offered.values()):
        raise ConfigurationError(f"{path}: {PRESETS!r} must hold a section of options for each name")
    for name, options in offered.items():
        if PRESET in options:
            raise ConfigurationError(
                f"{path}, preset {name}: {PRESET!r} can't stand inside a preset; write its options"
            )
    return {
        str(name): list(_options(cls, cls, options, f"{path}, preset {name}", "", renamed))
        for name, options in offered.items()
    }


def _options(
    root: type[Any], cls: type[Any], content: dict[str, Any], where: str, prefix: str, renamed: Mapping[str, str]
) -> Iterator[Iterable[str]]:
    """The options in a section `cls` of a file for `root`, each with its values; `prefix`: of the names."""
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in known:
            new = renamed.get(name, "").removeprefix(prefix)
            if new in known:
                raise ConfigurationError(f"{where}: key {name!r} was renamed: use {prefix + new!r}")
            raise ConfigurationError(f"{where}: unknown key {name!r}; {_near(root, name, str(key), known)}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigurationError(f"{where}: {name!r} is {value!r}; it must be a section of keys")
            yield from _options(root, hints[key], value, where, f"{name}.", renamed)
        elif may_be_left_open(hints[key]) and value is None:
            yield [f"{spelled(name)}=None"]
        elif is_flag(hints[key]):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{where}: {name!r} is {value!r}; it must be true or false")
            yield [spelled(name, "--" if value else "--no-")]
        else:
            if isinstance(value, dict):  # of an option that takes a JSON object
                value = json.dumps(value, default=str)
            for one in value if isinstance(value, list) else [value]:
                check_value(f"{where}: {name}", hints[key], str(one))
            yield [spelled(name), *map(str, value)] if isinstance(value, list) else [f"{spelled(name)}={value}"]


def _near(root: type[Any], name: str, key: str, known: Sequence[str]) -> str:
    """What a key that is not known may stand for: one of this section, or one that belongs into another."""
    near = difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    here = name_here(name, option_types(root)) or name_here(key, option_types(root))
    if here is not None:
        section, _, option = here.rpartition(".")
        return f"did you mean {option!r} in the section {section!r}?" if section else f"did you mean {here!r}?"
    return ANSWERS.get(key) or f"known keys: {', '.join(known)}"
