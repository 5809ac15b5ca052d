"""Train a policy: `igsearch train ALGORITHM [OPTIONS]`, which is `python algorithms/ALGORITHM.py [OPTIONS]`."""

from __future__ import annotations

import difflib
import sys
from importlib import resources
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from igsearch_env.errors import ConfigurationError
from retrievers.program import refuse


def algorithms() -> list[str]:
    """The names of the bundled algorithms: the files of the package."""
    names = (file.name for file in resources.files("algorithms").iterdir())
    return sorted(name.removesuffix(".py") for name in names if name.endswith(".py") and not name.startswith("_"))


def command() -> None:
    """Train with the algorithm that the first argument names: one of the bundled ones, or a file."""
    program, *words = sys.argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return
    name, *options = words
    file = name.endswith(".py")
    if not file and name not in algorithms():
        refuse(ConfigurationError(_unknown(name)))
    if file and not Path(name).is_file():
        refuse(ConfigurationError(f"{name}: no such file; give a file with an algorithm, or one of {_listed()}"))
    sys.argv = [f"{program} {name}", *options]
    run_as_program(Path(name) if file else Path(str(resources.files("algorithms"))) / f"{name}.py")


def run_as_program(path: Path) -> None:
    """Run a file as `python FILE` does, but for `sys.argv`, which stays as it is."""
    spec = spec_from_file_location("__main__", path)
    assert spec is not None
    assert spec.loader is not None
    before = sys.modules["__main__"]
    module = sys.modules["__main__"] = module_from_spec(spec)  # where the annotations of its classes are looked up
    try:
        spec.loader.exec_module(module)
    finally:
        sys.modules["__main__"] = before


def usage() -> str:
    """The help of the command."""
    return (
        "usage: igsearch train ALGORITHM [OPTIONS]\n\n"
        f"ALGORITHM is one of {_listed()},\nor a file with an algorithm of your own. "
        "`igsearch train ALGORITHM --help` lists its options with units and defaults."
    )


def _listed() -> str:
    return ", ".join(algorithms())


def _unknown(name: str) -> str:
    if name.startswith("-"):
        return f"{name}: the algorithm comes first: igsearch train ig_grpo {name} ...; one of {_listed()}"
    near = difflib.get_close_matches(name.replace("-", "_"), algorithms(), n=1)
    return f"{name}: no such algorithm; " + (f"did you mean {near[0]}?" if near else f"one of {_listed()}")
