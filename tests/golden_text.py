"""What our rewards, protocol and loss mask give on golden cases: one function per kind.

The originals read tags out of a whole transcript. Ours never do: they read turns, as recorded. So the helpers here
cut the golden texts into what the policy wrote and what it read, which in a rollout is known without looking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from golden_reader import Case, NotAsked

from igsearch.testing.buffers import buffer_of, search_turn, trajectory
from igsearch_env.protocols import Answer, Invalid, Search, make_protocol, parse
from igsearch_env.protocols.tags import format_passages
from igsearch_env.rewards import (
    autorefine_reward,
    exact_match,
    f1,
    normalize_answer,
    outcome_reward,
    sub_exact_match,
)
from retrievers import Passage

Outputs = dict[str, Any]
INVALID = "<INVALID_ACTION_MESSAGE>"

# ---------------------------------------------------------------- rewards


def normalisation(case: Case) -> Outputs:
    """Normalised answers."""
    return {"normalized": [normalize_answer(text) for text in case.get("strings")]}


def matches(case: Case) -> Outputs:
    """Exact and substring match."""
    tests = case.get("tests")
    return {
        "em": [exact_match(prediction, golds) for prediction, golds in tests],
        "subem": [sub_exact_match(prediction, golds) for prediction, golds in tests],
    }


def f1_scores(case: Case) -> Outputs:
    """SQuAD's F1."""
    return {"f1": [f1(prediction, golds) for prediction, golds in case.get("tests")]}


AUTOREFINE = make_protocol("autorefine")


def truncate(text: str) -> str:
    """A turn cut after its action, as Search-R1's `generation.py` does: at the first </search>, else </answer>."""
    for tag in AUTOREFINE.stop_strings:
        at = text.find(tag)
        if at >= 0:
            return text[: at + len(tag)]
    return text


def _turns(text: str) -> Iterator[str]:
    """What the policy wrote, turn by turn; what follows the last action is a turn too."""
    while text:
        turn = truncate(text)
        yield turn
        text = text[len(turn) :]


def _last_answer(text: str) -> str | None:
    """The originals take the last answer of a text. Our environment ends at the first, so a text has only one."""
    answers = [action.text for action in map(parse, _turns(text)) if isinstance(action, Answer)]
    return answers[-1] if answers else None


def transcript_score(case: Case) -> Outputs:
    """Search-R1 counts the example answer in its prompt: it wants two pairs. Ours starts after the prompt's pair."""
    predictions = [_last_answer(text.partition("</answer>")[2]) for text in case.get("texts")]
    scores = [outcome_reward("em", prediction, case.get("gold")) for prediction in predictions]
    return {"extracted": predictions, "score": scores}


def episode_score(case: Case) -> Outputs:
    """MR-Search's texts hold its retry prompt with an example answer, which it removes; ours never holds a prompt."""
    predictions = [_last_answer(text.replace("<answer> Beijing </answer>", "")) for text in case.get("texts")]
    golds = case.get("gold")
    return {
        "extracted": predictions,
        "em": [outcome_reward("em", prediction, golds) for prediction in predictions],
        "f1": [outcome_reward("f1", prediction, golds) for prediction in predictions],
    }


def refined_reward(case: Case) -> Outputs:
    """AutoRefine's reward, of the turns that are left when the documents are taken out of a response."""
    golds, score = case.get("gold"), case.get("refine_score")
    if case.get("format_score") != 0:
        raise AssertionError("no reward of ours has a format score")
    outputs: Outputs = {"f1_reward": [], "em_reward": []}
    for response in case.get("responses"):
        written = re.sub(r"<documents>.*?</documents>", "", response, flags=re.DOTALL)
        prediction = _last_answer(written)
        refined = [block for turn in _turns(written) for block in AUTOREFINE.finished_refinements(turn)]
        outputs["f1_reward"].append(autorefine_reward(prediction, golds, refined, refine_score=score))
        # The EM variant has no name here; it is exact match, else what a wrong answer earns.
        wrong = None if prediction is None else ""
        outputs["em_reward"].append(
            outcome_reward("em", prediction, golds) or autorefine_reward(wrong, golds, refined, refine_score=score)
        )
    return outputs


