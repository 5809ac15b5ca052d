"""The paper's setting on eight H100, on paper: Qwen2.5-3B, 256 questions x 5, at most 5 searches of 3 passages; and an
evaluation on the seven benchmarks.

    python -m benchmarks.step_on_paper [--markdown]

Nothing here was measured. Floors follow from `step_costs.py` and published rates of the card; the seconds that are
expected add the assumptions of `ASSUMPTIONS`, each of which stands in one place and is printed with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from algorithms.common.base.command_line import parse_options
from benchmarks.step_costs import ModelShape, Pass, Rates, Work, forward, markdown, transfer, update

QWEN_3B = ModelShape(36, 2_048, 11_008, 16, 2, 128, 151_936)
PEAK, BANDWIDTH, GPUS = 989e12, 3.35e12, 8  # an H100 SXM: dense bfloat16 operations and bytes per second
FORWARD_SHARE, TRAINING_SHARE = 0.50, 0.42  # of the peak that products reach: an assumption
NUM_RANDOM, TAIL, ANSWER = 3, 10, 5  # random evidences; tokens of an answer with its tags, and those that are scored
PASS = 16_384  # tokens of a forward pass
MINI_BATCHES = 5
TURN = 512  # tokens of a turn, at most
CACHE = 524_288  # rows of the built-in decoder's KV cache, one per token: `kv_cache_tokens` of the configuration
# Information gain over its floor on a CPU: Qwen2.5-0.5B's shape, bundled policy (docs/performance.md).
GAIN_MEASURED = 1.5, 2.7
QUESTIONS = 51_713  # of the seven benchmarks
START = 120, 60  # seconds before an evaluation: an engine that captures its graphs; the built-in decoder

PARTS = ("decode", "prefill", "information gain", "old and reference log-probs", "update", "weights and retrieval")


@dataclass(frozen=True)
class Case:
    """Means over the episodes of a step. `steps`: decoding steps of a GPU where each episode continues on its own;
    `turns`: of the longest episode."""

    name: str
    searches: float
    written: int
    steps: int
    turns: int = 6
    prompt: int = 300
    observation: int = 450
    episodes: int = 256 * 5 // GPUS
    group: int = 5

    @property
    def length(self) -> int:
        """Tokens of an episode."""
        return self.prompt + round(self.searches * self.observation) + self.written


# Steps of A: lengths were drawn with a limit of 512 a turn; B writes 6 turns of 512.
CASES = (Case("A, typical", 2.8, 470, 2_736), Case("B, longest", 5, 3_072, 3_072))


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
    Assumption("information gain", 1 / 1.3, 0.0, "an assumption: nothing measured has reached 1.3 times the floor"),
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
    again = lockstep(case).read_again
    read_again = forward(QWEN_3B, _passes([(length, 0) for length in again], [1] * len(again)), 2)
    for a in ASSUMPTIONS:
        colocated = builtin = known[a.part] / a.share + a.seconds
        if a.part == "decode":
            builtin = max(known[a.part], lockstep(case).steps * EAGER_STEP)
        if a.part == "prefill":
            builtin += rates(FORWARD_SHARE).seconds(read_again) / a.share
        result.append(Expected(a.part, known[a.part], colocated, builtin))
    return result


def evaluation(case: Case, questions: int = QUESTIONS) -> list[Expected]:
    """Seconds of an evaluation whose episodes are those of a case: decoding and prefill of a step, as often as needed.

    This is an upper bound: an evaluation begins an episode as another one ends, a step waits for its last one.
    """
    batches = questions / GPUS / case.episodes
    parts = {part.name: part for part in expected(replace(case, group=1))}  # no two episodes share a prompt
    return [
        Expected(name, batches * part.floor, batches * part.colocated, batches * part.builtin)
        for name, part in (("write", parts["decode"]), ("read", parts["prefill"]))
    ] + [Expected("start", 0.0, *START)]


@dataclass(frozen=True)
class Lockstep:
    """Decoding steps of the built-in decoder, and the tokens of each episode that it has to read again."""

    steps: int
    read_again: tuple[int, ...]


def lockstep(case: Case, cache: int = CACHE) -> Lockstep:
    """Decoding where all episodes finish their turn before one search serves them, as the built-in decoder does.

    Every round takes `TURN` steps, because one of many episodes writes that many; for shorter turns this is an upper
    bound. Episodes grow evenly, to their mean length in the last turn. Where `cache` rows do not suffice, the youngest
    wait until older ones have ended, and are then read again.
    """
    growth = (case.length - case.prompt) / case.turns
    done, rounds = [0] * case.episodes, 0
    stored = [True] * case.episodes
    read_again: list[int] = []
    while any(turns < case.turns for turns in done):
        room = cache
        rounds += 1
        for number, turns in enumerate(done):
            if turns == case.turns:
                continue
            needed = case.prompt + growth * (turns + 1)
            if room < needed:
                room, stored[number] = 0, turns == 0
                continue
            room -= int(needed)
            if not stored[number]:
                read_again.append(round(needed - growth))
            stored[number] = True
            done[number] += 1
    return Lockstep(rounds * TURN, tuple(read_again))


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


Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
COLUMNS = ("floor", "engine in the trainer's processes", "built-in decoder, lockstep")


def summed(name: str, parts: list[Expected]) -> Expected:
    """The sum of parts."""
    return Expected(name, *(sum(getattr(p, column) for p in parts) for column in ("floor", "colocated", "builtin")))


def table(case: Case) -> Table:
    """Header and rows of a case, in seconds."""
    parts = expected(case)
    whole = summed("step", parts)
    rows: list[tuple[str, ...]] = [
        (p.name, f"{p.floor:.1f}", f"{p.colocated:.1f}", f"{p.builtin:.1f}") for p in (*parts, whole)
    ]
    gain = next(p for p in parts if p.name == "information gain")
    more = {f"the same with information gain at {x} x": x * gain.floor - gain.colocated for x in GAIN_MEASURED}
    for name, extra in {"over the floor": 0.0, **more}.items():
        rows.append((name, "", *(f"{(x + extra) / whole.floor:.2f}" for x in (whole.colocated, whole.builtin))))
    title = f"{case.name}: {case.searches:g} searches, {case.written:,} tokens written, {case.length:,} in all"
    return (title, *COLUMNS), rows


def evaluation_table() -> Table:
    """Header and rows of the evaluation, in minutes, if all questions are like those of a case."""
    rows: list[tuple[str, ...]] = []
    for case in CASES:
        parts = evaluation(case)
        for p in (*parts, summed("sum", parts)):
            rows.append((f"{case.name}: {p.name}", *(f"{x / 60:.1f}" for x in (p.floor, p.colocated, p.builtin))))
    return (f"minutes for {QUESTIONS:,} questions", *COLUMNS), rows


def main(args: Args) -> None:
    """Print a table for each case and for the evaluation, and the assumptions."""
    for header, rows in (*map(table, CASES), evaluation_table()):
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
    print(f"built-in decoder: {EAGER_STEP * 1000:.0f} ms a step, {CACHE:,} rows of KV cache")
    for case in CASES:
        found = lockstep(case)
        print(f"{case.name}: {found.steps:,} steps in lockstep, {len(found.read_again)} episodes read again")


if __name__ == "__main__":
    main(parse_options(Args, description=__doc__))
