"""The paper's setting on eight H100, on paper: Qwen2.5-3B, 256 questions x 5, at most 5 searches of 3 passages.

    python -m benchmarks.step_on_paper [--markdown]

Nothing here was measured. Floors follow from `step_costs.py` and published rates of the card; the seconds that are
expected add the assumptions of `ASSUMPTIONS`, each of which stands in one place and is printed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from algorithms.common.base.command_line import parse_options
from benchmarks.step_costs import ModelShape, Pass, Rates, Work, forward, markdown, transfer, update

QWEN_3B = ModelShape(36, 2_048, 11_008, 16, 2, 128, 151_936)
PEAK, BANDWIDTH, GPUS = 989e12, 3.35e12, 8  # an H100 SXM: dense bfloat16 operations and bytes per second
FORWARD_SHARE, TRAINING_SHARE = 0.50, 0.42  # of the peak that products reach: an assumption
NUM_RANDOM, TAIL, ANSWER = 3, 10, 5  # random evidences; tokens of an answer with its tags, and those that are scored
PASS = 16_384  # tokens of a forward pass
MINI_BATCHES = 5
AIM = 1.5  # expected over floor, with the engine in the trainer's processes

PARTS = ("decode", "prefill", "information gain", "old and reference log-probs", "update", "weights and retrieval")


@dataclass(frozen=True)
class Case:
    """Means over the episodes of a step. `steps`: decoding steps of a GPU; `lockstep`: where turns wait for each other
    and every episode has a slot of the whole context."""

    name: str
    searches: float
    written: int
    steps: int
    lockstep: int
    prompt: int = 300
    observation: int = 450
    episodes: int = 256 * 5 // GPUS
    group: int = 5

    @property
    def length(self) -> int:
        """Tokens of an episode."""
        return self.prompt + round(self.searches * self.observation) + self.written


# Steps of A: lengths were drawn with a limit of 512 a turn; B writes 6 turns of 512.
CASES = (Case("A, typical", 2.8, 470, 2_736, 4_567), Case("B, longest", 5, 3_072, 3_072, 9_200))


@dataclass(frozen=True)
class Assumption:
    """How a part that runs well differs from its floor: `share` of the rate of the floor, and `seconds` on top."""

    part: str
    share: float
    seconds: float
    reason: str


ASSUMPTIONS = (
    Assumption("decode", 0.70, 2.0, "CUDA graphs reach 70% of the bandwidth; 2 s of scheduling and drawing tokens"),
    Assumption("prefill", 0.90, 0.0, "passes of several thousand tokens; prompts are shared within a group"),
    Assumption("information gain", 1 / 1.3, 0.0, "the aim of this project: 1.3 times its floor"),
    Assumption("old and reference log-probs", 0.80, 0.0, "padding of at most 5%, and gathering of sharded weights"),
    Assumption("update", 0.75, 0.0, "sums of gradients that do not overlap, padding, element-wise operations"),
    Assumption(
        "weights and retrieval", 1.0, 3.0, "waking the engine, bfloat16 weights in memory, searches of the last"
    ),
)
EAGER_STEP = 0.025  # seconds of a decoding step without CUDA graphs: about 2,000 launches


@dataclass(frozen=True)
class Expected:
    """A part of a case: its floor, and the seconds expected with a colocated engine and with the built-in decoder."""

    name: str
    floor: float
    colocated: float
    builtin: float


@dataclass(frozen=True)
class Args:
    """Options of this script."""

    markdown: bool = False
    """Print the tables as Markdown."""


def rates(share: float) -> Rates:
    """Of an H100 whose products reach a share of the peak."""
    return Rates(((1, share * PEAK),), share * PEAK, BANDWIDTH)


def floors(case: Case) -> dict[str, float]:
    """The least seconds of each part of a case, on each of the GPUs."""
    sampling, training = rates(FORWARD_SHARE), rates(TRAINING_SHARE)
    return {
        "decode": sampling.seconds(_decode(case)),
        "prefill": sampling.seconds(_prefill(case)),
        "information gain": sampling.seconds(_gain(case)),
        "old and reference log-probs": 2 * sampling.seconds(forward(QWEN_3B, _trajectories(case), 2)),
        "update": training.seconds(_update(case)),
        "weights and retrieval": sampling.seconds([transfer(QWEN_3B, 2)]),
    }


def expected(case: Case) -> list[Expected]:
    """The parts of a case, under the assumptions."""
    known = floors(case)
    result = []
    for a in ASSUMPTIONS:
        colocated = known[a.part] / a.share + a.seconds
        builtin = max(known[a.part], case.lockstep * EAGER_STEP) if a.part == "decode" else colocated
        result.append(Expected(a.part, known[a.part], colocated, builtin))
    return result


def _decode(case: Case) -> Iterator[Work]:
    width = case.episodes * case.written / case.steps
    context = case.prompt + case.searches * case.observation / 2 + case.written / 2  # on average, of a written token
    one = Pass(round(width), round(width * context), round(width * context), round(width))
    return forward(QWEN_3B, [one] * case.steps, 2)


def _prefill(case: Case) -> Iterator[Work]:
    questions = case.episodes // case.group
    blocks = [(case.prompt, 0)] * questions  # the group's other episodes find the prompt in the cache
    past = case.length // 2
    blocks += [(case.observation, past)] * round(case.episodes * case.searches)
    return forward(QWEN_3B, _passes(blocks, [1] * len(blocks)), 2)


def _gain(case: Case) -> Iterator[Work]:
    past = (case.length + case.prompt) // 2  # before a search, on average
    blocks = [(case.observation + TAIL, past)] * NUM_RANDOM + [(TAIL, past + case.observation)]
    blocks *= round(case.episodes * case.searches)
    return forward(QWEN_3B, _passes(blocks, [ANSWER] * len(blocks)), 2)


def _trajectories(case: Case) -> list[Pass]:
    return _passes([(case.length, 0)] * case.episodes, [case.written] * case.episodes)


def _update(case: Case) -> Iterator[Work]:
    # Each GPU holds an eighth of weights and moments. Sums of gradients are assumed to overlap with products.
    *passes, adamw = update(
        QWEN_3B, _trajectories(case), recomputed=True, output_recomputed=True, steps=MINI_BATCHES, weight_size=2
    )
    yield from passes
    yield Work(0, adamw.bytes / GPUS)


def _passes(blocks: list[tuple[int, int]], scored: list[int]) -> list[Pass]:
    """Blocks in passes of at most `PASS` tokens, or of one block."""
    passes: list[Pass] = []
    low = tokens = 0
    for high, (length, _) in enumerate([*blocks, (PASS + 1, 0)]):
        if high > low and tokens + length > PASS:
            passes.append(Pass.of_blocks(blocks[low:high], sum(scored[low:high])))
            low, tokens = high, 0
        tokens += length
    return passes


def table(case: Case) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of a case, in seconds."""
    parts = expected(case)
    whole = Expected("step", *(sum(getattr(p, name) for p in parts) for name in ("floor", "colocated", "builtin")))
    rows: list[tuple[str, ...]] = [
        (p.name, f"{p.floor:.1f}", f"{p.colocated:.1f}", f"{p.builtin:.1f}") for p in (*parts, whole)
    ]
    rows.append(("over the floor", "", f"{whole.colocated / whole.floor:.2f}", f"{whole.builtin / whole.floor:.2f}"))
    title = f"{case.name}: {case.searches:g} searches, {case.written:,} tokens written, {case.length:,} in all"
    header = (title, "floor", "engine in the trainer's processes", "built-in decoder")
    return header, rows


def main(args: Args) -> None:
    """Print a table for each case, and the assumptions."""
    for case in CASES:
        header, rows = table(case)
        if args.markdown:
            print(markdown(header, rows) + "\n")
            continue
        for cells in (header, *rows):
            print(f"{cells[0]:<62}" + "".join(f"{cell:>36}" for cell in cells[1:]))
    print(
        f"an H100: {PEAK / 1e12:.0f} TFLOP/s, of which products reach {FORWARD_SHARE:.0%} in forward passes and ",
        end="",
    )
    print(f"{TRAINING_SHARE:.0%} in training; {BANDWIDTH / 1e12} TB/s")
    for a in ASSUMPTIONS:
        print(
            f"{a.part}: {a.share:.0%} of the rate of the floor{f' and {a.seconds:g} s' * bool(a.seconds)}; {a.reason}"
        )
    print(f"built-in decoder: {EAGER_STEP * 1000:.0f} ms a step, turns in lockstep, a slot of the whole context each")


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
