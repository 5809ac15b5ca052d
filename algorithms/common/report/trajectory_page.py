"""The trajectory page: generated tokens, observations, and the advantage of each token under each algorithm.

    write(path, trajectory_page([load_recorded(file) for file in files], "a title"))

`trajectory_data.py` makes its data; the scripts in this folder (`trajectories_*.js`) display them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files

from algorithms.common.report.page import data, page
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
    below = "".join(f'<p class="quiet">{html.escape(note)}</p>' for note in notes)
    body = (
        f'<header>{bar}<h1>{html.escape(title)}</h1>{below}</header>\n<main aria-busy="true"></main>\n{NOSCRIPT}'
        + data("trajectories", facts(recorded))
        + data("turns", packed(turns(recorded)))
    )
    return page(title, body, css=css, js=js)


def fitting_page(recorded: Sequence[RecordedStep], title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """`trajectory_page` with at most `MAX_PAGE` bytes: drops every other step, then the last half of the groups.

    Keeps the first and the last step with at least one group each; a note states how many groups are shown, and of
    which steps.
    """
    shown = list(recorded)
    document = trajectory_page(shown, title, bar, notes)
    while len(document.encode(errors="replace")) > MAX_PAGE:
        if len(shown) > 2:
            shown = [*shown[:-1:2], shown[-1]] if len(shown) > 3 else [shown[0], shown[-1]]
        elif all(len(file.groups) < 2 for file in shown):
            break
        else:
            shown = [replace(file, groups=file.groups[: (len(file.groups) + 1) // 2]) for file in shown]
        document = trajectory_page(shown, title, bar, [*notes, _left_out(shown, recorded)])
    return document


def _left_out(shown: Sequence[RecordedStep], recorded: Sequence[RecordedStep]) -> str:
    """What a page shows of what was recorded, in one sentence."""
    groups, every = (sum(len(file.groups) for file in steps) for steps in (shown, recorded))
    of_steps = f" of {len(shown)} of {len(recorded)} recorded steps" if len(shown) < len(recorded) else ""
    return f"Shows {groups} of {every} recorded groups{of_steps}: a page has at most {MAX_PAGE / 1e6:g} MB."
