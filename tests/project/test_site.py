"""The documentation as a site: it is built without a warning, is complete, and loads nothing from other servers."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from browser import WIDE, chromium
from filelock import FileLock
from markdown_it import MarkdownIt
from paths import ROOT

import igsearch_env
import retrievers

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed: pip install -e .[docs]")
griffe = pytest.importorskip("griffe", reason="the extra `docs` is not installed: pip install -e .[docs]")

SOURCES = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
]
LOADING = {"src", "srcset", "data", "poster", "background"}  # attributes whose address a browser loads by itself
CSS_ADDRESS = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])([^'")\s]+)""")
MODULES = (  # all public functions and classes of these are on the site
    "algorithms.common.training.advantages",
    "algorithms.common.training.loss",
    "algorithms.common.training.potentials",
    "algorithms.common.training.segments",
    "algorithms.common.training.turn_rewards",
    "algorithms.common.rollout.engines.base",
    "algorithms.common.rollout.training_rows",
    "algorithms.grpo",
    "algorithms.ig_grpo",
    "algorithms.rloo",
    "algorithms.reinforce_plus_plus",
    "algorithms.gigpo",
    "algorithms.graft",
    "algorithms.cov_local",
    "algorithms.ig_local",
    "algorithms.ig_grpo_potential",
    "algorithms.igpo",
    "algorithms.tips",
    "algorithms.mr_search",
    "algorithms.ppo",
    "algorithms.turn_ppo",
    "algorithms.mt_grpo",
    "algorithms.cw_grpo",
    "algorithms.gspo",
    "algorithms.step_search",
)
CLASSES = (
    "algorithms.common.algorithm.Algorithm",
    "algorithms.common.rollout.buffer.RolloutBuffer",
    "algorithms.common.config.TrainConfig",
    "algorithms.common.training.config.LossConfig",
)


@dataclass
class Page(HTMLParser):
    """What a page loads, where its links lead, and what can be linked to."""

    loaded: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values["id"]} if "id" in values else set()
        self.in_style = tag == "style"
        self.loaded += [values[name] for name in LOADING & values.keys()]
        self.loaded += CSS_ADDRESS.findall(values.get("style", ""))
        if "href" in values:
            (self.links if tag == "a" else self.loaded).append(values["href"])

    def handle_data(self, data: str) -> None:
        if self.in_style:
            self.loaded += CSS_ADDRESS.findall(data)


@functools.cache
def read(path: Path) -> Page:
    """A page of the site."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it; built once, also where several processes run these tests."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    folder, built = shared / "site", shared / "site-is-built"
    with FileLock(shared / "site.lock"):
        if not built.exists():
            done = subprocess.run(
                [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            built.touch()
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")  # its links begin at the host


def test_every_page_of_the_documentation_is_there(site: Path) -> None:
    names = {path: "index" if path.stem == "README" else path.stem for path in (ROOT / "docs").rglob("*.md")}
    sources = {path.relative_to(ROOT / "docs").with_name(f"{name}.html") for path, name in names.items()}
    others = map(Path, ("CONTRIBUTING.html", "CHANGELOG.html", "first_steps.html", "LICENSE"))
    gallery = (Path("gallery", f"{name}.html") for name in ("report", "trajectories", "comparison"))
    for path in (*sources, *others, *gallery):
        assert (site / path).stat().st_size > 1000, path
    assert "rewards each search by its" in (site / "index.html").read_text(encoding="utf-8")


class Shape(HTMLParser):
    """The text of a document and how often its elements occur; of a page of the site, those of its article."""

    ELEMENTS = frozenset({"h1", "h2", "h3", "li", "table", "td", "pre", "strong", "em", "code", "img"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.words, self.inside = Counter[str](), "", "<article" not in html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside |= tag == "article"
        self.elements.update({tag} & self.ELEMENTS if self.inside else ())

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag != "article"

    def handle_data(self, data: str) -> None:
        self.words += re.sub(r"\s|¶", "", data) if self.inside else ""


@pytest.mark.parametrize("source", SOURCES)
def test_a_page_reads_as_on_github(source: str, site: Path) -> None:
    """MkDocs' Markdown differs from CommonMark, for example in lists without an empty line before them."""
    name = "index.html" if source == "README.md" else f"{Path(source).stem}.html"
    text = (ROOT / source).read_text(encoding="utf-8")
    there = Shape(MarkdownIt("commonmark", {"html": False}).enable("table").render(text))
    here = Shape((site / name).read_text(encoding="utf-8"))
    assert here.elements == there.elements
    assert here.words.startswith(there.words)  # links to the neighbouring pages may follow


