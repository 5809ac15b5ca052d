"""`Demonstrator`: what its episodes teach. It answers only with what it has read, by plans that a seed determines."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from helpers import PASSAGES, answer, played, search, small_retriever
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env.demonstrator import Demonstrator, answer_read, occurs, passages_read, succeeded
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Answer, Invalid, Search, make_protocol
from igsearch_env.questions import UNKNOWN, Question
from igsearch_env.rewards import normalize_answer
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.trajectory import ANSWERED, CONTEXT_FULL, RETRIEVAL_FAILED, Trajectory
from igsearch_env.world.bundled import bundled_retriever, bundled_world
from retrievers import Passage, Retriever

TWO_HOPS = Question(
    "h0",
    "In which country was the author of The Silent River born?",
    ("Veria",),
    "hops",
    {"supporting_titles": ["Tolona", "Alan Brin", "The Silent River"]},
)
TITLES, ASKS, VAGUE = Demonstrator(1.0, 0.0), Demonstrator(0.0, 0.0), Demonstrator(1.0, 1.0)


def demonstrate(
    demonstrator: Demonstrator,
    question: Question,
    *,
    retriever: Retriever | None = None,
    protocol: str = "search_r1",
    cut: int | None = None,
    max_searches: int = 4,
    attempts: int = 1,
) -> Trajectory:
    """One episode; `cut`: characters of an observation's passages that are shown."""
    written = make_protocol(protocol, "bare", None if cut is None else lambda text: text[:cut])
    rules = EpisodeRules(2, max_searches, attempts, written)
    stepper = EpisodeStepper([question], retriever or small_retriever(), None, rules)
    episode = stepper.begin(question)
    while not episode.trajectory.done:
        text = demonstrator.write(written, episode.trajectory, may_search=episode.searches_left > 0)
        stepper.step([episode], [text])
    return episode.trajectory


def queries(trajectory: Trajectory) -> list[str | None]:
    """Of the searches."""
    return [turn.query for turn in trajectory.turns if turn.is_search]


@cache
def world_questions() -> list[Question]:
    """Of the bundled world, some with answers that an observation holds by chance."""
    return [
        *bundled_world().questions["train"][:60],
        Question("doc", "What is it called?", ("Doc", "Answer now"), "chance"),
        Question("yes", "Is it so?", ("yes",), "chance", {"supporting_titles": ["Nothing of this name"]}),
        Question("none", "Who is it?", (UNKNOWN,), "chance"),
    ]


# ---------------------------------------------------------------- answers


@given(
    number=st.integers(0, 62),
    seed=st.integers(0, 50),
    titles=st.sampled_from([0.0, 0.6, 1.0]),
    vague=st.sampled_from([0.0, 1.0]),
    protocol=st.sampled_from(["search_r1", "autorefine"]),
    cut=st.sampled_from([None, 0, 25, 60, 200]),
    searches=st.integers(0, 4),
)
def test_it_answers_with_nothing_that_it_has_not_read(
    number: int, seed: int, titles: float, vague: float, protocol: str, cut: int | None, searches: int
) -> None:
    question = world_questions()[number]
    trajectory = demonstrate(
        Demonstrator(titles, vague, seed),
        question,
        retriever=bundled_retriever(),
        protocol=protocol,
        cut=cut,
        max_searches=max(1, searches),
    )
    last = trajectory.turns[-1].action
    assert not any(isinstance(turn.action, Invalid) for turn in trajectory.turns)
    assert isinstance(last, Answer)
    shown = "\n".join(turn.observation for turn in trajectory.turns)
    if succeeded(trajectory):
        assert trajectory.outcome == 1.0
        if normalize_answer(last.text) != "yes":
            assert last.text in shown
    elif last.text != UNKNOWN:
        assert trajectory.outcome == 0.0 or not answer_read(trajectory)
    assert (last.text == UNKNOWN) == (answer_read(trajectory) is None) or UNKNOWN in question.golden_answers
    assert queries(trajectory) == list(dict.fromkeys(queries(trajectory)))  # no query twice


@pytest.mark.parametrize("golden", ["Doc", "search", "left", "now"])
def test_words_around_passages_are_not_read(golden: str) -> None:
    question = Question("q", "Where was Alan Brin born?", (golden,), "x")
    trajectory = demonstrate(ASKS, question, max_searches=1)
    assert occurs(golden, make_protocol().observation(PASSAGES[:2]) + make_protocol().last_call())
    assert answer_read(trajectory) is None
    assert not succeeded(trajectory)


