"""Calls of tools in the formats of published families: what is written is read back, and what is malformed is not."""

from __future__ import annotations

import copy
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_templates import FORMATS, TEMPLATES, template_tokenizer, tool_tokenizer

from algorithms.common.model.chat_template import ChatTemplate
from algorithms.common.model.response_templates import CALL_FORMATS, python_calls
from algorithms.common.model.tokenizer import PolicyTokenizer
from algorithms.common.model.turn_end import TurnEnd
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Answer, Invalid, Search, make_protocol
from igsearch_env.protocols.tool_calls import SEARCH_TOOL, ToolCalls


@cache
def tools(family: str, arguments: str = "") -> tuple[PolicyTokenizer, ToolCalls]:
    """A tokenizer of a family, and the protocol in its format."""
    tokenizer = PolicyTokenizer(
        tool_tokenizer(family), chat=True, chat_template=ChatTemplate.parse("2024-07-26", arguments)
    )
    return tokenizer, ToolCalls(format=tokenizer.use_tools([SEARCH_TOOL]))


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_format_of_a_family_is_recognised(family: str) -> None:
    tokenizer, _ = tools(family)
    found = tokenizer.tool_format
    assert found is not None
    assert found.call_format is CALL_FORMATS[FORMATS[family]]
    assert found.native == (family not in ("smollm2", "gemma3"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(
            ("qwen2_5", "json"),
            ("qwen3", "json"),
            ("qwen3_5_think", "xml"),
            ("qwen3_5_nothink", "xml"),
            ("gemma3", "json"),
        ),
        *(("gemma4_v5", "gemma"), ("llama3_1", "bare_json"), ("llama3_2", "bare_json"), ("gptoss", "harmony")),
        *(("lfm2_2_5_v2", "python"), ("lfm2_2_5_vl", "python"), ("nemotron_3_nano", "xml")),
    ],
)
def test_published_templates(name: str, expected: str) -> None:
    trl = pytest.importorskip("trl", reason="needs TRL, which contains the templates: pip install 'igsearch[trl]'")
    file = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
    tokenizer = PolicyTokenizer(template_tokenizer(file.read_text(encoding="utf-8")), chat=True)
    protocol = ToolCalls(format=tokenizer.use_tools([SEARCH_TOOL]))
    assert tokenizer.tool_format is not None
    assert tokenizer.tool_format.call_format is CALL_FORMATS[expected]
    for action in (Search("who was O'Neill (1999)?"), Answer("Paris, 1900")):
        assert protocol.parse(protocol.write(action)) == action


TEXTS = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters="\u2063"), min_size=1, max_size=40
).map(str.strip)


@pytest.mark.parametrize("family", TEMPLATES)
@settings(max_examples=30)
@given(text=TEXTS.filter(bool))
def test_searches_and_answers_are_read_as_they_were_written(family: str, text: str) -> None:
    if family == "lfm2" and ("'" in text or ")" in text):
        return  # its template does not escape quotes, so that some queries read as calls
    if family == "gemma4" and ('"' in text or "\\" in text):
        return  # quotes are not escaped within <|"|> either
    _, protocol = tools(family)
    for action in (Search(text), Answer(f"A{text}")):
        written = protocol.write(action)
        found = protocol.parse(written)
        assert type(found) is type(action)
        read = found.query if isinstance(found, Search) else found.text  # type: ignore[union-attr]
        assert read.replace("< ", "<") == (text if isinstance(found, Search) else f"A{text}").replace("< ", "<")
        span = protocol.action_span(written)
        assert span is not None
        inside = written[span.start : span.end]
        assert text.split()[0][:1] in inside or "\\" in inside
        assert span.outer_start <= span.start <= span.end <= span.outer_end


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("qwen3", "<think>\nWho? The tool search.\n</think>\n\n"),
        ("qwen3.5", "Who? The tool search.\n</think>\n\n"),  # the prompt has opened it
        ("gpt-oss", "<|channel|>analysis<|message|>Who? The tool search.<|end|><|start|>assistant"),
        ("gemma4", "<|channel>thought\nWho? The tool search.\n<channel|>"),
    ],
)
def test_reasoning_is_no_part_of_an_action(family: str, text: str) -> None:
    _, protocol = tools(family)
    prefix = protocol.answer_prefix
    for action in (Search("The tool search"), Answer("Who")):
        plain = protocol.write(action)
        # A template without reasoning writes an empty block, or the end of one; the message itself is what follows.
        rest = plain.removeprefix(prefix) if family.startswith("qwen") else plain
        whole = text + rest
        assert protocol.parse(whole) == action
        span = protocol.action_span(whole)
        assert span is not None
        assert span.start >= len(text)


