"""The base of all pages: one self-contained HTML document, its light and dark colours, and safely embedded data.

Text of models, passages and questions enters a page in one of two ways: through `html.escape`, or as JSON through
`data`, which scripts insert into the document only as text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from algorithms.common.base.files import atomic_write

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --quiet: #57606a; --line: #d0d7de; --panel: #f6f8fa; --accent: #0b5cad;
  --good: #12652f; --bad: #b42318; --plus: 33, 102, 172; --minus: 178, 24, 43;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --quiet: #9da7b3; --line: #30363d; --panel: #161b22; --accent: #6cb6ff;
    --good: #57c785; --bad: #ff8a80; --plus: 103, 169, 239; --minus: 239, 112, 112;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
header, main, footer { max-width: 1400px; margin: 0 auto; padding: 0.75rem 1rem; }
h1 { font-size: 1.3rem; margin: 0.25rem 0; } h2 { font-size: 1.1rem; margin: 1.5rem 0 0.5rem; }
a { color: var(--accent); }
code, pre { font: 13px/1.5 ui-monospace, monospace; }
pre { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; }
.wide { overflow-x: auto; }
.wide :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.wide tr > :first-child > span { display: inline-block; overflow-wrap: break-word; }
.wide tr > :first-child > span { min-width: min(24vw, 7rem); max-width: min(32vw, 20rem); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
nav { display: flex; flex-wrap: wrap; gap: 0 1rem; align-items: baseline; border-bottom: 1px solid var(--line); }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1rem; list-style: none; margin: 0; padding: 0; }
nav strong { overflow-wrap: anywhere; }
nav :is(strong, a) { display: inline-block; padding: 0.35rem 0; }
nav [aria-current] { color: inherit; font-weight: 600; text-decoration: none; border-bottom: 2px solid var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
"""


def page(title: str, body: str, *, css: str = "", js: str = "", connect: bool = False) -> str:
    """One HTML document. `title` is escaped; `body`, `css` and `js` are inserted as they are.

    Its content security policy allows this style and this script by their hashes, and nothing else: no style or script
    inside `body`, no other file. With `connect`, the script may fetch from the server that the page came from.
    """
    style = CSS + css
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        "script-src " + (_hash(js) if js else "'none'"),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *(["connect-src 'self'"] if connect else []),
    ]
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">\n'
        f"<title>{html.escape(title)}</title>\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{style}</style>\n</head>\n<body>\n{body}\n"
        + (f"<script>{js}</script>\n" if js else "")
        + "</body>\n</html>\n"
    )


def navigation(run_name: str, current: str, pages: Sequence[tuple[str, str]]) -> str:
    """The bar at the top of every page of a run: its name, and links to its pages.

    Args:
        run_name: name of the run, which is escaped.
        current: address of this page, as in `pages`.
        pages: address (relative to this page) and label of each page that exists, this one included.
    """
    links = "".join(
        f'<li><a href="{html.escape(address)}"{" aria-current=page" if address == current else ""}>'
        f"{html.escape(label)}</a></li>"
        for address, label in pages
    )
    name = html.escape(run_name)
    return f'<nav aria-label="Pages"><strong>{name}</strong><ul>{links}</ul></nav>'


def header(title: str, bar: str = "", notes: Sequence[str] = ()) -> str:
    """The head of a page: `bar` as it is (the `navigation` of a run), the title, and sentences below it, escaped."""
    below = "".join(f'<p class="quiet">{html.escape(note)}</p>' for note in notes)
    return f"<header>{bar}<h1>{html.escape(title)}</h1>{below}</header>"


def assets(kind: str, names: Sequence[str]) -> str:
    """The styles (`css`) or scripts (`js`) of this folder with these names, joined in their order."""
    folder = files("algorithms.common.report")
    return "\n".join((folder / f"{name}.{kind}").read_text(encoding="utf-8") for name in names)


def _hash(text: str) -> str:
    """The source expression of an element with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data(name: str, value: Any) -> str:
    """`value` as JSON in an element with the id `name`; its content can't close the element or open another one."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{html.escape(name)}">{text}</script>'


def write(path: Path, document: str) -> None:
    """Write a page atomically. Invalid Unicode (in the name of a folder) is replaced by `?`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(document, encoding="utf-8", errors="replace")
