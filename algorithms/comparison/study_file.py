"""Studies: several comparisons in one YAML file, which examples/study.py runs. `Study` has its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from algorithms.common.base.typed import as_type
from algorithms.comparison.learning_rates import rate_of
from igsearch_env.errors import check_choice, check_range
from igsearch_env.world.options import BUNDLED
from retrievers.reading import read_yaml

STRICT = {"extra": "forbid"}  # a key that is not a field is an error


@dataclass(frozen=True)
class Setting:
    """What the methods of a stage start from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    start: str = BUNDLED
    """`bundled`, or the folder of a policy in the repository."""
    made_by: str = ""
    """Python file and options that write the folder `start`, run where it is missing."""
    options: str = ""
    """Additional options of every run, such as those of another world."""


@dataclass(frozen=True)
class Stage:
    """One comparison."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    methods: list[str] | dict[str, str]
    """Names of the study's methods; or variants, each a method of the study with more options."""
    settings: list[str]
    """Names of the study's settings."""
    seeds: list[int]
    """Seeds of the runs."""
    steps: int
    """Training steps of each run."""
    eval_every: int
    """Steps between two points of the learning curve."""
    learning_rates: str | list[float] = field(default_factory=list)
    """Rates to try, or the stage that chose them; none: that of the method's options."""
    against: list[str] = field(default_factory=list)
    """Methods that the others are compared with."""
    reach: list[float] = field(default_factory=lambda: [0.5])
    """Values of dev EM to which training steps are counted."""

    @property
    def variants(self) -> dict[str, str]:
        """Label and command of each method, as in the file."""
        return self.methods if isinstance(self.methods, dict) else {name: name for name in self.methods}


@dataclass(frozen=True)
class Study:
    """The file."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    methods: dict[str, str]
    """By name, an algorithm's file and options."""
    settings: dict[str, Setting]
    stages: dict[str, Stage]
    """In the order in which they run."""


def read_study(path: Path) -> Study:
    """The study of a YAML file. Raises `FileError` or `ConfigurationError`."""
    study = as_type(Study, read_yaml(path), str(path))
    for name, stage in study.stages.items():
        for setting in stage.settings:
            check_choice(f"{path}: settings of stage {name}", setting, study.settings)
        methods = [(words.split() or [""])[0] for words in stage.variants.values()]
        for method in methods:
            check_choice(f"{path}: methods of stage {name}", method, study.methods)
        for label in stage.against:
            check_choice(f"{path}: against of stage {name}", rate_of(label)[0], stage.variants)
        check_range(f"{path}: steps of stage {name}", stage.steps, 1)
        if isinstance(stage.learning_rates, str):
            before = list(study.stages)[: list(study.stages).index(name)]
            earlier = [other for other in before if study.stages[other].learning_rates]
            check_choice(f"{path}: learning_rates of stage {name}", stage.learning_rates, earlier)
            tried = study.stages[stage.learning_rates]
            for method in methods:
                what = f"{path}: methods of stage {name}, whose rates {stage.learning_rates} tries"
                check_choice(what, method, tried.variants)
        else:
            for rate in stage.learning_rates:
                check_range(f"{path}: learning_rates of stage {name}", rate, 1e-12, 1)
    return study
