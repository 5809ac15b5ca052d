"""Displays episodes in the terminal; training runs use the same panel style.

`rich` is imported lazily, so that importing the environment stays fast. All text of questions, policies and passages
is escaped by `visible` and never parsed as rich markup.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from igsearch_env.protocols import Protocol
from igsearch_env.reward_hacking import names_unseen_answer
from igsearch_env.trajectory import RETRIEVAL_FAILED, Gain, Trajectory, Turn
from retrievers.base import Passage

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.panel import Panel
    from rich.text import Text

MAX_WIDTH = 100  # columns: longer lines are hard to read
GAIN_CELLS = 6  # width of the bar of a gain, on each side of zero
GAIN_SCALE = 3.0  # gain in nats that fills the bar
# Shown at the positive gain of a query that names an answer which nothing before it contained (`reward_hacking.py`).
GUESS = (
    "The query names a golden answer that neither the question nor earlier passages contain. Passages that repeat it "
    "raise its log-probability, whether or not they support it."
)
AROUND = 100  # characters of a passage shown on each side of a golden answer

# Characters that a terminal interprets instead of displaying: control characters except tab and newline, line and
# paragraph separators, overrides of the text direction; and lone surrogates, which can't be encoded.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Escape characters that a terminal would interpret (as `\\x1b`); right-to-left letters and emoji are kept."""
    return _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def frame(body: RenderableType, title: str, *, subtitle: str = "", width: int) -> Panel:
    """A panel of `width` columns. A long title is truncated at its end, a long subtitle (a path) at its beginning."""
    from rich import box
    from rich.cells import cell_len
    from rich.panel import Panel
    from rich.text import Text

    room = width - 6
    heading = Text(visible(title).replace("\n", " "), style="bold cyan")
    heading.truncate(room, overflow="ellipsis")
    path = visible(subtitle).replace("\n", " ")
    if cell_len(path) > room:
        while cell_len(path) >= room:
            path = path[1:]
        path = f"…{path}"
    return Panel(
        body,
        title=heading,
        title_align="left",
        subtitle=Text(path, style="dim") if path else None,
        subtitle_align="right",
        border_style="cyan",
        box=box.ROUNDED,
        width=width,
    )


def gain_bar(value: float, *, ascii_only: bool = False) -> Text:
    """A gain in nats as a bar with zero in the middle, negative to the left; it is full at `GAIN_SCALE` and above."""
    from rich.text import Text

    filled, zero = ("=", "|") if ascii_only else ("━", "│")
    cells = 0 if math.isnan(value) else math.ceil(min(1.0, abs(value) / GAIN_SCALE) * GAIN_CELLS)
    bar = filled * cells
    left, right = (bar, "") if value < 0 else ("", bar)
    return Text.assemble((left.rjust(GAIN_CELLS), "red"), (zero, "dim"), (right.ljust(GAIN_CELLS), "green"))


