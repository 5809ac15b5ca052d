"""Uploading an exported folder to the Hugging Face Hub, with huggingface_hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from algorithms.common.export.folder import MARK
from igsearch_env.errors import ConfigurationError, IGSearchError
from retrievers.reading import import_optional, one_line
from retrievers.service.deadline import OverdueError, within

ANSWER_SECONDS = 60.0  # in which the Hub must answer a small request
UPLOAD_SECONDS = 6 * 3600.0  # in which all files must be uploaded
# Errors of requests or httpx, whichever HTTP library huggingface_hub uses in its version.
UNREACHABLE = {"ConnectionError", "Timeout", "TransportError"}


class HubError(IGSearchError, RuntimeError):
    """The Hub can't be reached, or refuses; the message says what to do. The exported folder is complete."""

    exit_status = 1


def check_target(repository: str) -> None:
    """Raise `ConfigurationError` for a name that the Hub does not allow, or if no token is known. Needs no network."""
    hub = import_optional("huggingface_hub", "train", "--push")
    try:
        import_optional("huggingface_hub.utils", "train", "--push").validate_repo_id(repository)
    except ValueError as error:
        raise ConfigurationError(f"--push {repository!r}: {one_line(error)}; give OWNER/NAME") from error
    if repository.count("/") != 1:
        raise ConfigurationError(f"--push {repository!r}: it must be OWNER/NAME")
    if hub.get_token() is None:
        raise ConfigurationError("--push: no token of the Hub is known: run `hf auth login`, or set HF_TOKEN")


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload a complete export as one commit, to a repository that is created if there is none; returns its address.

    Raises `HubError`; nothing is uploaded to a public repository if a private one was asked for.
    """
    hub = import_optional("huggingface_hub", "train", "--push")
    api = hub.HfApi()
    call = partial(_answer, repository, folder)
    address = call(ANSWER_SECONDS, partial(api.create_repo, repository, private=private, exist_ok=True))
    if private and not call(ANSWER_SECONDS, partial(api.model_info, repository)).private:
        raise HubError(f"--push {repository}: this repository is public; make it private on the Hub, or omit --private")
    message = f"Export of IGSearch: {folder.resolve().name}"
    upload = partial(api.upload_folder, repo_id=repository, folder_path=folder, commit_message=message)
    call(UPLOAD_SECONDS, partial(upload, ignore_patterns=[MARK]))
    return str(address)


def _answer(repository: str, folder: Path, seconds: float, request: Any) -> Any:
    """The result of a request to the Hub within a time. Raises `HubError` that says what to do."""
    what = f"--push {repository}"
    again = f"{folder} is complete: the same command tries again, or `hf upload {repository} {folder}` does"
    try:
        return within(seconds, request)
    except OverdueError as error:
        raise HubError(f"{what}: the Hub has not answered ({error}); {again}") from error
    except Exception as error:  # huggingface_hub raises its own errors, those of httpx, and OSError
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"{what}: the Hub refuses the token (status {status}): it needs permission to write to "
                f"{repository.partition('/')[0]}; run `hf auth login` with such a token. {folder} is complete"
            ) from error
        if status is None and UNREACHABLE & {kind.__name__ for kind in type(error).__mro__}:
            raise HubError(
                f"{what}: the Hub can't be reached ({type(error).__name__}: {one_line(error)}); {again}"
            ) from error
        raise HubError(f"{what}: {type(error).__name__}: {one_line(error)}; {again}") from error
