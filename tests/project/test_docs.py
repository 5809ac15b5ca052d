"""Every path, option and configuration key that README.md, CONTRIBUTING.md and docs/ name exists."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import shlex
from collections.abc import Callable
from functools import cache
from typing import Any, get_type_hints

import pytest
from paths import ROOT

from algorithms.common.config import TrainConfig
from igsearch.cli import COMMANDS
from igsearch_env import IGSearchEnv

DOCS = sorted([*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "method-cards").glob("*.md")])
PAGES = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in DOCS)]
# The headings of a method card, in their order.
CARD = ["Credits", "Equation", "Needs", "Costs", "Won and lost here", "Failure modes", "Claims of its paper"]
FOLDERS = (
    "algorithms",
    "benchmarks",
    "docs",
    "examples",
    "igsearch",
    "igsearch_env",
    "integrations",
    "retrievers",
    "tests",
)
TOPS = (ROOT, *(ROOT / folder for folder in FOLDERS), ROOT / "algorithms" / "common")
SCRIPTS = [
    *(
        f"{folder}/{path.name}"
        for folder in ("algorithms", "benchmarks", "examples")
        for path in sorted((ROOT / folder).glob("*.py"))
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ),
    *(f"{module.replace('.', '/')}.py" for module, _ in COMMANDS.values() if module.startswith("igsearch.")),
    *("retrievers/build_corpus.py", "retrievers/build_index.py", "retrievers/check_index.py", "retrievers/server.py"),
    "integrations/trl/train.py",
]
# Of other programs that the pages use.
FOREIGN = {
    "torchrun": {"nproc-per-node", "nnodes", "rdzv-backend", "rdzv-endpoint", "rdzv-id"},
    "accelerate": {"num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"},
    "hf": {"repo-type", "local-dir"},
    "vllm": {"max-model-len", "dtype", "logprobs-mode", "generation-config", "port", "enable-lora", "lora-dtype"}
    | {"served-model-name", "lora-target-modules", "max-lora-rank", "max-loras"},
    "sglang": {"model-path", "context-length"},
    "tensorboard": {"logdir"},
    "text-embeddings-router": {"model-id", "api-key"},
    "infinity": {"url-prefix"},
    "pip": {"no-deps"},
    "openenv": {"url"},
    "own_algorithm.py": {"weight"},  # a block of docs/extending.md
    "vf-eval": {
        "env.taskset.search.max-searches",
        "model",
        "client.base-url",
        "client.api-key-var",
        "no-push",
        "no-rich",
    },
}
SAME = {"index": "retrievers/build_index.py", "serve": "retrievers/server.py"}  # commands with the options of a script
OPTION = re.compile(r"(?<![\w-])--([a-z][\w.-]*\w)")


def options_of(target: Callable[..., Any], prefix: str = "") -> set[str]:
    """The options that tyro makes of a dataclass or a function, without their dashes."""
    if not dataclasses.is_dataclass(target):
        return {name.replace("_", "-") for name in inspect.signature(target).parameters}
    hints = get_type_hints(target, include_extras=True)
    found: set[str] = set()
    for field in dataclasses.fields(target):
        hint = hints[field.name]
        plain = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
        unnamed = any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(plain):
            found |= options_of(plain, prefix if unnamed else f"{prefix}{name}.")
        else:
            found |= {prefix + name, *([f"no-{prefix}{name}"] if plain in (bool, bool | None) else [])}
    return found


@cache
def script_options(script: str) -> frozenset[str]:
    """The options of a script of this project."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    if "command" in vars(module):  # a few lines that run a command of `igsearch`
        module = importlib.import_module(vars(module)["command"].__module__)
    targets = [vars(module)[name] for name in ("Args", "Point", "lines") if name in vars(module)][:1]
    if not targets:
        targets = [c for c in vars(module).values() if inspect.isclass(c) and issubclass(c, TrainConfig)]
    return frozenset({"help"}.union(*map(options_of, targets)))


@cache
def all_options() -> frozenset[str]:
    """The options of every script."""
    return frozenset().union(*map(script_options, SCRIPTS))


def text(page: str) -> str:
    """A page, with continued lines of commands joined."""
    return re.sub(r"\\\n\s*", "", (ROOT / page).read_text(encoding="utf-8"))


