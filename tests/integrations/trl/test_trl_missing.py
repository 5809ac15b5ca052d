"""Without TRL, errors name the extra, and the command can still show its options."""

from __future__ import annotations

import importlib
import sys

import pytest

from igsearch_env.errors import ConfigurationError
from integrations.trl import train
from retrievers.reading import MissingPackageError


def test_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.delitem(sys.modules, "integrations.trl.trainer", raising=False)
    with pytest.raises(MissingPackageError, match=r"trainer: requires trl.*pip install 'igsearch\[trl\]"):
        importlib.import_module("integrations.trl.trainer")
    with pytest.raises(MissingPackageError, match=r"pip install 'igsearch\[trl\]"):
        train.main(train.Args())


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"micro_batch": 0}, {"group_size": 1}])
def test_options_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))}=.*: must be at least"):
        train.Args(**wrong)  # type: ignore[arg-type]