def test_reasoning_that_the_prompt_opens_after_results_alone() -> None:
    _, protocol = tools("gemma4", '{"enable_thinking": true}')
    assert protocol.parse("It is there.\n<channel|>Paris<turn|>") == Answer("Paris")
    assert protocol.parse("<|channel>thought\nIt is.\n<channel|>Paris<turn|>") == Answer("Paris")
    assert protocol.parse("Paris<turn|>") == Answer("Paris")
    assert protocol.answer_prefix == "<channel|>"  # an answer after a result is not part of the reasoning


CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "x"}}\n</tool_call>'
XML = "</think><tool_call><function=search><parameter=query>a</parameter></function></tool_call>"
MALFORMED = [
    ("qwen3", "<tool_call>\n{'name': 'search'}\n</tool_call>", "can't be read"),
    ("qwen3", '<tool_call>\n{"name": "search", "arguments": {"query": "x"}\n</tool_call>', "can't be read"),
    ("qwen3", "<tool_call>\n[1, 2]\n</tool_call>", "can't be read"),
    ("qwen3", "<tool_call>\n7\n</tool_call>", "can't be read"),
    ("qwen3", '<tool_call>\n{"arguments": {"query": "x"}}\n</tool_call>', "names no tool"),
    ("qwen3", CALL + CALL, "2 tool calls"),
    ("qwen3", CALL.replace('"search"', '"browse"'), "no tool 'browse'"),
    ("qwen3", CALL.replace('"x"', "7"), "is '7', which is no string"),
    ("qwen3", CALL.replace('"x"', '"x", "top_k": 5'), "no argument 'top_k'"),
    ("qwen3", CALL.replace('{"query": "x"}', "{}"), "query is missing"),
    ("qwen3", CALL.replace('{"query": "x"}', '["x"]'), "no object"),
    ("qwen3", CALL.replace('{"query": "x"}', "null"), "no object"),
    ("qwen3", "", "neither a tool call nor an answer"),
    ("qwen3", "<think>\nI do not know\n</think>\n\n", "neither a tool call nor an answer"),
    ("qwen3", "<think>\nI do not", "neither a tool call nor an answer"),
    ("qwen3", "x" * 20_000, "20000 characters"),
    ("qwen3", "[" * 9_000, None),  # an answer: nothing in it looks like a call
    ("qwen3", "<tool_call>" + "[" * 9_000, "can't be read"),
    ("qwen3.5", "</think><tool_call>\nsearch: x\n</tool_call>", "begins no complete call"),
    ("qwen3.5", "</think><tool_call>\n<function=search>\n</function>\n</tool_call>", "query is missing"),
    ("llama3", '{"name": "search", "parameters": {"query": "x"', "can't be read"),
    ("llama3", '{"name": "search"}', "can't be read"),
    ("llama3", '{"name": "search", "parameters": {"query": "x"}}; {"name": "search"}', "can't be read"),
    ("gemma4", "<|tool_call>call:search{query}<tool_call|>", "can't be read"),
    ("gemma4", "<|tool_call>search x<tool_call|>", "begins no complete call"),
    ("gpt-oss", " to=functions.search<|channel|>commentary json<|message|>{'query'}<|call|>", "can't be read"),
    ("gpt-oss", " to=functions.python<|channel|>commentary json<|message|>{}<|call|>", "no tool 'python'"),
    ("gpt-oss", "Paris", "neither a tool call nor an answer"),  # in no channel
    ("lfm2.5", "<|tool_call_start|>[search(query='a'), search(query='b')]<|tool_call_end|>", "2 tool calls"),
    ("lfm2.5", "<|tool_call_start|>[search(query=open('x'))]<|tool_call_end|>", "can't be read"),
    ("lfm2.5", "<|tool_call_start|>[search('x')]<|tool_call_end|>", "can't be read"),
    ("lfm2.5", "<|tool_call_start|>[search(query=7)]<|tool_call_end|>", "is '7', which is no string"),
    ("lfm2.5", "<|tool_call_start|>[search(foo query='x')]<|tool_call_end|>", "can't be read"),
    ("lfm2.5", "<|tool_call_start|>[search(query='a', search(query='b')]<|tool_call_end|>", "can't be read"),
    ("smollm2", "<tool_call>search</tool_call>", "can't be read"),
    # A call that was cut off, in reasoning that nothing closes; one in reasoning that is closed; two beginnings.
    ("qwen3.5", "I need to search.\n<tool_call>\n<function", "can't be read"),
    ("lfm2.5", "<think>I search <|tool_call_start|>[sea", "can't be read"),
    ("qwen3", f"<think>\nI could write {CALL} but no.\n</think>\n\n", "neither a tool call nor an answer"),
    ("gemma4", '<|channel>thought\n<|tool_call>call:search{query:<|"|>x<|"|>}<tool_call|>\n<channel|>', "neither"),
    ("qwen3.5", XML.replace("</function>", "<parameter=query>b</parameter></function>"), "which is no string"),
    ("qwen3.5", XML.replace("</tool_call>", XML[19:]), "which is no string"),
    ("llama3", "<|python_tag|>search.call(query='x')", "can't be read"),
    ("llama3", '{"type": "function", "function": "search", "parameters": {"query": "x"}}', "can't be read"),
]


