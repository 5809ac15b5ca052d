"""Further sentences of a generated world, for its options: paraphrases, other relations, dates, longer chains.

Changing one changes hard worlds and the vocabulary of the policies for them (`examples/make_bundled_policy.py`), never
the bundled world or its policy.
"""

from __future__ import annotations

from igsearch_env.world.wordings import WORDINGS

Wordings = tuple[str, ...]
Chain = tuple[tuple[str, ...], Wordings]

# Relation -> wordings for passages, and those held out for facts that only test questions ask about. Held-out wordings
# consist of words that the others have, so that a policy with a closed vocabulary can know all words.
PARAPHRASES: dict[str, tuple[Wordings, Wordings]] = {
    "born": (
        ("{s} came into the world in {o}.", "{s}, a native of {o}, grew up there."),
        ("{o} is where {s} came into the world.",),
    ),
    "occupation": (
        ("{s} made a career as a {o}.", "The trade of {s} was that of a {o}."),
        ("The career of {s} was that of a {o}.",),
    ),
    "residence": (("{s} made a home in {o}.",), ("{s} lived a long life in {o}.",)),
    "teacher": (("{s} was a pupil of {o}.", "{o} taught {s}."), ("{s} was taught by {o}.",)),
    "spouse": (("{s} and {o} were husband and wife.", "{s} married {o}."), ("{o} was the spouse of {s}.",)),
    "country": (("{s} is found in {o}.", "{s} belongs to {o}."), ("The city of {s} belongs to {o}.",)),
    "river": (("The {o} runs past {s}.",), ("The river {o} runs past {s}.",)),
    "capital": (("{o} is the seat of government of {s}.",), ("The seat of government of {s} is {o}.",)),
    "author": (
        ("{o} is the author of {s}.", "{s} came from the pen of {o}."),
        ("The author of {s} is {o}.",),
    ),
    "hero": (("At the centre of {s} stands a {o}.",), ("The story of {s} is that of a {o}.",)),
    "founder": (("{o} set up {s}.", "{s} owes its start to {o}."), ("The company {s} was set up by {o}.",)),
    "seat": (("{s} is run from {o}.",), ("The company {s} is run from {o}.",)),
}

# Families of four hops, in the form of `wordings.CHAINS`.
DEEP_CHAINS: dict[str, Chain] = {
    "teacher_country": (
        ("founder", "teacher", "born", "country"),
        ("In which country was the teacher of the founder of {e} born?",),
    ),
    "spouse_country": (
        ("author", "spouse", "born", "country"),
        ("In which country was the spouse of the author of {e} born?",),
    ),
}

# Family -> further wordings of its questions, and those held out for test questions.
QUESTION_PARAPHRASES: dict[str, tuple[Wordings, Wordings]] = {
    "birthplace": (
        ("What is the birthplace of {e}?", "Of which city was {e} a native?"),
        ("In which city is the birthplace of {e}?",),
    ),
    "author": (
        ("Which person wrote the novel {e}?", "By whom is the novel {e}?"),
        ("Which person is the author of {e}?",),
    ),
    "occupation": (
        ("What was the profession of {e}?", "How did {e} earn a living?"),
        ("What did {e} earn a living as?",),
    ),
    "author_birthplace": (
        ("What is the birthplace of the author of {e}?", "The person who wrote {e} was born in which city?"),
        ("Where was the person who wrote {e} born?",),
    ),
    "founder_occupation": (
        ("What was the profession of the founder of {e}?", "How did the person who founded {e} earn a living?"),
        ("What did the person who founded {e} work as?",),
    ),
    "birth_country": (
        ("To which country does the birthplace of {e} belong?", "What is the country of the birthplace of {e}?"),
        ("In which country is the birthplace of {e}?",),
    ),
    "author_country": (
        (
            "The author of {e} was born in a city of which country?",
            "What is the country of the birthplace of the author of {e}?",
        ),
        ("In which country was the person who wrote {e} born?",),
    ),
    "teacher_country": (
        (
            "The founder of {e} was taught by a person who was born in which country?",
            "What is the country of the birthplace of the teacher of the founder of {e}?",
        ),
        ("In which country was the person who taught the founder of {e} born?",),
    ),
    "spouse_country": (
        (
            "The author of {e} was married to a person born in which country?",
            "What is the country of the birthplace of the spouse of the author of {e}?",
        ),
        ("In which country is the birthplace of the spouse of the author of {e}?",),
    ),
}

# Kind of entity -> relations that no question asks about: (relation, kind of the object, wordings). Their objects are
# of the kinds of answers.
DISTRACTORS: dict[str, tuple[tuple[str, str, Wordings], ...]] = {
    "people": (
        ("visited", "cities", ("{s} once visited {o}.", "{s} spent a summer in {o}.")),
        ("admired", "people", ("{s} admired {o}.", "{s} wrote many letters to {o}.")),
        ("refused", "occupations", ("{s} never became a {o}.", "{s} refused to be a {o}.")),
    ),
    "works": (
        ("translator", "people", ("{s} was translated by {o}.", "{o} translated the novel {s}.")),
        ("setting", "cities", ("{s} is set in {o}.", "Most of {s} takes place in {o}.")),
        ("dedication", "people", ("{s} is dedicated to {o}.", "{s} was praised by {o}.")),
    ),
    "companies": (
        ("director", "people", ("{o} later directed {s}.", "{s} was later sold to {o}.")),
        ("branch", "cities", ("{s} opened a branch in {o}.", "{s} has a workshop in {o}.")),
        ("customer", "people", ("The first customer of {s} was {o}.", "{o} once worked for {s}.")),
    ),
    "cities": (
        ("trade", "countries", ("{s} trades with {o}.", "{s} is far from {o}.")),
        ("guest", "people", ("{o} once spoke in {s}.", "{s} has a statue of {o}.")),
        ("twin", "cities", ("{s} is twinned with {o}.", "A road leads from {s} to {o}.")),
    ),
}

# What tells a person from a namesake.
BY_OCCUPATION = "{s} the {o}"
BY_RESIDENCE = "{s} of {o}"

# Of two statements, the later one holds; one that an outdated source makes gives way to one without such a mark.
YEARS = tuple(str(year) for year in range(1900, 2000, 10))
DATED = ("A record of {year} says that {{}}", "According to a book of {year}, {{}}")
FORMER = ("It was formerly held that {}", "An outdated source says that {}")


def hard_questions() -> list[str]:
    """All wordings of questions that options add."""
    chains = [wording for _, wordings in DEEP_CHAINS.values() for wording in wordings]
    return chains + [text for both in QUESTION_PARAPHRASES.values() for wordings in both for text in wordings]


def hard_texts() -> list[str]:
    """All words of passages that options add, in wordings; the first word of a sentence also as inside a frame."""
    sentences = [text for both in PARAPHRASES.values() for wordings in both for text in wordings]
    sentences += [text for relations in DISTRACTORS.values() for _, _, wordings in relations for text in wordings]
    sentences += [text for wordings in WORDINGS.values() for text in wordings]
    framed = [text[0].lower() + text[1:] for text in sentences]
    return [*sentences, *framed, BY_OCCUPATION, BY_RESIDENCE, *YEARS, *DATED, *FORMER]
