"""What is installed alone works alone, and what needs more says which extra has it."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from blocked import DENSE, EVERY, SERVER, TRAIN, run_without
from paths import ROOT

from igsearch.testing.retriever_contract import CORPUS
from retrievers.corpus import write_corpus
from retrievers.extras import EXTRAS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
IGSEARCH = "from igsearch.cli import main; main()"


def names(requirements: list[str]) -> set[str]:
    """The packages of some requirements, normalised; extras of this project are followed."""
    found: set[str] = set()
    for requirement in requirements:
        own = re.fullmatch(r"igsearch\[(.*)\]", requirement)
        if own:
            found |= set().union(*(names(OPTIONAL[extra]) for extra in own[1].split(",")))
        else:
            found.add(re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-"))
    return found


def test_every_package_is_in_the_extra_that_errors_name() -> None:
    distributions = packages_distributions()
    indirect = {"h11": "uvicorn", "starlette": "fastapi"}  # which bring them
    for module, extra in EXTRAS.items():
        wanted = indirect.get(module, distributions.get(module, [module])[0]).lower().replace("_", "-")
        assert wanted in names(OPTIONAL[extra]), f"errors name {extra}, which lacks {wanted}"
        assert wanted not in names(PROJECT["dependencies"])


def test_all_has_everything_that_needs_no_other_program() -> None:
    everything = names(OPTIONAL["all"])
    named = {"gymnasium", "torch", "transformers", "sentence-transformers", "faiss-cpu", "hnswlib", "pyyaml"}
    assert named <= everything | names(PROJECT["dependencies"])
    for extra in ("train", "dense", "server", "benchmarks", "stemming", "gguf"):
        assert names(OPTIONAL[extra]) <= everything
    assert everything <= names(OPTIONAL["dev"])


ENVIRONMENT = """
import gymnasium, igsearch_env, retrievers
for env in (gymnasium.make("IGSearch-v0"), gymnasium.make("IGSearch-v0", render_mode="ansi")):
    observation, info = env.reset(seed=5)
    observation, reward, terminated, truncated, info = env.step("<search> Tondelle Saimov born </search>")
    assert "Pinrona" in observation and reward > 1, (observation, reward)
gymnasium.make_vec("IGSearch-v0", num_envs=2).reset(seed=1)
retrievers.RemoteRetriever, retrievers.HybridRetriever, retrievers.open_retriever
print("works")
"""


def test_the_environment_works_alone() -> None:
    done = run_without({*EVERY, "scipy"}, ENVIRONMENT)
    assert done.stdout == "works\n", done.stderr


@pytest.mark.parametrize("module", ["records", "settings", "episodes", "trl.environment", "skyrl"])
def test_the_environments_of_adapters_need_no_torch(module: str) -> None:
    if module == "skyrl":
        pytest.importorskip("skyrl_gym", reason="skyrl-gym is not installed: pip install igsearch[skyrl]")
    done = run_without({*TRAIN, "tensorboard"} - {"pydantic"}, f"import integrations.{module}; print('works')")
    assert done.stdout == "works\n", done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--policy", "search-question", "--limit", "1"],
        ["index", "--index", "bm25", "--corpus", "{corpus}", "--output", "{folder}/index"],
        ["play", "--episodes", "1"],  # ends with its input
        ["train", "--help"],
        ["evaluate", "--help"],
    ],
    ids=" ".join,
)
def test_commands_that_need_nothing_more_work_alone(words: list[str], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(CORPUS, corpus)
    done = run_without(EVERY, IGSEARCH, *(word.format(corpus=corpus, folder=tmp_path) for word in words))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_evaluations_are_compared_and_resumed_without_an_extra(tmp_path: Path) -> None:
    evaluate = ["evaluate", "--policy", "search-question", "--limit", "2", "--output"]
    for name in ("a.json", "b.json"):
        done = run_without(EVERY, IGSEARCH, *evaluate, str(tmp_path / name))
        assert done.returncode == 0, done.stderr
    done = run_without(EVERY, IGSEARCH, "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json"))
    assert done.returncode == 0, done.stderr
    assert "inside the noise" in done.stdout


@pytest.mark.parametrize(
    ("extra", "program", "words"),
    [
        ("train", "import algorithms.ig_grpo", []),
        ("train", "import algorithms.common.trainer", []),
        ("train", "import integrations.credit", []),
        ("train", "import runpy; runpy.run_path('algorithms/ig_grpo.py', run_name='__main__')", ["--help"]),
        ("train", "import runpy; runpy.run_module('integrations.trl.train', run_name='__main__')", ["--help"]),
        ("train", IGSEARCH, ["train", "ig_grpo", "--steps", "1"]),
        ("train", IGSEARCH, ["warm-start", "--warm-start.folder", "{folder}/warm"]),
        ("train", IGSEARCH, ["evaluate", "--limit", "1"]),
        ("train", IGSEARCH, ["export", "{folder}/run", "--output", "{folder}/out"]),
        ("train", "from algorithms.common.base.typed import as_type; as_type(int, 3, '')", []),
        ("dense", IGSEARCH, ["index", "--corpus", "{corpus}", "--output", "{folder}/index"]),
        ("dense", IGSEARCH, ["evaluate", "--policy", "search-question", "--questions", "bundled",
                            "--corpus", "{corpus}", "--rerank", "a/b"]),
        ("dense", "from retrievers.index.vector_index import VectorIndex as V; import numpy as np;"
         " V.build('hnswlib', [np.eye(3, dtype=np.float32)])", []),
        ("dense", "from retrievers.index.vector_index import VectorIndex as V; import numpy as np;"
         " V.build('Flat', [np.eye(3, dtype=np.float32)])", []),
        ("server", IGSEARCH, ["serve", "--corpus", "{corpus}"]),
        ("server", "import runpy; runpy.run_module('retrievers.server', run_name='__main__', alter_sys=True)",
         ["--corpus", "{corpus}"]),
    ],
)  # fmt: skip
def test_what_needs_an_extra_names_it_in_its_last_line(
    extra: str, program: str, words: list[str], tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(CORPUS, corpus)
    (tmp_path / "run" / "policy").mkdir(parents=True)
    (tmp_path / "run" / "policy" / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "run" / "config.yaml").write_text("algorithm: grpo\nseed: 0\nsteps: 1\n", encoding="utf-8")
    blocked = {"train": {*TRAIN, "tensorboard", "huggingface_hub"}, "dense": DENSE, "server": SERVER}[extra]
    done = run_without(blocked, program, *(word.format(corpus=corpus, folder=tmp_path) for word in words))
    last = done.stderr.splitlines()[-1]
    assert last.endswith(f"; pip install 'igsearch[{extra}]'"), done.stderr
    assert done.returncode == (2 if last.startswith("error: ") else 1)
    if program == IGSEARCH or "runpy" in program:
        assert last.startswith("error: ")
        assert "Traceback" not in done.stderr