def test_a_short_answer_must_stand_in_a_supporting_page() -> None:
    pages = [Passage("a", "Rules", "A team has 7 players."), Passage("b", "Weather", "It rained for 9 days.")]
    question = Question("q", "How many players has a team?", ("7",), "x", {"supporting_titles": ["Rules"]})
    for golden, title, found in (
        ("7", "Rules", True),
        ("9", "Rules", False),
        ("9", None, True),
        ("players", "x", True),
    ):
        metadata = {"supporting_titles": [title]} if title else {}
        asked = replace(question, golden_answers=(golden,), metadata=metadata)
        assert (answer_read(played(asked, (search("rules"), pages))) is not None) == found, (golden, title)


def test_a_short_alias_of_a_longer_answer_is_not_looked_for() -> None:
    page = Passage("a", "Vienna", "He lived at Vienna.")
    question = Question("q", "Where?", ("Austria", "AT"), "x", {"supporting_titles": ["Vienna"]})
    assert answer_read(played(question, (search("x"), [page]))) is None
    assert answer_read(played(question, (search("x"), [replace(page, text="Vienna is in Austria.")]))) == "Austria"


def test_yes_and_no_need_all_supporting_pages() -> None:
    question = Question("q", "Is it so?", ("no",), "x", {"supporting_titles": ["Tolona", "Karith"]})
    tolona, karith = PASSAGES[1], PASSAGES[4]
    assert answer_read(played(question, (search("a"), [tolona]))) is None
    assert answer_read(played(question, (search("a"), [tolona]), (search("b"), [karith]))) == "no"
    assert answer_read(played(replace(question, metadata={}), (search("a"), [tolona]))) is None
    both = demonstrate(TITLES, question)
    assert queries(both) == ["Tolona", "Karith"]
    assert succeeded(both)
    assert both.prediction == "no"
    assert not succeeded(demonstrate(ASKS, replace(question, metadata={})))  # "no" would be a guess


@pytest.mark.parametrize("stop", [CONTEXT_FULL, RETRIEVAL_FAILED, ""])
def test_an_episode_that_ended_otherwise_has_not_succeeded(stop: str) -> None:
    question = Question("q", "Where was Alan Brin born?", ("Tolona",), "x")
    trajectory = played(question, (search("Alan Brin"), [PASSAGES[0]]), (answer("Tolona"), []))
    trajectory.outcome, trajectory.stop_reason = 1.0, ANSWERED
    assert succeeded(trajectory)
    assert not succeeded(replace(trajectory, stop_reason=stop))


def test_an_answer_that_was_guessed_has_not_succeeded() -> None:
    question = Question("q", "Where was Alan Brin born?", ("Tolona",), "x")
    trajectory = played(question, (search("Mira Sorel"), [PASSAGES[3]]), (answer("Tolona"), []))
    trajectory.outcome, trajectory.stop_reason = 1.0, ANSWERED
    assert not succeeded(trajectory)


def test_unknown_succeeds_where_no_passage_answers() -> None:
    question = Question("q", "Where was Alan Brin born?", (UNKNOWN,), "x")
    trajectory = demonstrate(ASKS, question)
    assert trajectory.prediction == UNKNOWN
    assert succeeded(trajectory)
    assert not succeeded(replace(trajectory, outcome=0.0))


# ---------------------------------------------------------------- what was read


@pytest.mark.parametrize("cut", [0, 5, 20, 40, 60, 1_000])
def test_passages_are_read_as_far_as_they_are_shown(cut: int) -> None:
    question = Question("q", "Where was Alan Brin born?", ("Tolona",), "x")
    trajectory = demonstrate(ASKS, question, cut=cut)
    shown = trajectory.turns[0].observation
    for passage in passages_read(trajectory):
        assert passage.title in shown
        assert passage.text in shown
    assert ("Tolona" in shown) == succeeded(trajectory)


def test_a_title_whose_page_was_cut_off_is_not_read() -> None:
    assert queries(demonstrate(TITLES, TWO_HOPS, cut=10)) == ["The Silent River", "Tolona", "Alan Brin"]


def test_tags_in_a_passage_end_what_is_read_of_it() -> None:
    question = Question("q", "Where is it?", ("Tolona",), "x")
    before = Passage("p", "Tags", "It is Tolona. <answer> no </answer>")
    after = Passage("p", "Tags", "<answer> no </answer> It is Tolona.")
    assert answer_read(played(question, (search("tags"), [before]))) == "Tolona"
    assert answer_read(played(question, (search("tags"), [after]))) is None


# ---------------------------------------------------------------- plans


def test_titles_are_searched_in_the_order_in_which_they_can_be_known() -> None:
    trajectory = demonstrate(TITLES, TWO_HOPS)
    # The work is in the question, its author in the passage found, the city in that about the author.
    expected = ["The Silent River", "Alan Brin", "Tolona"]
    assert queries(trajectory) == [title for title in expected if title in queries(trajectory)]
    assert queries(trajectory)[0] == "The Silent River"
    assert succeeded(trajectory)


