"""The sentences of the bundled world: how its facts and its questions are worded.

Changing one changes every world and the vocabulary of the bundled policy, which must then be made again.
"""

from __future__ import annotations

# Wordings of each fact: {s} is the entity that the passage is about, {o} the object of the fact.
WORDINGS = {
    "born": ("{s} was born in {o}.", "{o} is where {s} was born.", "The birthplace of {s} is {o}."),
    "occupation": ("{s} worked as a {o}.", "{s} earned a living as a {o}.", "By profession {s} was a {o}."),
    "residence": ("{s} lived in {o}.", "{s} spent a long life in {o}."),
    "teacher": ("{s} studied under {o}.", "{o} was the teacher of {s}."),
    "spouse": ("{s} was married to {o}.", "The spouse of {s} was {o}."),
    "country": ("{s} is a city in {o}.", "The city of {s} lies in {o}."),
    "river": ("The river {o} flows through {s}.", "{s} stands on the river {o}."),
    "capital": ("The capital of {s} is {o}.", "{s} is ruled from its capital {o}."),
    "author": ("{s} is a novel by {o}.", "The novel {s} was written by {o}.", "{o} wrote the novel {s}."),
    "hero": ("The hero of {s} is a {o}.", "{s} tells the story of a {o}."),
    "founder": ("{s} was founded by {o}.", "{o} founded the company {s}."),
    "seat": ("{s} has its offices in {o}.", "The company {s} is based in {o}."),
}
NICKNAMED = "{s}, known as {n},"
RENAMED = "{s}, also called {n},"

# family -> relations from the entity named in the question to the answer, and the wordings of the question.
CHAINS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birthplace": (("born",), ("Where was {e} born?", "In which city was {e} born?")),
    "author": (("author",), ("Who wrote {e}?", "Who is the author of {e}?")),
    "occupation": (("occupation",), ("What did {e} work as?", "What was the occupation of {e}?")),
    "author_birthplace": (
        ("author", "born"),
        ("Where was the author of {e} born?", "In which city was the author of {e} born?"),
    ),
    "founder_occupation": (
        ("founder", "occupation"),
        ("What did the founder of {e} work as?", "What was the occupation of the founder of {e}?"),
    ),
    "birth_country": (("born", "country"), ("In which country was {e} born?",)),
    "author_country": (("author", "born", "country"), ("In which country was the author of {e} born?",)),
}

FAMILIES = tuple(CHAINS)
