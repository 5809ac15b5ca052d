"""Write an HTML report: of one run, a comparison of several runs, or a live view of a run while it trains.

    igsearch report runs/ig_grpo-seed0                    writes runs/ig_grpo-seed0/report.html
    igsearch report runs/ig_grpo-seed0 runs/grpo-seed0    writes runs/comparison.html
    igsearch report runs/ig_grpo-seed0 --live             serves the report and updates it

Pages are self-contained and need no network. Runs that differ only by seed are compared as one group. The live view
says whether the run is running, silent, interrupted or finished. It can be opened on this machine only, at the printed
address, which contains a random token; through ssh, forward its port: ssh -L 8017:localhost:8017 HOST.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.output_path import check_output_file
from algorithms.common.report.page import write
from algorithms.common.report.run_report import run_report, write_reports
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.program import ends_in_one_line


@dataclass(frozen=True)
class Args:
    """Options of the command."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders: one for a report, several for a comparison."""
    output: Path | None = None
    """File to write; default: report.html in the run folder, or comparison.html next to the first run folder."""
    live: bool = False
    """Serve the report of one run on this machine until Ctrl-C."""
    port: int = 8017
    """Port of the live view; 0 for any free port."""


def main(args: Args) -> None:
    """Write the page, or serve it."""
    if not args.runs:
        raise ConfigurationError("no run: give a run folder, e.g. runs/ig_grpo-seed0")
    check_output_file(args.output)
    if args.live:
        serve(args)
    elif len(args.runs) == 1 and args.output is None:
        for path in write_reports(args.runs[0]):
            print(path)
    else:
        output = args.output or args.runs[0].resolve().parent / "comparison.html"
        try:
            one = len(args.runs) == 1
            write(output, run_report(args.runs[0], alone=True) if one else compare(args.runs, output.parent))
        except OSError as error:
            raise ConfigurationError(f"--output {output}: {error.strerror}; give a path that can be written") from error
        print(output)


def compare(runs: tuple[Path, ...], place: Path) -> str:
    """The comparison page, which is written to the folder `place`."""
    from algorithms.common.report.comparison_report import comparison_report  # slow: it imports torch

    return comparison_report(runs, place)


def serve(args: Args) -> None:
    """Serve the live view until Ctrl-C."""
    from algorithms.common.report.live import LiveServer

    if len(args.runs) > 1 or args.output is not None:
        raise ConfigurationError("--live serves one run and writes no file: give one folder and no --output")
    with LiveServer(args.runs[0], args.port) as server:
        print(f"{args.runs[0]} at {server.url} (press Ctrl-C to stop)", flush=True)
        server.serve_forever()


def command() -> None:
    """Write or serve a report from the command line."""
    with ends_in_one_line(IGSearchError, OSError, interrupted="stopped"):
        main(parse_options(Args, description=__doc__))