@pytest.mark.parametrize(("family", "text", "reason"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_no_single_call_of_the_tool_is_invalid(family: str, text: str, reason: str | None) -> None:
    _, protocol = tools(family)
    action = protocol.parse(text)
    if reason is None:
        assert action == Answer(text)
        return
    assert isinstance(action, Invalid), action
    assert reason in action.reason
    assert 'Call search with one argument, {"query": "..."}, or answer.' in action.reason
    assert protocol.action_span(text) is None
    # The result of a call that was tried is a message of the tool; anything else is answered by the user.
    assert protocol.role_after(action) == ("user" if "neither" in reason or "characters" in reason else "tool")


@settings(max_examples=60)
@given(st.text(max_size=80), st.sampled_from(sorted(TEMPLATES)))
def test_no_text_raises(text: str, family: str) -> None:
    _, protocol = tools(family)
    written = protocol.write(Search("a query"))
    for part in (text, written[: len(text)], written.replace("query", text), text + written, written + text):
        protocol.parse(part)
        protocol.action_span(part)


def test_a_call_ends_reasoning_that_nothing_closes() -> None:
    _, protocol = tools("qwen3")
    assert protocol.parse(f"<think>\nI search. {CALL}") == Search("x")
    assert protocol.parse(f"<think>\nI use <tool_call> to search. {CALL}") == Search("x")


def test_the_end_of_reasoning_ends_no_turn() -> None:
    tokenizer, protocol = tools("gpt-oss")
    text = f"<|channel|>analysis<|message|>Who?<|end|><|start|>assistant{protocol.write(Search('x'))}"
    ids = tokenizer.encode_whole(text)
    assert TurnEnd(tokenizer, ()).position(ids) == len(ids)
    assert protocol.parse(tokenizer.decode(ids)) == Search("x")


@pytest.mark.parametrize(
    ("family", "text", "action"),
    [
        ("lfm2.5", "Opened in 1999, rebuilt(2004)", Answer("Opened in 1999, rebuilt(2004)")),
        ("lfm2.5", "<|tool_call_start|>[search(query='x')]<|tool_call_end|> Searching, wait(1)", Search("x")),
        ("llama3", '{"type": "function", "name": "search", "parameters": {"query": "x"}}', Search("x")),
        ("llama3", '<|python_tag|>{"parameters": {"query": "x"}, "name": "search"}', Search("x")),
        ("llama3", "Paris {the city}", Answer("Paris {the city}")),
    ],
)
def test_other_ways_to_write_the_same(family: str, text: str, action: Search | Answer) -> None:
    _, protocol = tools(family)
    assert protocol.parse(text) == action


@pytest.mark.parametrize("family", TEMPLATES)
def test_tags_of_the_format_in_an_action_are_broken_up(family: str) -> None:
    _, protocol = tools(family)
    written = protocol.write(Search("x"))
    tags = [*dict.fromkeys(re.findall(r"<[^<>\s]+>", written)), "</think>"]
    for tag in tags:
        for action in (Search(f"what does {tag} close?"), Answer(f"the tag {tag} it is")):
            found = protocol.parse(protocol.write(action))
            assert type(found) is type(action), (tag, found)
            content = found.query if isinstance(found, Search) else found.text  # type: ignore[union-attr]
            assert content.replace("< ", "<") == (action.query if isinstance(action, Search) else action.text)


def test_names_of_special_tokens_in_a_query_end_no_turn() -> None:
    tokenizer, protocol = tools("qwen2.5")
    ids = tokenizer.encode_completion(protocol.write(Search("what is <|im_end|> for?")))
    assert [i in tokenizer.eos_ids for i in ids] == [False] * (len(ids) - 1) + [True]


def test_a_tokenizer_with_a_response_template_of_its_own() -> None:
    own = copy.deepcopy(tool_tokenizer("qwen2.5"))
    own.chat_template = own.chat_template.replace("<tool_call>", "<call>").replace("</tool_call>", "</call>")
    with pytest.raises(ConfigurationError, match="response_template"):
        PolicyTokenizer(own, chat=True).use_tools([SEARCH_TOOL])
    own.response_template = {
        "defaults": {"role": "assistant"},
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "tool_calls": {
                **{"open": "<call>", "close": "</call>", "repeats": True, "content": "json"},
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"close_pattern": r"<\|im_end\|>"},
        },
    }
    protocol = ToolCalls(format=PolicyTokenizer(own, chat=True).use_tools([SEARCH_TOOL]))
    assert protocol.parse('<call>{"name": "search", "arguments": {"query": "x"}}</call>') == Search("x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("<|im_end|>", "\n"), "without a special token"),
        (lambda t: t.replace("{{ m.content }}<", "<"), "drops the message"),
    ],
    ids=["no end of turn", "drops messages"],
)
def test_templates_that_can_not_be_used_are_refused(change: Any, message: str) -> None:
    own = copy.deepcopy(tool_tokenizer("smollm2"))
    own.chat_template = change(own.chat_template)
    with pytest.raises(ConfigurationError, match=message):
        PolicyTokenizer(own, chat=True).use_tools([SEARCH_TOOL])


