"""The model card of a warm start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from algorithms.common.evaluation.scores import Score
from algorithms.common.export.markdown import bullet_list, code_block, code_span, escaped, without_passwords


def warm_start_card(settings: Mapping[str, Any], scores: Mapping[str, Score], em: float, valid: float) -> str:
    """README.md of a warm-started policy.

    Args:
        settings: by dotted names.
        scores: greedy, by data set.
        em: their mean.
        valid: fraction of greedy turns with a valid action.
    """
    rows = [
        f"| {escaped(name)} | {s.n:,} | {s.em:.3f} | {s.em_ci95[0]:.3f} to {s.em_ci95[1]:.3f} |"
        for name, s in scores.items()
    ]
    facts = [
        f"**Base model**: {code_span(settings['policy.path'])}",
        f"**Demonstrations**: up to {settings['warm_start.demonstrations']:,} successful episodes of a scripted policy",
        f"**Own episodes**: {settings['warm_start.rounds']} rounds of rejection sampling over "
        f"{settings['warm_start.questions']:,} questions, {settings['warm_start.samples']} episodes each",
        f"**Valid turns**, greedy: {valid:.1%}",
    ]
    sections = [
        "# A supervised start for search agents",
        "A language model that follows the format of a search agent: it was trained on episodes that searched, read an "
        "answer and gave it. It is a starting point for reinforcement learning with IGSearch, not a result.",
        bullet_list(facts),
        "## Dev questions, greedy",
        "| data set | n | EM | 95% CI |\n|---|---|---|---|\n" + "\n".join(rows),
        f"Mean over the data sets: {em:.3f}. Intervals are over questions, of one seed.",
        "## Settings",
        code_block(without_passwords(yaml.safe_dump(dict(settings), sort_keys=False)), "yaml"),
    ]
    front = "---\n# license: not chosen yet; name one here\nlibrary_name: transformers\npipeline_tag: text-generation\n"
    front += "tags: [igsearch, search-agent]\n---\n\n"
    return front + "\n\n".join(sections) + "\n"
