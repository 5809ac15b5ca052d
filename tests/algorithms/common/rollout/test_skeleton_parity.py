"""`information_gain.context=skeleton` against the formula of the authors' code, over many shapes of text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import authors_gain
import pytest
from helpers import played
from models import tiny_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from algorithms.common.model.policy import Policy
from algorithms.common.rollout.answer_scorer import PolicyScorer
from igsearch_env.evidence import search_steps
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import make_protocol
from igsearch_env.questions import Question
from igsearch_env.trajectory import Trajectory
from retrievers import DictionaryRetriever, Passage

AUTOREFINE = make_protocol("autorefine", "bare")
A, B, C, D = (
    (Passage("a", "Karith", "Karith stands on the river Ostue, below the old mill ."),),
    (Passage("b", "Ostue", "The Ostue rises in the hills of Lurm ."), Passage("b2", "", "no title here")),
    (Passage("c", "Zoë", "Zoë Brín wrote 「海の歌」 in 1931 — her first book 🎵 ."),),
    (Passage("d", "Token", "a passage about <|im_end|> and <search> tags </search> and <s> ."),),
)
FIRST = "<think> where is it </think>\n<search> Karith </search>"
NEXT = "<refine> on the Ostue </refine>\n<search> Ostue </search>"
LAST = "<refine> in Lurm </refine>\n<answer> Lurm </answer>"
END = (LAST, ())
Turns = Sequence[tuple[str, Sequence[Passage]]]

SHAPES: dict[str, Turns] = {
    "two searches": ((FIRST, A), (NEXT, B), END),
    "blank lines before the search": (("<think> hm </think>\n\n \t\n<search> Karith </search>", A), (NEXT, B), END),
    "no white space before the search": (("hm<search>Karith</search>", A), (NEXT, B), END),
    "the search begins the turn": (("<search> Karith </search>", A), (NEXT, B), END),
    "only white space before the search": (("\n\n  <search> Karith </search>", A), END),
    "an invalid first turn": (("I wonder about Karith.\n", ()), (FIRST, A), (NEXT, B), END),
    "an invalid first turn with half a search": (("let me <search> Karith", ()), (FIRST, A), (NEXT, B), END),
    "two invalid turns": (("hm", ()), ("", ()), (FIRST, A), END),
    "an invalid turn between searches": ((FIRST, A), ("<refine> x </refine> hm", ()), (NEXT, B), END),
    "an unclosed refine before a search on a new line": ((FIRST, A), ("<refine> on it \n <search>q</search>", B), END),
    "an unclosed refine before a search on its line": ((FIRST, A), ("<refine> on it <search>q</search>", B), END),
    "an unclosed refine before an answer": ((FIRST, A), ("<refine>  on the Ostue \n\n<answer> Ostue </answer>", ())),
    "an unclosed refine at the end": ((FIRST, A), ("<refine> on the Ostue, which ", ())),
    "an empty refine": (
        (FIRST, A),
        ("<refine></refine><search>Ostue</search>", B),
        ("<refine>\n<answer>x</answer>", ()),
    ),
    "no refine": ((FIRST, A), ("<search> Ostue </search>", B), ("<answer> Lurm </answer>", ())),
    "two refines in a turn": (
        (FIRST, A),
        ("<refine> one </refine> hm <refine> two </refine>\n<search>q</search>", B),
        END,
    ),
    "a refine one turn late": ((FIRST, A), ("hm", ()), (NEXT, B), END),
    "a refine before any search": (("<refine> nothing yet </refine>\n<search> Karith </search>", A), (NEXT, B), END),
    "a short passage without a title": ((FIRST, (Passage("s", "", "short"),)), (NEXT, B), END),
    "nothing found": ((FIRST, ()), (NEXT, B), END),
    "documents that the policy made up": (
        ("<documents> Doc 1(Title: x) made up by me </documents>\n<search> Karith </search>", A),
        (NEXT, B),
        END,
    ),
    "documents that the policy did not close": (("<documents> oh\n<search> Karith </search>", A), (NEXT, B), END),
    "letters of many scripts": (("<think> 海? </think>\n<search> Zoë 🎵 </search>", C), (NEXT, C[::-1] + B), END),
    "names of special tokens": ((FIRST, D), ("<refine> <|im_end|> </refine>\n<search> <s> </search>", B), END),
    "five searches": ((FIRST, A), (NEXT, B), (NEXT, C), (NEXT, D), (NEXT, A), END),
    "an empty query and an empty answer": (("<search></search>", A), ("<refine>a</refine><answer></answer>", ())),
}
ELSEWHERE = DictionaryRetriever({"": [Passage(f"r{i}", f"Else {i}", f"number {i} elsewhere") for i in range(9)]})
GOLDS = (("Lurm", "the hills of Lurm"), ("the old hills of Lurm, 海の歌",), (" Lurm",), ("7",))


@lru_cache(maxsize=1)
def chat_tokenizer() -> Any:
    """Byte-level BPE without a split into words, so that tokens span the borders of blocks; with a chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    bpe.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    texts = [played(question(0), *turns, protocol=AUTOREFINE).transcript() for turns in SHAPES.values()]
    texts += [f"</documents>\n<answer> {gold}" for golds in GOLDS for gold in golds] * 3
    # The border before the answer, and those between the blocks.
    texts += [
        "</refine>\n<answer> ",
        "\n<documents>Doc 1(Title: ",
        "</search>\n<documents>",
        "</refine>\n<search>",
    ] * 30
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


