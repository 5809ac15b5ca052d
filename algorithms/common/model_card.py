"""The model card of an exported policy: Markdown with the Hub's YAML on top, every figure from the run itself.

What a run does not say is left out of its card. The licence is the user's to choose: a comment marks where.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from algorithms.common.evaluation import Score
from algorithms.common.results import Result
from algorithms.common.tokens import DATE
from igsearch_env.benchmarks import BENCHMARKS
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocol import STOP_TAGS, Protocol
from igsearch_env.world.bundled import bundled_world
from retrievers.base import Passage

LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
REWARDS = {
    "em": "exact match of the answer with a golden one after SQuAD's normalisation",
    "f1": "token F1 of the answer with a golden one after SQuAD's normalisation",
    "autorefine": "AutoRefine's (arXiv 2505.11277)",
}
VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)  # what its --max-lora-rank takes, from the default on
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")  # a password in an address is not for publication


@dataclass(frozen=True)
class ExportedPolicy:
    """What a card is made of; None where nothing tells it."""

    name: str
    """Of the exported folder."""
    settings: Mapping[str, Any]
    """The run's config.yaml."""
    checkpoint: str
    """As the command line names it: final, best, last or step-000020."""
    step: int | None
    dtype: str
    base: str | None
    """What training began with: `bundled`, a folder, or a name on the Hub."""
    base_on_hub: bool = False
    adapter: Mapping[str, Any] | None = None
    """adapter_config.json, if the adapter alone was exported."""
    before: Result | None = None
    after: Result | None = None
    validation_em: float | None = None
    """Of the best checkpoint, which was chosen by it."""
    information_gain: bool = False
    """Whether the run measured it."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def setting(self, path: str) -> Any:
        """A setting by its dotted path; None without one."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def tested(self) -> bool:
        """Whether the test after training was of the exported checkpoint."""
        return self.after is not None and self.step is not None and self.after.header.get("step") == self.step

    @property
    def protocol(self) -> Protocol | None:
        """Tags and prompt; None if the prompt came from a file that is gone."""
        family, prompt = self.setting("env.protocol") or "search_r1", self.setting("env.prompt") or ""
        try:
            return Protocol.from_file(family, prompt[1:]) if prompt.startswith("@") else Protocol(family, prompt)
        except (OSError, ConfigurationError):
            return None


def model_card(run: ExportedPolicy) -> str:
    """README.md of an exported policy."""
    front = yaml.safe_dump(_front_matter(run), sort_keys=False, allow_unicode=True)
    settings = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {_plain(run.name)}",
        "A language model that answers questions by searching: it writes a query, reads the passages that a search "
        "engine found, and goes on until it answers. Trained by reinforcement learning with IGSearch.",
        _list(_facts(run)),
        *("## Protocol", *_protocol(run)),
        *("## Use", *_use(run)),
        *("## Results", *_results(run)),
        *("## Limits", _list(_limits(run))),
        *(
            "## Licence",
            f"Not chosen yet. That is for the publisher to do, in the first lines of this file ({LICENSES}).",
        ),
        *("## Settings", "<details><summary>config.yaml of the run</summary>"),
        *(_fenced(_USERINFO.sub("", settings), "yaml"), "</details>"),
        *([f"Exported with {', '.join(map(' '.join, run.versions.items()))}."] if run.versions else []),
        *_citation(run),
    ]
    return f"---\n# license: not chosen yet; name one here ({LICENSES})\n{front}---\n\n" + "\n\n".join(sections) + "\n"


# ---------------------------------------------------------------- for the Hub


def _front_matter(run: ExportedPolicy) -> dict[str, Any]:
    algorithm = run.setting("algorithm")
    front: dict[str, Any] = {}
    if run.base_on_hub:
        front |= {"base_model": run.base, "base_model_relation": "adapter" if run.adapter else "finetune"}
    front |= {
        "library_name": "peft" if run.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["igsearch", "search-agent", "reinforcement-learning", *([algorithm] if algorithm else [])],
    }
    trained_on = dict.fromkeys(source.repo for source in _hub_sources(run.setting("env.questions") or ()))
    if trained_on:
        front["datasets"] = list(trained_on)
    if run.tested and run.after is not None and _scored(run.after):
        front["model-index"] = [{"name": run.name, "results": list(_index(run, _scored(run.after)))}]
    return front


