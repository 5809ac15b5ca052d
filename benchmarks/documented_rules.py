"""How `documented_commands` types each command: as printed, smaller, with stand-ins, or not at all and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Files with the names that the pages use. $DATA: the folder with real questions and passages.
FIXTURES = (
    "cp $DATA/nq.jsonl.gz $DATA/hotpotqa.jsonl.gz $DATA/musique.jsonl.gz .",
    "zcat $DATA/corpus.jsonl.gz 2> /dev/null | head -n 20000 > corpus.jsonl && gzip -k corpus.jsonl",
    "zcat nq.jsonl.gz 2> /dev/null | head -n 40 > questions.jsonl",
    """python3 -c '
import gzip, json
rows = [json.loads(line) for line in gzip.open("nq.jsonl.gz", "rt")]
rows = [row for row in rows if row.get("metadata", {}).get("split", row.get("split")) != "train"][:20]
json.dump([{**row, "output": {"pred": row["golden_answers"][0]}} for row in rows], open("intermediate_data.json", "w"))
'""",
)
RUN = "runs/ig_grpo-seed0"
TRAIN = f"test -f {RUN}/policy/config.json || igsearch train ig_grpo --steps 1 --rollout.questions-per-step 4"
SMALL = "--steps 1 --rollout.questions-per-step 2 --rollout.group-size 2 --eval-limit 2 --threads 2"
EVALUATIONS = (
    "test -f untrained.json || igsearch evaluate --policy search-question --limit 5 --output untrained.json",
    "test -f before.json || igsearch evaluate --policy search-question --limit 5 --output before.json",
    "test -f after.json || igsearch evaluate --policy oracle-titles --limit 5 --output after.json",
)
QUICK_START = "--warm-start.demonstrations 16 --warm-start.rounds 0"


@dataclass(frozen=True)
class Rule:
    """A command is typed with `replace`d text and `add`ed options, after `before`.

    `typed`: its standard input. `writes`: files that it must leave. `ready`: it is a server that answers this address.
    `reason`: why it is not typed.
    """

    replace: Sequence[tuple[str, str]] = ()
    add: str = ""
    before: Sequence[str] = ()
    typed: str = ""
    writes: Sequence[str] = ()
    ready: str = ""
    reason: str = ""

    @property
    def how(self) -> str:
        return "stand-in" if self.replace else "smaller" if self.add else "as printed"

    def applied(self, command: str) -> str:
        """The command line to type."""
        for old, new in self.replace:
            command = command.replace(old, new)
        return f"{command} {self.add}".strip()


def no(reason: str) -> Rule:
    return Rule(reason=reason)


GPU = no("needs GPUs, and a model and a corpus that were downloaded")
HUB = no("downloads gigabytes from the Hub")
OTHER = no("needs a package with an environment of its own: tests/integrations/ and tests/with_vllm/ run it")
LONG = no("takes more than an hour; its options are checked by tests/project/test_docs.py")

# The first pattern that is found in a command counts.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"^python -$|^python - <<|^accelerate launch$", no("part of a longer command")),
    (r"^hf download|hf:|build_corpus", HUB),
    (r"vllm serve|--rollout.engine vllm|\[all,vllm\]|pip install .?vllm|vllm_server", OTHER),
    (r"^vf-eval|^openenv|verl\.trainer", OTHER),
    (r"qwen2\.5-3b|accelerate launch|Qwen2\.5-3B|runs/ig-s0|results/untrained|wiki18|HOST0", GPU),
    (r"benchmarks\.(on_gpu|large)", GPU),
    (r"Qwen/Qwen2\.5-0\.5B|Qwen/Qwen3-0\.6B|all-MiniLM|e5-base-v2|indexes/e5 ", HUB),
    (r"benchmarks\.(retrieval|scale|async_rollouts)|make bench|benchmarks\.step_model --shape", LONG),
    (r"compare_algorithms.py --(starts|output)|examples/study.py [a-z]|examples/world_difficulty", LONG),
    (r"examples/study.py --report-only", no("reports the runs of a command that takes more than an hour")),
    (r"examples/retrieval_quality|examples/make_bundled_policy", LONG),
    (r"^make (test|check)$", no("the test suite itself, which CI runs")),
    (r"^make train-real$|DATA=FOLDER", no("another command of this kind is typed")),
    (
        r"^make train-real",
        Rule(
            (
                ("ARGS=", "DATA=$DATA ARGS="),
                ("minutes", f"minutes --steps 1 {QUICK_START} --eval-limit 1 --test-limit 1"),
            )
        ),
    ),
    (r"^igsearch report", Rule(before=(TRAIN,), writes=(f"{RUN}/report.html",))),
    (r"^igsearch play", Rule(typed="born\n= nobody\n")),
    (r"^igsearch evaluate --policy runs/ig_grpo-seed0", Rule(before=(TRAIN,), writes=("trained.json",))),
    (r"^igsearch compare", Rule(before=EVALUATIONS)),
    (r"^igsearch export", Rule(before=(TRAIN,), writes=("my-agent/README.md",))),
    (r"^igsearch serve", Rule(add="--port 8010", ready="http://127.0.0.1:8010/health")),
    (r"retrievers\.server --corpus corpus", Rule(ready="http://127.0.0.1:8000/health")),
    (r"^curl", no("asks the server of a command that is not typed")),
    (r"^igsearch evaluate --questions nq", Rule(add="--limit 20", writes=("results.json",))),
    (r"^igsearch evaluate --answers", Rule(writes=("theirs.json",))),
    (
        r"^igsearch warm-start",
        Rule(
            (
                ("HuggingFaceTB/SmolLM2-135M-Instruct", "bundled"),
                ("nq.jsonl.gz:dev[:40]", "hotpotqa.jsonl.gz:dev[:40]"),
            ),
            QUICK_START,
        ),
    ),
    (r"--warm-start\.folder runs/warm-start --run-dir", Rule(add=f"{SMALL} --test-limit 2 {QUICK_START}")),
    (r"^python examples/compare_algorithms.py --algorithms", Rule(add="--steps 1 --seeds 1")),
)
REPOSITORY = re.compile(
    r"^(make|\.venv|pip install -|python (algorithms|examples|integrations|-m benchmarks)|torchrun \S+ \S+ algorithms)"
)


def rule_for(command: str, *, repository: bool) -> Rule:
    """The rule of a command; `repository`: whether it is typed in a clone rather than beside an installed package."""
    if not repository and REPOSITORY.match(command):
        return no("runs a file of the repository")
    return next((rule for pattern, rule in RULES if re.search(pattern, command)), Rule())