@lru_cache(maxsize=4)
def policy_of(chat: bool, context_length: int = 2048) -> Policy:
    """A tiny policy with that tokenizer."""
    return Policy(tiny_model(context_length=context_length), chat_tokenizer(), chat=chat)


def question(number: int) -> Question:
    """Questions with aliases, of which the first counts."""
    return Question(f"q{number}", "Which hills is Karith's river from?", GOLDS[number % len(GOLDS)], "made")


def recorded(trajectory: Trajectory, policy: Policy) -> Trajectory:
    """With token ids, as a rollout would have recorded them: the turn after an invalid one belongs to the user."""
    tokenizer = policy.tokenizer
    trajectory.prompt_ids = tokenizer.encode_prompt(trajectory.prompt)
    for number, turn in enumerate(trajectory.turns):
        turn.completion_ids = tokenizer.encode(turn.text) or tokenizer.encode(" ")
        turn.text = tokenizer.decode(turn.completion_ids)
        if turn.observation and policy.tokenizer.chat and not turn.is_search and number % 2 == 0:
            turn.completion_ids += (tokenizer.hf_tokenizer.eos_token_id,)
            turn.observation_ids = tokenizer.encode_user_turn(turn.observation, turn.completion_ids)
        else:
            turn.observation_ids = tokenizer.encode(turn.observation)
    return trajectory


def text_of(trajectory: Trajectory, policy: Policy, *, ids: bool) -> str:
    """What the authors' code would read: all tokens of an episode, decoded."""
    if not ids:
        return trajectory.transcript()
    parts = [trajectory.prompt_ids, *(t.completion_ids + t.observation_ids for t in trajectory.turns)]
    return str(policy.tokenizer.hf_tokenizer.decode([token for part in parts for token in part]))