def test_a_name_in_brackets_is_not_needed_to_know_a_title() -> None:
    question = replace(TWO_HOPS, metadata={"supporting_titles": ["Tolona", "The Silent River (novel)"]})
    assert queries(demonstrate(TITLES, question))[0] == "The Silent River (novel)"


def test_a_title_that_was_found_is_not_searched() -> None:
    question = replace(TWO_HOPS, metadata={"supporting_titles": ["Tolona", "Alan Brin", "Tolona"]})
    trajectory = demonstrate(TITLES, question)
    assert queries(trajectory) == ["Tolona"]  # which finds the page about who was born there, too


def test_the_question_is_searched_once_where_titles_are_unknown_or_not_drawn() -> None:
    for demonstrator, question in ((TITLES, replace(TWO_HOPS, metadata={})), (ASKS, TWO_HOPS)):
        assert queries(demonstrate(demonstrator, question)) == [TWO_HOPS.text]
    spaced = Question("q", "  Who </search> founded Vexo Glass? ", ("nobody",), "x")
    assert len(queries(demonstrate(ASKS, spaced))) == 1  # though its text is not the query that is read


def test_a_vague_query_has_two_words_of_the_question_in_their_order() -> None:
    for seed in range(10):
        trajectory = demonstrate(replace(VAGUE, seed=seed), TWO_HOPS)
        vague = (queries(trajectory)[0] or "").split()
        words = ["country", "author", "Silent", "River", "born"]
        assert len(vague) == 2
        assert [word for word in words if word in vague] == vague
    asked = demonstrate(Demonstrator(0.0, 1.0), replace(TWO_HOPS, golden_answers=("nothing",)))
    assert queries(asked)[1:] == [TWO_HOPS.text]
    short = demonstrate(Demonstrator(0.0, 1.0), Question("q", "Who is Mira?", ("x",), "x"))
    assert queries(short) == ["Who is Mira?"]


def test_seed_and_question_alone_decide() -> None:
    questions = bundled_world().questions["train"][:40]

    def texts(seed: int, order: list[Question]) -> dict[str, list[str]]:
        found = {}
        for question in order:
            trajectory = demonstrate(Demonstrator(0.5, 0.5, seed), question, retriever=bundled_retriever())
            found[question.id] = [turn.text for turn in trajectory.turns]
        return found

    assert texts(0, questions) == texts(0, questions[::-1])
    assert texts(0, questions) != texts(1, questions)


def test_shares_are_those_of_the_episodes() -> None:
    questions = [replace(TWO_HOPS, id=str(number)) for number in range(400)]
    demonstrator = Demonstrator(0.6, 0.15)
    first = [demonstrator.act(Trajectory(question, ""), may_search=True) for question in questions]
    searched = [action.query for action in first if isinstance(action, Search)]
    assert len(searched) == 400
    vague = sum(query not in (TWO_HOPS.text, "The Silent River") for query in searched)
    assert 0.10 < vague / 400 < 0.20
    assert 0.52 < searched.count("The Silent River") / (400 - vague) < 0.68


def test_without_a_search_left_it_answers() -> None:
    trajectory = demonstrate(TITLES, TWO_HOPS, max_searches=1)
    assert [type(turn.action) for turn in trajectory.turns] == [Search, Answer]


def test_every_attempt_is_played_to_its_end() -> None:
    trajectory = demonstrate(TITLES, TWO_HOPS, attempts=2)
    assert [attempt.outcome for attempt in trajectory.attempts] == [1.0, 1.0]
    assert succeeded(trajectory)


@pytest.mark.parametrize(("name", "value"), [("titles", 1.5), ("vague", -0.1)])
def test_a_share_is_a_fraction(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}={value}"):
        Demonstrator(**{name: value})


# ---------------------------------------------------------------- summaries


def test_after_passages_a_summary_is_written_where_the_protocol_asks_for_one() -> None:
    protocol = make_protocol("autorefine")
    trajectory = demonstrate(TITLES, TWO_HOPS, protocol="autorefine")
    first, *later = trajectory.turns
    assert protocol.refined_text(first.text) == ""
    for before, turn in zip(trajectory.turns, later, strict=False):
        refined = protocol.refined_text(turn.text)
        assert refined
        assert any(refined in passage.text for passage in before.passages)
    assert protocol.refined_text(trajectory.turns[-1].text) == "Tolona is a city in Veria."
    assert all(not protocol.refined_text(turn.text) for turn in demonstrate(TITLES, TWO_HOPS).turns)


def test_a_summary_is_of_what_was_shown() -> None:
    protocol = make_protocol("autorefine")
    trajectory = demonstrate(TITLES, TWO_HOPS, protocol="autorefine", cut=0)
    assert {protocol.refined_text(turn.text) for turn in trajectory.turns[1:]} == {UNKNOWN}
