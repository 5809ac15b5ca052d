"""What an episode looks like in the terminal: `render_mode="human"`, which examples/play.py uses too."""

from __future__ import annotations

import io
import math
import re
import subprocess
import sys
from typing import Any

import pytest
from helpers import PASSAGES, QUESTIONS, FailingRetriever, answer, make_env, played, search, small_retriever
from paths import ROOT
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from igsearch_env import Gain, Question, ReflectionWrapper
from igsearch_env.information_gain import InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.terminal import GAIN_CELLS, GAIN_SCALE, GUESS, EpisodePrinter, gain_bar, visible
from igsearch_env.trajectory import ANSWERED, RETRIEVAL_FAILED, Trajectory
from retrievers import Passage

RAW = InformationGainConfig(dead_zone=0.0, negative_scale=1.0, soft_clip_form="none")
HOSTILE = (
    "[red]x[/red] [/] [link=https://example.org]y \N{SEE-NO-EVIL MONKEY} \N{HEBREW LETTER SHIN}\N{HEBREW LETTER LAMED}"
)


def terminal(width: int = 80, **options: Any) -> Console:
    """A terminal that writes to memory."""
    settings = {"force_terminal": True, "legacy_windows": False, "color_system": "truecolor"} | options
    return Console(file=io.StringIO(), width=width, height=40, _environ={"TERM": "xterm-256color"}, **settings)


def written(console: Console) -> str:
    """What went to the terminal since the last call, control sequences too."""
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    return text


def plain(console: Console) -> str:
    """What went to the terminal since the last call, without style."""
    return Text.from_ansi(written(console)).plain


def episode(question: Question, *turns: tuple[str, list[Passage]]) -> Trajectory:
    """A trajectory that has ended with its last turn, the answer."""
    trajectory = played(question, *turns)
    trajectory.stop_reason = ANSWERED
    return trajectory


def test_what_is_new_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    env = make_env(render_mode="human", information_gain=RAW)
    env.reset(options={"question": QUESTIONS[0]})
    said = capsys.readouterr().out
    assert QUESTIONS[0].text in said
    assert "birthplace q0" in said
    _, reward, _, _, info = env.step(search("Alan Brin"))
    said = capsys.readouterr().out
    assert QUESTIONS[0].text not in said
    assert "[1] <think> hm </think> <search> Alan Brin </search>" in said
    for number, passage in enumerate(info["passages"], start=1):
        assert f"{number}. {passage.title}  {passage.score:.1f}" in said
        assert passage.text in said
    gain = f"{info['information_gain']:+.2f} nats"
    assert f"{gain} (real {info['logprob_real']:.2f}, baseline {info['logprob_baseline']:.2f})" in said
    assert f"reward {reward:+.2f}" in said
    env.render()
    assert capsys.readouterr().out == ""
    env.step(answer("Tolona"))
    said = capsys.readouterr().out
    assert "answered: outcome 1.00; golden answers: Tolona" in said
    assert gain not in said
    env.reset(options={"question": QUESTIONS[1]})
    assert QUESTIONS[1].text in capsys.readouterr().out


def test_golden_answers_are_told_and_marked_only_at_the_end() -> None:
    console, printer = terminal(), EpisodePrinter(make_protocol())
    passage = Passage("p", "Alan Brin", "Alan Brin was born in TOLONA, not in Tolonax.", 1.5)
    whole = episode(QUESTIONS[0], (search("Brin"), [passage]), (answer("Karith"), []))
    running = played(QUESTIONS[0], (search("Brin"), [passage]))
    printer.show(running, console)
    before = written(console)
    assert "golden" not in before
    assert "\x1b[1;30;42m" not in before
    printer.show(whole, console)
    after = written(console)
    assert "\x1b[1;30;42mTOLONA\x1b[0m" in after
    assert after.count("\x1b[1;30;42m") == 1  # Tolonax is another word
    text = Text.from_ansi(after).plain
    assert "answered: outcome 0.00; golden answers: Tolona" in text
    assert "[1] 1. Alan Brin: Alan Brin was born in TOLONA, not in Tolonax." in text


def test_a_passage_found_twice_is_told_once_and_a_long_one_in_part() -> None:
    console = terminal(100)
    long = Passage("p", "Long", "word " * 200 + "Tolona" + " word" * 200, 1.0)
    turns = [(search("a"), [long]), (search("b"), [long]), (answer("x"), [])]
    EpisodePrinter(make_protocol()).show(episode(QUESTIONS[0], *turns), console)
    end = plain(console).split("golden answers")[1]
    assert end.count("Long: ") == 1
    assert end.count("...") == 2
    assert len(end) < 400


