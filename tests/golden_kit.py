"""An entry put on the six fixed tokens: which of the fixture's streams and models play its streams and teachers, its loss, its gradient.

The fixture's `old` is the student that wrote a stream. Where an entry takes one optimizer step per rollout, that is the
student being trained, so such streams are taken with `old` equal to `student`; streams that are used again keep both,
and their ratios differ from 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden.fixture import ROLES, TOP_K, Fixture, crowd, dialogues, six_tokens
from tests.golden.fixture import Stream as GoldenStream
from tests.golden.list_signal import SIGNAL_MODELS, SIGNAL_STREAMS
from tests.golden.loss import Reference
from tests.golden.reference_outcome_policy import mark
from tests.golden_contexts import MODELS_IN_CONTEXT, STREAMS_IN_CONTEXT, absent_of, turn_rewards_of, verdict_elsewhere
from zoo.components.base import Slot, Strict
from zoo.components.rewards import Consensus, Elsewhere, Overlong, Structure, Verifier
from zoo.components.rewards.asked import Asked
from zoo.components.rewards.base import Answered
from zoo.components.rollouts import Corpus, Dataset, Interleaved, Mixture, Prefix, Stream, Student, Teacher
from zoo.components.teachers import Composite
from zoo.entry import MethodEntry
from zoo.entry.loading import SHORT, expand
from zoo.method import Method, annotate
from zoo.paths import data_root
from zoo.statistics import Statistic, TokenContext
from zoo.tensors import Author, Prompt, Rollout
from zoo.views import LogitView
from zoo.yamlio import load_model

SIX, CROWD, DIALOGUES = six_tokens(), crowd(), dialogues()
RELATIVE = 1e-6  # scales are float32 by design
FILES = {file.stem: file for file in (data_root() / "registry" / "methods").rglob("*.yaml")}

# Streams and teachers of an entry that are played by another stream or model of the fixture than its `fixture_name` and `fixture_model` say.
STREAMS: dict[str, dict[str, str]] = {
    "offline_opkd": {"main": "main"},
    "warmup_distill": {"corrected": "theirs"},
    "raft_domain": {"rewritten": "theirs"},
    "lightning_opd": {"main": "main"},
    "state_view_continuation": {"main": "theirs"},
    "self_eval_opd": {"labelled": "data"},
    "dagger_llm": {"relabelled": "main"},
    **STREAMS_IN_CONTEXT,
    **SIGNAL_STREAMS,
}
PEERS = {"right": "right", "wrong": "wrong"}
MODELS: dict[str, dict[str, str]] = {
    "delta_kd": {"base": "base"},
    "rlcsd": PEERS,
    "ogls_sd": {**PEERS, "steered": "reference"},
    "va_opd": {"blind": "teacher_blind"},
    "codistill_grpo": {"partner": "peer"},
    "credit_pmi": {"elsewhere": "elsewhere"},
    "lightning_opd": {"start": "reference"},
    "camopd": {"domain": "reference"},
    "orbit_modes": {"brief": "reference"},
    "tts_spec": {"before": "old"},
    "decomposed_opd": {"teacher_blind": "teacher_blind", "student_blind": "blind"},
    "npd": {"teacher_bare": "teacher_blind", "student_bare": "blind"},
    "aligndistil": {"good": "teacher", "bad": "base"},
    "supercorrect": {"stage_one": "reference"},
    "unisd": {"hinted": "right", "answered": "wrong", "begun": "elsewhere"},
    **MODELS_IN_CONTEXT,
    **SIGNAL_MODELS,
}


LABELS = "labels"  # the law of a teacher that is given text


@dataclass(frozen=True)
class Result:
    """Value of each term of the objective, and the gradient in the student's logits by the fixture's stream names."""

    values: list[float]
    gradients: dict[str, Tensor]

    @property
    def loss(self) -> float:
        return sum(self.values)


def fixture_name(stream: Stream) -> str:
    """Which of the fixture's streams plays a stream of an entry."""
    if isinstance(stream, Dataset | Corpus):
        return "data" if isinstance(stream, Dataset) else "corpus"
    return "theirs" if isinstance(stream, Teacher) else "main"


