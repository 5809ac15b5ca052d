"""The usage sections of the card: the protocol, and code for transformers, IGSearch and vLLM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import fields

from algorithms.common.export.facts import ExportedPolicy
from algorithms.common.export.markdown import code_block, code_span, without_passwords
from algorithms.common.model.chat_template import DATE, ChatTemplate
from algorithms.common.rollout.environment import EpisodeConfig
from igsearch_env.protocols import PROTOCOLS
from retrievers.base import Passage

Messages = list[dict[str, str]]

VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)  # values of its --max-lora-rank; the first is the default


def protocol_section(run: ExportedPolicy) -> Iterator[str]:
    """The paragraphs of the section: prompt, tags, observations."""
    protocol = run.protocol
    if protocol is None:
        yield f"The prompt is that of {code_span(run.setting('env.prompt'))}, a file that no longer exists."
        return
    chat = ", as the user message of the chat template" if run.setting("policy.chat") else ""
    newline = " and a newline at the end" if protocol.template.endswith("\n") else ""
    yield f"The prompt{chat}, with the question in place of `{{question}}`{newline}:"
    yield code_block(protocol.template)
    if protocol.system:
        yield "As the system message:" if run.setting("policy.chat") else "Before it, with an empty line between:"
        yield code_block(protocol.system)
    yield f"{protocol.description()} After a search it reads the passages in this form:"
    yield code_block(protocol.observation([Passage("", f"title {i}", f"text {i}", 0.0) for i in (1, 2)]))
    yield f"The observation of the last allowed search ends with `{protocol.last_call().strip()}`."


def use_section(run: ExportedPolicy) -> Iterator[str]:
    """The paragraphs of the section: one turn with transformers, the whole loop, a server."""
    protocol = run.protocol
    tests = [result for result in (run.after, run.before) if result is not None]
    question = next((rows[0].question for result in tests for rows in result.rows.values() if rows), "Your question?")
    prompt = question if protocol is None else protocol.question_prompt(question)
    system = "" if protocol is None else protocol.system
    if system and not run.setting("policy.chat"):
        prompt, system = f"{system}\n\n{prompt}", ""
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": prompt}]
    tokens = run.setting("rollout.max_new_tokens") or 512
    yield "One turn with transformers" + (" (and peft)" if run.adapter else "") + ":"
    yield code_block(_transformers(run, messages, tokens), "python")
    yield "`pip install 'igsearch[train]'`, then the whole loop, searches included:"
    yield code_block(_evaluate(run), "bash")
    yield "With vLLM, which must include the closing tag in its output:"
    yield code_block(_vllm(run, messages, tokens), "bash")


def _chat_template(run: ExportedPolicy) -> ChatTemplate:
    """Date and arguments of the chat template."""
    section = [run.setting(f"policy.chat_template_{name}") for name in ("date", "arguments")]
    return ChatTemplate.parse(section[0] or DATE, section[1] or "")


def _stop_strings(run: ExportedPolicy) -> list[str]:
    """The strings that end a turn."""
    return list(PROTOCOLS[run.setting("env.protocol") or "search_r1"].stop_strings)


def _written(messages: Messages) -> str:
    """The messages in Python, in which `prompt` is the last one."""
    written = [json.dumps(message, ensure_ascii=False) for message in messages[:-1]]
    written.append('{"role": "user", "content": prompt}')
    return f"[{', '.join(written)}]"


def _transformers(run: ExportedPolicy, messages: Messages, tokens: int) -> str:
    """A script that generates one turn."""
    template, chat = _chat_template(run), run.setting("policy.chat")
    arguments = {"date_string": template.variables["date_string"], **template.arguments}
    templated = [
        f"messages = {_written(messages)}",
        "prompt = tokenizer.apply_chat_template(",
        "    messages, tokenize=False, add_generation_prompt=True,",
        f"    **{arguments!r},",
        ")",
    ]
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"name = {json.dumps(run.name)}  # this folder, or its name on the Hub",
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")',
        f"prompt = {messages[-1]['content']!r}",
        *(templated if chat else []),
        f'inputs = tokenizer(prompt, return_tensors="pt"{", add_special_tokens=False" if chat else ""})',
        "output = model.generate(",
        f"    **inputs, max_new_tokens={tokens}, do_sample=False,",
        f"    stop_strings={json.dumps(_stop_strings(run))}, tokenizer=tokenizer,",
        ")",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))',
    ]
    return "\n".join(lines)


def _evaluate(run: ExportedPolicy) -> str:
    """The command that evaluates the policy with the settings of the run."""
    words = ["igsearch", "evaluate", "--policy", f"./{run.name}"]
    for option, path in (
        ("--questions", "env.eval_questions"),
        ("--corpus", "env.corpus"),
        ("--retriever", "env.retriever"),
        ("--rerank", "env.rerank"),
        *((f"--{field.name.replace('_', '-')}", f"env.{field.name}") for field in fields(EpisodeConfig)),
        ("--limit", "test_limit"),
        ("--max-new-tokens", "rollout.max_new_tokens"),
        ("--context-length", "policy.context_length"),
    ):
        value = run.setting(path)
        if value:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    if run.setting("policy.chat"):
        words.append("--chat")
        template = _chat_template(run)
        words += ["--chat-template-arguments", template.canonical] if template.arguments else []
        words += ["--chat-template-date", template.date.isoformat()] if template.date.isoformat() != DATE else []
    return without_passwords(shlex.join(words))


def _vllm(run: ExportedPolicy, messages: Messages, tokens: int) -> str:
    """The command that serves the policy, and a request for one turn."""
    place = f"./{run.name}"
    if run.adapter is None:
        served, serve = place, ["vllm", "serve", place]
    else:
        rank = next((r for r in VLLM_RANKS if r >= run.adapter["r"]), VLLM_RANKS[-1])
        served, base = run.name, str(run.base) if run.base_on_hub else "BASE_MODEL"
        ranks = ["--max-lora-rank", str(rank)] if rank > VLLM_RANKS[0] else []
        serve = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{run.name}={place}", *ranks]
    if run.setting("policy.chat"):
        form = "chat/completions"
        template = _chat_template(run)
        arguments = {"date_string": template.variables["date_string"], **template.arguments}
        asked = {"messages": messages, "chat_template_kwargs": arguments}
    else:
        form, asked = "completions", {"prompt": messages[-1]["content"]}
    request = {
        "model": served,
        **asked,
        "max_tokens": tokens,
        "temperature": 0,
        "stop": _stop_strings(run),
        "include_stop_str_in_output": True,
    }
    body = shlex.quote(json.dumps(request))
    curl = f"curl http://localhost:8000/v1/{form} -H 'Content-Type: application/json' -d {body}"
    return f"{shlex.join(serve)}\n{curl}"
