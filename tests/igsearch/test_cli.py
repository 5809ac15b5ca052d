"""The program `igsearch`: its commands, its help, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from blocked import DENSE, SERVER, run_without
from launching import ENVIRONMENT
from paths import ROOT

from igsearch import cli
from igsearch.commands.train import algorithms

HELP = [*([name, "--help"] for name in cli.COMMANDS), *(["train", name, "--help"] for name in algorithms())]


def start(*words: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """`igsearch`, as a process."""
    return subprocess.Popen(
        [sys.executable, "-m", "igsearch", *words],
        cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        cli.main(words)
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in cli.COMMANDS)
    named = {"train", "evaluate", "report", "export", "play", "compare", "serve", "index", "warm-start"}
    assert named == {*cli.COMMANDS}


def test_the_help_of_training_names_every_algorithm(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert {path.stem for path in (ROOT / "algorithms").glob("[a-z]*.py")} == {*algorithms()}
    assert all(name in text for name in algorithms())


PROGRAM = """
import contextlib, io, sys
from igsearch.cli import main
for words in {words!r}:
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        main(words)
    assert "--help" in text.getvalue(), words
    program = " ".join(word for word in words if word != "--help")
    assert f"usage: igsearch {{program}} " in text.getvalue(), text.getvalue()[:200]
heavy = {heavy!r}
print([name for name in heavy if name in sys.modules])
"""


def test_no_help_imports_torch_or_other_large_packages() -> None:
    """Help takes under a second on a free processor, of which torch alone would take several."""
    heavy = ["torch", "transformers", "accelerate", "peft", "matplotlib", "scipy", "datasets", "pydantic"]
    done = run_without({*DENSE, *SERVER}, PROGRAM.format(words=HELP, heavy=heavy))
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tarin"], "tarin: no such command; did you mean train?"),
        (["xyz"], f"xyz: no such command; one of {', '.join(cli.COMMANDS)}"),
        (["train", "igrpo"], "igrpo: no such algorithm; did you mean igpo?"),
        (["train", "ig-grpo"], "ig-grpo: no such algorithm; did you mean ig_grpo?"),
        (["train", "--steps", "3"], "--steps: the algorithm comes first: igsearch train ig_grpo --steps ...; one of"),
        (["train", "nowhere.py"], "nowhere.py: no such file; give a file with an algorithm, or one of"),
        (["train", "grpo", "--model", "x"], "--model: no such option; did you mean --policy.path?"),
        (["evaluate", "--model", "x"], "--model: no such option; did you mean --policy?"),
    ],
)
def test_what_is_misspelt_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["igsearch", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


def test_a_file_of_ones_own_is_trained_like_a_bundled_algorithm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import sys\nif __name__ == '__main__':\n    print(sys.argv)\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["igsearch", "train", str(file), "--steps", "3"])
    cli.main()
    assert capsys.readouterr().out == f"{[f'igsearch train {file}', '--steps', '3']}\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "grpo", "--help"], ["evaluate", "--help"]], ids=" ".join)
def test_output_that_nobody_reads_ends_quietly(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = start(*words, stdout=write)
    os.close(write)
    _, stderr = process.communicate(timeout=120)
    assert stderr == ""
    assert process.returncode == 141  # as of a program that SIGPIPE ends


@pytest.mark.parametrize("command", ["--help >&-", "--version >&-", "compare --help >&-", "play <&-", "nosuch 2>&-"])
def test_closed_streams_are_no_error(command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m igsearch {command}', sys.executable],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == (2 if "nosuch" in command else 0)
    assert done.stderr == ""


def test_ctrl_c_ends_quietly() -> None:
    process = start("play")
    assert process.stdout is not None
    while "query" not in (seen := os.read(process.stdout.fileno(), 4096).decode()):
        assert seen, process.communicate()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stdout.strip().endswith("stopped")
    assert stderr == ""
