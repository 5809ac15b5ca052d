"""Does the gap between two methods depend on how hard the world is? Trains them in worlds with one option at a time.

    python examples/world_difficulty.py --start warm=runs/hard                       every option alone, and all of them
    python examples/world_difficulty.py --start warm=runs/hard --worlds bundled world:hard world:hard,noise=0

Each world is a comparison (examples/compare_algorithms.py) in a folder of its own, with its report; `--output` receives
worlds.md with one row per world. Runs that are complete are not trained again. All worlds begin from one policy that
knows their words, made by `examples/make_bundled_policy.py --world hard`. The questions of a seed are those of the
bundled world in other forms (docs/worlds.md), so that worlds differ in what their options say.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console

from algorithms.common.base.command_line import parse_options
from algorithms.common.base.files import atomic_write
from algorithms.common.evaluation.simultaneous import Float64s, Paired, simultaneous_differences
from algorithms.comparison.run_summary import SeedGroup, make_seed_groups, read_records
from igsearch_env.errors import ConfigurationError, IGSearchError
from igsearch_env.world.options import HARD, WorldName
from retrievers.program import ends_in_one_line

sys.path.insert(0, str(Path(__file__).parent.parent))  # this folder is not installed
from examples import compare_algorithms

WORLDS = ("bundled", *(f"world:{f.name}={getattr(HARD, f.name)}" for f in fields(HARD)), "world:hard")


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    algorithms: tuple[str, ...] = ("ig_grpo", "grpo")
    """Two algorithms, in the form of compare_algorithms.py: the first is compared with the second."""
    worlds: tuple[str, ...] = WORLDS
    """Worlds to train in: `bundled` and `world:OPTIONS`."""
    start: str = "bundled"
    """Policy to start from: `bundled`, or LABEL=FOLDER."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs in each world."""
    steps: int = 24
    """Number of training steps of each run."""
    options: str = ""
    """Additional command-line options for every run."""
    jobs: int | None = None
    """Number of parallel runs; default: one per core."""
    output: Path = Path("runs/worlds")
    """Folder of the comparisons and of worlds.md."""


def main(args: Args) -> None:
    """Compare in each world, then write the table."""
    if len(args.algorithms) != 2:
        raise ConfigurationError(f"algorithms={args.algorithms}: must be two; the first is compared with the second")
    names = [(world, WorldName.read(world)) for world in args.worlds]  # wrong names fail before the first run
    against = args.algorithms[1].partition("=")[0]
    head = ["world", "before", *(entry.partition("=")[0] for entry in args.algorithms), "difference"]
    head += ["95%, this row alone", "95%, all rows", "verdict"]
    pairs: list[tuple[SeedGroup, SeedGroup]] = []
    for world, _ in names:
        folder = args.output / world.removeprefix("world:").replace("/", "-")
        comparison = compare_algorithms.Args(
            algorithms=args.algorithms,
            seeds=args.seeds,
            starts=(args.start,),
            steps=args.steps,
            options=f"{args.options} --env.questions {world}",
            against=(against,),
            jobs=args.jobs,
            output=folder,
        )
        compare_algorithms.main(comparison)
        groups = {group.label: group for group in make_seed_groups(read_records(folder / "runs.jsonl"))}
        pairs.append((groups[args.algorithms[0].partition("=")[0]], groups[against]))
        found = simultaneous_differences([minus(*pair, args.seeds) for pair in pairs], [args.seeds] * len(pairs))
        rows = [row_of(name, *pair, one) for name, pair, one in zip(args.worlds, pairs, found, strict=False)]
        table = [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
        with atomic_write(args.output / "worlds.md") as partial:
            partial.write_text("\n".join([*table, ""]), encoding="utf-8")
    Console().print("\n".join(table), soft_wrap=True, markup=False)


def minus(ours: SeedGroup, theirs: SeedGroup, seeds: Sequence[int]) -> dict[str, Float64s]:
    """Difference in exact match [seeds, questions], by data set."""
    left, right = ours.exact_matches(seeds), theirs.exact_matches(seeds)
    return {name: left[name] - right[name] for name in left}


def row_of(world: str, ours: SeedGroup, theirs: SeedGroup, found: Paired) -> list[str]:
    """Exact match before training and with each algorithm, and the difference between the two."""
    before = [record.curves["test"][0][1] for record in ours.records]
    means = [f"{sum(before) / len(before):.3f}", f"{ours.final.mean():.3f}", f"{theirs.final.mean():.3f}"]
    intervals = ("" if one is None else f"{one[0]:+.3f} to {one[1]:+.3f}" for one in (found.alone, found.simultaneous))
    return [world, *means, f"{found.mean:+.3f}", *intervals, found.verdict]


if __name__ == "__main__":
    with ends_in_one_line(IGSearchError, OSError, interrupted="interrupted: run the same command again to resume"):
        main(parse_options(Args, description=__doc__))
