"""Command lines from dataclasses, with tyro: booleans are flags, and a wrong option name is a one-line error.

An option is a field of the dataclass (`--steps 3`), or of a section, which is a dataclass inside it
(`--loss.kl-coef 0.1`). A boolean takes no value: `--policy.chat` or `--no-policy.chat`; one that is None by default is
left out for it. A YAML file has the same names as nested keys, with underscores.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, Any, NoReturn, TextIO, TypeVar, get_args, get_origin, get_type_hints

import tyro

from algorithms.common.base.other_names import name_here
from igsearch_env.errors import ConfigurationError, check_choice, literal_choices
from retrievers.credentials import masked
from retrievers.log_lines import show_log_lines
from retrievers.program import quiet_if_cut
from retrievers.reading import FileError, read_yaml

C = TypeVar("C")
NOTHING: Mapping[str, str] = MappingProxyType({})


def parse_options(
    cls: type[C],
    arguments: Sequence[str] | None = None,
    description: str | None = None,
    renamed: Mapping[str, str] = NOTHING,
) -> C:
    """Parse the command line into a dataclass, and show log messages from then on. Exits with code 2 if it is invalid.

    Args:
        cls: the dataclass; the docstrings of its fields are the help texts.
        arguments: command-line arguments; None: those of this process.
        description: text at the top of the help.
        renamed: old names of options and their current ones, dotted: `{"loss.kl_coefficient": "loss.kl_coef"}`.
    """
    show_log_lines()
    types = option_types(cls)
    try:
        words = _checked(command_line() if arguments is None else arguments, types, renamed)
    except ConfigurationError as error:
        refuse(error)
    help_text: Any = _HelpText(sys.stdout, types)
    with quiet_if_cut(), contextlib.redirect_stdout(help_text):
        if (shown := masked(words)) != words:
            try:
                with contextlib.redirect_stderr(io.StringIO()):
                    return tyro.cli(cls, args=words, description=description)
            except SystemExit as end:
                if not end.code:
                    raise
            tyro.cli(cls, args=shown, description=description)  # the same error, which repeats arguments
        return tyro.cli(cls, args=words, description=description)


def command_line() -> list[str]:
    """The arguments of this process. From then on `sys.argv` is masked, for trackers and others that record it."""
    arguments = sys.argv[1:]
    sys.argv[1:] = masked(arguments)
    return arguments


def refuse(error: ConfigurationError) -> NoReturn:
    """Print an error of the command line or the configuration file, and exit with code 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def option_types(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """The type of every option by its dotted name, `policy.chat`; positional arguments are left out."""
    found: dict[str, Any] = {}
    hints = get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if get_origin(hint) is Annotated:
            if tyro.conf.Positional in get_args(hint):
                continue
            hint = get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            found |= option_types(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type] # is_dataclass admits instances
        else:
            found[prefix + field.name] = hint
    return found


# ---------------------------------------------------------------- names and flags


def _spelled(key: str, prefix: str = "--") -> str:
    """An option as written on the command line: `--policy.chat`."""
    return prefix + key.replace("_", "-")


def _negative_of_tyro(key: str) -> str:
    """The negative flag in tyro's spelling: `--policy.no-chat` for `--no-policy.chat`."""
    section, dot, name = key.rpartition(".")
    return _spelled(f"{section}{dot}no-{name}")


def _is_flag(hint: Any) -> bool:
    return hint is bool or _may_be_left_open(hint)


def _may_be_left_open(hint: Any) -> bool:
    """Whether a flag is None if it is not given; tyro has no such flags, but an option with three values."""
    return set(get_args(hint)) == {bool, NoneType}


def _checked(arguments: Sequence[str], types: Mapping[str, Any], renamed: Mapping[str, str]) -> list[str]:
    """The arguments in tyro's spelling.

    Raises `ConfigurationError` on an unknown or renamed option, a flag with a value, and a value that is not a choice.
    """
    options = {_spelled(key): key for key in types}
    negatives = {_spelled(key, "--no-"): key for key, hint in types.items() if _is_flag(hint)}
    words = []
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if not re.match(r"--\w", name) or name == "--help" or name.startswith("--tyro-"):
            if equals and (key := _without_dashes(word.partition("=")[0], types)):
                raise ConfigurationError(
                    f"{word.partition('=')[0]}=: an option begins with two dashes: {_spelled(key)}"
                )
            words.append(word)
            continue
        if name not in options and name not in negatives:
            raise ConfigurationError(_no_such_option(name, [*options, *negatives, "--help"], types, renamed))
        key = options[name] if name in options else negatives[name]
        values = [value] if equals else []
        values += takewhile(lambda later: not later.startswith("--"), arguments[place + 1 :])
        if _may_be_left_open(types[key]) and value == "None":  # of a YAML file
            pass
        elif _is_flag(types[key]):
            if equals or (values and values[0].lower() in ("true", "false")):
                raise ConfigurationError(
                    f"{name} {values[0]}: a flag takes no value; write {_spelled(key)} or {_spelled(key, '--no-')}"
                )
            if _may_be_left_open(types[key]):
                word = f"{_spelled(key)}={name in options}"
            else:
                word = _negative_of_tyro(key) if name in negatives else name
        else:
            _check_choices(key, types[key], values)
        words.append(word)
    return words


def _without_dashes(name: str, types: Mapping[str, Any]) -> str | None:
    """The option that a word `name=...` stands for in the notation of hydra; None for any other word."""
    return None if "." not in name else name if name in types else name_here(name, types)


def _no_such_option(name: str, known: Sequence[str], types: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    new = renamed.get(name.removeprefix("--").replace("-", "_"), "")
    if new in types:
        return f"{name} was renamed: use {_spelled(new)}"
    here = name_here(name.removeprefix("--").replace("-", "_"), types)
    near = [_spelled(here)] if here is not None else difflib.get_close_matches(name, known, n=1)
    return f"{name}: no such option; " + (f"did you mean {near[0]}?" if near else "--help lists all options")


def _check_choices(key: str, hint: Any, values: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a value that is not a choice, with the nearest one, which tyro does not name."""
    choices = literal_choices(hint)
    if not choices or (values[:1] == ["None"] and NoneType in get_args(hint)):
        return
    for value in values if get_origin(hint) is tuple else values[:1]:
        check_choice(key, value, choices)


_STYLE = r"(?:\x1b\[[\d;]*m)*"


def _with_both_flags(text: str, key: str) -> str:
    """Help with `--chat, --no-chat` where tyro writes `--chat {None,True,False}`; columns stay aligned."""
    name, negative, values = _spelled(key), _spelled(key, "--no-"), "{None,True,False}"

    def flags(found: re.Match[str]) -> str:
        end = f"{negative:{len(values) + len(found[2]) - 1}}"
        return f"{name},{found[1]}{end}"

    return re.sub(rf"{re.escape(name)}({_STYLE} {_STYLE}){re.escape(values)}( *)", flags, text)


class _HelpText:
    """Standard output with `--no-policy.chat` where tyro's help writes `--policy.no-chat`."""

    def __init__(self, stream: TextIO, types: Mapping[str, Any]) -> None:
        self.stream = stream
        self.types = types

    def write(self, text: str) -> int:
        for key, hint in self.types.items():
            if hint is bool:  # equally long, so columns stay aligned
                text = text.replace(_negative_of_tyro(key), _spelled(key, "--no-"))
            elif _may_be_left_open(hint):
                text = _with_both_flags(text, key)
        return self.stream.write(text)

    def __getattr__(self, name: str) -> Any:  # colours and frames depend on isatty and encoding
        return getattr(self.stream, name)


# ---------------------------------------------------------------- YAML


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
    options = [*_options(cls, content, str(path), "", renamed), *(parts[chosen] if chosen else ())]
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
        str(name): list(_options(cls, options, f"{path}, preset {name}", "", renamed))
        for name, options in offered.items()
    }


def _options(
    cls: type[Any], content: dict[str, Any], where: str, prefix: str, renamed: Mapping[str, str]
) -> Iterator[Iterable[str]]:
    hints = get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in known:
            new = renamed.get(name, "").removeprefix(prefix)
            if new in known:
                raise ConfigurationError(f"{where}: key {name!r} was renamed: use {prefix + new!r}")
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigurationError(f"{where}: unknown key {name!r}; {hint}")
        if dataclasses.is_dataclass(hints[key]):
            if not isinstance(value, dict):
                raise ConfigurationError(f"{where}: {name!r} is {value!r}; it must be a section of keys")
            yield from _options(hints[key], value, where, f"{name}.", renamed)
        elif _may_be_left_open(hints[key]) and value is None:
            yield [f"{_spelled(name)}=None"]
        elif _is_flag(hints[key]):
            if not isinstance(value, bool):
                raise ConfigurationError(f"{where}: {name!r} is {value!r}; it must be true or false")
            yield [_spelled(name, "--" if value else "--no-")]
        else:
            if isinstance(value, dict):  # of an option that takes a JSON object
                value = json.dumps(value, default=str)
            yield [_spelled(name), *map(str, value)] if isinstance(value, list) else [f"{_spelled(name)}={value}"]
