"""How a refused command ends."""

from __future__ import annotations

import pytest

from igsearch_env.errors import ConfigurationError
from retrievers import program


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_process_that_no_launcher_terminates_says_why_it_ends(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second process of a machine waits for the first one, which has none of its errors here."""
    waits = list[float]()
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        program.refuse(ConfigurationError("corpus.jsonl: can't be read"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: corpus.jsonl: can't be read\n"
    assert waits == ([] if rank == "0" else [program.GRACE])
