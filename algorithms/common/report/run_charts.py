"""The curves of one run, as charts. A metric that a run has not logged has no line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from algorithms.common.report.charts import Chart, Line, Values, column, number, smooth, width_for
from algorithms.common.run.saved_run import SavedRun

SHARES = (0.0, 1.0)
MANY = 100  # steps from which on single ones only show as noise

# Title, unit, and (metric, label) of the lines.
PLAIN: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Searches", "searches a trajectory", (("searches", "searches"),)),
    (
        "Searches that bring little",
        "share",
        (
            ("searches/at_limit", "attempts that use all searches"),
            ("searches/repeated", "searches asked before"),
            ("searches/empty", "searches that find nothing"),
        ),
    ),
    (
        "Groups that teach little",
        "share",
        (
            ("all_fail", "groups that all fail"),
            ("all_equal", "groups of equal outcomes"),
            ("advantage/zero_share", "tokens of advantage 0"),
        ),
    ),
    ("Entropy", "nats a token", (("policy/entropy", "entropy"),)),
    (
        "KL divergence",
        "nats a token",
        (("policy/kl_old", "from the policy that sampled"), ("policy/kl_reference", "from the reference")),
    ),
    (
        "Clipping",
        "share of tokens",
        (("policy/clip_fraction", "clipped"), ("policy/dual_clip_fraction", "clipped by the dual clip")),
    ),
    ("Gradient norm", "norm before clipping", (("policy/grad_norm", "gradient norm"),)),
    ("Critic", "share of variance", (("critic/explained_variance", "explained by the critic"),)),
    (
        "Sampler against trainer",
        "nats a token",
        (("mismatch/kl", "KL divergence"), ("mismatch/abs_mean", "mean absolute difference")),
    ),
    (
        "Tokens of a trajectory",
        "tokens",
        (
            ("length/total_mean", "all, mean"),
            ("length/total_max", "all, longest"),
            ("length/prompt_mean", "prompt"),
            ("response_tokens", "written by the policy"),
        ),
    ),
    (
        "Tokens of a turn",
        "tokens",
        (("length/turn_max", "longest turn"), ("length/observation_mean", "observation, mean")),
    ),
    (
        "Failures",
        "share",
        (
            ("invalid_actions", "turns without a valid action"),
            ("length/cut_share", "turns cut off"),
            ("retrieval_failure_rate", "episodes whose retrieval failed"),
        ),
    ),
)


def run_charts(run: SavedRun) -> list[Chart]:
    """Every chart that the run has a metric for."""
    rows = run.training
    steps = [row["step"] for row in rows]
    charts = [_learning(run), _by_dataset(run), _gain(rows, steps)]
    charts += [_plain(rows, steps, *entry) for entry in PLAIN]
    charts += [_stops(rows, steps), _times(rows, steps)]
    return [chart for chart in charts if chart.lines]


def learning_steps(run: SavedRun) -> list[int]:
    """Steps with a reward or an evaluation."""
    return sorted({row["step"] for row in (*run.training, *run.dev, *run.test)})


def at_steps(rows: Sequence[Mapping[str, Any]], key: str, steps: Sequence[int]) -> list[float | None]:
    """A metric at those steps, None where no row has it."""
    by_step = {row["step"]: number(row.get(key)) for row in rows}
    return [by_step.get(step) for step in steps]


def _learning(run: SavedRun) -> Chart:
    steps = learning_steps(run)
    rewards = at_steps(run.training, "reward", steps)
    width = width_for(len(run.training))
    lines = [
        Line("reward of a step", rewards, 0, faint=True),
        Line(f"reward, mean of {width} steps", smooth(rewards, width), 0),
        Line("dev EM", at_steps(run.dev, "dev/em", steps), 1, sparse=True),
        Line("test EM", at_steps(run.test, "eval/em", steps), 2, sparse=True),
    ]
    least = min((value for value in rewards if value is not None), default=0.0)
    most = max((value for value in rewards if value is not None), default=0.0)
    # Outcomes may be above 1 or below 0 (a reward for several attempts); then the axis is what they need.
    shares = SHARES if least >= 0 and most <= 1 else None
    return Chart("Reward and exact match", "mean over questions", steps, _present(lines), range=shares)


def _by_dataset(run: SavedRun) -> Chart:
    """Of the dev questions if they were evaluated by data set twice at least, else of the test questions."""
    prefix = "eval/em/"
    dev = [row for row in run.dev if any(key.startswith(prefix) for key in row)]
    kind, rows = ("dev", dev) if len(dev) > 1 else ("test", run.test)
    names = list(dict.fromkeys(key for row in rows for key in row if key.startswith(prefix)))
    lines = [Line(key.removeprefix(prefix), column(rows, key), style, sparse=True) for style, key in enumerate(names)]
    steps = [row["step"] for row in rows]
    return Chart(f"Exact match by data set, {kind} questions", "EM", steps, _present(lines), range=SHARES)


def _gain(rows: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> Chart:
    names = {"p10": "10th percentile", "p90": "90th percentile", "p50": "median", "mean": "mean"}
    styles = {"p10": 4, "p90": 5, "p50": 2, "mean": 0}
    lines = [Line(label, column(rows, f"information_gain/{key}"), styles[key]) for key, label in names.items()]
    kept = _readable(lines)
    places = [place for place, line in enumerate(kept) if line.label in ("10th percentile", "90th percentile")]
    return Chart("Information gain", "nats a search", steps, kept, bands=[(places[0], places[1])] if places[1:] else [])


def _plain(
    rows: Sequence[Mapping[str, Any]], steps: Sequence[int], title: str, unit: str, lines: Sequence[tuple[str, str]]
) -> Chart:
    found = _readable([Line(label, column(rows, key), style) for style, (key, label) in enumerate(lines)])
    return Chart(title, unit, steps, found)


def _readable(lines: Sequence[Line]) -> list[Line]:
    """Lines with a value; of more than `MANY` steps each as its moving mean, over a faint line of the steps."""
    kept = _present(lines)
    if not kept or len(kept[0].values) <= MANY:
        return kept
    width = width_for(len(kept[0].values))
    faint = [replace(line, label=f"{line.label}, each step", faint=True) for line in kept]
    return [*faint, *(replace(line, values=smooth(line.values, width)) for line in kept)]


def _stops(rows: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> Chart:
    """Shares of the reasons that occur at all."""
    prefix = "stop/"
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    columns = {key.removeprefix(prefix).replace("_", " "): column(rows, key) for key in keys}
    seen = {name: values for name, values in columns.items() if any(values)}
    lines = _readable([Line(name, values, style) for style, (name, values) in enumerate(seen.items())])
    return Chart("How episodes end", "share of episodes", steps, lines, range=SHARES)


def time_parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Seconds of each part of the steps, and of the rest."""
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith("time/"))
    names = [key for key in keys if key != "time/step" and not key.endswith("_per_second")]
    parts = {key.removeprefix("time/").replace("_", " "): column(rows, key) for key in names}
    if parts:
        parts["rest"] = [_rest(row, names) for row in rows]
    return parts


def _rest(row: Mapping[str, Any], names: Sequence[str]) -> float | None:
    whole = number(row.get("time/step"))
    return None if whole is None else number(max(0.0, whole - sum(number(row.get(name)) or 0.0 for name in names)))


def _times(rows: Sequence[Mapping[str, Any]], steps: Sequence[int]) -> Chart:
    lines = [Line(name, values, style) for style, (name, values) in enumerate(time_parts(rows).items())]
    return Chart("Time of a step by part", "seconds", steps, _present(lines), stack=True)


def _present(lines: Sequence[Line]) -> list[Line]:
    """Lines with a value."""
    return [line for line in lines if _any(line.values)]


def _any(values: Values) -> bool:
    return any(value is not None for value in values)
