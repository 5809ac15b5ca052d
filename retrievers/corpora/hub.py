"""Downloads files of a data set on the Hugging Face Hub, in a process of its own that has a time limit.

`python -m retrievers.corpora.hub OWNER/REPO PATH REVISION` is that process: it prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from retrievers.base import CorpusError, RetrieverError
from retrievers.reading import FileError, one_line, parse_json

HUB = "hf:"
SECONDS = 3600.0  # limit of a whole download; huggingface_hub limits single requests only
REQUEST_SECONDS = 30.0
ENDINGS = (".parquet", ".json", ".jsonl", ".json.gz", ".jsonl.gz")
PARTS = ("train", "dev", "valid", "id_aliases")  # what the names of files with answers contain


@dataclass(frozen=True)
class Known:
    """A benchmark by its own name: where it is on the Hub, and where its authors publish it."""

    hub: str
    files: str
    site: str


KNOWN = {
    "hotpotqa": Known(
        "hf:hotpotqa/hotpot_qa/distractor",
        "hotpot_train_v1.1.json and hotpot_dev_distractor_v1.json",
        "https://hotpotqa.github.io",
    ),
    "2wikimultihopqa": Known(
        "hf:xanhho/2WikiMultihopQA",
        "train.json and dev.json of its archive",
        "https://github.com/Alab-NII/2wikimultihop",
    ),
    "musique": Known(
        "hf:dgslibisey/MuSiQue",
        "musique_ans_v1.0_train.jsonl and musique_ans_v1.0_dev.jsonl",
        "https://github.com/StonyBrookNLP/musique",
    ),
}


@dataclass(frozen=True)
class Downloaded:
    """A file of a repository: `name` is hf:OWNER/REPO/FILE@COMMIT."""

    name: str
    path: Path


def download(source: str) -> list[Downloaded]:
    """The files of hf:OWNER/REPO, hf:OWNER/REPO/FOLDER or hf:OWNER/REPO/FILE, in the cache of huggingface_hub.

    Of a repository or a folder, the files of train and dev splits. @REVISION at the end selects a commit. Raises
    `CorpusError` if the Hub does not answer in time, or has no such files; it says which files to pass instead.
    """
    place, _, revision = source.removeprefix(HUB).partition("@")
    parts = place.split("/")
    if len(parts) < 2 or not all(parts):
        raise CorpusError(f"{source}: not hf:OWNER/REPO, hf:OWNER/REPO/FOLDER or hf:OWNER/REPO/FILE")
    repo, path = "/".join(parts[:2]), "/".join(parts[2:])
    command = [sys.executable, "-m", "retrievers.corpora.hub", repo, path, revision]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=SECONDS, check=False)  # progress on stderr
        found = parse_json(done.stdout, "the answer of huggingface_hub")
        problem = found["error"]
    except subprocess.TimeoutExpired:
        problem = f"no end within {SECONDS:g} s; the same command continues"
    except (FileError, TypeError, KeyError):
        problem = f"the download ended with exit status {done.returncode}"
    if problem:
        raise CorpusError(f"{source}: could not be downloaded ({problem}). {_elsewhere(source, repo)}")
    return [Downloaded(f"{HUB}{repo}/{name}@{found['commit']}", Path(path)) for name, path in found["files"].items()]


def _elsewhere(source: str, repo: str) -> str:
    """How to get the files in another way."""
    page = f"Download the files from https://huggingface.co/datasets/{repo}/tree/main"
    for name, known in KNOWN.items():
        if source == known.hub:
            page += f", or {known.files} from {known.site}"
            return f"{page}, on any machine, and pass their paths: --inputs {name}=PATH ..."
    return f"{page} on any machine, and pass their paths to --inputs"


def _fetch(repo: str, path: str, revision: str) -> dict[str, object]:
    """Download in this process."""
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().dataset_info(repo, revision=revision or None, timeout=REQUEST_SECONDS)
    names = sorted(sibling.rfilename for sibling in info.siblings or [])
    chosen = [path] if path in names else [name for name in names if _wanted(name, path)]
    if not chosen:
        held = ", ".join(name for name in names if not name.startswith("."))[:300] or "no files"
        raise LookupError(f"no file of a train or dev split under {path or repo!r}; the repository holds {held}")
    files = {
        name: hf_hub_download(repo, name, repo_type="dataset", revision=info.sha, etag_timeout=REQUEST_SECONDS)
        for name in chosen
    }
    return {"error": "", "commit": info.sha, "files": files}


def _wanted(name: str, folder: str) -> bool:
    below = not folder or name.startswith(f"{folder}/")
    return below and name.endswith(ENDINGS) and any(part in name.lower() for part in PARTS)


def main() -> None:
    """Print what was downloaded, or the error."""
    try:
        answer = _fetch(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # errors of the library, its HTTP client and the file system
        answer = {"error": f"{type(error).__name__}: {one_line(RetrieverError(one_line(error)))}"}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
