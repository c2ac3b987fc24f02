"""Each entry, put together by the package, against the independent numpy references on six fixed tokens: value and gradient.

The fixture's `old` is the student that wrote a stream. Where an entry takes one optimizer step per rollout, that is the
student being trained, so such streams are compared with `old` equal to `student`; streams that are used again keep both,
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

from tests.golden.fixture import TOP_K, Fixture, six_tokens
from tests.golden.fixture import Stream as GoldenStream
from tests.golden.reference import REFERENCES, VARIANTS, Reference
from zoo.components.base import Slot, Strict
from zoo.components.ratios import Importance
from zoo.components.rollouts import Corpus, Dataset, Mixture, Stream, Teacher
from zoo.components.supports import TopK
from zoo.entry import MethodEntry, load_registry
from zoo.method import Method, annotate
from zoo.statistics import Statistic, TokenContext
from zoo.tensors import Author, Prompt, Rollout
from zoo.views import LogitView

SIX = six_tokens()
REGISTRY = load_registry()
RELATIVE = 1e-6  # scales are float32 by design

# The reference carries the importance ratio, which is 1 here; without it the surrogate's value is -A log p, not -A.
OTHER_SURROGATE = frozenset({"tml_opd"})

# Other readings of a card, each one field of the entry away.
CHANGES: dict[tuple[str, str], dict[str, Any]] = {
    ("seqkd", "token_sum"): {"reduce": "sum"},
    ("gkd", "sequence_mean"): {"reduce": "sequence_mean"},
    ("gkd", "forward_kl"): {"divergence": "forward_kl"},
    ("gkd", "reverse_kl"): {"divergence": "reverse_kl"},
    ("minillm", "code_return"): {"credit": {"kind": "discounted", "gamma": 0.95, "from": "this", "per_length": True}},
    ("distillm", "skew_reverse_kl"): {"divergence": {"kind": "skew_reverse_kl", "skew": 0.1}},
    ("eopd", "token_mean"): {"reduce": "token_mean"},
    ("aopd", "token_mean"): {"reduce": "token_mean"},
    ("opsd", "temperature_1"): {"temperature": 1.0},
    ("opsd", "first_release"): {"divergence": {"kind": "generalized_jsd", "beta": 0.5}, "shaping": ()},
    ("grpo", "token_mean"): {"reduce": "token_mean"},
    ("kdrl", "sequence_mean"): {"reduce": "sequence_mean"},
}


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


def with_top_k(value: Any, k: int) -> Any:
    """The same tree with every top-k support cut to `k`: the published ones exceed the fixture's vocabulary."""
    if isinstance(value, Strict):
        changed = {name: with_top_k(getattr(value, name), k) for name in type(value).model_fields}
        return value.model_copy(update={**changed, **({"k": k} if isinstance(value, TopK) else {})})
    if isinstance(value, dict):
        return {key: with_top_k(inner, k) for key, inner in value.items()}
    return tuple(with_top_k(inner, k) for inner in value) if isinstance(value, tuple) else value


def load(name: str) -> MethodEntry:
    entry = with_top_k(REGISTRY[name], TOP_K)
    assert isinstance(entry, MethodEntry)
    return entry


def changed(entry: MethodEntry, change: Mapping[str, Any]) -> MethodEntry:
    """The entry with some fields replaced in every term that has them."""

    def apply(term: Any) -> Any:
        fields = type(term).model_fields
        new = {n: v if isinstance(v, float | tuple) else Slot(n).validate(v) for n, v in change.items() if n in fields}
        return term.model_copy(update=new) if term.role == "signal" or "reduce" in change else term

    return entry.model_copy(update={"objective": tuple(apply(term) for term in entry.objective)})


def as_written(entry: MethodEntry) -> Fixture:
    """The fixture in which streams that serve one step were written by the student itself."""
    fixture = SIX
    for stream in entry.rollouts.values():
        if stream.reuse.epochs * stream.reuse.minibatches * stream.reuse.refresh_every == 1:
            name = fixture_name(stream)
            fixture = fixture.with_logits(name, old=fixture[name].logits["student"])
    return fixture


def behaviour_logp(stream: Stream, data: GoldenStream) -> np.ndarray[Any, Any]:
    """Log-probabilities under whoever wrote the tokens; NaN for given texts."""
    if isinstance(stream, Dataset | Corpus):
        return np.full(data.mask_BT.shape, math.nan)
    if isinstance(stream, Mixture) and stream.per == "token":
        parts = zip(stream.names, stream.shares, strict=True)
        return np.asarray(np.log(sum(w * np.exp(data.sampled("old" if name == "student" else name)) for name, w in parts)))
    return data.sampled("teacher" if isinstance(stream, Teacher) else "old")


def rollout_of(stream: Stream, data: GoldenStream) -> Rollout:
    rows, width = data.mask_BT.shape
    given = isinstance(stream, Dataset | Corpus)
    author = {"data": Author.DATASET, "corpus": Author.CORPUS, "theirs": Author.TEACHER, "main": Author.STUDENT}[fixture_name(stream)]
    return Rollout(
        prompts=tuple(Prompt(id=f"prompt-{i}", text="") for i in range(rows)),
        prompt_ids=((0,),) * rows,
        response_BT=torch.from_numpy(data.response_BT),
        mask_BT=torch.from_numpy(data.mask_BT),
        author_BT=torch.full((rows, width), int(author)),
        behaviour_logp_BT=torch.from_numpy(behaviour_logp(stream, data)),
        student_logp_BT=torch.from_numpy(np.full((rows, width), math.nan) if given else data.sampled("old")),
        group_B=torch.from_numpy(data.group_B),
        finished_B=torch.ones(rows, dtype=torch.bool),
    )