class EpisodePrinter:
    """Prints an episode while it runs: each call of `show` prints what is new. Golden answers come at the end."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.begun = self.ended = False
        self.turns = 0  # number of turns already shown
        self.gains: set[int] = set()  # turns whose gain was shown: in the autorefine family it is known a turn later

    def show(self, trajectory: Trajectory, console: Console | None = None) -> None:
        """Print what is new since the last call, to standard output by default."""
        from rich.console import Console
        from rich.padding import Padding
        from rich.text import Text

        console = console or Console()
        width = min(console.width, MAX_WIDTH)

        def put(what: RenderableType, indent: int = 0) -> None:
            console.print(Padding(what, (0, 0, 0, indent), expand=False), width=width, highlight=False)

        question = trajectory.question
        if not self.begun:
            self.begun = True
            put(frame(Text(visible(question.text)), f"{question.dataset} {question.id}", width=width))
        for index, turn in enumerate(trajectory.turns):
            fresh = index >= self.turns
            if fresh:
                put(_written(index, turn, self.protocol))
                for number, passage in enumerate(turn.passages, start=1):
                    head = (f"{number}. ", "cyan"), (visible(passage.title), "bold"), (f"  {passage.score:.1f}", "dim")
                    put(Text.assemble(*head), 4)
                    put(Text(visible(passage.text)), 7)
                if turn.is_search and not turn.passages and turn.observation:
                    put(Text("no passage matches", style="yellow"), 4)
                message = turn.observation
                if turn.is_search:
                    message = message.removeprefix(self.protocol.observation(turn.passages))
                if message.strip():
                    put(Text(visible(message.strip()), style="yellow"), 4)
            if turn.gain is not None and index not in self.gains:
                self.gains.add(index)
                put(_gain("" if fresh else f" of [{index + 1}]", turn.gain, console.options.ascii_only), 4)
                if turn.gain.value > 0 and names_unseen_answer(trajectory, index):
                    put(Text(GUESS, style="yellow"), 4)
            if fresh:
                put(Text(f"reward {turn.reward:+.2f}", style="dim"), 4)
        self.turns = len(trajectory.turns)
        if trajectory.done and not self.ended:
            self.ended = True
            put(_outcome(trajectory))
            for line in _evidence(trajectory):
                put(line, 4)


def _written(index: int, turn: Turn, protocol: Protocol) -> Text:
    """The policy's text with its query or answer in bold."""
    from rich.text import Text

    text = turn.text.strip()
    found = protocol.action_span(text)
    start, end = (found.start, found.end) if found else (len(text), len(text))
    return Text.assemble(
        (f"[{index + 1}] ", "bold cyan"),
        (visible(text[:start]), "dim"),
        (visible(text[start:end]), "bold"),
        (visible(text[end:]), "dim"),
    )


def _gain(of: str, gain: Gain, ascii_only: bool) -> Text:
    from rich.text import Text

    style = "bold red" if gain.value < 0 else "bold green"
    return Text.assemble(
        f"information gain{of} ",
        gain_bar(gain.value, ascii_only=ascii_only),
        (f" {gain.value:+.2f}", style),
        f" nats (real {gain.logprob_real:.2f}, baseline {gain.logprob_baseline:.2f})",
    )


def _outcome(trajectory: Trajectory) -> Text:
    from rich.text import Text

    failed = "yellow" if trajectory.stop_reason == RETRIEVAL_FAILED else "red"
    return Text.assemble(
        (f"{trajectory.stop_reason}: outcome {trajectory.outcome:.2f}", "bold green" if trajectory.outcome else failed),
        "; golden answers: ",
        (visible(" | ".join(trajectory.question.golden_answers)), "bold green"),
    )


def _evidence(trajectory: Trajectory) -> list[Text]:
    """Excerpts of the retrieved passages that contain a golden answer, or one line stating that none does."""
    from rich.text import Text

    golds = [re.escape(visible(gold)) for gold in trajectory.question.golden_answers if gold.strip()]
    golden = re.compile(rf"(?<!\w)(?:{'|'.join(golds)})(?!\w)", re.IGNORECASE)
    lines: list[Text] = []
    seen: set[str] = set()
    passages: list[tuple[int, int, Passage]] = [
        (index, number, passage)
        for index, turn in enumerate(trajectory.turns, start=1)
        for number, passage in enumerate(turn.passages, start=1)
    ]
    for index, number, passage in passages:
        title, text = visible(passage.title), visible(passage.text)
        found = golden.search(text)
        if passage.id in seen or not golds or not (found or golden.search(title)):
            continue
        seen.add(passage.id)
        start = max(0, found.start() - AROUND) if found else 0
        end = found.end() + AROUND if found else AROUND
        shown = f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
        line = Text.assemble((f"[{index}] {number}. ", "cyan"), (title, "bold"), ": ", shown)
        line.highlight_regex(golden, "bold black on green")
        lines.append(line)
    if passages and not lines:
        lines.append(Text("no retrieved passage contains a golden answer", style="yellow"))
    return lines