def played_by(entry: MethodEntry) -> dict[str, str]:
    """The fixture's stream for each stream of an entry."""
    return {name: fixture_name(stream) for name, stream in entry.rollouts.items()} | STREAMS.get(entry.id, {})


def models_of(entry: MethodEntry) -> dict[str, str]:
    """The fixture's model for each scorer of an entry: a self-teacher is `self`, any other `teacher`, unless `MODELS` says so."""
    own = {
        name: LABELS if teacher.given else "self" if teacher.lineage else "teacher"
        for name, teacher in entry.teachers.items()
        if not isinstance(teacher, Composite)
    }
    return {"reference": "reference", **own, **MODELS.get(entry.id, {})}


def with_top_k(value: Any, k: int) -> Any:
    """The same tree with no top-k support or statistic above `k`: the published ones exceed the fixture's vocabulary."""
    if isinstance(value, Strict):
        changed = {name: with_top_k(getattr(value, name), k) for name in type(value).model_fields}
        cut = {name: min(changed[name], k) for name in ("k", "top_k") if isinstance(changed.get(name), int)}
        return value.model_copy(update={**changed, **cut})
    if isinstance(value, dict):
        return {key: with_top_k(inner, k) for key, inner in value.items()}
    return tuple(with_top_k(inner, k) for inner in value) if isinstance(value, tuple) else value


def load(name: str) -> MethodEntry:
    """An entry's body on the fixture; whether its claims hold is for `tests/test_entries.py` to say."""
    entry = with_top_k(load_model(MethodEntry, FILES[name], expand, SHORT), TOP_K)
    assert isinstance(entry, MethodEntry)
    return entry


def changed(entry: MethodEntry, change: Mapping[str, Any]) -> MethodEntry:
    """The entry with some fields replaced: `field` in every signal term that has it (a `reduce` in all terms), `1.field` in the second term."""

    def apply(index: int, term: Any) -> Any:
        everywhere = {name: value for name, value in change.items() if "." not in name and name in type(term).model_fields}
        everywhere = everywhere if term.role == "signal" or "reduce" in change else {}
        here = {name.removeprefix(f"{index}."): value for name, value in change.items() if name.startswith(f"{index}.")}
        new = {n: v if isinstance(v, float | tuple) else Slot(n).validate(v) for n, v in {**everywhere, **here}.items()}
        return term.model_copy(update=new)

    return entry.model_copy(update={"objective": tuple(apply(i, term) for i, term in enumerate(entry.objective))})


def as_written(entry: MethodEntry, fixture: Fixture = SIX) -> Fixture:
    """The fixture in which streams that serve one step were written by the student itself."""
    learned = {name for term in entry.objective for name in term.streams()}
    for own, name in played_by(entry).items():
        reuse = entry.rollouts[own].reuse
        if own in learned and reuse.epochs * reuse.minibatches * reuse.refresh_every == 1:
            fixture = fixture.with_logits(name, old=fixture[name].logits["student"])
    return fixture


def behaviour_logp(stream: Stream, data: GoldenStream) -> np.ndarray[Any, Any]:
    """Log-probabilities under whoever wrote the tokens; NaN for given texts. The initial student wrote what is scored afresh later."""
    if isinstance(stream, Dataset | Corpus):
        return np.full(data.mask_BT.shape, math.nan)
    if isinstance(stream, Mixture) and stream.per == "token":
        parts = zip(stream.names, stream.shares, strict=True)
        laws = {name: np.exp(data.sampled("old" if name == "student" else name)) for name in stream.names if name == "student" or name in data.logits}
        given = (data.gold_BT == data.response_BT).astype(np.float64)  # an author that is no model writes the label
        return np.asarray(np.log(np.maximum(sum(w * laws.get(name, given) for name, w in parts), 1e-30)))
    if isinstance(stream, Prefix) and stream.supervise == "all":
        given = isinstance(stream.of, Dataset | Corpus)
        return np.where(data.given_BT, math.nan if given else data.sampled("teacher"), data.sampled("old"))
    if isinstance(stream, Student) and stream.context is not None:
        return data.sampled("self")
    return data.sampled("teacher" if isinstance(stream, Teacher) else "reference" if stream.reuse.refresh_every > 1 else "old")


