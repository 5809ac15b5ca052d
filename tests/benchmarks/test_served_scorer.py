"""The scores of a real vLLM are those of the policy; its log-probs must be some."""

from __future__ import annotations

import pytest
from models import bundled_policy
from real_vllm import BUNDLED, CONTEXT, vllm_python

from benchmarks.endpoint_scorer import FORMS, Args, compare
from benchmarks.vllm_environment import vllm_server
from igsearch_env import ConfigurationError, ScoringError
from igsearch_env.endpoint_scorer import EndpointScorer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


def test_scores_are_those_of_the_policy_in_the_default_mode() -> None:  # the other one: with_vllm/test_rollouts.py
    args = Args(questions=2)
    policy = bundled_policy(context_length=args.context_length)
    with vllm_server(vllm_python(), BUNDLED, CONTEXT, "--logprobs-mode", "raw_logprobs") as server:
        results = list(compare(policy, "bundled", server.address, args))
        scorer = EndpointScorer(server.address)  # with the tokenizer of the server
        assert scorer.form == "vllm"
        assert scorer.tokenizer.encode(" a city <search>") == policy.tokenizer.encode(" a city <search>")
        with pytest.raises(ConfigurationError, match="special token"):
            scorer.tokenizer.encode(f"about {policy.tokenizer.hf_tokenizer.eos_token}")
        scorer.close()
    assert len(results) == 2 * len(FORMS)
    assert max(result.difference for result in results) < args.tolerance


def test_a_server_with_logits_is_refused() -> None:
    with vllm_server(vllm_python(), BUNDLED, CONTEXT, "--logprobs-mode", "raw_logits") as server:
        for form in FORMS:
            with pytest.raises((ConfigurationError, ScoringError), match="raw_logprobs"):
                EndpointScorer(server.address, bundled_policy().tokenizer, form=form)
