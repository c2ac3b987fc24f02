"""Teachers made of others: their distributions, who is asked about what, coordinates and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness_kit import REVERSE_KL, made, read_pair, trainer_of

from zoo.compat import pair_problems, problems
from zoo.components.teachers import Route
from zoo.coordinates import derive_coordinates
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.routes import with_specialists
from zoo.harness.scoring import chunk_view, score
from zoo.method import Method
from zoo.statistics import LogProb

HINT = {"fields": ["solution"], "template": "solution"}
OUTSIDE, INSIDE = {"kind": "external"}, {"kind": "student", "weights": "initial", "context": HINT}


@pytest.fixture(scope="module")
def pair(pair_file: Path) -> LoadedPair:
    return read_pair(pair_file, torch.float64)


def composed(kind: dict[str, Any], **more: Any) -> Any:
    return made(rollout={"author": "student"}, teachers={"one": OUTSIDE, "two": INSIDE, "all": kind, **more}, objective=[{**REVERSE_KL, "teacher": "all"}])


def test_each_prompt_goes_to_its_teacher_and_no_other_is_asked(pair: LoadedPair) -> None:
    kind = {"kind": "route", "by": "answer", "of": {}, "otherwise": "two"}
    prompts = trainer_of(composed({**kind, "of": {"x": "one"}}), pair).prompts
    chosen = {prompts[i].fields["answer"]: "one" for i in range(0, len(prompts), 2)}
    entry = composed({**kind, "of": chosen})
    trainer = trainer_of(entry, pair)
    method = Method(entry)
    [rollout] = trainer.write(method).values()
    trainer.bank.scored_tokens = 0
    found = score(method, trainer.bank, "main", rollout, lambda value: value)
    first = [row for row, p in enumerate(rollout.prompts) if chosen.get(p.fields["answer"]) == "one"]
    assert 0 < len(first) < len(rollout)
    assert trainer.bank.scored_tokens == int(rollout.mask_BT[first].sum())  # the initial student is not counted
    plain = made(rollout={"author": "student"}, teachers={"one": OUTSIDE, "two": INSIDE}, objective=[
        {**REVERSE_KL, "teacher": "one", "gates": []}, {**REVERSE_KL, "teacher": "two"}])  # fmt: skip
    losses: dict[str, Any] = {}
    for name, one in (("routed", entry), ("plain", plain)):
        own = trainer_of(one, pair)
        part = score(Method(one), own.bank, "main", rollout, lambda value: value)
        view = chunk_view(Method(one), own.bank, rollout.response_BT[rollout.mask_BT], part.hidden)
        losses[name] = {n: view.logp_NV(n) for n in (("all",) if name == "routed" else ("one", "two"))}
    row_N = rollout.mask_BT.nonzero()[:, 0]
    here = torch.isin(row_N, torch.tensor(first))
    torch.testing.assert_close(losses["routed"]["all"][here], losses["plain"]["one"][here], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(losses["routed"]["all"][~here], losses["plain"]["two"][~here], rtol=1e-9, atol=1e-9)
    assert found.hidden["all"].shape == (rollout.tokens,)


def test_minibatches_and_splits_keep_the_route(pair: LoadedPair) -> None:
    entry = made(rollout={"author": "student", "reuse": {"minibatches": 2}}, teachers={
        "one": OUTSIDE, "two": INSIDE, "all": {"kind": "route", "by": "domain", "of": {"copy": "one"}, "otherwise": "two"}}, objective=[
        {"term": "policy_gradient", "reward": {"kind": "contrast", "of": {"all": 1, "student": -1}}, "credit": "immediate", "reduce": "token_mean"},
        {**REVERSE_KL, "teacher": "all"}])  # fmt: skip
    rows = []
    for split in ({"micro_tokens": 1, "chunk_tokens": 3}, {"micro_tokens": 10_000, "chunk_tokens": 1000}):
        trainer = trainer_of(entry, pair, budget={"amount": 10_000}, **split)
        rows.append([row["grad_norm"] for row in trainer.iterate()])
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)
    assert LogProb("all") in Method(entry).statistics("main")


def test_coordinates_are_those_of_the_members() -> None:
    mix = {"kind": "ensemble", "of": {"one": 1.0, "two": 1.0}}
    both = derive_coordinates(composed(mix))
    assert (both.feedback_signal, both.teacher_access) == (("logit", "self_play"), "white_box")
    own = made(rollout={"author": "student"}, teachers={"one": {"kind": "student", "weights": {"ema": 0.9}}, "two": INSIDE, "all": mix}, objective=[
        {**REVERSE_KL, "teacher": "all"}])  # fmt: skip
    assert (derive_coordinates(own).feedback_signal, derive_coordinates(own).teacher_access) == (("self_play",), "teacher_free")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (lambda: composed({"kind": "ensemble", "of": {"one": 1.0, "there": 1.0}}), "member 'there' is not under teachers"),
        (lambda: composed({"kind": "ensemble", "of": {"one": 1.0, "loop": 1.0}}, loop={"kind": "ensemble", "of": {"all": 1.0, "two": 1.0}}), "made of itself"),
        (
            lambda: made(rollout={"author": "teacher", "teacher": "all"}, teachers={"one": OUTSIDE, "two": INSIDE, "all": {"kind": "ensemble", "of": {
                "one": 1.0, "two": 1.0}}}, objective=[{"term": "likelihood", "reduce": "token_mean"}]),
            "can't write",
        ),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(entry: Any, message: str) -> None:
    assert any(message in problem for problem in problems(entry()))


def test_a_route_needs_its_field_and_a_teacher_for_every_prompt() -> None:
    entry = composed({"kind": "route", "by": "topic", "of": {"maths": "one"}})
    found = pair_problems(entry, templates=["solution"], fields=["solution", "domain"], teachers=["teacher"], checks=[], same_vocabulary=True)
    assert any("prompt field 'topic'" in problem for problem in found)
    with pytest.raises(ValueError, match="set otherwise"):
        Route(of={"maths": "one"}, by="domain").chosen({"domain": "law"})
    with pytest.raises(ValueError, match="no context of its own"):
        composed({"kind": "route", "of": {"a": "one"}, "context": HINT})


def test_a_route_takes_up_the_specialists_of_the_pair() -> None:
    entry = composed({"kind": "route", "of": {"copy": "one"}, "specialists": True, "otherwise": "two"})
    assert with_specialists(entry, ["teacher"]) is entry
    fitted = with_specialists(entry, ["teacher", "add", "times"]).teachers
    chosen = {domain: fitted[fitted["all"].chosen({"domain": domain})] for domain in ("add", "times", "copy", "law")}  # type: ignore[attr-defined]
    assert [chosen[domain].model for domain in ("add", "times")] == ["add", "times"]  # type: ignore[attr-defined]
    assert [chosen[domain] for domain in ("copy", "law")] == [entry.teachers["one"], entry.teachers["two"]]
    with pytest.raises(ValueError, match="for pairs that have none"):
        Route(specialists=True)


def test_specialists_score_the_prompts_of_their_domain() -> None:
    route = {"kind": "route", "of": {}, "specialists": True, "otherwise": "one"}
    entry = made(rollout={"author": "student"}, teachers={"one": OUTSIDE, "all": route}, objective=[{**REVERSE_KL, "teacher": "all"}])
    trainer = trainer_of(entry, load_pair(load_pair_spec("micro-two")), budget={"amount": 10_000})
    [rollout] = trainer.write(Method(trainer.entry)).values()
    score(Method(trainer.entry), trainer.bank, "main", rollout, lambda value: value)
    assert {p.fields["domain"] for p in rollout.prompts} == {"add", "times"}
    tokens = {domain: int(rollout.mask_BT[[i for i, p in enumerate(rollout.prompts) if p.fields["domain"] == domain]].sum()) for domain in ("add", "times")}
    assert trainer.bank.scored == {**tokens, "teacher": 0}