def external(addresses: list[str]) -> list[str]:
    """The addresses on other hosts."""
    return [address for address in addresses if urlsplit(address).netloc]


def test_pages_load_nothing_from_other_hosts(site: Path, pages: list[Path]) -> None:
    for path in [*pages, site / "404.html"]:
        assert external(read(path).loaded) == [], path
    for path in site.rglob("*.css"):
        assert external(CSS_ADDRESS.findall(path.read_text(encoding="utf-8"))) == [], path


def test_what_would_be_found_as_loaded() -> None:
    page = Page()
    page.feed(
        '<link rel="stylesheet" href="https://a.org/x.css"><script src="//b.org/x.js"></script><a href="https://no.org">'
        '<style>@import "https://c.org/x.css"; p { background: url(https://d.org/x.png) }</style><img src="here.png">'
    )
    assert [urlsplit(address).netloc for address in external(page.loaded)] == ["a.org", "b.org", "c.org", "d.org"]
    assert page.links == ["https://no.org"]


def test_every_link_leads_somewhere(site: Path, pages: list[Path]) -> None:
    for path in pages:
        for address in (*read(path).links, *read(path).loaded):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.relative_to(site)} links to {address}"
            if parts.fragment and target.suffix == ".html" and not parts.fragment.startswith("__"):
                assert unquote(parts.fragment) in read(target).ids, f"{path.relative_to(site)} links to {address}"


# ---------------------------------------------------------------- the reference


@pytest.fixture(scope="module")
def described(site: Path) -> set[str]:
    """The dotted names that the reference describes."""
    ids = set[str]().union(*(read(path).ids for path in (site / "api").glob("*.html")))
    return {name for name in ids if re.match(r"(?:igsearch_env|retrievers|algorithms)\.", name)}


def public() -> Iterator[str]:
    """Dotted names of the public interface."""
    for package in (igsearch_env, retrievers):
        yield from (f"{package.__name__}.{name}" for name in package.__all__)
    for name in MODULES:
        for member, value in vars(importlib.import_module(name)).items():
            if callable(value) and getattr(value, "__module__", "") == name and not member.startswith("_"):
                yield f"{name}.{member}"
    yield from CLASSES


@functools.cache
def loaded(package: str) -> Any:
    """A package, as the reference reads it."""
    return griffe.load(package, extensions=griffe.load_extensions("griffe_inherited_docstrings"))


@pytest.mark.parametrize("name", sorted(public()))
def test_a_public_name_is_described(name: str, described: set[str]) -> None:
    assert name in described, f"add {name} to a page of docs/api/"
    package, _, member = name.partition(".")
    item = loaded(package)[member]
    assert item.has_docstring, f"{name} has no docstring"
    for method in item.members.values() if item.is_class else ():
        if method.is_function and not method.name.startswith("_"):
            assert method.has_docstring, f"{method.path} has no docstring"
            assert method.returns is not None, f"{method.path} has no type"


def test_private_names_are_hidden(described: set[str]) -> None:
    assert len(described) > 300
    assert not [name for name in described if any(part.startswith("_") for part in name.split("."))]


def test_options_have_types_defaults_and_descriptions(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api" / "options.html").read_text(encoding="utf-8"))
    assert "clip_ratio_low: float = 0.2" in text
    assert "Lower clip range" in text
    assert "runs/&lt;algorithm&gt;-seed&lt;seed&gt;" in text  # is not taken for HTML


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    """The site behind an address, as a web server shows it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_browser_asks_no_other_host_and_finds_words(address: str) -> None:
    problems: list[str] = []
    with chromium() as browser:
        window = browser.new_page(viewport={"width": WIDE, "height": 800})
        window.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or problems.append(r.url))
        window.on("pageerror", lambda error: problems.append(str(error)))
        for page in ("gallery/report.html", "gallery/trajectories.html", "api/environment.html", "index.html"):
            window.goto(f"{address}/{page}")
        window.get_by_role("textbox", name="Search").fill("stopping bias")
        window.locator("a.md-search-result__link").first.wait_for()
        assert "algorithms.html" in window.locator("a.md-search-result__link").first.get_attribute("href")
    assert problems == []
