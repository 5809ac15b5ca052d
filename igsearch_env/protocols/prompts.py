"""Prompt wording that protocols share. A template holds `{question}`; a protocol's own prompt is in its own file.

Sources: Search-R1 (arXiv 2503.09516), AutoRefine (arXiv 2505.11277), MR-Search (arXiv 2603.11327); the wording is ours.
"""

from __future__ import annotations

# The question alone: for policies that know the protocol, such as the bundled one.
BARE = "{question}\n"

# Shown between two attempts at a question (MR-Search).
REFLECTION = (
    "Look back at your answer. What is uncertain in it, and what has not been looked up yet? Search for that in the "
    "same way as before, then give your best answer, inside <answer> and </answer>, for example "
    "<answer> Lisbon </answer>.\nQuestion: {question}\n"
)