# ---------------------------------------------------------------- protocol


def _passages(result: Sequence[dict[str, Any]]) -> list[Passage]:
    return [
        Passage.from_contents(row["document"]["id"], row["document"]["contents"], row["score"], verbatim_title=True)
        for row in result
    ]


def documents(case: Case) -> Outputs:
    """Passages as the policy reads them."""
    return {"text": format_passages(_passages(case.get("result")))}


def actions(case: Case) -> Outputs:
    """Truncation, parsing and what the environment writes back."""
    result = case.get("result") if case.has("result") else case.siblings["passages2string"]["result"]
    protocol = make_protocol("search_r1")
    truncated = [truncate(text) for text in case.get("raw_responses")]
    parsed = [protocol.parse(text) for text in truncated]
    kinds: dict[type, str | None] = {Search: "search", Answer: "answer", Invalid: None}

    def observe(action: Search | Answer | Invalid, passages: Sequence[Passage]) -> str:
        if isinstance(action, Search):
            return protocol.observation(passages)
        if isinstance(action, Answer):
            return ""
        sentence = protocol.correction(action)
        # The wording is our own; it has to be there, apart from what comes before, and show both ways out.
        corrected = sentence.startswith("\n\n") and sentence.endswith("\n\n") and "<search>" in sentence
        return INVALID if corrected and "<answer>" in sentence else sentence

    done = [int(isinstance(action, Answer)) for action in parsed]
    idle = NotAsked("an episode that is over leaves the batch; no action is read for it")
    request = case.outputs.get("request_sent", {})
    return {
        "truncated": truncated,
        "action": [kinds[type(action)] for action in parsed],
        "content": [
            action.query if isinstance(action, Search) else action.text if isinstance(action, Answer) else ""
            for action in parsed
        ],
        "next_obs": [observe(action, _passages(result)) for action in parsed],
        "done": done,
        "valid_action": [int(not isinstance(action, Invalid)) for action in parsed],
        "is_search": [int(isinstance(action, Search)) for action in parsed],
        "final_call_next_obs": [observe(action, ()) for action in parsed],
        "final_call_done": done,
        "inactive_next_obs": idle,
        "inactive_done": idle,
        "request_sent": {
            **dict.fromkeys(request, NotAsked("options of the original's own server")),
            "queries": [action.query for action in parsed if isinstance(action, Search)],
        },
    }


def loss_mask(case: Case) -> Outputs:
    """Responses of several turns as one sequence. Ours ends with the last policy token: the rest teaches nothing."""
    pad, rounds = case.get("pad_id"), sum(bool(re.fullmatch(r"turn\d+_resp", key)) for key in case.inputs)
    rows = len(case.get("turn1_resp"))
    outputs: Outputs = {"attention_mask": NotAsked("every token of a row is attended, the pads after it never are")}
    for until in range(1, rounds + 1):
        members = []
        for row in range(rows):
            turns = []
            for number in range(1, until + 1):
                read = case.get(f"turn{number}_obs")[row] if case.has(f"turn{number}_obs") else ()
                written = [i for i in case.get(f"turn{number}_resp")[row] if i != pad]
                if written:
                    turns.append(search_turn(written, observation_ids=[i for i in read if i != pad]))
            members.append(trajectory(turns))
        buffer = buffer_of([members])
        golden = case.outputs[f"after_turn{until}"]
        masked = np.full(np.shape(golden["responses"]), pad)
        mask = np.zeros(masked.shape, dtype=int)
        cut = []
        for row, sequence in enumerate(buffer.sequences):
            ids, own = sequence.ids[1:], sequence.mask[1:]  # without the prompt
            masked[row, : len(ids)], mask[row, : len(ids)] = np.where(own, ids, pad), own
            rest = golden["responses"][row][len(ids) :]
            cut.append([*ids.tolist(), *rest])
        outputs[f"after_turn{until}"] = {"responses": cut, "responses_with_info_mask": masked}
        outputs["info_mask"] = mask
    return outputs
