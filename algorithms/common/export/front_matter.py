"""The YAML front matter of a model card, which the Hub reads: base model, data sets, results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from algorithms.common.evaluation.scores import Score
from algorithms.common.export.facts import ExportedPolicy
from algorithms.common.export.results_section import scored
from igsearch_env.question_sources import HubSource
from igsearch_env.world.bundled import world_of
from igsearch_env.world.options import BUNDLED


def front_matter(run: ExportedPolicy) -> dict[str, Any]:
    """The keys of the Hub's model-card metadata, without a licence."""
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
    whole = not run.setting("test_limit")  # scores of a part are not those of the data sets that the index names
    if whole and run.tested and run.after is not None and scored(run.after):
        front["model-index"] = [{"name": run.name, "results": list(_index(run, scored(run.after)))}]
    return front


def _index(run: ExportedPolicy, scores: Mapping[str, Score]) -> Iterator[dict[str, Any]]:
    """One result per data set that has a score."""
    world = world_of(run.setting("env.eval_questions") or ())
    sources = {source.dataset: source for source in _hub_sources(run.setting("env.eval_questions") or ())}
    for name, score in scores.items():
        dataset = {"type": name, "name": name}
        if world is not None:
            label = "bundled world" if world == BUNDLED else world
            dataset = {"type": "igsearch-bundled-world", "name": f"IGSearch {label}, {name}", "config": name}
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


def _hub_sources(sources: Sequence[str]) -> list[HubSource]:
    return [HubSource.read(source) for source in sources if source.startswith("hf:")]
