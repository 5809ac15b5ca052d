"""The protocol of AutoRefine (arXiv 2505.11277): <think> <search> -> <documents> <refine> ... <answer>."""

from __future__ import annotations

from igsearch_env.protocols.tags import TagProtocol


class AutoRefine(TagProtocol):
    """Passages between <documents> tags, which the policy summarises in a <refine> block. The prompt is ours."""

    name = "autorefine"
    evidence_tag = "documents"
    refines = True
    own_prompt = (
        "Find the answer to the question below. Think first, inside <think> and </think>. Whenever you miss a fact, "
        "look it up: write <search> your query </search>, and the best passages will be shown to you between "
        "<documents> and </documents>. After each search, write down what matters in them inside <refine> and "
        "</refine>. You may search several times. When you know enough, give the final answer, as short as possible, "
        "inside <answer> and </answer>, for example <answer> Lisbon </answer>.\nQuestion: {question}\n"
    )
    markers = (
        *("<think>", "</think>", "<search>", "</search>", "<documents>", "</documents>"),
        *("<refine>", "</refine>", "<answer>", "</answer>"),
    )
