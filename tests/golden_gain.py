"""What our information gain gives on golden cases of IG-Search: one function per kind.

The original reads the steps out of a transcript by its tags; ours gets them recorded. `read_transcript` does the
recording that a rollout would have done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from golden_reader import Case, NotAsked
from golden_text import truncate

from igsearch_env.evidence import SearchStep, search_steps
from igsearch_env.information_gain import InformationGain, InformationGainConfig
from igsearch_env.protocols import Answer, Search, make_protocol
from igsearch_env.protocols.tags import refine_span
from igsearch_env.questions import Question
from igsearch_env.scorers import ScoreRequest, weighted_mean
from igsearch_env.trajectory import ANSWERED, Trajectory, Turn
from retrievers import DictionaryRetriever, Passage

Outputs = dict[str, Any]
AUTOREFINE = make_protocol("autorefine")
DOCUMENT = re.compile(r"Doc \d+\(Title: (.*?)\) (.*?)(?=\nDoc \d+\(Title: |\Z)", re.DOTALL)


def _read_passages(block: str) -> tuple[Passage, ...]:
    """The passages that a block of documents shows.

    Free text stands in a passage without a title, see `_as_written`.
    """
    found = DOCUMENT.findall(block) or [("", block.strip())]
    return tuple(Passage(f"{title}-{text}", title, text) for title, text in found)


def _as_written(text: str, trajectory: Trajectory) -> str:
    """`text` with the documents that are free text as they stand in the transcript, without our `Doc 1(Title: )`."""
    for turn in trajectory.turns:
        if turn.passages and not turn.passages[0].title:
            text = text.replace(AUTOREFINE.evidence(turn.passages), turn.observation.strip())
    return text


def read_transcript(text: str, number: int = 0, gold: str = "gold") -> Trajectory:
    """A golden transcript as a trajectory: the prompt ends with the chat's assistant mark, a turn with its action."""
    marker = "<|im_start|>assistant\n"
    place = text.find(marker) + len(marker) if marker in text else 0
    prompt, rest = text[:place], text[place:]
    turns = []
    while rest:
        written = truncate(rest)
        rest = rest[len(written) :]
        turn = Turn(written, AUTOREFINE.parse(written))
        block = re.match(r"\s*<documents>(.*?)</documents>\s*", rest, re.DOTALL) if turn.is_search else None
        if block:
            turn.observation, rest = block[0], rest[block.end() :]
            turn.passages = _read_passages(block[1])
        turns.append(turn)
    question = Question(f"q{number}", f"Question {number}?", (gold, "an alias that is not scored"), "golden")
    return Trajectory(question, prompt, turns, None, 0.0, ANSWERED)


def transcript_steps(case: Case) -> Outputs:
    """Searches, their documents and refinements, and where these stand in the transcript."""
    outputs: list[list[dict[str, Any]]] = []
    for text in case.get("texts"):
        trajectory = read_transcript(text)
        if trajectory.transcript() != text:
            raise AssertionError(f"the trajectory reads {trajectory.transcript()!r}, the golden text is {text!r}")
        steps: list[dict[str, Any]] = []
        valued = {step.index for step in search_steps([trajectory])}
        position = len(trajectory.prompt)
        for index, turn in enumerate(trajectory.turns):
            position += len(turn.text)
            if turn.is_search and turn.observation:
                written = trajectory.turns[index + 1].text if index + 1 < len(trajectory.turns) else ""
                span = refine_span(written)
                # A search is valued where it brought documents, which then read as in the transcript.
                block = turn.observation.strip()
                if index in valued:
                    block = _as_written(AUTOREFINE.evidence(turn.passages), trajectory)
                start = position + turn.observation.index("<documents>")
                end = start + len(block)
                steps.append(
                    {
                        "step_index": len(steps),
                        "info_text": block,
                        "refine_text": written[slice(*span)] if span else "",
                        "info_start": start,
                        "info_end": end,
                        "context_end": position + len(turn.observation) + span[1] if span else end,
                    }
                )
            position += len(turn.observation)
        outputs.append(steps)
    return {"steps": outputs}


def _skeleton(random: int, retriever: DictionaryRetriever | None = None, scorer: Any = None) -> InformationGain:
    config = InformationGainConfig(context="skeleton", num_random=random)
    return InformationGain(config, scorer, AUTOREFINE, retriever)


def _branches(request: ScoreRequest) -> list[str]:
    context = "".join(segment.text for segment in request.context)
    return [context + evidence.text for evidence in request.evidences]