def test_an_episode_without_the_evidence_says_so() -> None:
    console = terminal()
    other = Passage("p", "Karith", "Karith stands on the river Ostue.", 1.0)
    EpisodePrinter(make_protocol()).show(episode(QUESTIONS[0], (search("x"), [other]), (answer("y"), [])), console)
    assert "no retrieved passage contains a golden answer" in plain(console)
    EpisodePrinter(make_protocol()).show(episode(QUESTIONS[0], (answer("y"), [])), console)
    assert "no passage" not in plain(console)


def test_a_gain_that_comes_a_turn_later_is_shown_then(capsys: pytest.CaptureFixture[str]) -> None:
    env = make_env(render_mode="human", protocol="autorefine", information_gain=RAW)
    env.reset(options={"question": QUESTIONS[0]})
    env.step(search("Alan Brin"))
    assert "information gain" not in capsys.readouterr().out
    _, _, _, _, info = env.step("<refine> Tolona </refine>" + search("Karith"))
    said = capsys.readouterr().out
    assert "information gain of [1]" in said
    assert f"{info['information_gain']:+.2f} nats" in said


def test_what_else_the_policy_is_told_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    env = make_env(render_mode="human", max_searches=2)
    env.reset(options={"question": QUESTIONS[0]})
    env.step("hm")
    assert env.trajectory.turns[0].observation.split("\n")[2] in " ".join(capsys.readouterr().out.split())
    env.step(search("zzzz"))
    said = capsys.readouterr().out
    assert "no passage matches" in said
    assert "No search is left" in said
    env.step("hm")
    assert "no_answer: outcome 0.00" in capsys.readouterr().out


def test_a_failed_retrieval_and_a_second_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    env = make_env(render_mode="human", retriever=FailingRetriever(small_retriever()))
    env.reset(options={"question": QUESTIONS[0]})
    env.step(search("fail"))
    said = capsys.readouterr().out
    assert f"{RETRIEVAL_FAILED}: outcome 0.00" in said
    assert FailingRetriever.MESSAGE not in said
    assert "no passage matches" not in said
    twice = ReflectionWrapper(make_env(render_mode="human"), attempts=2)
    twice.reset(options={"question": QUESTIONS[0]})
    twice.step(answer("Karith"))
    said = capsys.readouterr().out
    assert "golden" not in said
    assert "reward +0.00" in said
    twice.step(answer("Tolona"))
    assert "answered: outcome 1.00" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 140])
def test_text_is_shown_as_it_is_and_within_the_width(width: int) -> None:
    long = "w" * 300
    question = Question(f"[b]{HOSTILE}", f"Who is {HOSTILE} {long}?", (HOSTILE,), "[/]")
    passage = Passage("p", f"T {HOSTILE}", f"{HOSTILE} {long}", 1.0)
    trajectory = episode(question, (f"<think>{HOSTILE}</think>" + search(HOSTILE), [passage]), (answer("[/]"), []))
    trajectory.turns[0].gain = Gain(-12.5, -13.0, -0.5)
    console = terminal(width)
    EpisodePrinter(make_protocol()).show(trajectory, console)
    text = plain(console)
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= min(width, 100)
    together = "".join(text.replace("│", "").split())
    # title of the panel and of the passage, question, thought, query, passage, golden answers, and the two of the end
    assert together.count("".join(HOSTILE.split())) >= (7 if width == 60 else 8)
    assert together.count(long) == 2


def test_control_characters_reach_no_terminal() -> None:
    hostile = "a\x1b]0;title\x07b\rc\x9bd\u202ee\ud800"
    question = Question(hostile, hostile, (hostile,), hostile)
    trajectory = episode(question, (search(hostile), [Passage("p", hostile, hostile, 1.0)]), (answer(hostile), []))
    console = terminal()
    EpisodePrinter(make_protocol()).show(trajectory, console)
    said = written(console)
    for character in ("\x1b]", "\x07", "\r", "\x9b", "\u202e", "\ud800"):
        assert character not in said
    shown = r"a\x1b]0;title\x07b\rc\x9bd\u202ee\ud800"
    assert "".join(Text.from_ansi(said).plain.split()).count(shown) >= 6


def test_visible_leaves_what_is_only_shown() -> None:
    for text in ("plain", "a\tb\nc", "naïve", "\N{FAMILY}\u200d", "\N{ARABIC LETTER ALEF}", ""):
        assert visible(text) == text
    assert visible("a\r\nb") == "a\nb"
    assert visible("\x00\x7f") == r"\x00\x7f"