def commands(page: str) -> list[list[str]]:
    """The words of every command of a page that runs a script of this project, from the script on."""
    lines = re.findall(r"`((?:igsearch|python) [^`\n]+)`", text(page))
    lines += re.findall(r"^ *((?:igsearch|python|torchrun|accelerate|PYTHONPATH) .*)", text(page), re.MULTILINE)
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] == "igsearch":
            words[:2] = ["python", script_of(words[1:])]
        if "-m" in words[:2]:
            place = words.index("-m") + 1
            words[place] = words[place].replace(".", "/") + ".py"
        scripts = [place for place, word in enumerate(words) if word in SCRIPTS]
        if scripts:
            found.append(words[scripts[0] :])
    return found


def script_of(words: list[str]) -> str:
    """The file that does what a command of `igsearch` does, which has the same options."""
    if words[0] == "train" and len(words) > 1:
        return words[1] if words[1].endswith(".py") else f"algorithms/{words[1]}.py"
    if words[0] in SAME:
        return SAME[words[0]]
    return COMMANDS[words[0]][0].replace(".", "/") + ".py" if words[0] in COMMANDS else words[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_exists(page: str) -> None:
    named = set(re.findall(r"(?<![\w./-])((?:[\w-]+/)+[\w.-]+\.py)(?!\w)", text(page)))
    named |= set(
        re.findall(rf"(?<![\w./-])((?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:json|jsonl|png|yaml))(?!\w)", text(page))
    )
    # A path may begin inside a package, where the text says which.
    missing = sorted(path for path in named if not any((top / path).is_file() for top in TOPS))
    assert not missing, f"{page} names files that do not exist"
    folders = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/(?:[\w-]+/)*)`", text(page)))
    missing = sorted(folder for folder in folders if not (ROOT / folder).is_dir())
    assert not missing, f"{page} names folders that do not exist"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    targets = [t for t in re.findall(r"\]\(([^)\s]+)\)", text(page)) if not t.startswith(("http://", "https://"))]
    missing = [target for target in targets if not ((ROOT / page).parent / target.partition("#")[0]).exists()]
    assert not missing, f"{page} links to files that do not exist"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_exists(page: str) -> None:
    known = all_options().union(*FOREIGN.values())
    unknown = sorted({option for option in OPTION.findall(text(page)) if option not in known})
    assert not unknown, f"{page} names options that no script has"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_has_only_options_of_its_script(page: str) -> None:
    for script, *words in commands(page):
        given = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
        assert given <= script_options(script), f"{page}: {script} has no {given - script_options(script)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_configuration_key_exists(page: str) -> None:
    sections = [f.name for f in dataclasses.fields(TrainConfig) if dataclasses.is_dataclass(f.default_factory)]
    keys = re.findall(rf"`((?:{'|'.join(sections)})(?:\.[a-z]\w*)+)(?:`|: |=)", text(page))
    code = {key for key in keys if key.endswith(".py") or hasattr(IGSearchEnv, key.removeprefix("env."))}
    unknown = sorted({key for key in keys if key.replace("_", "-") not in all_options()} - code)
    assert not unknown, f"{page} names keys that no configuration has"


def test_every_method_has_a_card_with_every_heading() -> None:
    methods = {path.stem for path in (ROOT / "algorithms").glob("*.py")} - {"__init__"}
    cards = {path.stem: path for path in DOCS if path.parent.name == "method-cards" and path.stem != "README"}
    assert set(cards) == methods
    overview = text("docs/method-cards/README.md")
    for name, path in cards.items():
        card = path.read_text(encoding="utf-8")
        assert re.findall(r"^## (.*)", card, re.MULTILINE) == CARD, name
        assert all(body.strip() for body in re.split(r"^##? .*", card, flags=re.MULTILINE)[1:]), name
        assert f"`algorithms/{name}.py`" in card
        assert f"]({name}.md)" in overview, name


def test_pages_have_commands_and_options() -> None:
    """The patterns above find something."""
    assert sum(len(commands(page)) for page in PAGES) > 40
    assert {"policy.chat", "loss.kl-coef", "adopt", "repeats", "max-waiting"} <= all_options()
    assert len(SCRIPTS) > 25
