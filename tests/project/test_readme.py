"""README.md as a new user reads it: its code prints what its comments say, and its commands run in a fresh clone."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from launching import ENVIRONMENT, TWO
from paths import ROOT
from services import process
from training_runs import question_file

from algorithms.common.config import TrainConfig, parse_config
from algorithms.common.run.metrics_log import read_metrics
from algorithms.ig_grpo import IGGRPOConfig
from examples import compare_algorithms
from igsearch import cli
from igsearch.testing.retriever_contract import CORPUS
from retrievers import RemoteRetriever, open_retriever
from retrievers.corpus import write_corpus

README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = [
    *("--steps", "1", "--env.questions", "questions.jsonl", "--env.eval-questions", "questions.jsonl"),
    *("--rollout.questions-per-step", "2", "--rollout.group-size", "2", "--rollout.max-new-tokens", "12"),
]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the shell blocks and of the table of commands."""
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    table = README.split("\n## Commands\n")[1].split("\n## ")[0]
    lines += re.findall(r"`((?:igsearch|make|pip|python|torchrun) [^`]+)`", table)
    words = [shlex.split(line, comments=True) for line in lines]
    return list(dict.fromkeys(shlex.join(line) for line in words if line))


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's files in a folder without runs, with questions and a corpus to search."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("runs", "build", "dist"):
            (folder / path.name).symlink_to(path)
    question_file(folder / "questions.jsonl", 4)
    write_corpus(CORPUS, folder / "corpus.jsonl")
    return folder


@pytest.fixture(scope="module")
def trained(clone: Path) -> Path:
    """The run of `python algorithms/ig_grpo.py`, in one short step."""
    here(["python", "algorithms/ig_grpo.py", *SMALL], clone)
    return clone / "runs" / "ig_grpo-seed0"


