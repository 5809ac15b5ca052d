"""The facts in the model card of an exported policy."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from algorithms.common.evaluation.results import Result
from algorithms.common.export.trained_policy import TrainedPolicy, read_json
from algorithms.common.run.metrics_log import read_metrics
from igsearch_env.errors import ConfigurationError
from igsearch_env.protocols import Protocol, make_protocol
from igsearch_env.world.bundled import POLICY_FOLDER


@dataclass(frozen=True)
class ExportedPolicy:
    """The facts of a model card; None if unknown."""

    name: str
    """Name of the exported folder."""
    settings: Mapping[str, Any]
    """The run's config.yaml."""
    step: int | None
    dtype: str
    base: str | None
    """The policy before training: `bundled`, a folder, or a name on the Hub."""
    base_on_hub: bool = False
    adapter: Mapping[str, Any] | None = None
    """adapter_config.json, if only the adapter was exported."""
    before: Result | None = None
    after: Result | None = None
    validation_em: float | None = None
    """Dev EM of the best checkpoint, by which it was selected."""
    information_gain: bool = False
    """Whether the run measured information gain."""
    versions: Mapping[str, str] = field(default_factory=dict)

    def setting(self, path: str) -> Any:
        """A setting by its dotted path; None if it is not set."""
        value: Any = self.settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def tested(self) -> bool:
        """Whether the exported checkpoint is the one that was tested after training."""
        return self.after is not None and self.step is not None and self.after.header.get("step") == self.step

    @property
    def protocol(self) -> Protocol | None:
        """Tags and prompt; None if the file of the prompt no longer exists."""
        name, prompt = self.setting("env.protocol") or "search_r1", self.setting("env.prompt") or ""
        try:
            return make_protocol(name, prompt, system=self.setting("env.system_prompt") or "")
        except ConfigurationError:
            return None


def describe(trained: TrainedPolicy, name: str, dtype: str, *, merged: bool) -> ExportedPolicy:
    """The facts of a policy exported as `name` in `dtype`; `merged`: whether a complete model was exported."""
    adapter, run = trained.adapter, trained.run
    base = (adapter or {}).get("base_model_name_or_path") or trained.settings.get("policy", {}).get("path")
    if base == str(POLICY_FOLDER):
        base = "bundled"
    libraries = ("igsearch", "torch", "transformers", *(["peft"] if adapter else []))
    return ExportedPolicy(
        name=name,
        settings=trained.settings,
        step=trained.step,
        dtype=dtype,
        base=base,
        base_on_hub=base is not None and is_hub_name(base, run),
        adapter=None if merged else adapter,
        before=trained.before,
        after=trained.after,
        validation_em=(read_json(trained.folder / "best.json") or {}).get("dev/em"),
        information_gain=any("information_gain/mean" in row for row in read_metrics(run / "metrics.jsonl")),
        versions={library: version(library) for library in libraries} | {"Python": platform.python_version()},
    )


def is_hub_name(name: str, run: Path) -> bool:
    """Whether a name refers to the Hub, not to `bundled` or a folder here or where the run was started."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # not in its __all__

    if name == "bundled" or any((place / name).exists() for place in (Path(), *run.absolute().parents)):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
