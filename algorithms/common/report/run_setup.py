"""What a run was trained with: a short table of its setup, and the options that differ from their defaults."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.resources import files
from typing import Any

import yaml

from algorithms.common.base.flat import flat
from algorithms.common.config import TrainConfig, as_dict
from algorithms.common.report.charts import Cell, table_html
from algorithms.common.run.saved_run import SavedRun

PLACES = ("run_dir", "config", "overwrite")  # options that say where a run is, not what it is
STYLE = """
.setup { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2rem; }
.setup > div { min-width: 0; }
"""


def setup(run: SavedRun) -> str:
    """The setup of a run and its options that are not default, as HTML; "" without a config.yaml."""
    if not run.config:
        return ""
    facts = table_html("Setup", ["setting", "value"], [[name, value] for name, value in _facts(run)], text=True)
    title, changed = "Options that differ from their defaults", changed_options(run)
    table = table_html(title, ["option", "value", "default"], changed, text=True) if changed else "<p>None.</p>"
    return f'<div class="setup"><div><h2>Setup</h2>{facts}</div>\n<div><h2>{title}</h2>{table}</div></div>'


def configuration(run: SavedRun) -> str:
    """The whole config.yaml, folded."""
    if not run.config:
        return ""
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return (
        '<h2>Configuration</h2><details id="configuration"><summary>config.yaml</summary>'
        f"<pre>{html.escape(text)}</pre></details>"
    )


def changed_options(run: SavedRun) -> list[list[Cell]]:
    """Name, value and default of each option of config.yaml that is not default."""
    usual = defaults(run.algorithm)
    return [
        [name, shown_value(value), shown_value(usual[name]) if name in usual else "not known"]
        for name, value in flat(run.config).items()
        if name != "algorithm" and not name.startswith(PLACES) and (name not in usual or usual[name] != value)
    ]


def defaults(algorithm: str) -> dict[str, Any]:
    """The defaults of an algorithm's options by dotted names; those of all algorithms for one that is not bundled."""
    config: type[TrainConfig] = TrainConfig
    # Only a bundled file is imported: the name comes from a file that may have been written by anyone.
    if f"{algorithm}.py" in {file.name for file in files("algorithms").iterdir()}:
        module = import_module(f"algorithms.{algorithm}")
        own = (found for found in vars(module).values() if getattr(found, "__module__", "") == module.__name__)
        config = next((found for found in own if isinstance(found, type) and issubclass(found, TrainConfig)), config)
    return flat(as_dict(config()))


def shown_value(value: Any) -> str:
    """An option's value for a table."""
    match value:
        case "" | None | [] | ():
            return "none"
        case bool():
            return str(value).lower()
        case list() | tuple():
            return ", ".join(map(str, value))
    return str(value)


def _facts(run: SavedRun) -> Iterator[tuple[str, str]]:
    """The rows of the setup table that the run has recorded."""
    settings = flat(run.config)
    evaluated: Mapping[str, Any] = run.fingerprint or {}
    result = run.after or run.before

    def get(name: str) -> Any:
        return settings.get(name)

    def joined(*parts: str | None) -> str:
        return ", ".join(part for part in parts if part)

    lora = f"LoRA of rank {get('policy.lora.rank')}" if get("policy.lora.rank") else None
    yield "algorithm", run.algorithm
    yield "model", joined(shown_value(get("policy.path")), get("policy.dtype"), lora)
    yield "training questions", shown_value(get("env.questions"))
    if result is not None:
        sizes = [score.n + score.failed for score in result.scores.values()]
        sets = f"{len(sizes)} data sets" if len(sizes) > 1 else "1 data set"
        yield "test questions", f"{shown_value(get('env.eval_questions'))}: {sum(sizes):,} in {sets}"
    retriever = evaluated.get("retriever")
    retriever = retriever if isinstance(retriever, Mapping) else {}
    passages = retriever.get("passages")
    size = f"{passages:,} passages" if isinstance(passages, int) else None
    engine = retriever.get("engine") or get("env.retriever")
    yield "corpus", joined(shown_value(get("env.corpus")), size, f"retriever {engine}" if engine else None)
    schedule, warmup = get("optimizer.lr_scheduler_type"), get("optimizer.warmup_steps")
    rate = joined(shown_value(get("optimizer.lr")), schedule, f"{warmup} warm-up steps" if warmup else None)
    yield "learning rate", rate
    questions, group = get("rollout.questions_per_step"), get("rollout.group_size")
    if isinstance(questions, int) and isinstance(group, int):
        yield "a step", f"{questions} questions x {group} rollouts = {questions * group} episodes"
    epochs, parts = get("optimizer.epochs"), get("optimizer.num_minibatches")
    if isinstance(epochs, int) and isinstance(parts, int):
        yield "updates of a step", f"{epochs * parts} (epochs: {epochs}, mini-batches: {parts})"
    yield "steps", shown_value(get("steps"))
    yield "seed", str(run.seed)
    for name in ("hardware", "device"):
        found = next((r.header[name] for r in (run.after, run.before) if r is not None and r.header.get(name)), None)
        if isinstance(found, str):
            yield name, found