def _index(run: ExportedPolicy, scores: Mapping[str, Score]) -> Iterator[dict[str, Any]]:
    """One result for each data set that was scored."""
    sources = {source.dataset: source for source in _hub_sources(run.setting("env.eval_questions") or ())}
    for name, score in scores.items():
        dataset = {"type": name, "name": name}
        if run.setting("env.eval_questions") == ["bundled"]:
            dataset = {"type": "igsearch-bundled-world", "name": f"IGSearch bundled world, {name}", "config": name}
        elif name in sources:
            source = sources[name]
            config = {"config": source.config} if source.config else {}
            dataset |= {"type": source.repo, **config, "split": source.split}
        metrics = [("exact_match", "EM", score.em), ("f1", "F1", score.f1)]
        yield {
            "task": {"type": "question-answering", "name": "Question answering by search"},
            "dataset": dataset,
            "metrics": [
                {"type": kind, "name": label, "value": round(value, 4), "verified": False}
                for kind, label, value in metrics
            ],
        }


@dataclass(frozen=True)
class _HubSource:
    repo: str
    config: str
    split: str

    @property
    def dataset(self) -> str:
        """The data set of its questions (`load_questions`)."""
        return self.config or self.repo.rpartition("/")[2]


def _hub_sources(sources: Sequence[str]) -> list[_HubSource]:
    """Those of the form hf:REPO/CONFIG:SPLIT."""
    found = []
    for source in sources:
        if source.startswith("hf:"):
            place, _, split = source.removeprefix("hf:").partition(":")
            owner, name, *config = place.split("/")
            found.append(_HubSource(f"{owner}/{name}", "/".join(config), split))
    return found


# ---------------------------------------------------------------- what it is


def _facts(run: ExportedPolicy) -> Iterator[str]:
    at = run.setting
    if at("algorithm"):
        summary = _docstring(at("algorithm")).partition("\n")[0]
        yield f"**Algorithm**: {_plain(summary or at('algorithm'))}"
    if run.base is not None:
        known = "the policy bundled with IGSearch" if run.base == "bundled" else _code(Path(run.base).name)
        link = f"[{_plain(run.base)}](https://huggingface.co/{run.base})"
        yield f"**Began as**: {link if run.base_on_hub else known}"
    if run.step is not None:
        best = _with(", the best by validation (EM {:.3f})", run.validation_em)
        yield f"**Trained**: {run.step}{_with(' of {}', at('steps'))} steps{best}{_with(', seed {}', at('seed'))}"
    if at("rollout.questions"):
        attempts = at("env.attempts") if at("env.attempts") != 1 else None
        yield (
            f"**A step**: {at('rollout.questions')} questions{_with(', {} episodes each', at('rollout.group_size'))}"
            f"{_with(' of {} attempts', attempts)}{_with(', learning rate {}', at('optimizer.lr'))}"
        )
    rank = (run.adapter or {}).get("r") or at("policy.lora.rank")
    lora = f", LoRA of rank {rank}, {'the adapter alone' if run.adapter else 'merged'}" if rank else ""
    yield f"**Weights**: {run.dtype}{lora}"
    if at("env.questions"):
        yield f"**Questions**: {', '.join(map(_code, at('env.questions')))}"
    if at("env.corpus"):
        engine = "" if at("env.retriever") in (None, "auto") else f", searched by {_code(at('env.retriever'))}"
        if at("env.corpus") == "bundled":
            engine = f" ({len(bundled_world().passages):,} passages of an invented world), searched by BM25"
        rerank = f", put in order by {_code(at('env.rerank'))}" if at("env.rerank") else ""
        yield (
            f"**Corpus**: {_code(at('env.corpus'))}{engine}{rerank}{_with('; {} passages a search', at('env.top_k'))}"
            f"{_with(', cut to {} tokens', at('env.max_observation_tokens'))}"
            f"{_with(', at most {} searches a question', at('env.max_searches'))}"
        )
    if at("env.outcome_reward") in REWARDS:
        gain = ", and the information gain of the searches" if run.information_gain else ""
        yield f"**Reward**: {REWARDS[at('env.outcome_reward')]}{gain}"


