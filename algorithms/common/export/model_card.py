"""The model card of an exported policy: Markdown with YAML front matter for the Hub; all numbers come from the run.

Facts that are unknown are left out. The user must choose a licence; a comment marks the place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import yaml

from algorithms.common.export.facts import ExportedPolicy
from algorithms.common.export.front_matter import front_matter
from algorithms.common.export.markdown import (
    bullet_list,
    code_block,
    code_span,
    escaped,
    if_known,
    without_passwords,
)
from algorithms.common.export.results_section import results_section
from algorithms.common.export.usage_section import protocol_section, use_section
from igsearch_env.world.bundled import is_world, named_world

LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
REWARDS = {
    "em": "exact match of the answer with a golden one after SQuAD's normalisation",
    "f1": "token F1 of the answer with a golden one after SQuAD's normalisation",
    "autorefine": "AutoRefine's (arXiv 2505.11277)",
}
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def model_card(run: ExportedPolicy) -> str:
    """README.md of an exported policy."""
    front = yaml.safe_dump(front_matter(run), sort_keys=False, allow_unicode=True)
    settings = yaml.safe_dump(dict(run.settings), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {escaped(run.name)}",
        "A language model that answers questions by searching: it writes a query, reads the passages that a search "
        "engine returns, and repeats this until it answers. Trained by reinforcement learning with IGSearch.",
        bullet_list(_facts(run)),
        "## Protocol",
        *protocol_section(run),
        "## Use",
        *use_section(run),
        "## Results",
        *results_section(run),
        "## Limits",
        bullet_list(_limits(run)),
        "## Licence",
        f"Not chosen yet. The publisher must name one in the first lines of this file ({LICENSES}).",
        "## Settings",
        "<details><summary>config.yaml of the run</summary>",
        code_block(without_passwords(settings), "yaml"),
        "</details>",
        *([f"Exported with {', '.join(map(' '.join, run.versions.items()))}."] if run.versions else []),
        *_citation(run),
    ]
    return f"---\n# license: not chosen yet; name one here ({LICENSES})\n{front}---\n\n" + "\n\n".join(sections) + "\n"


def _facts(run: ExportedPolicy) -> Iterator[str]:
    at = run.setting
    if at("algorithm"):
        summary = _docstring(at("algorithm")).partition("\n")[0]
        yield f"**Algorithm**: {escaped(summary or at('algorithm'))}"
    if run.base is not None:
        known = "the policy bundled with IGSearch" if run.base == "bundled" else code_span(Path(run.base).name)
        link = f"[{escaped(run.base)}](https://huggingface.co/{run.base})"
        yield f"**Base model**: {link if run.base_on_hub else known}"
    if run.step is not None:
        best = if_known(", the best by validation (EM {:.3f})", run.validation_em)
        steps, seed = if_known(" of {}", at("steps")), if_known(", seed {}", at("seed"))
        yield f"**Trained**: {run.step}{steps} steps{best}{seed}"
    if at("rollout.questions_per_step"):
        attempts = at("env.attempts") if at("env.attempts") != 1 else None
        yield (
            f"**Training step**: {at('rollout.questions_per_step')} questions"
            f"{if_known(', {} episodes each', at('rollout.group_size'))}"
            f"{if_known(' of {} attempts', attempts)}{if_known(', learning rate {}', at('optimizer.lr'))}"
        )
    rank = (run.adapter or {}).get("r") or at("policy.lora.rank")
    lora = f", LoRA of rank {rank}, {'adapter only' if run.adapter else 'merged'}" if rank else ""
    yield f"**Weights**: {run.dtype}{lora}"
    if at("env.questions"):
        yield f"**Questions**: {', '.join(map(code_span, at('env.questions')))}"
    if at("env.corpus"):
        engine = "" if at("env.retriever") in (None, "auto") else f", searched by {code_span(at('env.retriever'))}"
        if is_world(at("env.corpus")):
            engine = (
                f" ({len(named_world(at('env.corpus')).passages):,} passages of an invented world), searched by BM25"
            )
        rerank = f", reranked by {code_span(at('env.rerank'))}" if at("env.rerank") else ""
        yield (
            f"**Corpus**: {code_span(at('env.corpus'))}{engine}{rerank}"
            f"{if_known('; {} passages per search', at('env.top_k'))}"
            f"{if_known(', truncated to {} tokens', at('env.max_observation_tokens'))}"
            f"{if_known(', at most {} searches per question', at('env.max_searches'))}"
        )
    if at("env.outcome_reward") in REWARDS:
        gain = ", and the information gain of the searches" if run.information_gain else ""
        yield f"**Reward**: {REWARDS[at('env.outcome_reward')]}{gain}"


def _limits(run: ExportedPolicy) -> Iterator[str]:
    yield (
        "One run with one seed; intervals are over questions. Results differ with another corpus, search engine, "
        "prompt or number of passages."
    )
    if is_world(run.setting("env.corpus")):
        yield "Corpus and questions describe an invented world: the answers are not valid in the real world."
    yield "Answers are based on the retrieved passages: the model repeats errors in them."
    yield "Only the accuracy of answers was measured: neither safety nor bias, nor other languages or tasks."
    if run.adapter and not run.base_on_hub:
        yield "The base model is not on the Hub: it must be at the path in `adapter_config.json` to load the adapter."
    failed = sum(score.failed for score in run.after.scores.values()) if run.after is not None else 0
    if failed:
        yield f"Retrieval failed for {failed:,} test questions, which are excluded from the results."


def _citation(run: ExportedPolicy) -> Iterator[str]:
    found = _ARXIV.search(_docstring(run.setting("algorithm") or ""))
    if found:
        number, url = found[1], f"https://arxiv.org/abs/{found[1]}"
        yield "## Citation"
        yield f"The algorithm: [arXiv {number}]({url})"
        entry = f"@misc{{arxiv:{number},\n  eprint = {{{number}}},\n  archivePrefix = {{arXiv}},\n  url = {{{url}}}\n}}"
        yield code_block(entry, "bibtex")


def _docstring(algorithm: str) -> str:
    """The docstring of the algorithm's file; empty for a user's algorithm that is not in `algorithms/`."""
    spec = find_spec(f"algorithms.{algorithm}") if algorithm.isidentifier() else None
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
