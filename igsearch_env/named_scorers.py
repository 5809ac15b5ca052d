"""Scorers by name, as `gymnasium.make` gets them: "unigram", the address of a server, or a model.

A model needs torch and is in `algorithms`, a floor above this package. So its module is named here by a string and is
imported when a model is asked for: importing the environment stays light, and an installation without the packages for
training gets an error that names the extra.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import cast

from igsearch_env.errors import ConfigurationError, check_choice
from igsearch_env.scorers import AnswerScorer, UnigramScorer, check_scorer
from retrievers.base import Retriever
from retrievers.reading import MissingPackageError, import_optional

UNIGRAM, BUNDLED = "unigram", "bundled"
MODEL_SCORER = "algorithms.common.rollout.model_scorer"  # has `open_model_scorer(name)`
ENDPOINT_SCORER = "igsearch_env.endpoint_scorer"  # has `EndpointScorer(url)`

Scorer = AnswerScorer | str | Path


def open_scorer(scorer: Scorer, retriever: Retriever) -> AnswerScorer:
    """The scorer itself, or the one of a name.

        unigram                   `UnigramScorer` over the corpus of `retriever`
        http://HOST:PORT          `EndpointScorer`: a server with the interface of OpenAI
        OWNER/NAME, FOLDER        `PolicyScorer`: a model on the Hugging Face Hub, a model folder or a .gguf file
        bundled                   `PolicyScorer` of the bundled policy

    Raises `ConfigurationError` for anything else, and if the model can't be loaded.
    """
    if not isinstance(scorer, (str, Path)):
        check_scorer(scorer, "or be the name of one, or None")
        return scorer
    name = str(scorer)
    if name == UNIGRAM:
        return UnigramScorer(retriever)
    scheme, separator, address = name.partition("://")
    if scheme.lower() in ("http", "https") and separator:
        return _endpoint(f"{scheme.lower()}://{address}")
    if name == BUNDLED or "/" in name or _exists(name):
        try:
            module = import_optional(MODEL_SCORER, "train", f"scorer={name!r}: scoring with a model")
        except MissingPackageError as error:
            raise ConfigurationError(str(error)) from error
        try:
            return cast(AnswerScorer, module.open_model_scorer(name))
        except OSError as error:  # such as a path that no file can have
            raise ConfigurationError(
                f"scorer={name[:200]!r}: can't be read as a model ({str(error)[:200]}); pass its name or folder"
            ) from error
    check_choice("scorer", name, (UNIGRAM, BUNDLED, "http://HOST:PORT", "OWNER/NAME", "FOLDER"))
    raise ConfigurationError(f"scorer={name!r}: replace it by a name of this form")


def _exists(name: str) -> bool:
    """Whether a file or folder has this name; one that no file can have is not an error."""
    try:
        return bool(name.strip()) and Path(name).exists()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _endpoint(url: str) -> AnswerScorer:
    try:
        module = importlib.import_module(ENDPOINT_SCORER)
    except ModuleNotFoundError as error:
        if error.name != ENDPOINT_SCORER:
            raise ConfigurationError(f"scorer={url!r}: scoring by a server can't be used ({error})") from error
        raise ConfigurationError(
            f"scorer={url!r}: this installation has no {ENDPOINT_SCORER}; update igsearch, or pass a model's name"
        ) from error
    return cast(AnswerScorer, module.EndpointScorer(url))