def _docstring(algorithm: str) -> str:
    """Of the algorithm's file, or nothing: an algorithm of the user's own need not be in `algorithms/`."""
    spec = find_spec(f"algorithms.{algorithm}") if algorithm.isidentifier() else None
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def _protocol(run: ExportedPolicy) -> Iterator[str]:
    protocol = run.protocol
    if protocol is None:
        yield f"The prompt is that of {_code(run.setting('env.prompt'))}, a file that was not there any more."
        return
    chat = ", as the user's message of the chat template" if run.setting("policy.chat") else ""
    newline = " and a newline at the end" if protocol.template.endswith("\n") else ""
    yield f"The prompt{chat}, with the question in the place of `{{question}}`{newline}:"
    yield _fenced(protocol.template)
    notes = ""
    if protocol.family == "autorefine":
        notes = " After passages it first writes what matters in them between `<refine>` and `</refine>`."
    yield (
        "The model may think between `<think>` and `</think>`; its turn ends with `<search> query </search>` or "
        f"`<answer> answer </answer>`.{notes} After a search it reads the passages in this form:"
    )
    yield _fenced(protocol.observation([Passage("", f"title {i}", f"text {i}", 0.0) for i in (1, 2)]).strip("\n"))
    yield f"With the last search that is allowed, `{protocol.last_call().strip()}` follows."


# ---------------------------------------------------------------- how to use it


def _use(run: ExportedPolicy) -> Iterator[str]:
    at, protocol = run.setting, run.protocol
    tests = [result for result in (run.after, run.before) if result is not None]
    question = next((rows[0].question for result in tests for rows in result.rows.values() if rows), "Your question?")
    prompt = question if protocol is None else protocol.question_prompt(question)
    tokens = at("rollout.max_new_tokens") or 512
    messages = [{"role": "user", "content": prompt}]
    templated = [
        'messages = [{"role": "user", "content": prompt}]',
        "prompt = tokenizer.apply_chat_template(",
        f"    messages, tokenize=False, add_generation_prompt=True, date_string={json.dumps(DATE)}",
        ")",
    ]
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"name = {json.dumps(run.name)}  # this folder, or its name on the Hub",
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")',
        f"prompt = {prompt!r}",
        *(templated if at("policy.chat") else []),
        f'inputs = tokenizer(prompt, return_tensors="pt"{", add_special_tokens=False" if at("policy.chat") else ""})',
        "output = model.generate(",
        f"    **inputs, max_new_tokens={tokens}, do_sample=False,",
        f"    stop_strings={json.dumps(STOP_TAGS)}, tokenizer=tokenizer,",
        ")",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :]))',
    ]
    yield "One turn with transformers" + (" (and peft)" if run.adapter else "") + ":"
    yield _fenced("\n".join(lines), "python")
    yield "`examples/evaluate.py` of IGSearch runs the whole loop, searches included:"
    yield _fenced(_evaluate(run), "bash")
    place = f"./{run.name}"
    if run.adapter is None:
        served, serve = place, ["vllm", "serve", place]
    else:
        rank = next((r for r in VLLM_RANKS if r >= run.adapter["r"]), VLLM_RANKS[-1])
        served, base = run.name, str(run.base) if run.base_on_hub else "BASE_MODEL"
        ranks = ["--max-lora-rank", str(rank)] if rank > VLLM_RANKS[0] else []
        serve = ["vllm", "serve", base, "--enable-lora", "--lora-modules", f"{run.name}={place}", *ranks]
    request = {
        "model": served,
        **(
            {"messages": messages, "chat_template_kwargs": {"date_string": DATE}}
            if at("policy.chat")
            else {"prompt": prompt}
        ),
        "max_tokens": tokens,
        "temperature": 0,
        "stop": list(STOP_TAGS),
        "include_stop_str_in_output": True,
    }
    address = f"http://localhost:8000/v1/{'chat/' if at('policy.chat') else ''}completions"
    yield "With vLLM, which must leave the closing tag in what it returns:"
    curl = f"curl {address} -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(request))}"
    yield _fenced(f"{shlex.join(serve)}\n{curl}", "bash")


def _evaluate(run: ExportedPolicy) -> str:
    """The command that evaluates the policy as the run did."""
    at = run.setting
    words = ["python", "examples/evaluate.py", "--policy", f"./{run.name}"]
    for option, path in (
        ("--questions", "env.eval_questions"),
        ("--corpus", "env.corpus"),
        ("--retriever", "env.retriever"),
        ("--rerank", "env.rerank"),
        ("--top-k", "env.top_k"),
        ("--max-searches", "env.max_searches"),
        ("--protocol", "env.protocol"),
        ("--prompt", "env.prompt"),
        ("--max-new-tokens", "rollout.max_new_tokens"),
    ):
        value = at(path)
        if value:
            words += [
                option,
                *map(str, value if isinstance(value, Sequence) and not isinstance(value, str) else [value]),
            ]
    return _USERINFO.sub("", shlex.join([*words, *(["--chat"] if at("policy.chat") else [])]))


