"""What makes a generated world harder: `WorldOptions`, the preset `HARD`, and their form on a command line.

world:hard                       the preset
world:ambiguous=0.2,depth=4      single options of the bundled world
world:hard,noise=0,seed=3        the preset with other values; `seed` and `passages` are those of `generate_world`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from igsearch_env.errors import ConfigurationError, check_choice, check_range

BUNDLED = "bundled"
PREFIX = "world:"
PRESET = "hard"


@dataclass(frozen=True, slots=True)
class WorldOptions:
    """Properties of real text and of real questions; by default none of them (docs/worlds.md)."""

    paraphrased: float = 0.0
    """Share of facts and of questions in other wordings; test questions and their facts get wordings of their own."""
    distractors: int = 0
    """Further facts about each person, work, company and city, which no question asks about: 0 to 3."""
    ambiguous: float = 0.0
    """Share of people who have a namesake, from 0 to 0.5: texts and questions tell them apart by another fact."""
    outdated: float = 0.0
    """Share of the facts that questions ask about which an older passage states with another value."""
    unanswerable: float = 0.0
    """Share of questions, about, to which no passage states the answer: `unknown` is right. From 0 to 0.5."""
    depth: int = 3
    """Hops of the longest questions, from 1 to 4."""
    noise: float = 0.0
    """Share of search results that are lost: half are replaced by random passages, half are missing."""
    facts_per_passage: int = 1
    """Facts of one entity that a passage states, at most: 1 to 6."""

    def __post_init__(self) -> None:
        for name, high in (
            ("paraphrased", 1),
            ("ambiguous", 0.5),
            ("outdated", 1),
            ("unanswerable", 0.5),
            ("noise", 1),
            ("distractors", 3),
        ):
            check_range(name, getattr(self, name), 0, high)
        check_range("depth", self.depth, 1, 4)
        check_range("facts_per_passage", self.facts_per_passage, 1, 6)


PLAIN = WorldOptions()
HARD = WorldOptions(
    paraphrased=0.5,
    distractors=2,
    ambiguous=0.2,
    outdated=0.2,
    unanswerable=0.1,
    depth=4,
    noise=0.1,
    facts_per_passage=2,
)


@dataclass(frozen=True, slots=True)
class WorldName:
    """A generated world by name: the arguments of `generate_world`."""

    seed: int = 0
    passages: int = 3000
    options: WorldOptions = PLAIN

    @classmethod
    def read(cls, source: str) -> WorldName:
        """Parse `bundled` or `world:[hard,]OPTION=VALUE,...`. Raises `ConfigurationError` for anything else."""
        if source == BUNDLED:
            return cls()
        first, *others = source.removeprefix(PREFIX).split(",")
        values = others if first == PRESET else [first, *others]
        types: dict[str, Callable[[str], Any]] = {"seed": int, "passages": int}
        types |= {f.name: int if f.type == "int" else float for f in fields(WorldOptions)}
        found: dict[str, Any] = {}
        for part in values:
            name, equals, value = part.partition("=")
            if not equals:
                raise ConfigurationError(
                    f"{source}: {part!r} is neither {PRESET} nor OPTION=VALUE; write {PREFIX}{PRESET}, or options such "
                    f"as {PREFIX}ambiguous=0.2,depth=4 ({', '.join(types)})"
                )
            check_choice(f"{source}: option", name, types)
            try:
                found[name] = types[name](value)
            except ValueError as error:
                kind = "a whole number" if types[name] is int else "a number"
                raise ConfigurationError(f"{source}: {name}={value!r}: must be {kind}") from error
        own = {name: found.pop(name) for name in ("seed", "passages") if name in found}
        try:
            return cls(**own, options=replace(HARD if first == PRESET else PLAIN, **found))
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: {error}") from error