def view_of(method: Method, data: GoldenStream, student_BTV: Tensor, chunk: slice) -> tuple[LogitView, Tensor]:
    """The supervised tokens of a chunk as the entry's scorers see them, and their places in the flattened batch."""
    place_N = torch.from_numpy(data.mask_BT).flatten().nonzero()[:, 0][chunk]
    models = {name: "self" if teacher.lineage else "teacher" for name, teacher in method.entry.teachers.items()}
    tables = {name: torch.from_numpy(data.logits[model]) for name, model in {"reference": "reference", **models}.items()}
    logits = {name: (lambda table=table: table.flatten(0, 1)[place_N]) for name, table in {**tables, "student": student_BTV}.items()}
    return LogitView(torch.from_numpy(data.response_BT).flatten()[place_N], logits, method.targets), place_N


def context_of(method: Method, name: str, data: GoldenStream) -> TokenContext:
    """Columns and rewards as they are when the stream has just been written."""
    rollout, columns = rollout_of(method.entry.rollouts[name], data), dict[Statistic, Tensor]()
    view, _ = view_of(method, data, torch.from_numpy(data.logits["old"]), slice(None))
    annotate(method.statistics(name), view, rollout.mask_BT, slice(None), columns)
    return TokenContext(rollout, columns, {reward: torch.from_numpy(data.reward_B) for reward in method.verifiers(name)})


def evaluate(entry: MethodEntry, fixture: Fixture, chunk: int = 6) -> Result:
    """Value and gradient of an entry's loss, its tokens taken `chunk` at a time."""
    method = Method(entry)
    data = {name: fixture[fixture_name(stream)] for name, stream in entry.rollouts.items()}
    prepared = method.prepare({name: context_of(method, name, stream) for name, stream in data.items()})
    # A preference is a function of whole sequences: its value is known beforehand, and its chunks carry only the gradient.
    known = {part.term: float(part.value) for part in prepared if part.value is not None}
    values, gradients = [known.get(i, 0.0) for i in range(len(entry.objective))], {}
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
        gradients[fixture_name(entry.rollouts[name])] = student_BTV.grad
    return Result(values, gradients)


def assert_gradients(result: Result, expected: Mapping[str, np.ndarray[Any, Any]]) -> None:
    assert result.gradients.keys() == expected.keys()
    for name, gradient_BTV in expected.items():
        np.testing.assert_allclose(result.gradients[name].numpy(), gradient_BTV, rtol=0, atol=RELATIVE * np.abs(gradient_BTV).max(), err_msg=name)


def assert_equal(entry: MethodEntry, reference: Reference, fixture: Fixture) -> None:
    result = evaluate(entry, fixture)
    assert result.loss == pytest.approx(reference(fixture).loss, rel=RELATIVE)
    assert_gradients(result, reference.gradient(fixture))


@pytest.mark.parametrize("name", REFERENCES)
def test_entry_has_the_gradient_and_the_value_of_its_card(name: str) -> None:
    entry = load(name)
    fixture = as_written(entry)
    result, expected = evaluate(entry, fixture), REFERENCES[name](fixture)
    assert_gradients(result, REFERENCES[name].gradient(fixture))
    if name not in OTHER_SURROGATE:
        assert result.loss == pytest.approx(expected.loss, rel=RELATIVE)
        if len(expected.per_term) == len(result.values):
            assert result.values == pytest.approx(list(expected.per_term.values()), rel=RELATIVE)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_of_tokens_change_nothing(name: str, chunk: int) -> None:
    entry = load(name)
    whole, parts = (evaluate(entry, as_written(entry), size) for size in (6, chunk))
    assert parts.values == pytest.approx(whole.values, rel=1e-12)
    for stream, gradient_BTV in whole.gradients.items():
        torch.testing.assert_close(parts.gradients[stream], gradient_BTV, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "variant"), CHANGES)
def test_other_readings_of_a_card_are_one_field_away(name: str, variant: str) -> None:
    entry = changed(load(name), CHANGES[name, variant])
    assert_equal(entry, VARIANTS[name][variant], as_written(entry))


def test_on_policy_gkd_is_the_reverse_kl_end_of_gkd() -> None:
    assert_equal(load("gkd_on_policy"), VARIANTS["gkd"]["reverse_kl"], SIX)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("tml_opd", REFERENCES["tml_opd"]), ("vopd", VARIANTS["vopd"]["rollout_scored"]), ("aopd", VARIANTS["aopd"]["rollout_scored"])],
)
def test_entries_of_one_step_hold_on_older_rollouts_too(name: str, reference: Reference) -> None:
    """Scored by the student that wrote the tokens, and with the ratio that one step makes superfluous put back; aopd's card has none."""
    ratio = () if name == "aopd" else (Importance(),)
    assert_equal(changed(load(name), {"ratio": ratio}), reference, SIX)


def test_a_zero_coefficient_leaves_no_gradient() -> None:
    result = evaluate(load("no_op"), SIX)
    assert result.loss == 0.0
    assert not result.gradients["main"].any()
