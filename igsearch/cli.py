"""The program `igsearch`: one command for each thing that is run.

A command is a function without arguments that reads `sys.argv`, in a module that is imported only when it is called, so
that help is fast.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from retrievers.program import ends_in_one_line

COMMANDS = {
    "train": ("igsearch.commands.train", "train a policy: igsearch train ALGORITHM [OPTIONS]"),
    "warm-start": ("igsearch.commands.warm_start", "train a policy on demonstrations, before reinforcement"),
    "evaluate": ("igsearch.commands.evaluate", "evaluate a policy on questions with any corpus"),
    "compare": ("igsearch.commands.compare", "compare two evaluations question by question, with intervals"),
    "report": ("igsearch.commands.report", "write or serve the pages of a run, or compare several runs"),
    "export": ("igsearch.commands.export", "export a trained policy for transformers, vLLM and the Hub"),
    "play": ("igsearch.commands.play", "play an episode yourself"),
    "index": ("igsearch.commands.index", "build a sparse or dense index of a corpus"),
    "serve": ("igsearch.commands.serve", "serve a corpus or an index over HTTP"),
}
"""Module and summary of each command; the module has a function `command`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; `arguments`: those of the command line, by default those of this process."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    with ends_in_one_line():
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage())
            return
        if words[0] == "--version":
            from importlib.metadata import version

            print(f"igsearch {version('igsearch')}")
            return
        name, *rest = words
        if name not in COMMANDS:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(COMMANDS)}"
            print(f"error: {name}: no such command; {hint}", file=sys.stderr)
            raise SystemExit(2)
        sys.argv = [f"igsearch {name}", *rest]  # the name of the program in help and errors
        import_module(COMMANDS[name][0]).command()


def usage() -> str:
    """The help of the program."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: igsearch COMMAND [OPTIONS]",
            "",
            "Train search agents that are rewarded by information gain, and evaluate them.",
            "",
            *lines,
            "",
            "igsearch COMMAND --help lists the options of a command; igsearch --version prints the version.",
        ]
    )
