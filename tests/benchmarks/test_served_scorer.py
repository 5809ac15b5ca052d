"""The scores of a real vLLM, in an environment of its own that IGSEARCH_VLLM_PYTHON names; see the benchmark."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from models import bundled_policy

from benchmarks.endpoint_scorer import FORMS, POLICY_FOLDER, Args, compare, vllm_server
from igsearch_env import ConfigurationError, ScoringError
from igsearch_env.endpoint_scorer import EndpointScorer

PYTHON = os.environ.get("IGSEARCH_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON,
    reason="IGSEARCH_VLLM_PYTHON names no Python with vLLM; `python -m benchmarks.endpoint_scorer --install` makes one",
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_scores_are_those_of_the_policy(mode: str) -> None:
    args = Args(questions=2)
    policy = bundled_policy(context_length=args.context_length)
    with vllm_server(Path(PYTHON), Path(POLICY_FOLDER), args.context_length, "--logprobs-mode", mode) as address:
        results = list(compare(policy, "bundled", address, args))
        scorer = EndpointScorer(address)  # with the tokenizer of the server
        assert scorer.form == "vllm"
        assert scorer.tokenizer.encode(" a city <search>") == policy.tokenizer.encode(" a city <search>")
        with pytest.raises(ConfigurationError, match="special token"):
            scorer.tokenizer.encode(f"about {policy.tokenizer.hf_tokenizer.eos_token}")
        scorer.close()
    assert len(results) == 2 * len(FORMS)
    assert max(result.difference for result in results) < args.tolerance


@pytest.mark.timeout(900)
def test_a_server_with_logits_is_refused() -> None:
    with vllm_server(Path(PYTHON), Path(POLICY_FOLDER), 1_023, "--logprobs-mode", "raw_logits") as address:
        for form in FORMS:
            with pytest.raises((ConfigurationError, ScoringError), match="raw_logprobs"):
                EndpointScorer(address, bundled_policy().tokenizer, form=form)
