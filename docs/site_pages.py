"""A hook of MkDocs: adds the pages that are not in docs/, or not in the form that a site needs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from algorithms.common.report.comparison_report import comparison_report
from algorithms.common.report.run_report import write_reports

ROOT = Path(__file__).parent.parent.resolve()
NOTEBOOK = "examples/first_steps.ipynb"
RUNS = ROOT / "docs" / "gallery" / "runs-data"
LANGUAGE_MODEL = "smollm2-135m-ig_grpo-seed0"


class NoHtml(Extension):  # type: ignore[misc] # not typed
    """Shows `<tags>` in pages and docstrings as text: they are placeholders and tags of protocols, never HTML."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.deregister("html_block")
        md.inlinePatterns.deregister("html")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add `NoHtml`."""
    config.markdown_extensions.append(NoHtml())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root folder, the notebook, and the pages of the gallery."""
    for name, content in (*root_pages(), ("first_steps.md", notebook()), *gallery()):
        files.append(File.generated(config, name, content=content))
    return files


def root_pages() -> Iterator[tuple[str, str]]:
    """The pages of the root folder, with links as from docs/, and the notebook as a file."""
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", NOTEBOOK):
        yield name, (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def notebook() -> str:
    """The notebook as Markdown; it has no outputs."""
    cells = json.loads((ROOT / NOTEBOOK).read_text(encoding="utf-8"))["cells"]
    texts = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    texts.append(("markdown", f"[Download the notebook]({NOTEBOOK})"))
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts)


def gallery() -> Iterator[tuple[str, str]]:
    """The pages of the runs that `docs/make_gallery.py` made, by the current code."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [shutil.copytree(RUNS / name, Path(folder) / name) for name in ("ig_grpo-seed0", "grpo-seed0")]
        for page in write_reports(runs[0]):
            yield f"gallery/{page.name}", page.read_text(encoding="utf-8")
        yield "gallery/comparison.html", comparison_report(runs)
        for page in write_reports(shutil.copytree(RUNS / LANGUAGE_MODEL, Path(folder) / LANGUAGE_MODEL)):
            yield f"gallery/language-model/{page.name}", page.read_text(encoding="utf-8")
