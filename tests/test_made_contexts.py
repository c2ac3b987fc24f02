"""Contexts made during the run and streams made of other streams, on the tiny pair: who reads what, and what is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harness_kit import REVERSE_KL, TEACHER, Plain, made, read_pair, trainer_of, weights, write_pair
from zoo.components.base import Context
from zoo.entry import MethodEntry
from zoo.harness.contexts import lacks
from zoo.harness.models import LoadedPair
from zoo.harness.train import Trainer
from zoo.method import Method
from zoo.statistics import LogProb
from zoo.tensors import Author, Rollout

SELF = {"kind": "student", "weights": "live"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LoadedPair:
    return read_pair(write_pair(tmp_path_factory.mktemp("pair")), torch.float64)


def entry(context: dict[str, Any], *, group: int = 4, reduce: Any = "token_mean", rollouts: dict[str, Any] | None = None, **body: Any) -> MethodEntry:
    streams = {"main": {"author": "student", "group": group}, **(rollouts or {})}
    term = {**REVERSE_KL, "teacher": "self", "divergence": "forward_kl", "reduce": reduce}
    return made("made", rollouts=streams, teachers={"self": {**SELF, "context": context}}, objective=[term], **body)


def batch(trainer: Trainer) -> dict[str, Rollout]:
    return trainer.write(Method(trainer.entry, 0.0))


def text_of(pair: LoadedPair, rollout: Rollout, row: int) -> str:
    return pair.decode([i for i in rollout.response_BT[row][rollout.written_BT[row]].tolist() if i not in pair.stop_ids])


def test_a_teacher_that_sees_the_attempt_scores_the_very_same_tokens(pair: LoadedPair) -> None:
    """Its prompt is longer by another amount in each row, and each response token is scored where it stands."""
    trainer = trainer_of(entry({"made": ["attempt", "feedback"], "template": "attempt_feedback"}), pair)
    method = Method(trainer.entry, 0.0)
    scored = trainer.judge(method, trainer.write(method))["main"]
    states = scored.hidden["self"]
    rollout, start = scored.context.rollout, 0
    plain = Plain(pair, pair.student)
    for row in range(len(rollout)):
        text = text_of(pair, rollout, row)
        shown = f"?{text}?{pair.task.feedback(text, rollout.prompts[row])}?{rollout.prompts[row].text}"
        response = rollout.response_BT[row][rollout.mask_BT[row]].tolist()
        prompt = pair.tokenizer.encode(shown)
        logits = pair.student(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        mine = trainer.bank.head("self")(states[start : start + len(response)])
        torch.testing.assert_close(mine, logits, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(mine.log_softmax(-1), plain.logp_TV(pair.student, rollout, row))
        start += len(response)
    assert start == len(states)


def test_a_sequence_without_a_right_peer_has_no_signal(pair: LoadedPair) -> None:
    context = {"made": ["peer_success"], "template": "peer_success"}
    trainer = trainer_of(entry(context, group=2), pair)
    method = Method(trainer.entry, 0.0)
    scored = trainer.judge(method, trainer.write(method))["main"]
    rollout = scored.context.rollout
    right = [pair.verify("answer", text_of(pair, rollout, i), rollout.prompts[i]) for i in range(len(rollout))]
    group = rollout.group_B.tolist()
    lone = [not any(right[j] and group[j] == group[i] and j != i for j in range(len(right))) for i in range(len(right))]
    assert any(lone) and not all(lone)
    assert scored.context.absent["self"].tolist() == lone
    for over in ("valid", "kept"):
        [part] = Method(entry(context, group=2, reduce={"kind": "token_mean", "over": over}), 0.0).prepare({"main": scored.context})
        assert ((part.scale_BT != 0).any(1) == ~torch.tensor(lone)).all()
        counted = rollout.mask_BT.sum() if over == "valid" else rollout.mask_BT[~torch.tensor(lone)].sum()
        assert float(part.scale_BT.max()) == pytest.approx(1 / int(counted), rel=1e-6)
    [part] = Method(entry({**context, "absent": "plain"}, group=2), 0.0).prepare({"main": replace(scored.context, absent={})})
    assert (part.scale_BT != 0).any(1).all()


def test_plain_shows_the_plain_prompt_where_there_is_no_peer(pair: LoadedPair) -> None:
    trainer = trainer_of(entry({"made": ["peer_success"], "template": "peer_success", "absent": "plain"}, group=2), pair)
    scored = trainer.judge(Method(trainer.entry, 0.0), batch(trainer))["main"]
    assert scored.context.absent == {}
    context = trainer.entry.teachers["self"].context
    lone = [i for i, prompt in enumerate(scored.context.rollout.prompts) if lacks(prompt, context)]
    rollout = scored.context.rollout
    assert lone
    for row in lone:
        assert trainer.bank.prompts("self", rollout)[row] == rollout.prompt_ids[row]


def test_a_reflection_is_a_stream_that_no_term_reads(pair: LoadedPair) -> None:
    asked = {"author": "student", "group": 4, "max_new_tokens": 3, "context": {"template": "attempt_outcome", "made": [
        {"kind": "attempt", "of": "main"}, {"kind": "outcome", "of": "main"}]}}  # fmt: skip
    found = entry({"made": [{"kind": "reflection", "of": "note"}], "template": "reflection"}, rollouts={"note": asked})
    trainer = trainer_of(found, pair)
    streams = batch(trainer)
    assert list(streams) == ["main", "note"] and int(streams["note"].mask_BT.sum(1).max()) <= 3
    scored = trainer.judge(Method(found, 0.0), streams)
    assert list(scored) == ["main"]
    rollout = scored["main"].context.rollout
    for row in range(len(rollout)):
        shown = pair.tokenizer.decode(trainer.bank.prompts("self", rollout)[row])
        assert shown == f"?{text_of(pair, streams['note'], row)}?{rollout.prompts[row].text}"
        asked_of = streams["note"].prompts[row]
        context = trainer.entry.rollouts["note"].context
        text = text_of(pair, streams["main"], row)
        word = "good" if pair.verify("answer", text, asked_of) else "bad"
        assert pair.tokenizer.decode(pair.format_prompt(asked_of, context)) == f"?{text}?{word}?{asked_of.text}"
    before, generated = weights(pair.student), trainer.spent.generated_tokens
    [row_of_metrics] = trainer.iterate()
    assert row_of_metrics["tokens"] == int(streams["main"].mask_BT.sum())
    assert trainer.spent.generated_tokens - generated == int(streams["main"].mask_BT.sum() + streams["note"].mask_BT.sum())
    assert any(not torch.equal(before[name], now) for name, now in weights(pair.student).items())


def test_a_refined_stream_is_learned_from_the_plain_prompt(pair: LoadedPair) -> None:
    refined = {"author": "teacher", "context": {"made": [{"kind": "attempt", "of": "main"}], "template": "attempt"}}
    found = made("refined", rollouts={"refined": refined, "main": {"author": "student"}}, **TEACHER, objective=[{**REVERSE_KL, "on": "refined"}])
    streams = batch(trainer_of(found, pair))
    assert list(streams) == ["main", "refined"]  # written in the order in which they are read
    for row, prompt in enumerate(streams["refined"].prompts):
        assert list(streams["refined"].prompt_ids[row]) == pair.format_prompt(replace(prompt, fields={}))
    assert (streams["refined"].author_BT[streams["refined"].mask_BT] == int(Author.TEACHER)).all()


@pytest.mark.parametrize("supervise", ["continuation", "all"])
def test_a_prefix_goes_on_from_the_given_beginning(pair: LoadedPair, supervise: str) -> None:
    stream = {"author": "prefix", "of": "dataset", "low": 0.5, "high": 0.5, "supervise": supervise}
    rollout = batch(trainer_of(made("prefix", rollout=stream, **TEACHER, objective=[REVERSE_KL]), pair))["main"]
    plain = Plain(pair, pair.student)
    whole = replace(rollout, mask_BT=rollout.written_BT)
    for row, prompt in enumerate(rollout.prompts):
        solution = pair.tokenizer.encode(prompt.fields["solution"])[:8]
        given = len(solution) // 2
        assert rollout.response_BT[row, :given].tolist() == solution[:given]
        size = int(rollout.written_BT[row].sum())
        assert rollout.mask_BT[row, :size].tolist() == [supervise == "all"] * given + [True] * (size - given)
        assert rollout.author_BT[row, :size].tolist() == [int(Author.DATASET)] * given + [int(Author.STUDENT)] * (size - given)
        assert rollout.behaviour_logp_BT[row, :given].isnan().all() and size <= 8
        logp = plain.logp_TV(pair.student, whole, row).gather(-1, rollout.response_BT[row, :size, None])[given:, 0]
        torch.testing.assert_close(rollout.behaviour_logp_BT[row, given:size].double(), logp.detach(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rollout.student_logp_BT[row, given:size].double(), logp.detach(), rtol=1e-9, atol=1e-9)


def test_two_branches_leave_another_stream_at_the_same_states(pair: LoadedPair) -> None:
    leaving = {"author": "branch", "of": "main", "high": 1.0, "window": 2}
    streams = {"main": {"author": "student"}, "mine": leaving, "theirs": {**leaving, "by": "teacher"}}
    terms = [{**REVERSE_KL, "on": name} for name in ("mine", "theirs")]
    found = batch(trainer_of(made("branches", rollouts=streams, **TEACHER, objective=terms), pair))
    main, mine, theirs = found["main"], found["mine"], found["theirs"]
    starts = mine.mask_BT.long().argmax(1)
    assert starts.tolist() == theirs.mask_BT.long().argmax(1).tolist() and len(set(starts.tolist())) > 1
    for row, start in enumerate(starts.tolist()):
        assert mine.response_BT[row, :start].tolist() == theirs.response_BT[row, :start].tolist() == main.response_BT[row, :start].tolist()
        assert 1 <= int(mine.mask_BT[row].sum()) <= 2 and 1 <= int(theirs.mask_BT[row].sum()) <= 2
        assert (theirs.author_BT[row][theirs.mask_BT[row]] == int(Author.TEACHER)).all()


@pytest.mark.parametrize("supervise", ["edit", "all"])
def test_an_edited_stream_ends_with_the_groups_rate(pair: LoadedPair, supervise: str) -> None:
    edited = {"author": "edited", "of": "main", "group": 4, "put": {"kind": "outcome", "scope": "group"}, "supervise": supervise}
    found = made("edited", rollouts={"main": {"author": "student", "group": 4}, "edited": edited}, **TEACHER, objective=[{**REVERSE_KL, "on": "edited"}])
    streams = batch(trainer_of(found, pair, max_new_tokens=24))
    main, changed = streams["main"], streams["edited"]
    for row in range(len(main)):
        texts = [text_of(pair, main, i) for i in range(len(main)) if main.group_B[i] == main.group_B[row]]
        rate = round(100 * sum(pair.verify("answer", t, main.prompts[row]) for t in texts) / 4)
        ids = [*pair.tokenizer.encode(text_of(pair, main, row).split("@")[0] + f"@{rate}"), pair.stop_ids[0]][:24]
        size = int(changed.written_BT[row].sum())
        assert changed.response_BT[row, :size].tolist() == ids
        old = main.response_BT[row].tolist()
        same = next((t for t in range(size) if t >= len(old) or old[t] != ids[t] or not main.written_BT[row, t]), size)
        assert changed.mask_BT[row, :size].tolist() == [supervise == "all"] * same + [True] * (size - same)
        assert torch.equal(changed.behaviour_logp_BT[row, :same], main.behaviour_logp_BT[row, :same])
        assert changed.behaviour_logp_BT[row, same:size].isnan().all()
        assert (changed.author_BT[row, same:size] == int(Author.COMPUTED)).all()


def test_a_stream_that_stops_early_is_the_plain_one_cut(pair: LoadedPair) -> None:
    when = {"kind": "divergence_drop", "share": 0.9, "window": 2, "patience": 1}
    cut = {"author": "switch", "when": when, "stop": True}
    whole, short = (batch(trainer_of(made("cut", rollout=s, **TEACHER, objective=[REVERSE_KL]), pair))["main"] for s in ({"author": "student"}, cut))
    size, full = short.mask_BT.sum(1), whole.mask_BT.sum(1)
    assert (size >= 1).all() and (size <= full).all() and (size < full).any() and (size == full).any()
    for row in range(len(short)):
        n = int(size[row])
        assert torch.equal(short.response_BT[row, :n], whole.response_BT[row, :n])
        torch.testing.assert_close(short.behaviour_logp_BT[row, :n], whole.behaviour_logp_BT[row, :n])
        assert bool(short.finished_B[row]) == (n == int(full[row]) and bool(whole.finished_B[row]))


def test_a_teacher_may_write_with_a_context_of_its_own(pair: LoadedPair) -> None:
    hinted = {"author": "blended", "how": "arithmetic", "weight": 1.0, "teacher_context": {"fields": ["solution"], "template": "solution"}}
    rollout = batch(trainer_of(made("hinted", rollout=hinted, **TEACHER, objective=[REVERSE_KL]), pair))["main"]
    plain, teacher = Plain(pair, pair.student), pair.teachers["teacher"]
    context = Context(fields=("solution",), template="solution")
    for row in range(4):
        tokens = rollout.response_BT[row][rollout.mask_BT[row]][:, None]
        logp = plain.logp_TV(teacher, rollout, row, context).gather(-1, tokens)[:, 0]
        torch.testing.assert_close(rollout.behaviour_logp_BT[row][rollout.mask_BT[row]].double(), logp.detach(), rtol=1e-6, atol=1e-6)
        mine = plain.logp_TV(pair.student, rollout, row).gather(-1, tokens)[:, 0]
        torch.testing.assert_close(rollout.student_logp_BT[row][rollout.mask_BT[row]].double(), mine.detach(), rtol=1e-6, atol=1e-6)


STREAMS = {
    "backtracked": {"author": "interleaved", "per": "span", "verify": {"kind": "window", "window": 2, "deviations": 0.5, "give": 3}},
    "blended": {"author": "blended", "how": "geometric", "budget": 0.3},
    "prefix": {"author": "prefix", "of": "teacher", "high": 0.7, "supervise": "all"},
    "stopped": {"author": "switch", "when": {"kind": "divergence_drop", "share": 0.9, "window": 2}, "stop": True},
    "corrected": {"author": "interleaved", "verify": {"kind": "probability_ratio", "at_least": 0.5}},
}


@pytest.mark.parametrize("name", STREAMS)
def test_what_is_written_depends_on_neither_order_nor_batches(pair: LoadedPair, name: str) -> None:
    trainer = trainer_of(made(name, rollout=STREAMS[name], **TEACHER, objective=[REVERSE_KL]), pair)
    stream, prompts, axes = trainer.entry.rollouts["main"], trainer.prompts[:7], ("a", 0, "rollout", "main", 1)
    whole = trainer.engine.rollout(stream, prompts, max_new_tokens=8, seed_axes=axes)
    trainer.engine.max_batch = 3
    turned = trainer.engine.rollout(stream, prompts[::-1], max_new_tokens=8, seed_axes=axes).rows(range(6, -1, -1))
    assert torch.equal(whole.response_BT, turned.response_BT) and torch.equal(whole.mask_BT, turned.mask_BT)
    assert torch.equal(whole.author_BT, turned.author_BT) and torch.equal(whole.finished_B, turned.finished_B)
    torch.testing.assert_close(whole.behaviour_logp_BT, turned.behaviour_logp_BT, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_a_target_that_reads_contrasted_peers_is_silent_without_them(pair: LoadedPair) -> None:
    parts = ["peer_success", "peer_failure"]
    teachers = {
        "right": {**SELF, "context": {"made": parts, "template": "peer_success"}},
        "wrong": {**SELF, "context": {"made": parts, "template": "peer_failure"}},
    }
    reward = {"kind": "contrast", "of": {"right": 1, "wrong": -1}}
    term = {"term": "policy_gradient", "reward": reward, "credit": "immediate", "reduce": "token_mean"}
    found = made("contrast", rollout={"author": "student", "group": 4}, teachers=teachers, objective=[term])
    trainer = trainer_of(found, pair)
    method = Method(found, 0.0)
    scored = trainer.judge(method, trainer.write(method))["main"]
    missing = scored.context.absent["right"] | scored.context.absent["wrong"]
    [part] = method.prepare({"main": scored.context})
    assert missing.any() and not missing.all() and ((part.scale_BT != 0).any(1) == ~missing).all()
    assert {LogProb("right"), LogProb("wrong")} <= set(scored.context.columns)


def test_streams_that_are_not_there_are_named(pair: LoadedPair, tmp_path: Path) -> None:
    trainer = trainer_of(entry({"made": ["attempt"], "template": "attempt"}), pair)
    refined = made("x", rollout={"author": "teacher", "context": {"made": [{"kind": "attempt", "of": "gone"}], "template": "attempt"}}, **TEACHER,
                   objective=[REVERSE_KL])  # fmt: skip
    with pytest.raises(Exception, match="reads stream 'gone' row by row"):
        trainer.engine.rollout(refined.rollouts["main"], trainer.prompts[:2], max_new_tokens=4, seed_axes=("a",))


def test_a_straying_stretch_is_cut_back_and_written_by_the_teacher(pair: LoadedPair) -> None:
    rule = {"kind": "window", "window": 2, "deviations": 0.5, "give": 3, "returns": 2}
    stream = {"author": "interleaved", "per": "span", "verify": rule}
    trainer = trainer_of(made("back", rollout=stream, **TEACHER, objective=[REVERSE_KL]), pair, max_new_tokens=16)
    plain = batch(trainer_of(made("back", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL]), pair, max_new_tokens=16))["main"]
    rollout, models = batch(trainer)["main"], {int(Author.STUDENT): pair.student, int(Author.TEACHER): pair.teachers["teacher"]}
    given = 0
    for row in range(len(rollout)):
        size = int(rollout.mask_BT[row].sum())
        author, tokens = rollout.author_BT[row, :size].tolist(), rollout.response_BT[row, :size]
        assert 1 <= size <= 16 and rollout.mask_BT[row, :size].all()
        for name, model in models.items():
            logp = Plain(pair, pair.student).logp_TV(model, rollout, row).gather(-1, tokens[:, None])[:, 0].detach()
            mine = torch.tensor(author) == name
            torch.testing.assert_close(rollout.behaviour_logp_BT[row, :size][mine].double(), logp[mine], rtol=1e-9, atol=1e-9)
        given += int(Author.TEACHER) in author
        first = author.index(int(Author.TEACHER)) if int(Author.TEACHER) in author else size
        assert tokens[:first].tolist() == plain.response_BT[row, :first].tolist()
        assert max((len(run) for run in "".join("T" if a else " " for a in author).split()), default=0) <= 6
        assert bool(rollout.finished_B[row]) == (int(tokens[-1]) in pair.stop_ids)
    assert 0 < given < len(rollout)


def test_a_reread_stream_trains_the_student_as_it_reads_the_context(pair: LoadedPair) -> None:
    """The same tokens behind another prompt: the student's log-probabilities are those in the context, a plain scorer's those without."""
    context = {"fields": ["hint"], "template": "hint"}
    plain = {**SELF, "context": {"template": "plain"}}
    term = {**REVERSE_KL, "on": "seen", "teacher": "plain", "divergence": "forward_kl"}
    streams = {"main": {"author": "student"}, "seen": {"author": "reread", "of": "main", "context": context}}
    trainer = trainer_of(made("reread", rollouts=streams, teachers={"plain": plain}, objective=[term]), pair)
    method = Method(trainer.entry, 0.0)
    written = trainer.write(method)
    main, seen = written["main"], written["seen"]
    assert torch.equal(main.response_BT, seen.response_BT) and torch.equal(main.mask_BT, seen.mask_BT)
    expected = [tuple(pair.tokenizer.encode(f"?{p.fields['hint']}?{p.text}")) for p in main.prompts]
    assert list(seen.prompt_ids) == expected and list(main.prompt_ids) != expected
    scored = trainer.judge(method, written)["seen"]
    own = trainer.bank.head("student")(trainer.bank.hidden("student", seen)).log_softmax(-1)
    bare = trainer.bank.head("plain")(scored.hidden["plain"]).log_softmax(-1)
    torch.testing.assert_close(bare, trainer.bank.head("student")(trainer.bank.hidden("student", main)).log_softmax(-1))
    assert not torch.allclose(own, bare)
