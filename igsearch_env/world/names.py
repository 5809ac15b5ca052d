"""Word lists of the bundled world. All names are combinations of them, so a closed vocabulary covers any world.

Changing a list changes every world and the vocabulary of the bundled policy, which must then be trained again.
"""

from __future__ import annotations

import random

_ONSETS = [
    "B",
    "Br",
    "C",
    "Cl",
    "D",
    "Dr",
    "F",
    "Fl",
    "G",
    "Gr",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "Pr",
    "R",
    "S",
    "St",
    "T",
    "Tr",
    "V",
    "W",
    "Z",
]
_MIDDLES = ["a", "e", "i", "o", "u", "ai", "ea", "or", "an", "el", "in", "ar", "en"]
_LINKS = ["b", "d", "l", "ll", "m", "n", "nd", "r", "rr", "rn", "s", "st", "t", "v", "z"]


def _invent(count: int, endings: str, seed: int, taken: set[str]) -> tuple[str, ...]:
    """`count` new pronounceable words; deterministic for given arguments."""
    rng = random.Random(seed)
    words: list[str] = []
    while len(words) < count:
        word = rng.choice(_ONSETS) + rng.choice(_MIDDLES) + rng.choice(_LINKS) + rng.choice(endings.split())
        if word not in taken:
            taken.add(word)
            words.append(word)
    return tuple(words)


_taken: set[str] = set()
FIRST_NAMES = _invent(150, "a e o is ian elle", 1, _taken)
LAST_NAMES = _invent(150, "er ev ick man sen ov", 2, _taken)
PLACES = _invent(220, "ow ona um ith ava eth", 3, _taken)
COUNTRIES = _invent(60, "ia land istan", 4, _taken)
RIVERS = _invent(60, "ue oor isk", 5, _taken)
BRANDS = _invent(90, "ex ox ix tec", 6, _taken)

PLACE_QUALIFIERS = tuple(["Port", "Upper", "Lower", "New", "Old", "East", "West", "North", "South", "Saint"])
COLOURS = tuple(
    ["Red", "Green", "Blue", "Black", "White", "Golden", "Silver", "Grey", "Amber", "Scarlet", "Violet", "Pale"]
)
ANIMALS = tuple(
    [
        "Falcon",
        "Heron",
        "Wolf",
        "Otter",
        "Lynx",
        "Raven",
        "Fox",
        "Bear",
        "Viper",
        "Crane",
        "Stag",
        "Badger",
        "Owl",
        "Hare",
        "Pike",
        "Swan",
    ]
)
MOODS = tuple(
    [
        "Silent",
        "Broken",
        "Distant",
        "Frozen",
        "Hidden",
        "Burning",
        "Hollow",
        "Restless",
        "Endless",
        "Bitter",
        "Gentle",
        "Crooked",
        "Sunken",
        "Wandering",
        "Forgotten",
        "Quiet",
        "Second",
        "Last",
        "Empty",
        "Narrow",
        "Wild",
        "Patient",
        "Crowded",
        "Paper",
    ]
)
THINGS = tuple(
    [
        "River",
        "Garden",
        "Mirror",
        "Harbour",
        "Lantern",
        "Orchard",
        "Tower",
        "Letter",
        "Winter",
        "Bridge",
        "Window",
        "Island",
        "Forest",
        "Clock",
        "Train",
        "Shadow",
        "Song",
        "Valley",
        "Desert",
        "Summer",
        "Candle",
        "Machine",
        "Journey",
        "Kitchen",
        "Ocean",
        "Station",
        "Portrait",
        "Village",
        "Storm",
    ]
)
TRADES = tuple(
    [
        "Glass",
        "Steel",
        "Paper",
        "Textile",
        "Shipping",
        "Mining",
        "Clock",
        "Piano",
        "Chemical",
        "Railway",
        "Printing",
        "Leather",
        "Tea",
        "Salt",
        "Cable",
        "Engine",
    ]
)
OCCUPATIONS = tuple(
    [
        "painter",
        "surgeon",
        "lawyer",
        "botanist",
        "carpenter",
        "composer",
        "journalist",
        "geologist",
        "baker",
        "engineer",
        "librarian",
        "sailor",
        "tailor",
        "sculptor",
        "chemist",
        "teacher",
        "astronomer",
        "gardener",
        "photographer",
        "translator",
        "diplomat",
        "pilot",
        "historian",
        "blacksmith",
        "architect",
        "dentist",
        "farmer",
        "violinist",
        "weaver",
        "brewer",
        "judge",
        "shepherd",
    ]
)