# ---------------------------------------------------------------- what it can do


def _results(run: ExportedPolicy) -> Iterator[str]:
    if run.after is None and run.before is None:
        yield "The run holds no test."
        return
    if run.after is None:
        yield "The run has not come to its test: these are of the policy before training, not of this checkpoint."
    elif run.tested:
        yield f"Greedy answers before training and after step {run.step}, the checkpoint that is exported here."
    else:
        exported = "" if run.step is None else f"; this is step {run.step}"
        tested = _with(" of step {}", run.after.header.get("step"))
        yield f"**The exported checkpoint was not tested.** The figures are{tested} of the same run{exported}."
    trained_in = run.setting("policy.dtype")
    if run.tested and trained_in is not None and trained_in != run.dtype:
        yield f"The test was in {trained_in}; the weights here are {run.dtype}."
    tests = {"before": run.before, "after": run.after}
    yield _table({label: result for label, result in tests.items() if result is not None})


def _table(tests: Mapping[str, Result]) -> str:
    """EM with its 95% interval by data set, one column a test; the last test also gives n, F1 and searches."""
    last = list(tests.values())[-1]
    heads = ["data set", "questions", *(f"EM {label} (95%)" for label in tests), "F1", "searches"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name, score in _scored(last).items():
        published = BENCHMARKS[name].size if name in BENCHMARKS else score.n
        n = f"{score.n:,}" if published == score.n else f"{score.n:,} of {published:,}"
        found = [_scored(test).get(name) for test in tests.values()]
        ems = ["" if each is None else _em(each.em, each.em_ci95) for each in found]
        rows.append([_code(name).replace("|", "\\|"), n, *ems, f"{score.f1:.3f}", f"{score.searches:.2f}"])
    averages = [test.header.get("macro_averages", {}).get("all") for test in tests.values()]
    ems = ["" if average is None else _em(average["em"], average["em_ci95"]) for average in averages]
    rows.append(["macro-average", f"{sum(score.n for score in last.scores.values()):,}", *ems, "", ""])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _scored(test: Result) -> dict[str, Score]:
    """Without the data sets whose every retrieval failed."""
    return {name: score for name, score in test.scores.items() if score.n}


def _em(em: float, interval: Sequence[float]) -> str:
    return f"{em:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def _limits(run: ExportedPolicy) -> Iterator[str]:
    yield (
        "One run of one seed; intervals are over questions. Another corpus, search engine, prompt or number of "
        "passages gives other figures."
    )
    if run.setting("env.corpus") == "bundled":
        yield "Corpus and questions are of an invented world: its answers say nothing of the real one."
    yield "Its answers come from its passages: what they get wrong, it repeats."
    yield "Nothing but the answers above was measured: neither safety nor bias, nor other languages or tasks."
    if run.adapter and not run.base_on_hub:
        yield "Its base model is on no Hub: who loads the adapter must have it where `adapter_config.json` says."
    failed = sum(score.failed for score in run.after.scores.values()) if run.after is not None else 0
    if failed:
        yield f"Retrieval failed for {failed:,} test questions, which are left out of the figures."


def _citation(run: ExportedPolicy) -> Iterator[str]:
    found = _ARXIV.search(_docstring(run.setting("algorithm") or ""))
    if found:
        url = f"https://arxiv.org/abs/{found[1]}"
        yield "## Citation"
        yield f"The algorithm: [arXiv {found[1]}]({url})"
        entry = (
            f"@misc{{arxiv:{found[1]},\n  eprint = {{{found[1]}}},\n  archivePrefix = {{arXiv}},\n  url = {{{url}}}\n}}"
        )
        yield _fenced(entry, "bibtex")


# ---------------------------------------------------------------- Markdown


def _with(template: str, value: Any) -> str:
    """The template with the value in it; nothing where there is none."""
    return "" if value is None else template.format(value)


def _list(items: Iterator[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _code(text: Any) -> str:
    """A code span, whatever is in it."""
    line = _USERINFO.sub("", " ".join(str(text).split()))
    ticks = "`" * (_longest_ticks(line) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}"


def _fenced(text: str, language: str = "") -> str:
    """A code block, whatever is in it."""
    fence = "`" * max(3, _longest_ticks(text) + 1)
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _longest_ticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
