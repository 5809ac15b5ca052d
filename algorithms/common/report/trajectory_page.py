"""The trajectory page: generated tokens, observations, and the advantage of each token under each algorithm.

    write(path, trajectory_page([load_recorded(file) for file in files], "a title"))

`trajectory_data.py` makes its data; the scripts in this folder (`trajectories_*.js`) display them.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from algorithms.common.report.fitting import fitting
from algorithms.common.report.page import data, header, page
from algorithms.common.report.trajectory_data import facts, packed, turns
from algorithms.common.run.recorded_trajectories import RecordedStep

# trajectories_*.js: one script, in order
SCRIPTS = (
    *("elements", "data", "address", "list", "tokens", "evidence"),
    *("diff", "views", "credit", "tree", "page"),
)
STYLES = ("trajectories", "trajectories_views")  # *.css
MAX_PAGE = 10_000_000  # bytes
NOSCRIPT = "<noscript><p>This page needs JavaScript to show the trajectories.</p></noscript>\n"


def trajectory_page(recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """One HTML document with all recorded trajectories; files of several steps or algorithms may be mixed.

    Args:
        recorded: what the page shows.
        title: of the page, escaped.
        bar: inserted above the title as it is: the `navigation` of a run.
        notes: sentences below the title, escaped.
    """
    folder = files("algorithms.common.report")
    css = "\n".join((folder / f"{name}.css").read_text(encoding="utf-8") for name in STYLES)
    js = "\n".join((folder / f"trajectories_{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    body = (
        f'{header(title, bar, notes)}\n<main aria-busy="true"></main>\n{NOSCRIPT}'
        + data("trajectories", facts(recorded))
        + data("turns", packed(turns(recorded)))
    )
    return page(title, body, css=css, js=js)


def fitting_page(recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """`trajectory_page` with at most `MAX_PAGE` bytes (`fitting`)."""
    return fitting(recorded, lambda shown, said: trajectory_page(shown, title, bar, said), notes, MAX_PAGE)
