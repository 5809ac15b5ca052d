"""The words of a command line, checked before tyro parses them, which reports a mistake in a box of many lines.

Every message names the word, the rule and the repair in one line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

from algorithms.common.base.other_names import ANSWERS, name_here
from igsearch_env.errors import ConfigurationError, check_choice, literal_choices

_HELP = ("-h", "--help")


def option_types(cls: type[Any], prefix: str = "") -> dict[str, Any]:
    """The type of every option by its dotted name, `policy.chat`; positional arguments are left out."""
    found: dict[str, Any] = {}
    for field, hint in _fields(cls):
        if _is_positional(hint):
            continue
        unnamed = any(getattr(extra, "name", None) == "" for extra in get_args(hint)[1:])  # a section without a name
        hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(hint):
            found |= option_types(hint, prefix if unnamed else f"{prefix}{field.name}.")  # type: ignore[arg-type] # is_dataclass admits instances
        else:
            found[prefix + field.name] = hint
    return found


def _fields(cls: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(cls, include_extras=True)
    return ((field, hints[field.name]) for field in dataclasses.fields(cls))


def _is_positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and tyro.conf.Positional in get_args(hint)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def spelled(key: str, prefix: str = "--") -> str:
    """An option as written on the command line: `--policy.chat`."""
    return prefix + key.replace("_", "-")


def negative_of_tyro(key: str) -> str:
    """The negative flag in tyro's spelling: `--policy.no-chat` for `--no-policy.chat`."""
    section, dot, name = key.rpartition(".")
    return spelled(f"{section}{dot}no-{name}")


def is_flag(hint: Any) -> bool:
    """Whether an option takes no value."""
    return hint is bool or may_be_left_open(hint)


def may_be_left_open(hint: Any) -> bool:
    """Whether a flag is None if it is not given; tyro has no such flags, but an option with three values."""
    return set(get_args(hint)) == {bool, NoneType}


def checked_words(arguments: Sequence[str], cls: type[Any], renamed: Mapping[str, str]) -> list[str]:
    """The arguments in tyro's spelling.

    Raises `ConfigurationError` on an unknown or renamed option, a flag with a value, a value that is missing or not of
    the option's type, a word that belongs to no option, and what is required and missing.
    """
    types = option_types(cls)
    options = {spelled(key): key for key in types}
    negatives = {spelled(key, "--no-"): key for key, hint in types.items() if is_flag(hint)}
    places = [(field.name, get_args(hint)[0]) for field, hint in _fields(cls) if _is_positional(hint)]
    words: list[str] = []
    loose: list[str] = []  # the positional arguments
    given = set()
    left = list(arguments)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        if name in _HELP or name.startswith("--tyro-"):
            return [*words, word, *left]
        if not re.match(r"--\w", name):
            _check_loose(word, types, places)
            loose.append(word)
            words.append(word)
            continue
        if name not in options and name not in negatives:
            raise ConfigurationError(_no_such_option(name, [*options, *negatives, "--help"], types, renamed))
        key = options[name] if name in options else negatives[name]
        given.add(key)
        following = list(takewhile(lambda later: not later.startswith("--"), left))
        if may_be_left_open(types[key]) and value == "None":  # of a YAML file
            words.append(word)
            continue
        if is_flag(types[key]):
            if equals or (following and (not places or following[0].lower() in ("true", "false"))):
                shown = f"{name}={value}" if equals else f"{name} {following[0]}"
                raise ConfigurationError(
                    f"{shown}: a flag takes no value; write {spelled(key)} or {spelled(key, '--no-')}"
                )
            if may_be_left_open(types[key]):
                words.append(f"{spelled(key)}={name in options}")
            else:
                words.append(negative_of_tyro(key) if name in negatives else name)
            continue
        several = get_origin(types[key]) is tuple
        values = ([value] if equals else []) + (following if several else following[: 1 - bool(equals)])
        if not values and not several:
            raise ConfigurationError(f"{name}: its value is missing; write {name} {_kind(types[key])}")
        for one in values:
            check_value(name if not literal_choices(types[key]) else key, types[key], one)
        words += [word, *left[: len(values) - bool(equals)]]
        del left[: len(values) - bool(equals)]
    many = any(get_origin(hint) is tuple for _, hint in places)
    if len(loose) > len(places) and not many:
        raise ConfigurationError(f"{loose[len(places)]}: one word too many; the command is {_usage(cls)}")
    named = [name for name, hint in places if get_origin(hint) is not tuple]
    missing = [name.upper() for name in named[len(loose) :]]
    missing += [spelled(f.name) for f, hint in _fields(cls) if not _is_positional(hint) and _is_required(f)]
    missing = [name for name in missing if name.removeprefix("--").replace("-", "_") not in given]
    if missing:
        raise ConfigurationError(f"{' and '.join(missing)}: missing; the command is {_usage(cls)}")
    return words