def contexts(case: Case) -> Outputs:
    """What the scorer reads, real and random.

    The random evidence is another question's search. Its passages can't read as the golden's replacement does, so
    what they do read as is put there in the golden's words before comparing.
    """
    documents, refined = case.get("replacement")
    trajectory = read_transcript(case.get("text"))
    steps = search_steps([trajectory])
    outputs: Outputs = {}
    for suffix, refine in (("", refined), ("_no_refine", "")):
        other = read_transcript("<search>r</search><documents>Doc 1(Title: Elsewhere) unrelated</documents>", number=1)
        other.turns.append(Turn(f"{refine}<answer>a</answer>", Answer("a")))
        requests, _ = _skeleton(1).requests(steps, search_steps([other]))
        theirs = AUTOREFINE.evidence(other.turns[0].passages)
        for number, request in enumerate(requests):
            if request.answer_prefix != "\n<answer> " or request.answer != "gold":
                raise AssertionError(f"scores {request.answer!r} after {request.answer_prefix!r}")
            real, random = (_as_written(text, trajectory) for text in _branches(request))
            outputs[f"real_step{number}"] = real
            outputs[f"rand_step{number}{suffix}"] = random.replace(theirs, documents)
    return outputs


def sequences(case: Case) -> Outputs:
    """Which branches of which steps are scored, with which answer.

    The transcripts are those of the parsing case. The inputs don't name the golden answers, so the outputs do; each
    question gets another alias, which must not be scored.
    """
    if case.get("max_gold_variants") != 1:
        raise AssertionError(f"max_gold_variants={case.get('max_gold_variants')}: ours scores the first answer alone")
    case.ignore("of the random evidence only the number is compared", "seed")
    texts = case.get("texts") if case.has("texts") else case.siblings["igsearch_parse"]["texts"]
    golds = {sample: gold for sample, _, _, _, gold in case.outputs["seqs"]}
    trajectories = [read_transcript(text, i, golds.get(i, "unscored")) for i, text in enumerate(texts)]
    passages = [Passage(f"r{i}", f"Title {i}", f"unrelated text {i}") for i in range(4)]
    gain = _skeleton(case.get("n_random_per_step"), DictionaryRetriever({"": passages}))
    steps = search_steps(trajectories)
    requests, _ = gain.requests(steps)
    rows = []
    for step, request in zip(steps, requests, strict=True):
        sample = next(i for i, t in enumerate(trajectories) if t is step.trajectory)
        searches = [i for i, turn in enumerate(step.trajectory.turns) if turn.is_search]
        for branch in range(len(_branches(request))):
            kind = "random" if branch else "real"
            rows.append([sample, searches.index(step.index), 0, kind, request.answer])
    return {"seqs": rows}


class _Recorded:
    """A scorer that gives the golden's scores."""

    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = scores

    def score(self, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """One row per request."""
        if len(requests) != len(self.scores):
            raise AssertionError(f"{len(requests)} requests, {len(self.scores)} scores")
        return self.scores


def gains(case: Case) -> Outputs:
    """Gains out of answer token log-probs. The layout lists the rows: `0:1 R,r,r` is sample 0, step 1."""
    layout = re.findall(r"(\d+):(\d+) (R(?:,r)+)", case.get("layout"))
    case.ignore("the mean over the steps of a rollout is not compared, see below", "aggregation")
    head = {"head_tokens": case.get("n_head_tokens"), "head_weight": case.get("head_weight")}
    rows = iter(
        weighted_mean(logprobs[:length], **head)
        for logprobs, length in zip(case.get("log_probs"), case.get("answer_lengths"), strict=True)
    )
    scores = [[next(rows) for _ in branches.split(",")] for _, _, branches in layout]
    passages = [Passage(f"p{i}", f"Title {i}", f"text of passage {i}") for i in range(9)]
    steps = []
    for number in range(len(layout)):
        turn = Turn("<search>q</search>", Search("q"), passages=(passages[number % 9],))
        question = Question(f"q{number}", "Question?", ("gold",), "golden")
        steps.append(SearchStep(Trajectory(question, "", [turn]), 0))
    retriever = DictionaryRetriever({"": passages})
    measured = [
        _skeleton(len(row) - 1, retriever, _Recorded([row])).measure([step], steps)[0]
        for step, row in zip(steps, scores, strict=True)
    ]
    samples: dict[str, list[float]] = {}
    for (sample, _, _), gain in zip(layout, measured, strict=True):
        samples.setdefault(sample, []).append(gain.value)
    derived = NotAsked("arithmetic on the gains above, for the original's logs")
    return {
        "step_igs": samples,
        "r_ig": derived,
        "stats": {
            **{key: derived for key in case.outputs.get("stats", {})},
            "ig/logp_real_mean": np.mean([gain.logprob_real for gain in measured]),
            "ig/logp_baseline_mean": np.mean([gain.logprob_baseline for gain in measured]),
            "ig/n_search_steps": len(measured),
        },
    }
