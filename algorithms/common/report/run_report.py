"""The report of one run: RUN/report.html. Sections without data are left out."""

from __future__ import annotations

import html
from collections.abc import Callable
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
TRAINING, SEARCHES = "training.html", "searches.html"


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
        f"Report of {title}",
        f"{header}\n{main}",
        css=css() + STYLE + SETUP_STYLE + style,
        js=js() + script,
        connect=bool(script),
    )


def pages_of(run_dir: Path) -> list[tuple[str, str]]:
    """File and label of each page that `write_reports` writes for a run, for `navigation`."""
    pages = [(REPORT, "Report")]
    if _recorded(run_dir):
        pages.append((TRAJECTORIES, "Trajectories"))
    if _recorded(run_dir, "tracked"):
        pages.append((TRAINING, "Over training"))
    if _recorded(run_dir) and any("information_gain/mean" in row for row in read_run(run_dir).training):
        pages.append((SEARCHES, "Searches"))
    return pages


def write_reports(run_dir: Path) -> list[Path]:
    """Write RUN/report.html and the pages of what the run has recorded (`MAKE`); returns the written paths.

    Raises `ConfigurationError` if the folder is not a run.
    """
    written = []
    for name, make in MAKE.items():
        document = make(run_dir)
        if document is not None:
            written.append(run_dir / name)
            write(written[-1], document)
    written.append(run_dir / REPORT)
    write(written[-1], run_report(run_dir))
    return written


def recorded_page(run_dir: Path) -> str | None:
    """The page of the trajectories that a run has recorded so far; None if there are none.

    Shows as many recorded steps, evenly spaced, as fit on a page; a note names damaged files, which are left out.
    Raises `ConfigurationError` if the folder is not a run.
    """
    if not _recorded(run_dir):
        return None
    from algorithms.common.report.trajectory_page import fitting_page

    return _page(run_dir, TRAJECTORIES, "Trajectories of", "step", fitting_page)


def tracked_page(run_dir: Path) -> str | None:
    """The page of the tracked questions of a run so far; None if there are none. Raises as `recorded_page`."""
    if not _recorded(run_dir, "tracked"):
        return None
    from algorithms.common.report.training_page import fitting_training_page

    return _page(run_dir, TRAINING, "Over training:", "tracked", fitting_training_page)


def searches_page(run_dir: Path) -> str | None:
    """The page of the searches of a run so far; None without an information gain. Raises as `recorded_page`."""
    if SEARCHES not in dict(pages_of(run_dir)):
        return None
    from algorithms.common.report.searches_page import fitting_searches_page

    return _page(run_dir, SEARCHES, "Searches of", "step", fitting_searches_page)


MAKE: dict[str, Callable[[Path], str | None]] = {
    TRAJECTORIES: recorded_page,
    TRAINING: tracked_page,
    SEARCHES: searches_page,
}
"""Pages of what a run has recorded, beside its report."""


def _page(run_dir: Path, name: str, what: str, kind: str, make: Callable[..., str]) -> str:
    """A page of recorded files; a note names damaged ones, which are left out."""
    from algorithms.common.run.recorded_trajectories import load_readable

    readable, damaged = load_readable(_recorded(run_dir, kind))
    notes = [f"Left out, because they are damaged: {', '.join(path.name for path in damaged)}."] if damaged else []
    run = read_run(run_dir)
    return make(readable, f"{what} {_title(run)}", navigation(run.name, name, pages_of(run_dir)), notes)


def _title(run: SavedRun) -> str:
    """Algorithm, seed, and the name of the folder where it says something else."""
    title = f"{run.algorithm}, seed {run.seed}"
    return title if run.name == f"{run.algorithm}-seed{run.seed}" else f"{title}: {run.name}"


def _recorded(run_dir: Path, kind: str = "step") -> list[Path]:
    return sorted((run_dir / "trajectories").glob(f"{kind}-*.json.gz"))