def named_options(arguments: Sequence[str], cls: type[Any]) -> set[str]:
    """The dotted names of the options that a valid command line names."""
    words = {word.partition("=")[0].replace("_", "-") for word in arguments if word.startswith("--")}
    return {key for key in option_types(cls) if words & {spelled(key), spelled(key, "--no-")}}


def _usage(cls: type[Any]) -> str:
    """A command with what it requires: `igsearch export RUN --output OUTPUT`."""
    program = sys.argv[0]
    words = [f"python {program}" if program.endswith(".py") else Path(program).name]
    words += [field.name.upper() for field, hint in _fields(cls) if _is_positional(hint)]
    for field, hint in _fields(cls):
        if not _is_positional(hint) and _is_required(field):
            words += [spelled(field.name), field.name.upper()]
    return " ".join(words)


def _check_loose(word: str, types: Mapping[str, Any], places: Sequence[object]) -> None:
    """Raise `ConfigurationError` for a word that is no value of an option, unless the command takes such words."""
    bare = word.partition("=")[0]
    name = bare.lstrip("-").replace("-", "_")
    dashes = bare.startswith("-") and not re.match(r"-\d", bare)
    here = name if name in types else name_here(name, types)
    if here is not None and (dashes or "=" in word or not places):
        value = f" {word.partition('=')[2]}" if "=" in word else ""
        raise ConfigurationError(f"{word}: an option begins with two dashes: {spelled(here)}{value}")
    if dashes and bare != "-":
        raise ConfigurationError(f"{bare}: no such option; an option begins with two dashes, --help lists all")
    if not places:
        raise ConfigurationError(f"{word}: it belongs to no option; write --NAME VALUE, --help lists the names")


def _no_such_option(name: str, known: Sequence[str], types: Mapping[str, Any], renamed: Mapping[str, str]) -> str:
    word = name.removeprefix("--").replace("-", "_")
    new = renamed.get(word, "")
    if new in types:
        return f"{name} was renamed: use {spelled(new)}"
    here = name_here(word, types)
    if here is None and word in ANSWERS:
        return f"{name}: no such option; {ANSWERS[word]}"
    near = [spelled(here)] if here is not None else difflib.get_close_matches(name, known, n=1)
    return f"{name}: no such option; " + (f"did you mean {near[0]}?" if near else "--help lists all options")


# ---------------------------------------------------------------- values


def check_value(name: str, hint: Any, value: str) -> None:
    """Raise `ConfigurationError` if the text `value` is not of an option's type; `name`: how the message calls it."""
    choices, kinds = literal_choices(hint), _kinds(hint)
    if value == "None" and NoneType in kinds:
        return
    if choices:
        check_choice(name, value, choices)
    for kind, what in ((int, "a whole number"), (float, "a number")):
        if kind in kinds and not {str, Path} & {*kinds}:
            try:
                kind(value)
            except ValueError:
                also = " or None" if NoneType in kinds else ""
                whole = _whole(value) if kind is int else ""
                raise ConfigurationError(f"{name} {value}: must be {what}{also}{whole}") from None
            return


def _whole(value: str) -> str:
    """How to write a whole number that is written as another: `1e3`."""
    try:
        number = float(value)
        return f"; write {int(number)}" if number == int(number) else ""
    except (ValueError, OverflowError):
        return ""


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have: those of a union, or of the items of a tuple."""
    return get_args(hint) or (hint,)


def _kind(hint: Any) -> str:
    """What to write as a value."""
    if literal_choices(hint):
        return "|".join(literal_choices(hint))
    kinds = [kind for kind in _kinds(hint) if kind is not NoneType]
    return {int: "NUMBER", float: "NUMBER"}.get(kinds[0], "VALUE")
