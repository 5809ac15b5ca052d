"""The learning curve of a run as an image."""

from __future__ import annotations

from pathlib import Path

from algorithms.common.run.metrics_log import read_metrics


def plot_learning_curve(run_dir: Path, title: str) -> None:
    """Write learning_curve.png: training reward and EM on dev and test questions over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(run_dir / "metrics.jsonl")
    figure, axis = pyplot.subplots(figsize=(7, 4))
    training = [(r["step"], r["reward"]) for r in rows if "reward" in r]
    if training:
        axis.plot(*zip(*training, strict=True), alpha=0.6, label="training reward (sampled)")
    for split, marker in (("dev", "o"), ("test", "s")):
        evaluation = [(r["step"], r[f"{split}/em"]) for r in rows if f"{split}/em" in r]
        if evaluation:
            axis.plot(*zip(*evaluation, strict=True), marker=marker, label=f"{split} EM (greedy)")
    axis.set(xlabel="step", ylabel="mean over questions", ylim=(-0.03, 1.03), title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    figure.savefig(run_dir / "learning_curve.png", dpi=120)
    pyplot.close(figure)
