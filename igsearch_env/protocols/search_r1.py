"""The protocol of Search-R1 (arXiv 2503.09516): <think> <search> -> <information> ... <answer>."""

from __future__ import annotations

from igsearch_env.protocols.tags import TagProtocol


class SearchR1(TagProtocol):
    """Passages between <information> tags. The wording of the prompt is ours."""

    name = "search_r1"
    evidence_tag = "information"
    own_prompt = (
        "Find the answer to the question below. Think first, inside <think> and </think>, every time you have "
        "learnt something new. Whenever you miss a fact, look it up: write <search> your query </search>, and the "
        "best passages will be shown to you between <information> and </information>. You may search several times. "
        "When you know enough, give the final answer, as short as possible, inside <answer> and </answer>, for "
        "example <answer> Lisbon </answer>.\nQuestion: {question}\n"
    )
    markers = (
        *("<think>", "</think>", "<search>", "</search>"),
        *("<information>", "</information>", "<answer>", "</answer>"),
    )
