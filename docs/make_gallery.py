"""Repeat the runs of the documentation's gallery, and draw its pictures; needs Chromium.

    python -m docs.make_gallery                    all; a quarter of an hour on two cores, and fetches SmolLM2
    python -m docs.make_gallery --pictures         the pictures alone

docs/gallery/runs-data/ holds what the pages of a run are made from. The pages themselves are made when the site is
built (`docs/site_pages.py`), so they are always those of the current code.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from algorithms.common.evaluation.scores import limit_per_dataset
from algorithms.common.model.fetch import fetch
from algorithms.common.report.live import LiveServer
from algorithms.common.rollout.environment import EnvConfig
from algorithms.common.trainer import train
from algorithms.grpo import GRPO, GRPOConfig
from algorithms.ig_grpo import IGGRPO, IGGRPOConfig
from docs.site_pages import LANGUAGE_MODEL, ROOT, RUNS, gallery
from examples import same_buffer
from igsearch_env.world.bundled import bundled_world

KEPT = ("config.yaml", "metrics.jsonl", "test_before.json", "test_after.json", "trajectories")
QUESTIONS = Path("test-questions.jsonl")
# Pictures of the page of examples/same_buffer.py: the address of a view.
VIEWS = {
    "../trajectories": "algorithm=ig_grpo&answer=correct&order=gain",
    "credit": "algorithm=ig_grpo&group=mixed&signs=any&order=gain&view=credit",
    "tree": "algorithm=ig_grpo&search=Drairrelle&view=tree",
}


def write_questions() -> None:
    """20 test questions of each data set of the bundled world: the results of all 700 would be large files."""
    with QUESTIONS.open("w", encoding="utf-8") as file:
        for q in limit_per_dataset(bundled_world().questions["test"], 20):
            row = {"id": q.id, "question": q.text, "golden_answers": list(q.golden_answers), "dataset": q.dataset}
            file.write(json.dumps(row) + "\n")


def keep(run_dir: Path) -> None:
    """Replace the files of a run in the gallery."""
    target = RUNS / run_dir
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in KEPT:
        copy = shutil.copytree if (run_dir / name).is_dir() else shutil.copy
        copy(run_dir / name, target / name)


def train_runs() -> None:
    """Train with two algorithms."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_questions()
        env = EnvConfig(eval_questions=(str(QUESTIONS),), dev_questions=("bundled",))
        settings: dict[str, Any] = {"steps": 12, "eval_every": 4, "threads": 1, "env": env}
        ig_grpo = IGGRPOConfig(**settings, run_dir=Path("ig_grpo-seed0"))
        grpo = GRPOConfig(**settings, run_dir=Path("grpo-seed0"))
        keep(train(IGGRPO(ig_grpo), ig_grpo).dir)
        keep(train(GRPO(grpo), grpo).dir)


def train_language_model() -> None:
    """Train a pretrained language model in the bundled world, whose texts are invented: a warm start, then 8 steps."""
    model = "models/smollm2-135m"
    options = {
        "policy.path": model,
        "policy.context-length": 1024,
        "policy.compute-dtype": "bfloat16",
        "env.prompt": "bare",
        "env.eval-questions": QUESTIONS,
        "env.dev-questions": "bundled",
        "rollout.dtype": "bfloat16",
        "rollout.max-new-tokens": 32,
        "rollout.questions-per-step": 4,
        "rollout.group-size": 4,
        "optimizer.lr": 2e-5,
        "warm-start.folder": "runs/smollm2-warm-start",
        "warm-start.demonstrations": 256,
        "warm-start.rounds": 0,
        "steps": 8,
        "eval-every": 4,
        "eval-limit": 3,
        "threads": 1,
        "run-dir": LANGUAGE_MODEL,
    }
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_questions()
        fetch("smollm2-135m", Path(model))
        command = [sys.executable, str(ROOT / "algorithms" / "ig_grpo.py")]
        command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
        keep(Path(LANGUAGE_MODEL))


@contextlib.contextmanager
def training(run_dir: Path) -> Iterator[None]:
    """A run that trains in another process, from its first file on."""
    command = [sys.executable, str(ROOT / "algorithms" / "ig_grpo.py"), "--steps=12", "--eval-every=4"]
    command += ["--test-limit=5", "--threads=1", f"--run-dir={run_dir}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            while not (run_dir / "config.yaml").is_file():
                if process.poll() is not None:
                    raise RuntimeError(f"{command} has ended with {process.returncode}")
                time.sleep(0.5)
            yield
        finally:
            process.send_signal(signal.SIGINT)


def draw_live(window: Page) -> None:
    """A picture of the live report in the middle of a run."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        run_dir = Path("ig_grpo-seed0")
        with training(run_dir), LiveServer(run_dir, 0) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            window.goto(server.url)
            window.get_by_text("Running, at step 7 of 12").wait_for(timeout=600_000)
            window.screenshot(path=RUNS.parent / "live.png")
            server.shutdown()
            thread.join()


def draw_pictures() -> None:
    """A wide light and a narrow dark picture of each page of the gallery, and pictures of views and the live report."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1200, "height": 750})
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        for name, content in gallery():
            picture = Path(name).relative_to("gallery").with_suffix("")
            page = Path(folder, name)
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(content, encoding="utf-8")
            for screen, kind in ((window, ""), (phone, "-phone")):
                screen.goto(page.as_uri())
                screen.wait_for_function("document.querySelector('main[aria-busy]') === null")  # its script has started
                screen.screenshot(path=RUNS.parent / f"{picture}{kind}.png")
        draw_live(window)
        same_buffer.main(same_buffer.Args(show=0, page=Path(folder, "same_buffer.html")))
        window.set_viewport_size({"width": 1280, "height": 900})
        for name, view in VIEWS.items():
            window.goto("about:blank")  # another fragment alone would not read the page again
            window.goto(f"{Path(folder, 'same_buffer.html').as_uri()}#{view}")
            window.locator(".toolbar").wait_for()
            window.screenshot(path=RUNS.parent / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="draw the pictures alone")
    if not parser.parse_args().pictures:
        train_runs()
        train_language_model()
    draw_pictures()