AUTHORS = {Dataset: Author.DATASET, Corpus: Author.CORPUS, Teacher: Author.TEACHER}


def authors_of(stream: Stream, data: GoldenStream) -> np.ndarray[Any, Any]:
    """Who wrote each token; the first half of a text that a stream goes on from is its giver's."""
    shape = data.mask_BT.shape
    if isinstance(stream, Prefix) and stream.supervise == "all":
        return np.where(data.given_BT, int(AUTHORS.get(type(stream.of), Author.STUDENT)), int(Author.STUDENT))
    author_BT = np.full(shape, int(AUTHORS.get(type(stream), Author.STUDENT)))
    if isinstance(stream, Mixture) and stream.per == "group_member":  # the last member of each group is the teacher's
        author_BT[[int(np.flatnonzero(data.group_B == group)[-1]) for group in np.unique(data.group_B)]] = int(Author.TEACHER)
    if isinstance(stream, Interleaved):  # the teacher wrote where its favourite is not the student's
        author_BT[data.logp("old").argmax(-1) != data.logp("teacher").argmax(-1)] = int(Author.TEACHER)
    return author_BT if data.role_BT is None else np.where(data.role_BT == ROLES.index("reply"), int(Author.ENVIRONMENT), author_BT)


def rollout_of(stream: Stream, data: GoldenStream) -> Rollout:
    rows, width = data.mask_BT.shape
    given = isinstance(stream, Dataset | Corpus)
    return Rollout(
        prompts=tuple(Prompt(id=f"prompt-{i}", text="") for i in range(rows)),
        prompt_ids=((0,),) * rows,
        response_BT=torch.from_numpy(data.response_BT),
        mask_BT=torch.from_numpy(data.mask_BT),
        author_BT=torch.from_numpy(authors_of(stream, data)),
        behaviour_logp_BT=torch.from_numpy(behaviour_logp(stream, data)),
        student_logp_BT=torch.from_numpy(np.full((rows, width), math.nan) if given else data.sampled("old")),
        group_B=torch.from_numpy(data.group_B),
        finished_B=torch.ones(rows, dtype=torch.bool) if data.finished_B is None else torch.from_numpy(data.finished_B),
        turn_BT=None if data.turn_BT is None else torch.from_numpy(data.turn_BT),
        role_BT=None if data.role_BT is None else torch.from_numpy(data.role_BT),
    )


def rewards_of(method: Method, name: str, data: GoldenStream, rollout: Rollout, streams: Mapping[str, GoldenStream] | None = None) -> dict[str, Tensor]:
    """The sequence rewards of a stream: the verdict on an answer, another rule's, what judges say, each its own, what is made of these, and verdicts
    on the same prompt in another of `streams`."""
    values: dict[str, Tensor] = {}
    asked = [own for own, reward in method.sequence_rewards(name).items() if isinstance(reward, Asked) and not isinstance(reward, Consensus | Elsewhere)]
    finished = rollout.finished_B.tolist()
    answers = [Answered("", int(tokens), ended) for tokens, ended in zip(data.mask_BT.sum(axis=1), finished, strict=True)]
    for own, reward in method.sequence_rewards(name).items():
        given_B = data.reward_B if isinstance(reward, Consensus) or (isinstance(reward, Verifier) and reward.check == "answer") else data.shape_B
        given_B = mark(data, asked.index(own)) if own in asked else given_B
        given_B = verdict_elsewhere(reward, (streams or {})[reward.on]) if isinstance(reward, Elsewhere) else given_B
        counted = isinstance(reward, Overlong) or (isinstance(reward, Structure) and reward.at_least is not None)
        values[own] = reward.measure(answers, values, lambda _: torch.zeros(0)) if counted or reward.reads() else torch.from_numpy(given_B)
    return values


