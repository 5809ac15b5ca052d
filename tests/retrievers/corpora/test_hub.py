"""Downloads from the Hub, against a server of this test that answers as the Hub does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI, Request, Response
from official_files import HOTPOT, MUSIQUE, hub_form, write_lines
from services import serving

from retrievers import CorpusError, load_corpus
from retrievers.build_corpus import Args, build
from retrievers.corpora import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(repo: str, files: dict[str, bytes]) -> Iterator[str]:
    """The address of a Hub with one data set."""
    app = FastAPI()

    @app.get(f"/api/datasets/{repo}")
    @app.get(f"/api/datasets/{repo}/revision/{{revision}}")
    def info(revision: str = "main") -> Response:
        if revision not in ("main", COMMIT):
            return Response(status_code=404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [{"rfilename": name} for name in ("README.md", *files)]
        return Response(json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}), media_type="application/json")

    @app.api_route(f"/datasets/{repo}/resolve/{COMMIT}/{{name:path}}", methods=["GET", "HEAD"])
    def file(name: str, request: Request) -> Response:
        digest = hashlib.sha256(files[name]).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(files[name]))})
        return Response(files[name], headers=headers)

    with serving(app) as address:
        yield address


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of huggingface_hub, which may use the network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hf"


def lines(folder: Path, rows: list[dict[str, object]]) -> bytes:
    """The bytes of a file of JSON lines."""
    path = folder / "made.jsonl"
    write_lines(path, rows)
    content = path.read_bytes()
    path.unlink()
    return content


def test_a_name_is_downloaded_and_recorded_with_its_commit(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = lines(tmp_path, [hub_form(row) for row in HOTPOT])
    files = {
        "distractor/validation-00000-of-00001.jsonl": rows,
        "distractor/test-00000-of-00001.jsonl": b"not asked for",
        "fullwiki/validation-00000-of-00001.jsonl": b"not asked for",
    }
    with fake_hub("hotpotqa/hotpot_qa", files) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        build(Args(("hotpotqa",), tmp_path / "out"))
    assert len(load_corpus(tmp_path / "out" / "corpus.jsonl")) == 4
    (source,) = json.loads((tmp_path / "out" / "sources.json").read_text(encoding="utf-8"))["inputs"]
    name = f"hf:hotpotqa/hotpot_qa/distractor/validation-00000-of-00001.jsonl@{COMMIT}"
    assert (source["name"], source["dataset"], source["split"]) == (name, "hotpotqa", "dev")
    assert source["sha256"] == hashlib.sha256(rows).hexdigest()


def test_one_file_of_a_commit(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_hub("some/where", {"musique_ans_v1.0_dev.jsonl": lines(tmp_path, MUSIQUE)}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        (found,) = hub.download(f"hf:some/where/musique_ans_v1.0_dev.jsonl@{COMMIT}")
        assert found.path.read_bytes() == lines(tmp_path, MUSIQUE)
        with pytest.raises(CorpusError, match="under 'x'; the repository holds README"):
            hub.download("hf:some/where/x")


def test_a_hub_that_is_away_says_which_files_to_pass(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(CorpusError) as caught:
        build(Args(("musique",), tmp_path / "out"))
    for said in (
        "hf:dgslibisey/MuSiQue: could not be downloaded (",
        "https://huggingface.co/datasets/dgslibisey/MuSiQue/tree/main",
        "musique_ans_v1.0_train.jsonl and musique_ans_v1.0_dev.jsonl from https://github.com/StonyBrookNLP/musique",
        "--inputs musique=PATH",
    ):
        assert said in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_a_download_without_an_end_is_stopped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.01)
    with pytest.raises(CorpusError, match=r"no end within 0\.01 s"):
        hub.download("hf:some/where")


@pytest.mark.parametrize("source", ["hf:", "hf:musique", "hf:a//b", "hf:/a"])
def test_a_hub_source_has_one_form(source: str) -> None:
    with pytest.raises(CorpusError, match="not hf:OWNER/REPO"):
        hub.download(source)
