"""Uploads of exports to a server with the Hub's HTTP interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, hub_server

from algorithms.common.export import hub as module
from algorithms.common.export.folder import MARK
from algorithms.common.export.hub import HubError, check_target, push
from igsearch.commands import export
from igsearch_env.errors import ConfigurationError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that huggingface_hub talks to, with a token that may write."""
    with hub_server() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export."""
    output = tmp_path / "my-agent"
    output.mkdir()
    for name in ("config.json", "README.md", "model.safetensors", MARK):
        (output / name).write_text(f"content of {name}", encoding="utf-8")
    return output


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_is_uploaded_whole(hub: Hub, folder: Path, private: bool) -> None:
    assert push(folder, "me/my-agent", private=private) == f"{hub.url}/me/my-agent"
    assert hub.private == {"me/my-agent": private}
    expected = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARK}
    assert {name: hub.files["me/my-agent"].get(name) for name in expected} == expected
    assert MARK not in hub.files["me/my-agent"]
    (folder / "config.json").write_text("newer", encoding="utf-8")
    push(folder, "me/my-agent", private=private)  # again, to the same repository
    assert hub.files["me/my-agent"]["config.json"] == b"newer"


def test_nothing_is_uploaded_to_a_public_repository_if_a_private_one_is_asked_for(hub: Hub, folder: Path) -> None:
    hub.private["me/my-agent"] = False
    with pytest.raises(HubError, match=r"--push me/my-agent: this repository is public.*or omit --private"):
        push(folder, "me/my-agent", private=True)
    assert not hub.files


def test_a_token_without_permission(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    with pytest.raises(HubError, match=r"refuses the token \(status 403\).*write to me; run `hf auth login`"):
        push(folder, "me/my-agent", private=False)
    assert not hub.files


def test_no_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr(module, "ANSWER_SECONDS", 5.0)
    with pytest.raises(HubError, match=r"the Hub (can't be reached|has not answered).*my-agent is complete"):
        push(folder, "me/my-agent", private=False)


def test_a_hub_that_does_not_answer(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hangs.clear()
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with pytest.raises(HubError, match=r"the Hub has not answered \(not complete within 0.2 s\); .* is complete"):
        push(folder, "me/my-agent", private=False)


@pytest.mark.parametrize(
    "name", ["my-agent", "me/my/agent", "me/my agent", "/x", "me/-x", "https://huggingface.co/a/b"]
)
def test_a_name_that_the_hub_does_not_allow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with pytest.raises(ConfigurationError, match="OWNER/NAME"):
        check_target(name)


def test_without_a_token_nothing_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigurationError, match=r"no token of the Hub is known: run `hf auth login`, or set HF_TOKEN"):
        export.main(export.Args(tmp_path / "nowhere", tmp_path / "out", push="me/my-agent"))
    with pytest.raises(ConfigurationError, match="--private without --push"):
        export.main(export.Args(tmp_path / "nowhere", tmp_path / "out", private=True))
