"""Reading actions and writing observations: any text is read, and passages can't act."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import TAGGED
from hypothesis import given
from hypothesis import strategies as st

from igsearch_env import ConfigurationError
from igsearch_env.protocols import (
    MAX_ACTION_CHARS,
    PROMPTS,
    ActionSpan,
    Answer,
    Invalid,
    Search,
    make_protocol,
    parse,
)
from igsearch_env.protocols.tags import action_span, refine_span
from retrievers import Passage
from retrievers.base import MAX_QUERY_CHARS

TAGS = [
    f"<{slash}{name}>"
    for name in ("think", "search", "information", "documents", "refine", "answer")
    for slash in ("", "/")
]
PIECES = st.sampled_from(
    [*TAGS, "<SEARCH>", "</Answer>", "<search", "answer>", "< answer>", "<", ">", "/", "Rome", " ", "\n", "é"]
)
TAG_SOUP = st.lists(PIECES, max_size=30).map("".join)
FAMILY = st.sampled_from(TAGGED)


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("<search> river of Karith </search>", Search("river of Karith")),
        ("<answer>Ostue</answer>", Answer("Ostue")),
        ("<think> x </think>\n<search>q</search> and more", Search("q")),
        ("<search>first</search><search>second</search>", Search("first")),
        ("<answer>yes</answer><search>q</search>", Answer("yes")),
        ("<search>q</search><answer>yes</answer>", Search("q")),
        ("<search>two\nlines\n</search>", Search("two\nlines")),
        ("<search></search>", Search("")),
        ("<search>  \n </search>", Search("")),
        ("<answer></answer>", Answer("")),
        ("<search>never closed <answer>Rome</answer>", Answer("Rome")),
        ("<answer>never closed <search>q</search>", Search("q")),
        ("<search> a <search> b </search>", Search("a <search> b")),
        ("</search><search>q</search>", Search("q")),
        ("<search>crossed</answer> x </search>", Search("crossed</answer> x")),
        ("<answer>Ångström Straße 日本</answer>", Answer("Ångström Straße 日本")),
    ],
)
def test_first_complete_pair_counts(family: str, text: str, action: Search | Answer) -> None:
    assert parse(text) == action
    assert make_protocol(family).parse(text) == action


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rome",
        "<search>q",
        "q</search>",
        "<SEARCH>q</SEARCH>",
        "<Answer>Rome</Answer>",
        "<search >q</search>",
        "<search>" * 2000,
    ],
)
def test_text_without_a_pair_is_invalid_and_says_how_to_do_it_right(family: str, text: str) -> None:
    action = make_protocol(family).parse(text)
    assert isinstance(action, Invalid)
    assert "<search> query </search>" in action.reason
    assert "<answer> answer </answer>" in action.reason


def test_over_long_action_is_invalid_naming_size_and_limit() -> None:
    action = parse("<answer>Rome</answer>".ljust(100_000))
    assert isinstance(action, Invalid)
    assert "100000" in action.reason
    assert str(MAX_ACTION_CHARS) in action.reason


def test_limit_itself_is_allowed() -> None:
    assert parse("<answer>Rome</answer>".ljust(MAX_ACTION_CHARS)) == Answer("Rome")
    assert isinstance(parse("<answer>Rome</answer>".ljust(MAX_ACTION_CHARS + 1)), Invalid)
    assert MAX_ACTION_CHARS <= MAX_QUERY_CHARS  # so that no policy can write a query that a retriever refuses


@given(st.text() | TAG_SOUP, FAMILY)
def test_any_text_is_an_action(text: str, family: str) -> None:
    assert isinstance(make_protocol(family).parse(text), Search | Answer | Invalid)


@given(TAG_SOUP, FAMILY)
def test_parse_agrees_with_the_reference_expression(text: str, family: str) -> None:
    match = re.search(r"<(search|answer)>(.*?)</\1>", text, re.DOTALL)
    action = make_protocol(family).parse(text)
    if match is None:
        assert isinstance(action, Invalid)
        assert action_span(text) is None
    else:
        assert action == {"search": Search, "answer": Answer}[match[1]](match[2].strip())
        assert action_span(text) == ActionSpan(match[1], match.start(2), match.end(2), match.start(), match.end())


@pytest.mark.parametrize(
    ("text", "block", "said"),
    [
        ("<refine> a fact </refine> <search>q</search>", "<refine> a fact </refine>", "a fact"),
        ("<think>x</think><refine>one</refine><refine>two</refine>", "<refine>one</refine>", "one"),
        ("<refine> open <search>q</search>", "<refine> open ", "open"),
        ("<refine> open <answer>Rome</answer>", "<refine> open ", "open"),
        ("<refine> open to the end", "<refine> open to the end", "open to the end"),
        ("<refine></refine>", "<refine></refine>", ""),
    ],
)
def test_refine_block(text: str, block: str, said: str) -> None:
    span = refine_span(text)
    assert span is not None
    assert text[span[0] : span[1]] == block
    for family in TAGGED:
        assert make_protocol(family).refinement(text) == block
        assert make_protocol(family).refined_text(text) == said


@pytest.mark.parametrize("text", ["", "no block", "</refine>", "<REFINE> x </REFINE>"])
def test_no_refine_block(text: str) -> None:
    assert refine_span(text) is None
    for family in TAGGED:
        assert make_protocol(family).refinement(text) == make_protocol(family).refined_text(text) == ""


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize(
    "question", ["Who?", "What is {x} in {question}?", "{0} {} %s \\1 $&", "<answer> Rome </answer>"]
)
def test_prompt_holds_the_question_as_it_stands(family: str, question: str) -> None:
    protocol = make_protocol(family)
    assert protocol.question_prompt(question) == protocol.template.replace("{question}", "\0").replace("\0", question)
    assert question in protocol.question_prompt(question)


def test_prompts_teach_the_tags_of_their_family() -> None:
    for family, evidence in (("search_r1", "information"), ("autorefine", "documents")):
        prompt = make_protocol(family).question_prompt("Who?")
        for tag in ("think", "search", evidence, "answer"):
            assert f"<{tag}>" in prompt
            assert f"</{tag}>" in prompt
    assert "<refine>" in make_protocol("autorefine").template


def test_prompt_by_name_and_by_template() -> None:
    assert make_protocol("search_r1", "bare").question_prompt("Who?") == "Who?\n"
    assert make_protocol("autorefine", "search_r1").template == PROMPTS["search_r1"]
    assert make_protocol("search_r1", "Q: {question} A:").question_prompt("Who?") == "Q: Who? A:"


def test_template_without_a_place_for_the_question() -> None:
    with pytest.raises(ConfigurationError, match=r"Answer this.*\{question\}"):
        make_protocol("search_r1", "Answer this: {qestion}")


def test_prompt_from_file(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text("Frage — {question}\n", encoding="utf-8")
    assert make_protocol("autorefine", f"@{path}").question_prompt("Wer?") == "Frage — Wer?\n"
    path.write_text("nothing to ask", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="nothing to ask"):
        make_protocol("autorefine", f"@{path}")


@pytest.mark.parametrize(("family", "near"), [("search_r2", "search_r1"), ("autorefin", "autorefine")])
def test_unknown_family_names_the_nearest(family: str, near: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{family}'.*did you mean '{near}'"):
        make_protocol(family)


@given(st.lists(st.tuples(TAG_SOUP, TAG_SOUP), max_size=4), FAMILY)
def test_tags_in_passages_are_disarmed(pairs: list[tuple[str, str]], family: str) -> None:
    passages = [Passage(str(i), title, text) for i, (title, text) in enumerate(pairs)]
    observation = make_protocol(family).observation(passages)
    assert isinstance(make_protocol(family).parse(observation), Invalid)
    assert refine_span(observation) is None
    tag = "information" if family == "search_r1" else "documents"
    assert [found for found in TAGS for _ in range(observation.count(found))] == [f"<{tag}>", f"</{tag}>"]
    assert not any(text in observation for text in make_protocol(family).stop_strings)


@pytest.mark.parametrize(("family", "tag"), [("search_r1", "information"), ("autorefine", "documents")])
def test_observation_shows_passages_in_order(family: str, tag: str) -> None:
    protocol = make_protocol(family)
    passages = [Passage("7", "Karith", "stands on the Ostue."), Passage("3", "Lurm", "is a sea, x < y.")]
    block = f"<{tag}>Doc 1(Title: Karith) stands on the Ostue.\nDoc 2(Title: Lurm) is a sea, x < y.</{tag}>"
    assert protocol.evidence(passages) == block
    assert protocol.observation(passages) == f"\n\n{block}\n\n"
    assert protocol.observation([]) == f"\n\n<{tag}></{tag}>\n\n"


@pytest.mark.parametrize("family", TAGGED)
@pytest.mark.parametrize("action", [Search("river of Karith"), Answer("Ostue"), Search("")])
def test_what_a_protocol_writes_it_reads(family: str, action: Search | Answer) -> None:
    protocol = make_protocol(family)
    text = protocol.write(action)
    span = protocol.action_span(text)
    assert protocol.parse(text) == action
    assert span is not None
    assert (span.outer_start, span.outer_end) == (0, len(text))
    assert text.endswith(protocol.stop_strings)


@pytest.mark.parametrize("family", TAGGED)
def test_an_answer_is_written_after_the_prefix_that_is_scored(family: str) -> None:
    protocol = make_protocol(family)
    text = f"{protocol.answer_prefix}{protocol.answer_space}Ostue"
    assert protocol.write(Answer("Ostue")).startswith(text)


@given(st.lists(TAG_SOUP, min_size=1, max_size=3), FAMILY)
def test_what_follows_the_evidence_of_an_observation(texts: list[str], family: str) -> None:
    protocol = make_protocol(family)
    passages = [Passage(str(i), "", text) for i, text in enumerate(texts)]
    observation = protocol.observation(passages) + protocol.last_call()
    assert protocol.after_evidence(observation) == "\n\n" + protocol.last_call()
    assert observation == f"\n\n{protocol.evidence(passages)}{protocol.after_evidence(observation)}"


def test_a_protocol_states_its_markers() -> None:
    for protocol in map(make_protocol, TAGGED):
        assert {*protocol.markers} == {*re.findall(r"</?\w+>", protocol.own_prompt)}
        assert {*protocol.stop_strings} < {*protocol.markers}


def test_a_prompt_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"@.*prompt\.txt.*UTF-8"):
        make_protocol("search_r1", f"@{tmp_path / 'prompt.txt'}")