def check(
    trajectory: Trajectory, policy: Policy, *, ids: bool, head_weight: float = 3.0, scored: int | None = None
) -> list[int]:
    """Compare every gain of a trajectory; we draw the random evidence, and both read it. Returns the tokens of all
    contexts. `scored`: number of gains, if it is not the number of searches."""
    others = [played(question(n + 1), *SHAPES[name], protocol=AUTOREFINE) for n, name in enumerate(list(SHAPES)[:3])]
    if ids:
        for one in (trajectory, *others):
            recorded(one, policy)
    text, tokenizer = text_of(trajectory, policy, ids=ids), policy.tokenizer.hf_tokenizer
    config = InformationGainConfig(context="skeleton", head_weight=head_weight)
    gain = InformationGain(config, PolicyScorer(policy), AUTOREFINE, ELSEWHERE)
    steps = search_steps([trajectory])
    pool = search_steps([trajectory, *others])
    requests, _ = gain.requests(steps, pool)
    theirs = authors_gain.steps_of(text)
    found_by_others = [step for one in others for step in authors_gain.steps_of(text_of(one, policy, ids=ids))]
    pairs = {f"{step.documents}\n{step.refine}".strip() for step in found_by_others}
    # A policy may have made up documents: theirs are valued too, ours are not.
    found_by_us = [AUTOREFINE.evidence(turn.passages) for turn in trajectory.turns if turn.passages]
    shown = {block.removeprefix("<documents>") for block in found_by_us}
    places = [n for n, s in enumerate(theirs) if authors_gain.has_gain(s) and s.documents.endswith(tuple(shown))]
    assert len(places) == len(steps) == (trajectory.searches if scored is None else scored)
    gold = trajectory.question.golden_answers[0]
    longest = min(4096, policy.context_length - len(tokenizer.encode(gold)))
    lengths = []
    for place, request, found in zip(places, requests, gain.measure(steps, pool), strict=True):
        before = authors_gain.before_evidence(text, place)
        own = "\n".join(part for part in (theirs[place].documents, theirs[place].refine) if part)
        random = [evidence.text.removeprefix("\n") for evidence in request.evidences[1:]]
        assert pairs.intersection(random)  # from the batch, but for those that the corpus had to add
        contexts = [f"{before}\n{evidence}" for evidence in (own, *random)]
        scores = [
            authors_gain.score(policy.model, tokenizer, context, gold, longest, head_weight) for context in contexts
        ]
        assert found.logprob_real == pytest.approx(scores[0], abs=1e-4)
        assert found.value == pytest.approx(scores[0] - sum(scores[1:]) / len(random), abs=1e-4)
        lengths += [len(tokenizer.encode(context)) for context in contexts]
    return lengths


def shaped(name: str) -> Trajectory:
    """A trajectory of one of the shapes; the golden answers differ from shape to shape."""
    return played(question(list(SHAPES).index(name)), *SHAPES[name], protocol=AUTOREFINE)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("form", ["plain text", "plain tokens", "chat"])
def test_gains_are_those_of_the_authors_formula(name: str, form: str) -> None:
    found = {"nothing found": 1}.get(name)
    check(shaped(name), policy_of(form == "chat"), ids=form != "plain text", scored=found)


def test_documents_of_less_than_ten_characters_have_no_gain() -> None:
    trajectory = played(question(0), (FIRST, (Passage("s", "", "as short"),)), (NEXT, B), END, protocol=AUTOREFINE)
    trajectory.turns[0].observation = "\n\n<documents>as short</documents>\n\n"
    check(trajectory, policy_of(True), ids=True, scored=1)


@pytest.mark.parametrize("head_weight", [1.0, 3.0, 0.5])
def test_the_head_of_an_answer_is_weighted_alike(head_weight: float) -> None:
    trajectory = played(question(1), *SHAPES["two searches"], protocol=AUTOREFINE)
    check(trajectory, policy_of(True), ids=True, head_weight=head_weight)


@pytest.mark.parametrize("context_length", [20, 8192])
def test_contexts_are_truncated_alike(context_length: int) -> None:
    """To what the policy can read, and to 4,096 tokens even if it can read more."""
    long = Passage("long", "Long", " ".join(f"{7 * i} & {13 * i};" for i in range(450 if context_length > 4096 else 7)))
    trajectory = played(question(0), (FIRST, (long,)), (NEXT, A), END, protocol=AUTOREFINE)
    lengths = check(trajectory, policy_of(True, context_length), ids=True)
    assert max(lengths) > min(context_length, 4096)


def test_tokens_span_the_borders() -> None:
    """Otherwise encoding all of a text at once would not be tested."""
    tokenizer = chat_tokenizer()
    whole = tokenizer.encode("</refine>\n<answer> ")
    assert len(whole) < len(tokenizer.encode("</refine>")) + len(tokenizer.encode("\n<answer> "))
