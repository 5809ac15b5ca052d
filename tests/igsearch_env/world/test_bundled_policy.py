"""The bundled policy: small, loadable like any model, a competent reader and a poor searcher."""

from __future__ import annotations

import itertools

import pytest
from models import turn_end
from transformers import AutoModelForCausalLM, AutoTokenizer

from algorithms.common.config import TrainConfig
from algorithms.common.evaluation.scores import macro_average, score
from algorithms.common.model.config import PolicyConfig
from algorithms.common.model.policy import Policy
from algorithms.common.rollout.collect import play
from algorithms.common.rollout.decoder import Decoder
from igsearch_env.protocols import make_protocol
from igsearch_env.rewards import exact_match
from igsearch_env.rules import EpisodeRules
from igsearch_env.stepper import EpisodeStepper
from igsearch_env.world import Hop
from igsearch_env.world.bundled import POLICY_FOLDER, bundled_retriever, bundled_world

PROTOCOL = make_protocol("search_r1", "bare")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load(PolicyConfig())


def test_it_is_small_and_loads_by_the_auto_classes() -> None:
    assert sum(path.stat().st_size for path in POLICY_FOLDER.iterdir()) <= 8_000_000
    model = AutoModelForCausalLM.from_pretrained(POLICY_FOLDER)
    assert model.config.model_type == "qwen2"
    assert len(AutoTokenizer.from_pretrained(POLICY_FOLDER)) == model.config.vocab_size


@pytest.mark.parametrize(
    "text", ["Where was Zose Drartov born?\n", "naïve 日本 👩‍🚀 <search> x</search>\n\n", "a  b\t\\"]
)
def test_its_tokenizer_writes_what_it_reads(policy: Policy, text: str) -> None:
    assert policy.tokenizer.decode(policy.tokenizer.encode(text)) == text


def test_it_reads_well(policy: Policy) -> None:
    """Shown the passage of every hop after a search for it, it answers at least 85% of the test questions."""
    world = bundled_world()
    questions = world.questions["test"]
    rows = []
    for question in questions:
        hops: tuple[Hop, ...] = question.metadata["hops"]
        parts = [PROTOCOL.question_prompt(question.text)]
        for hop in hops:
            entity = question.metadata["named"] if hop is hops[0] else hop.entity
            parts += [f"<search> {entity}</search>", PROTOCOL.observation([world.by_id[hop.passage_id]])]
        rows.append(list(itertools.chain.from_iterable(policy.tokenizer.encode(part) for part in [*parts, "<answer>"])))
    decoder = Decoder(
        policy, turn_end(policy), slots=len(rows), max_new_tokens=6, temperature=0.0, kv_cache_tokens=10**6
    )
    place = {decoder.begin(row): number for number, row in enumerate(rows)}
    decoder.prefill()
    answers = [""] * len(rows)
    while decoder.writing:
        for slot, completion in decoder.decode_step():
            answers[place[slot]] = policy.tokenizer.decode(completion.ids).removesuffix("</answer>")
    ems = [exact_match(a, q.golden_answers) for a, q in zip(answers, questions, strict=True)]
    assert sum(ems) / len(ems) >= 0.85


def test_it_searches_poorly(policy: Policy) -> None:
    """Left alone, it answers at most 30% of the test questions, macro-averaged over the families."""
    questions = bundled_world().questions["test"]
    config = TrainConfig()
    engine = EpisodeStepper(
        questions, bundled_retriever(), None, EpisodeRules(max_searches=config.env.max_searches, protocol=PROTOCOL)
    )
    decoder = Decoder(
        policy, turn_end(policy), slots=128, max_new_tokens=config.rollout.max_new_tokens, temperature=0.0
    )
    played = play(decoder, engine, questions, seed=(config.seed,))
    assert macro_average(score(played)) <= 0.30