def view_of(method: Method, data: GoldenStream, student_BTV: Tensor, chunk: slice) -> tuple[LogitView, Tensor]:
    """The supervised tokens of a chunk as the entry's scorers see them, and their places in the flattened batch.

    A routed teacher sends sequence i to its member i modulo their number.
    """
    place_N = torch.from_numpy(data.mask_BT).flatten().nonzero()[:, 0][chunk]
    tables = {name: torch.from_numpy(data.logits[model]) for name, model in models_of(method.entry).items() if model != LABELS}
    gold_BTV = torch.from_numpy(np.where(np.eye(student_BTV.shape[-1], dtype=bool)[data.gold_BT], 0.0, -np.inf))
    tables |= {name: gold_BTV for name, model in models_of(method.entry).items() if model == LABELS}
    logits = {name: (lambda table=table: table.flatten(0, 1)[place_N]) for name, table in {**tables, "student": student_BTV}.items()}
    values = dict.fromkeys(method.entry.learners, lambda: torch.from_numpy(data.value_BT).flatten()[place_N])
    member_N = place_N // data.mask_BT.shape[1]
    made = {name: teacher for name, teacher in method.entry.teachers.items() if isinstance(teacher, Composite)}
    mixes = method.mixes({name: member_N % len(teacher.members) for name, teacher in made.items()})
    return LogitView(torch.from_numpy(data.response_BT).flatten()[place_N], logits, method.targets, values, mixes=mixes), place_N


def context_of(method: Method, name: str, data: GoldenStream, streams: Mapping[str, GoldenStream] | None = None) -> TokenContext:
    """Columns and rewards as they are when the stream has just been written."""
    rollout, columns = rollout_of(method.entry.rollouts[name], data), dict[Statistic, Tensor]()
    view, _ = view_of(method, data, torch.from_numpy(data.logits["old"]), slice(None))
    annotate(method.statistics(name), view, rollout.mask_BT, slice(None), columns)
    rewards, turns = rewards_of(method, name, data, rollout, streams), turn_rewards_of(method, name, data)
    return TokenContext(rollout, columns, rewards, absent=absent_of(method.entry, data), turn_rewards=turns)


def evaluate(entry: MethodEntry, fixture: Fixture, chunk: int = 6, progress: float = 0.0, measured: Mapping[Any, float] | None = None) -> Result:
    """Value and gradient of an entry's loss at a share of its run, its tokens taken `chunk` at a time.

    Schedules that follow a measure are at the `measured` numbers, others where `progress` puts them; terms at rest have the value 0.
    """
    method = Method(entry, progress, measured)
    playing = played_by(entry)
    streams = {name: fixture[stream] for name, stream in playing.items()}
    data = {name: stream for name, stream in streams.items() if name in method.learned}
    prepared = method.prepare({name: context_of(method, name, stream, streams) for name, stream in data.items()})
    # A preference is a function of whole sequences: its value is known beforehand, and its chunks carry only the gradient.
    known = {part.term: float(part.value) for part in prepared if part.value is not None}
    values, gradients = [known.get(i, 0.0) for i in range(len(entry.objective))], dict[str, Tensor]()
    for name, stream in data.items():
        parts = [part for part in prepared if part.stream == name]
        student_BTV = torch.from_numpy(stream.logits["student"]).clone().requires_grad_()
        for start in range(0, int(stream.mask_BT.sum()), chunk):
            view, place_N = view_of(method, stream, student_BTV, slice(start, start + chunk))
            loss, shares = method.chunk_loss(parts, view, lambda column_BT, at=place_N: column_BT.flatten()[at])  # type: ignore[misc]
            loss.backward()  # type: ignore[no-untyped-call]
            for part, share in zip(parts, shares, strict=True):
                values[part.term] += 0.0 if part.term in known else float(share)
        assert student_BTV.grad is not None
        gradients[playing[name]] = gradients.get(playing[name], torch.zeros_like(student_BTV.grad)) + student_BTV.grad
    return Result(values, gradients)


def assert_gradients(result: Result, expected: Mapping[str, np.ndarray[Any, Any]]) -> None:
    assert result.gradients.keys() == expected.keys()
    for name, gradient_BTV in expected.items():
        np.testing.assert_allclose(result.gradients[name].numpy(), gradient_BTV, rtol=0, atol=RELATIVE * np.abs(gradient_BTV).max(), err_msg=name)


def assert_equal(entry: MethodEntry, reference: Reference, fixture: Fixture, **moment: Any) -> None:
    result = evaluate(entry, fixture, **moment)
    assert result.loss == pytest.approx(reference(fixture).loss, rel=RELATIVE)
    assert_gradients(result, reference.gradient(fixture))