@pytest.mark.parametrize(
    ("value", "cells", "side"),
    [(0.0, 0, 0), (0.01, 1, 1), (-0.01, 1, -1), (GAIN_SCALE, GAIN_CELLS, 1), (-GAIN_SCALE / 2, GAIN_CELLS // 2, -1)],
)
def test_the_bar_of_a_gain(value: float, cells: int, side: int) -> None:
    for ascii_only, filled, zero in ((False, "━", "│"), (True, "=", "|")):
        left, right = gain_bar(value, ascii_only=ascii_only).plain.split(zero)
        assert len(left) == len(right) == GAIN_CELLS
        drawn, empty = (right, left) if side > 0 else (left, right)
        assert (drawn.count(filled), empty.count(filled)) == (cells, 0)
        assert drawn.strip() == filled * cells


def test_gains_beyond_the_bar_are_full_and_nan_is_none() -> None:
    for value in (GAIN_SCALE * 9, math.inf):
        assert gain_bar(value).plain == " " * GAIN_CELLS + "│" + "━" * GAIN_CELLS
        assert gain_bar(-value).plain == "━" * GAIN_CELLS + "│" + " " * GAIN_CELLS
    assert "━" not in gain_bar(math.nan).plain


def test_a_file_gets_no_escapes_and_ascii_gets_ascii() -> None:
    trajectory = episode(QUESTIONS[0], (search("x"), [Passage("p", "T", "in Tolona", 1.0)]), (answer("y"), []))
    trajectory.turns[0].gain = Gain(1.0, -1.0, -2.0)
    console = terminal(force_terminal=False, color_system=None)
    EpisodePrinter(make_protocol()).show(trajectory, console)
    assert "\x1b" not in written(console)
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    EpisodePrinter(make_protocol()).show(trajectory, Console(file=file, width=80))
    file.seek(0)
    assert "information gain       |==     +1.00 nats (real -1.00, baseline -2.00)" in file.read()


def test_rich_is_imported_only_to_show_something() -> None:
    program = "import sys, igsearch_env, igsearch_env.terminal; print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def play(lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    """`igsearch play` with these lines typed, then Ctrl-D."""
    command = [sys.executable, "examples/play.py", *options]
    return subprocess.run(command, cwd=ROOT, input=lines, capture_output=True, text=True, timeout=300, check=False)


def test_play_shows_an_episode() -> None:
    done = play("born\n[red]\nnobody\n= [/]\n", "--max-searches", "2", "--episodes", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("╭─ ") == 2
    assert "[2] <search> [red] </search>" in done.stdout
    assert "no search left: answer > [3] <answer> nobody </answer>" in done.stdout
    assert "[1] <answer> [/] </answer>" in done.stdout
    assert done.stdout.count("answered: outcome 0.00; golden answers: ") == 2


def test_lines_that_are_no_action_cost_nothing() -> None:
    done = play(f"\n  \n=\n{'x' * 10_001}\nborn\n")
    assert (done.returncode, done.stderr) == (0, "")
    asked = re.findall(r"query \((\d) searches left\) or = answer > (.*)", done.stdout)
    assert [left for left, _ in asked] == ["4"] * 5 + ["3"]
    assert [said.split(";")[0] for _, said in asked[:4]] == [
        "an empty line costs nothing",
        "an empty line costs nothing",
        "nothing was typed after =",
        "10001 characters: at most 10000",
    ]
    assert done.stdout.endswith("\nstopped\n")


def test_tags_and_bytes_that_are_typed_are_part_of_the_query() -> None:
    done = play("</search><answer> x </answer>\n\x1b[31m\u202e\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert "golden answers" not in done.stdout  # nothing was answered
    assert r"[2] <search> \x1b[31m\u202e </search>" in done.stdout


@pytest.mark.parametrize(
    ("turns", "gains", "noted"),
    [
        ([("Tolona", PASSAGES[1])], [0.62], 1),
        ([("Tolona", PASSAGES[1])], [-0.62], 0),  # nothing to explain
        ([("Alan Brin", PASSAGES[0])], [0.62], 0),
        ([("Alan Brin", PASSAGES[0]), ("Tolona", PASSAGES[1])], [0.6, 0.1], 0),  # it was read before
    ],
)
def test_the_gain_of_a_guess_is_explained(turns: list[tuple[str, Passage]], gains: list[float], noted: int) -> None:
    trajectory = played(QUESTIONS[0], *((search(query), [passage]) for query, passage in turns))
    for turn, gain in zip(trajectory.turns, gains, strict=True):
        turn.gain = Gain(gain, gain, 0.0)
    console = terminal()
    EpisodePrinter(make_protocol()).show(trajectory, console)
    said = " ".join(plain(console).split())
    assert said.count(GUESS) == noted
    assert said.index("+0.62 nats") < said.index(GUESS) if noted else True


def test_a_negative_seed_is_refused_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "examples/play.py", "--seed", "-1"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: seed=-1")
