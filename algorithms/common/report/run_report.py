"""The report of one run: RUN/report.html. Sections without data are left out."""

from __future__ import annotations

import html
from pathlib import Path

from algorithms.common.report.charts import css, js
from algorithms.common.report.page import navigation, page, write
from algorithms.common.report.run_sections import (
    STYLE,
    curves,
    final_scores,
    headline,
    provenance,
    sampled_episodes,
    slowest_steps,
    warning_list,
)
from algorithms.common.report.run_setup import STYLE as SETUP_STYLE
from algorithms.common.report.run_setup import configuration, setup
from algorithms.common.run.saved_run import SavedRun, read_run

REPORT, TRAJECTORIES = "report.html", "trajectories.html"


def run_report(
    run_dir: Path, *, alone: bool = False, bar: str = "", style: str = "", script: str = "", version: str = ""
) -> str:
    """The report as one HTML document. The live view adds `bar` (HTML), `style`, `script` and its `version`.

    `alone`: the page is written elsewhere than in the folder of the run, so it can't link to the run's other pages.
    Raises `ConfigurationError` if the folder is not a run.
    """
    run = read_run(run_dir)
    title = _title(run)
    sections = (
        headline(run),
        warning_list(run),
        setup(run),
        final_scores(run),
        curves(run),
        slowest_steps(run),
        sampled_episodes(run),
        configuration(run),
        provenance(run),
    )
    links = navigation(run.name, REPORT, [] if alone else pages_of(run_dir))
    header = f"<header>{links}<h1>{html.escape(title)}</h1>{bar}</header>"
    main = (
        f'<main data-version="{html.escape(version)}">\n' + "\n".join(text for text in sections if text) + "\n</main>"
    )
    return page(
        title, f"{header}\n{main}", css=css() + STYLE + SETUP_STYLE + style, js=js() + script, connect=bool(script)
    )


def pages_of(run_dir: Path) -> list[tuple[str, str]]:
    """File and label of each page that `write_reports` writes for a run, for `navigation`."""
    return [(REPORT, "Report"), *([(TRAJECTORIES, "Trajectories")] if _recorded(run_dir) else [])]


def write_reports(run_dir: Path) -> list[Path]:
    """Write RUN/report.html and, if episodes were recorded, RUN/trajectories.html; returns the written paths.

    Raises `ConfigurationError` if the folder is not a run.
    """
    written = []
    recorded = recorded_page(run_dir)
    if recorded is not None:
        written.append(run_dir / TRAJECTORIES)
        write(written[-1], recorded)
    written.append(run_dir / REPORT)
    write(written[-1], run_report(run_dir))
    return written


def recorded_page(run_dir: Path) -> str | None:
    """The page of the trajectories that a run has recorded so far; None if there are none.

    Shows as many recorded steps, evenly spaced, as fit on a page; a note names damaged files, which are left out.
    Raises `ConfigurationError` if the folder is not a run.
    """
    recorded = _recorded(run_dir)
    if not recorded:
        return None
    from algorithms.common.report.trajectory_page import fitting_page
    from algorithms.common.run.recorded_trajectories import load_readable

    readable, damaged = load_readable(recorded)
    left_out = [f"Left out, because they are damaged: {', '.join(path.name for path in damaged)}."] if damaged else []
    run = read_run(run_dir)
    bar = navigation(run.name, TRAJECTORIES, pages_of(run_dir))
    return fitting_page(readable, f"Trajectories of {_title(run)}", bar, left_out)


def _title(run: SavedRun) -> str:
    """Algorithm, seed, and the name of the folder where it says something else."""
    title = f"{run.algorithm}, seed {run.seed}"
    return title if run.name == f"{run.algorithm}-seed{run.seed}" else f"{title}: {run.name}"


def _recorded(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "trajectories").glob("step-*.json.gz"))