def here(words: list[str], folder: Path, stdin: str = "") -> str:
    """What `igsearch ...` or `python FILE ...` prints, without the seconds of another process."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", words if words[0] == "igsearch" else words[1:])
        patch.setattr(sys, "stdin", io.StringIO(stdin))
        with contextlib.suppress(SystemExit) if "--help" in words else contextlib.nullcontext():
            cli.main() if words[0] == "igsearch" else runpy.run_path(words[1], run_name="__main__")
    return printed.getvalue()


MAKE_VARIABLES = ("ARGS", "MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL")


def elsewhere(words: list[str], folder: Path) -> str:
    """What a command prints as a process of its own."""
    # Where the tests themselves are run by make, its variables (ARGS among them) would reach a make that they run.
    outside = {key: value for key, value in ENVIRONMENT.items() if key not in MAKE_VARIABLES}
    environment = {**outside, "PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---------------------------------------------------------------- the code


def expected_output(code: str) -> Iterator[str]:
    """What the comments after each `print` say, line by line; `...` stands for anything."""
    printing = False
    for line in code.splitlines():
        if line.startswith("print("):
            _, mark, comment = line.partition("  # ")
            if mark:
                yield comment
            printing = True
        elif printing and line.startswith("# "):
            yield line.removeprefix("# ")
        else:
            printing = False


def stale(code: str, printed: list[str]) -> list[str]:
    """The comments that say something else than what was printed."""
    expected = list(expected_output(code))
    assert len(expected) == len(printed), f"comments for {len(expected)} lines, {len(printed)} lines printed"
    return [
        f"README.md says {said!r}, the code prints {line!r}"
        for said, line in zip(expected, printed, strict=True)
        if not re.fullmatch(".*".join(map(re.escape, said.split("..."))), line)
    ]


@pytest.fixture(scope="module")
def printed(clone: Path) -> list[str]:
    """The lines that the code prints, without empty ones."""
    (code,) = blocks("python")
    return [line for line in elsewhere([sys.executable, "-c", code], clone).splitlines() if line]


def test_the_code_prints_what_its_comments_say(printed: list[str]) -> None:
    (code,) = blocks("python")
    assert code.count("print(") > 5
    assert stale(code, printed) == []


@pytest.mark.parametrize(
    ("said", "other"),
    [("1.8066...", "1.8065..."), ("-8.2647...", "8.2599..."), ("# False", "# True"), ("is where", "was")],
)
def test_a_stale_comment_is_noticed(said: str, other: str, printed: list[str]) -> None:
    (code,) = blocks("python")
    assert said in code
    assert len(stale(code.replace(said, other), printed)) == 1


# ---------------------------------------------------------------- the commands


def run_make(words: list[str], clone: Path, trained: Path) -> None:
    """Prints what it would do: the commands themselves are the tests, the lint, and what is tested below."""
    printed = elsewhere(["make", "--no-print-directory", "-n", *words[1:]], clone)
    if words[1] == "train":
        line = printed.strip().splitlines()[-1]
        command, _, options = line.partition("algorithms/ig_grpo.py")
        assert command == ".venv/bin/python "
        parse_config(IGGRPOConfig, shlex.split(options))
    assert words[1] in (ROOT / "Makefile").read_text().split(".PHONY:")[1].splitlines()[0].split()


def run_pip(words: list[str], clone: Path, trained: Path) -> None:
    """The package is built, in a copy; what it depends on is installed already, or these tests would not run."""
    if int(importlib.metadata.version("setuptools").partition(".")[0]) < 77:
        pytest.skip("setuptools is older than pyproject.toml asks for, and building may need a network")
    copy = clone / "copy"
    for name in ("algorithms", "igsearch", "igsearch_env", "retrievers"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    options = ["--dry-run", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    printed = elsewhere([sys.executable, "-m", *words, *options], copy)
    assert "Would install igsearch-" in printed


def run_training(words: list[str], clone: Path, trained: Path) -> None:
    """The defaults in one short step; the configurations for GPUs are trained by test_configs.py."""
    script, *options = words[words.index("algorithms/ig_grpo.py") :]
    if options:
        with contextlib.chdir(clone):
            config = parse_config(IGGRPOConfig, options)
        assert config.config is not None
        assert config.config.is_relative_to("algorithms/configs")
        assert f"python {script} --config {config.config}" in (clone / config.config).read_text().splitlines()[0]
        return
    rows = read_metrics(trained / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1]
    for name in ("report.html", "trajectories.html", "transcripts", "checkpoints", "policy", "tensorboard"):
        assert (trained / name).exists()


def run_help(words: list[str], clone: Path, trained: Path) -> None:
    printed = here(words, clone)
    assert "--rollout.group-size" in printed
    assert "--config" in printed


def run_torchrun(words: list[str], clone: Path, trained: Path) -> None:
    """Two processes."""
    assert words[1:3] == ["--nproc-per-node", "2"]
    elsewhere([*TWO, *words[3:], *SMALL], clone)
    rows = read_metrics(clone / "runs" / "grpo-seed0" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward" in row] == [1]


def run_trl(words: list[str], clone: Path, trained: Path) -> None:
    """One short step."""
    pytest.importorskip("trl", reason="needs TRL: pip install 'igsearch[trl]'")
    words[words.index("--steps") + 1] = "1"
    with warnings.catch_warnings():  # of transformers, about an option that TRL sets
        warnings.simplefilter("ignore", FutureWarning)
        printed = here([*words, "--questions-per-step", "2", "--group-size", "2", "--micro-batch", "4"], clone)
    assert "reward" in printed


def run_report(words: list[str], clone: Path, trained: Path) -> None:
    (trained / "report.html").unlink()
    here(words, clone)
    assert (trained / "report.html").stat().st_size > 10_000


def run_play(words: list[str], clone: Path, trained: Path) -> None:
    assert "answered: outcome" in here(words, clone, stdin="born\n= nobody\n")


def run_evaluate(words: list[str], clone: Path, trained: Path) -> None:
    assert Path(words[words.index("--policy") + 1]) == trained.relative_to(clone) / "policy"
    here([*words, "--limit", "1"], clone)
    output = Path(words[words.index("--output") + 1])
    assert json.loads((clone / output).read_text())["policy"] == "runs/ig_grpo-seed0/policy"


def run_compare_results(words: list[str], clone: Path, trained: Path) -> None:
    for name, policy in zip(words[2:], ("search-question", "oracle-titles"), strict=True):
        (clone / name).unlink(missing_ok=True)  # of another command of the page
        here(["igsearch", "evaluate", "--policy", policy, "--limit", "2", "--output", name], clone)
    assert "macro-average" in here(words, clone)


def run_compare_algorithms(words: list[str], clone: Path, trained: Path) -> None:
    """test_seeds_report.py trains by this command; here its runs are those that the algorithms accept."""
    assert words[2:] == ["--quick"]
    jobs = compare_algorithms.make_jobs(compare_algorithms.Args(**compare_algorithms.QUICK))  # type: ignore[arg-type]
    assert len(jobs) == 9
    for script, *options in (job.command for job in jobs):
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        configs = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, TrainConfig)]
        parse_config(max(configs, key=lambda config: len(config.__mro__)), options)


def run_same_buffer(words: list[str], clone: Path, trained: Path) -> None:
    with warnings.catch_warnings():  # of transformers, about an option that TRL sets
        warnings.simplefilter("ignore", FutureWarning)
        printed = here([*words, "--questions-per-step", "2", "--group-size", "2"], clone)
    assert "IG-GRPO" in printed
    assert "GiGPO" in printed


def run_export(words: list[str], clone: Path, trained: Path) -> None:
    here(words, clone)
    exported = clone / words[words.index("--output") + 1]
    assert {"README.md", "config.json", "tokenizer.json"} <= {path.name for path in exported.iterdir()}


def run_build_index(words: list[str], clone: Path, trained: Path) -> None:
    elsewhere([sys.executable, "-m", *words], clone)
    with closing(open_retriever(str(clone / words[words.index("--output") + 1]))) as retriever:
        assert len(retriever) == len(CORPUS)


def run_server(words: list[str], clone: Path, trained: Path) -> None:
    with (
        contextlib.chdir(clone),
        process("-m", *words, "--port", "0") as (_, url),
        closing(RemoteRetriever(url)) as retriever,
    ):
        assert len(retriever.search(["Paris"], 3)[0]) == 3


HOW: dict[str, Callable[[list[str], Path, Path], None]] = {  # by the beginning of a command, longest first
    "make ": run_make,
    "pip install ": run_pip,
    "python algorithms/ig_grpo.py": run_training,
    "igsearch train grpo --help": run_help,
    "torchrun --nproc-per-node 8 algorithms/ig_grpo.py --config ": run_training,
    "torchrun --nproc-per-node 2 algorithms/grpo.py": run_torchrun,
    "python integrations/trl/train.py": run_trl,
    "igsearch report ": run_report,
    "igsearch play": run_play,
    "igsearch evaluate ": run_evaluate,
    "igsearch compare ": run_compare_results,
    "python examples/compare_algorithms.py --quick": run_compare_algorithms,
    "python examples/same_buffer.py": run_same_buffer,
    "igsearch export ": run_export,
    "igsearch index ": run_build_index,
    "igsearch serve ": run_server,
}


@pytest.mark.parametrize("command", commands())
def test_a_command_runs(command: str, clone: Path, trained: Path) -> None:
    how = [run for start, run in HOW.items() if command.startswith(start)]
    if not how:
        pytest.fail(f"README.md has the command {command!r}: add to HOW how it is run by a test")
    how[0](shlex.split(command), clone, trained)


def test_the_page_is_short_and_its_commands_are_found() -> None:
    assert len(README.split()) <= 1200
    found = commands()
    assert len(found) >= 20
    assert {"make install", "make train", "make lint", "pip install -e '.[all]'", "igsearch play"} <= {*found}
    assert not [start for start in HOW if not any(command.startswith(start) for command in found)]