def test_without_the_chat_template_there_are_no_tools() -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.chat"):
        PolicyTokenizer(tool_tokenizer("qwen2.5")).use_tools([SEARCH_TOOL])


@pytest.mark.parametrize("text", ["query=", "query='a' 'b", "__import__('os')", "**{'query': 'x'}", "query=f()"])
def test_calls_in_python_are_read_and_never_run(text: str) -> None:
    for call in (f"[search({text})]", f"[search(query='x', {text})]"):
        with pytest.raises(ValueError, match=r"not (?:valid Python|of the form)|malformed node"):
            python_calls(call)


def test_messages_as_json_for_programs() -> None:
    protocol = make_protocol("tool_calls")
    message = '{"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": '
    assert protocol.parse(message + '{"name": "search", "arguments": "{\\"query\\": \\"a b\\"}"}}]}') == Search("a b")
    assert protocol.parse(message + '{"name": "search", "arguments": {"query": "a b"}}}]}') == Search("a b")
    assert isinstance(protocol.parse(message + "}]}"), Invalid)
    assert isinstance(protocol.parse('{"tool_calls": ['), Invalid)
    assert isinstance(protocol.parse('{"content": 3}'), Invalid)
    for text in ("Paris", "7", "[1]", '{"a": 1}', '"x"', '{"content": "x"}', "{"):
        action = Answer(text)
        assert protocol.parse(protocol.write(action)) == action
    for query in ("a b", 'a "b"', "a'b", "</search>", "é 東京"):
        written = protocol.write(Search(query))
        assert protocol.parse(written) == Search(query)
        span = protocol.action_span(written)
        assert span is not None
        assert query.replace('"', '\\"') == written[span.start : span.end]
