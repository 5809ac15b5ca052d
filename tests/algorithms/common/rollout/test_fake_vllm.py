"""The fakes of a vLLM server answer as recordings of the real one do; `tests/with_vllm` compares those with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_vllm
import pytest
from models import bundled_policy
from policy_server import PolicyServer
from scoring_server import ScoringServer
from services import serving
from vllm_exchanges import EXCHANGES, NAME, asked, assert_same_form, random_adapter, recorded

from igsearch_env.world.bundled import POLICY_FOLDER

MODEL = str(POLICY_FOLDER)


def fake(name: str) -> Any:
    """The application that stands in for the server of a recording."""
    match name:
        case "scoring":
            return ScoringServer(bundled_policy(), name=NAME, max_model_len=1024).app
        case "chat":
            return PolicyServer().app
        case "adapters":
            return fake_vllm.Server(MODEL, name=NAME, lora={"max_lora_rank": 8}).app
        case _:
            return fake_vllm.Server(MODEL, name=NAME).app


@pytest.mark.parametrize("name", EXCHANGES)
def test_a_fake_answers_as_the_real_server_did(name: str, tmp_path: Path) -> None:
    paths = {"MODEL": POLICY_FOLDER}
    if name == "adapters":
        paths["ADAPTER"] = random_adapter(tmp_path)
    with serving(fake(name)) as address:
        found = asked(address, EXCHANGES[name], paths)
    real = recorded(name)
    assert [exchange["name"] for exchange in found] == [exchange["name"] for exchange in real]
    for mine, theirs in zip(found, real, strict=True):
        assert mine["body"] == theirs["body"], f"{mine['name']}: record it again"
        assert mine["status"] == theirs["status"], mine["name"]
        assert_same_form(mine["answer"], theirs["answer"], f"{mine['name']}/answer")


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"choices": [{"token_ids": [1]}]}, {"choices": [{"tokens": [1]}]}),
        ({"choices": [{"token_ids": [1, 2]}]}, {"choices": [{"token_ids": [1]}]}),
        ({"token_logprobs": [-1.0]}, {"token_logprobs": [-1.1]}),
        ({"token_logprobs": [-1.0]}, {"token_logprobs": ["-1.0"]}),
        ({"error": {"message": None}}, {"error": {"message": "x"}}),
        ({"success": True}, {"success": "true"}),
    ],
)
def test_what_the_comparison_finds(mine: Any, theirs: Any) -> None:
    with pytest.raises(AssertionError):
        assert_same_form(mine, theirs, "turn")
