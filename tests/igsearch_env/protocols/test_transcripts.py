"""Transcripts of other programs: what of them the policy wrote."""

from __future__ import annotations

import pytest
from helpers import QUESTIONS, answer, played, search, small_retriever

from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.protocols.transcripts import is_transcript, prompt_end, question_in, read_transcript

# In the form of Search-R1's prompt: it names all tags, and shows an answer.
PROMPT = (
    "Answer the given question. Reason inside <think> and </think> first. You can search by <search> query </search> "
    "and the results are between <information> and </information>. Give the answer inside <answer> and </answer>, "
    "without illustrations. For example, <answer> Beijing </answer>. Question: {question}\n"
)
QUESTION = "who painted the bridge at Karith?"
FOUND = '<information>Doc 1(Title: "X") It says <answer> Rome </answer> and <search> y </search>. Question: why?\n'
RESPONSE = (
    f"<think> hm </think><search> bridge painter </search>\n\n{FOUND}</information>\n\n<answer> Mira Solm </answer>"
)
# In the form of what Search-R1 says about an invalid action.
CORRECTION = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> and </search>. If I "
    "want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again.\n"
)


@pytest.mark.parametrize(
    ("text", "expected", "queries"),
    [
        (RESPONSE, "Mira Solm", ["bridge painter"]),
        (f"<search> a </search>{CORRECTION}<search>b</search>{FOUND}</information><answer>c</answer>", "c", ["a", "b"]),
        (CORRECTION, None, []),
        (f"<search> a </search>{FOUND}", None, ["a"]),  # cut in the evidence
        ("<think> so </think> Mira", None, []),
        ("<answer> a </answer><answer> b </answer>", "a", []),
        ("<answer> a", None, []),
        ("<answer></answer>", "", []),
        ("", None, []),
        (
            '<tool_call>\n{"name": "search", "arguments": {"query_list": ["a", "b"]}}\n</tool_call>'
            '<tool_response>{"result": "<answer> Rome </answer>"}</tool_response><tool_call>x</tool_call>'
            "<answer> c </answer>",
            "c",
            ["a; b", "x"],
        ),
    ],
)
def test_answers_and_queries(text: str, expected: str | None, queries: list[str]) -> None:
    found = read_transcript(text)
    assert (found.answer, list(found.queries)) == (expected, queries)


HEADS = ["", "<|im_end|>\n<|im_start|>assistant\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"]


@pytest.mark.parametrize("question", [QUESTION, None, "another text of the question"])
@pytest.mark.parametrize("head", [*HEADS, "\nassistant\n"])
@pytest.mark.parametrize("before", ["", "<|im_start|>system\nQuestion: none<|im_end|>\n<|im_start|>user\n"])
def test_the_prompt_of_a_whole_transcript_is_left_out(before: str, head: str, question: str | None) -> None:
    text = before + PROMPT.format(question=QUESTION) + head + RESPONSE
    start = prompt_end(text, question)
    found = read_transcript(text, start)
    assert (found.answer, list(found.queries)) == ("Mira Solm", ["bridge painter"])
    assert question_in(text[:start]) == QUESTION


def test_the_last_attempt_of_a_reflection_counts() -> None:
    prompt = PROMPT.format(question=QUESTION)
    text = f"{prompt}<answer> first </answer>\n\n{prompt}<answer> second </answer>"
    assert read_transcript(text, prompt_end(text, QUESTION)).answer == "second"


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        (PROMPT.format(question=QUESTION), QUESTION),
        ("who painted it", "who painted it"),
        ("Answer it.\nwho painted it", None),
        ("Answer in <answer> x </answer>: who?", None),
        ("Question: ", None),
    ],
)
def test_the_question_in_a_prompt(prompt: str, question: str | None) -> None:
    assert question_in(prompt) == question


@pytest.mark.parametrize("name", ["search_r1", "autorefine"])
def test_transcripts_of_this_project_are_read_as_they_were_played(name: str) -> None:
    protocol = make_protocol(name)
    passages = small_retriever().search(["Mira Sorel"], 3)[0]
    turns = [("I do not know.", []), (search("Mira Sorel"), passages), (answer("a botanist"), [])]
    trajectory = played(QUESTIONS[1], *turns, protocol=protocol, last_call=True)
    text = trajectory.transcript()
    found = read_transcript(text, prompt_end(text, None))
    assert (found.answer, list(found.queries)) == ("a botanist", ["Mira Sorel"])
    assert is_transcript(text)
    assert [turn.action for turn in trajectory.turns[1:]] == [Search("Mira Sorel"), Answer("a botanist")]
