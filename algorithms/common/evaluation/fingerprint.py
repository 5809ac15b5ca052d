"""The settings that determine an evaluation's result, as plain data. Results compare if all but the model is equal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any

from algorithms.common.base.flat import flat
from igsearch_env.questions import Question
from igsearch_env.rules import EpisodeRules
from igsearch_env.scripted import SCRIPTED
from igsearch_env.world.bundled import POLICY_FOLDER

Fingerprint = dict[str, Any]

# `igsearch_env.rewards`: SQuAD's normalisation (lower case, punctuation, articles, white space), EM and F1 over it.
METRIC = {"normaliser": "squad", "version": 1}
RECORDED = "recorded"  # the key of an evaluation of answers that another program recorded
MODEL = ("model",)  # the key that may differ in a comparison
# Defaults of keys that a fingerprint leaves out, since older files lack them.
UNSAID = {"attempts": 1, "chat_template": {"date": "2024-07-26", "arguments": ""}}
# Keys of a policy with a model. Those of a scripted policy have no meaning; older files have them all the same.
OF_A_MODEL = ("chat", "chat_template", "decoding")
_SHOWN = 24  # characters of a value in a message
# The files of a model folder that determine its output. Training state and logs may lie beside them.
_MODEL_FILES = (
    *("*.safetensors", "pytorch_model*.bin", "*config.json", "tokenizer*", "vocab*"),
    *("*.model", "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*"),
)


def make_fingerprint(
    *,
    questions: Sequence[Question],
    retriever: Mapping[str, Any],
    policy: str,
    rules: EpisodeRules,
    chat: bool,
    chat_template: Mapping[str, Any] | None = None,
    max_new_tokens: int,
    context_length: int | None = None,
    dtype: str = "float32",
) -> Fingerprint:
    """The fingerprint of a greedy evaluation.

    `retriever` is `Retriever.fingerprint()`, which includes the corpus's hash. `chat_template` is
    `ChatTemplate.fingerprint`; None is the default date without arguments. `policy` is its name on the command
    line; a model must have been loaded before, so that a name on the hub is resolved.
    """
    of_model = {
        "chat": chat,
        **({"chat_template": chat_template} if chat and chat_template not in (None, UNSAID["chat_template"]) else {}),
        "decoding": {
            "method": "greedy",
            "max_new_tokens": max_new_tokens,
            "max_observation_tokens": getattr(rules.protocol.cut, "limit", None),
            "context_length": context_length,
            "dtype": dtype,
        },
    }
    found = {
        "igsearch": _version(),
        "model": {"name": policy} if policy in SCRIPTED else model_identity(policy),
        "retriever": retriever,
        "top_k": rules.top_k,
        "max_searches": rules.max_searches,
        **({"attempts": rules.attempts} if rules.attempts > 1 else {}),  # older files, all of one attempt, lack it
        "protocol": rules.protocol.name,
        "prompt": {
            "template": rules.protocol.template,
            "hash": text_hash([rules.protocol.template]),
            **({"system": rules.protocol.system} if rules.protocol.system else {}),  # older files lack it
        },
        **({} if policy in SCRIPTED else of_model),
        "metric": METRIC,
        "questions": questions_of(questions),
    }
    plain: Fingerprint = json.loads(json.dumps(found))  # as it will be read back
    return plain


def recorded_fingerprint(questions: Sequence[Question], answers: Path) -> Fingerprint:
    """The fingerprint of recorded answers: nothing is known about the search engine, the prompt and the decoding."""
    found = {
        "igsearch": _version(),
        "model": {"name": str(answers), "hash": files_hash(p for p in (answers, *answers.rglob("*")) if p.is_file())},
        RECORDED: True,
        "metric": METRIC,
        "questions": questions_of(questions),
    }
    plain: Fingerprint = json.loads(json.dumps(found))
    return plain


def model_identity(policy: str) -> dict[str, str]:
    """Name of a policy with the hash of its folder's files, or with the revision of a cached hub model.

    Reads every weight: about one second per gigabyte.
    """
    folder = POLICY_FOLDER if policy == "bundled" else Path(policy)
    if folder.is_dir():
        return {"name": policy, "hash": files_hash({p for pattern in _MODEL_FILES for p in folder.glob(pattern)})}
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(policy, "config.json")
    return {"name": policy, **({"revision": Path(cached).parent.name} if isinstance(cached, str) else {})}


def files_hash(paths: Iterable[Path]) -> str:
    """SHA-256 over file names and contents, in order of names."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        with open(path, "rb") as file:
            digest.update(f"{path.name}\x1f{hashlib.file_digest(file, 'sha256').hexdigest()}\x1e".encode())
    return digest.hexdigest()


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\x1f{text}".encode())
    return digest.hexdigest()


def questions_of(questions: Sequence[Question]) -> dict[str, dict[str, Any]]:
    """By data set: splits, number and hash of the questions, independent of their order."""
    by_dataset: dict[str, list[Question]] = {}
    for question in questions:
        by_dataset.setdefault(question.dataset, []).append(question)
    return {
        name: {
            "split": "+".join(sorted({question.split or "unnamed" for question in members})),
            "n": len(members),
            "hash": text_hash(sorted(json.dumps([q.id, q.text, q.golden_answers]) for q in members)),
        }
        for name, members in by_dataset.items()
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any], ignore: Collection[str] = ()) -> list[str]:
    """Differences of two fingerprints, as `key: x != y` with dotted keys; `ignore` names keys of the first level.

    For resuming, everything must be equal; for comparing, all but `MODEL`. Where one is of a scripted policy, the
    settings of a model are not compared.
    """
    if any(fingerprint.get("model", {}).get("name") in SCRIPTED for fingerprint in (a, b)):
        ignore = {*ignore, *OF_A_MODEL}
    left, right = (
        flat({key: value for key, value in (UNSAID | dict(fingerprint)).items() if key not in ignore}, lists=True)
        for fingerprint in (a, b)
    )
    return [
        f"{key}: {_shown(left.get(key), right.get(key))} != {_shown(right.get(key), left.get(key))}"
        for key in {**left, **right}
        if left.get(key) != right.get(key)
    ]


def _shown(value: Any, other: Any) -> str:
    """A value for a message; a long text is shortened to the part where it differs from `other`."""
    text = "nothing" if value is None else repr(value)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, repr(other), strict=False)))
    start = max(alike - 8, 0) if len(text) > _SHOWN else 0
    piece = text[start : start + _SHOWN]
    return f"{'...' if start else ''}{piece}{'...' if start + _SHOWN < len(text) else ''}"


def _version() -> str:
    try:
        return version("igsearch")
    except PackageNotFoundError:
        return "not installed"
