"""Dialogues on the tiny pair: who wrote what, what is learned, contexts of turns, lessons that outlive an episode; nothing depends on the batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from tests.harness_kit import REVERSE_KL, ToyTask, made, read_pair, trainer_of, write_pair
from zoo.compat import pair_problems, problems
from zoo.components.base import Slot
from zoo.components.rollouts import Stream
from zoo.entry import MethodEntry
from zoo.harness.contexts import TaskJudge
from zoo.harness.engine import ReferenceEngine
from zoo.harness.experience import Lessons
from zoo.harness.models import LoadedPair
from zoo.harness.parallel import Processes
from zoo.method import Method
from zoo.tasks.micro import MicroTask, add_prompt
from zoo.tensors import Author, Prompt, Role, Rollout

REVISE = {"kind": "scripted_turns", "say": ("revise",)}
CALLS = {"kind": "tool", "tool": "calculator", "turns": 3}
ACTIONS = {"kind": "tool", "tool": "inspector", "answers": "turn", "turns": 3}
KINDS = [REVISE, CALLS, ACTIONS, {"kind": "scripted_turns", "shards": 2}, {"kind": "simulated_user", "turns": 2},
         {"kind": "simulated_user", "turns": 2, "by": "teacher", "tokens": 5}]  # fmt: skip
COLUMNS = ("response_BT", "mask_BT", "author_BT", "turn_BT", "role_BT", "behaviour_logp_BT", "student_logp_BT", "finished_B")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> LoadedPair:
    return read_pair(write_pair(tmp_path_factory.mktemp("pair")), torch.float64)


def write(pair: LoadedPair, environment: dict[str, Any], order: Sequence[int] = range(12), max_batch: int = 64, **stream: Any) -> Rollout:
    written: Stream = Slot("rollout").validate({"author": "student", "environment": environment, **stream})  # type: ignore[assignment]
    engine = ReferenceEngine(
        pair.student, pair.teachers, pair.tokenizer, format_prompt=pair.format_prompt, stop_ids=pair.stop_ids, pad_id=pair.pad_id,
        vocab_size=pair.vocab_size, max_batch=max_batch, judge=TaskJudge(pair),
    )  # fmt: skip
    prompts = pair.task.prompts("train")
    return engine.rollout(written, [prompts[i] for i in order], max_new_tokens=8, seed_axes=("a", 0))


def row_of(rollout: Rollout, row: int) -> list[Any]:
    length = int((rollout.written_BT[row] | (rollout.author_BT[row] == int(Author.ENVIRONMENT))).sum())
    return [
        torch.nan_to_num(getattr(rollout, name)[row, :length].double(), nan=7.0).tolist() if name.endswith("T") else bool(rollout.finished_B[row])
        for name in COLUMNS
    ]


@pytest.mark.parametrize("environment", KINDS, ids=str)
def test_an_episode_depends_on_neither_order_nor_batch(pair: LoadedPair, environment: dict[str, Any]) -> None:
    whole, order = write(pair, environment), [7, 2, 11, 0]
    other = write(pair, environment, order, max_batch=3)
    for row, index in enumerate(order):
        for one, two in zip(row_of(whole, index), row_of(other, row), strict=True):
            assert one == pytest.approx(two, abs=1e-9)


@pytest.mark.parametrize("environment", KINDS, ids=str)
def test_nobody_learns_from_the_environment(pair: LoadedPair, environment: dict[str, Any]) -> None:
    """Its words are what the environment says to the text so far; log-probabilities are of written tokens and are those of one forward pass."""
    rollout = write(pair, environment)
    assert (rollout.turns_BT > 0).any(), "the test needs a second turn"
    reply_BT = rollout.author_BT == int(Author.ENVIRONMENT)
    assert reply_BT.any() and not (reply_BT & rollout.mask_BT).any()
    assert torch.isnan(rollout.behaviour_logp_BT[reply_BT]).all() and not torch.isnan(rollout.behaviour_logp_BT[~reply_BT]).any()
    assert (rollout.roles_BT[reply_BT] == int(Role.REPLY)).all() and (rollout.roles_BT[rollout.mask_BT] != int(Role.REPLY)).all()
    for b in range(len(rollout)):
        prompt, response = rollout.prompt_ids[b], rollout.response_BT[b].tolist()
        with torch.no_grad():
            logp_TV = pair.student(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own_T = rollout.mask_BT[b]
        expected = logp_TV.gather(-1, rollout.response_BT[b][:, None])[:, 0][own_T]
        torch.testing.assert_close(rollout.behaviour_logp_BT[b][own_T], expected, rtol=1e-9, atol=1e-9)
        turns = rollout.turns_BT[b][own_T | reply_BT[b]].tolist()
        assert turns == sorted(turns) and set(turns) == set(range(max(turns) + 1))


def test_a_scripted_turn_always_follows_and_a_call_ends_a_turn(pair: LoadedPair) -> None:
    scripted = write(pair, REVISE)
    episodes = TaskJudge(pair).answers(scripted).episodes
    assert all(len(episode.said) == 2 for episode in episodes)
    for episode, prompt in zip(episodes, scripted.prompts, strict=True):
        verdict = "good" if pair.verify("answer", episode.said[0], prompt) > 0.5 else "bad"
        assert episode.replies == (f"?{verdict}?{prompt.text}", None)
    calls = TaskJudge(pair).answers(write(pair, CALLS))
    called = [episode for episode in calls.episodes if episode.replies[0] is not None]
    assert called and all(episode.said[0].endswith("#") and episode.replies[0].isdigit() for episode in called)
    assert all(not text.endswith("#") or reply is not None for e in calls.episodes for text, reply in zip(e.said, e.replies, strict=True))
    roles = write(pair, CALLS).roles_BT
    assert (roles == int(Role.CALL)).any()


class Hostile(ToyTask):
    """Whatever is asked of the task, its answer holds markup, braces and characters that nobody has tokens for."""

    said = ""

    def tool(self, name: str, text: str, prompt: Prompt) -> str:
        return self.said

    def feedback(self, text: str, prompt: Prompt) -> str:
        return self.said

    def user(self, text: str, turn: int, prompt: Prompt) -> str | None:
        return self.said


@pytest.mark.parametrize("environment", [CALLS, ACTIONS, {"kind": "simulated_user", "turns": 3}, {"kind": "scripted_turns", "say": ("critique",)}], ids=str)
def test_what_a_tool_says_is_text_whatever_it_says(pair: LoadedPair, environment: dict[str, Any]) -> None:
    """Markup in a reply ends no turn, is nobody's to learn and makes no number unknown that is known."""
    stop = pair.tokenizer.eos_token
    hostile = replace(pair, task=Hostile())
    Hostile.said = f"1{stop}2#{{prompt}}{{0}}\u65e5\x00"
    rollout = write(hostile, environment)
    reply_BT = rollout.author_BT == int(Author.ENVIRONMENT)
    assert reply_BT.any() and not (reply_BT & rollout.mask_BT).any()
    assert not set(rollout.response_BT[reply_BT].tolist()) & set(pair.stop_ids)
    assert not torch.isnan(rollout.behaviour_logp_BT[rollout.mask_BT]).any()


def test_markup_of_a_template_stays_markup(pair: LoadedPair) -> None:
    stop = pair.tokenizer.eos_token
    spec = pair.spec.model_copy(update={"turns": {**pair.spec.turns, "revise": f"{stop}{{verdict}}{{prompt}}", "right": f"good{stop}", "wrong": "bad"}})
    rollout = write(replace(pair, spec=spec), REVISE)
    reply_BT = rollout.author_BT == int(Author.ENVIRONMENT)
    for b in range(len(rollout)):
        reply = rollout.response_BT[b][reply_BT[b]].tolist()
        assert reply[0] in pair.stop_ids and not set(reply[1:]) & set(pair.stop_ids)


def test_what_is_judged(pair: LoadedPair) -> None:
    """All of a text with calls, results included; the last turn of other dialogues."""
    calls, actions = TaskJudge(pair).answers(write(pair, CALLS)), TaskJudge(pair).answers(write(pair, ACTIONS))
    for text, episode in zip(calls.texts, calls.episodes, strict=True):
        assert text == "".join(own + (reply or "") for own, reply in zip(episode.said, episode.replies, strict=True))
    assert [episode.said[-1] for episode in actions.episodes] == list(actions.texts)


def test_shards_open_with_the_first_part(pair: LoadedPair) -> None:
    rollout = write(pair, {"kind": "scripted_turns", "shards": 2})
    for prompt, episode in zip(rollout.prompts, TaskJudge(pair).answers(rollout).episodes, strict=True):
        parts = pair.task.shards(prompt, 2)  # type: ignore[attr-defined]
        assert episode.opening == prompt.text == parts[0] and episode.replies[0] == parts[1]


def test_turns_have_authors_of_their_own(pair: LoadedPair) -> None:
    rollout = write(pair, REVISE, author="mixture", of={"student": 1.0, "teacher": 1.0}, per="turn")
    by_turn = {(b, k): set(rollout.author_BT[b][rollout.mask_BT[b] & (rollout.turns_BT[b] == k)].tolist()) for b in range(12) for k in range(2)}
    assert all(len(authors) == 1 for authors in by_turn.values())
    pairs = {(by_turn[b, 0].copy().pop(), by_turn[b, 1].copy().pop()) for b in range(12)}
    assert len(pairs) >= 3


# --- training


def entry(environment: dict[str, Any], teacher: dict[str, Any] | None = None, **body: Any) -> MethodEntry:
    term = {**REVERSE_KL, "teacher": "self", "divergence": "forward_kl", "reduce": "token_mean"}
    streams = body.pop("rollouts", {"main": {"author": "student", "environment": environment}})
    teachers = {"self": {"kind": "student", "weights": "live", "context": teacher}} if teacher else {}
    return made("made", rollouts=streams, teachers={**teachers, **body.pop("teachers", {})}, objective=body.pop("objective", [term]), **body)


@pytest.mark.parametrize("before", ["keep", "drop"])
def test_a_teacher_reads_each_turn_in_a_context_of_its_own(pair: LoadedPair, before: str) -> None:
    """Its states are those of one forward pass over its own prompt, what was said before (unless dropped) and the turn."""
    context = {"made": ["feedback"], "template": "feedback", "per": "turn", "before": before}
    trainer = trainer_of(entry(REVISE, context), pair)
    method = Method(trainer.entry, 0.0)
    scored = trainer.judge(method, trainer.write(method))["main"]
    rollout, mine, at = scored.context.rollout, scored.hidden["self"], 0
    episodes = TaskJudge(pair).answers(rollout).episodes
    for b, episode in enumerate(episodes):
        for turn, text in enumerate(episode.said):
            inside = (rollout.mask_BT[b] & (rollout.turns_BT[b] == turn)).nonzero()[:, 0].tolist()
            shown = list(pair.tokenizer.encode(f"?{pair.task.feedback(text, rollout.prompts[b])}?{rollout.prompts[b].text}"))
            given = rollout.response_BT[b].tolist()[inside[0] if before == "drop" else 0 : inside[-1] + 1]
            with torch.no_grad():
                states = pair.student.base_model(torch.tensor([[*shown, *given]])).last_hidden_state[0]
            torch.testing.assert_close(mine[at : at + len(inside)], states[len(shown) + len(given) - len(inside) - 1 : -1], rtol=1e-9, atol=1e-9)
            at += len(inside)
    assert at == len(mine)


def test_turns_without_an_observation_are_left_out(pair: LoadedPair) -> None:
    trainer = trainer_of(entry(REVISE, {"made": ["observation"], "template": "observation", "per": "turn"}), pair)
    method = Method(trainer.entry, 0.0)
    context = trainer.judge(method, trainer.write(method))["main"].context
    [part] = method.prepare({"main": context})
    assert ((part.scale_BT != 0) == (context.mask_BT & (context.rollout.turns_BT == 0))).all()


def test_rewards_of_turns_stand_on_their_last_tokens(pair: LoadedPair) -> None:
    gradient = {"term": "policy_gradient", "reward": "progress", "credit": {"kind": "immediate", "per": "turn"}, "reduce": "token_mean"}
    trainer = trainer_of(entry(REVISE, objective=[gradient], rewards={"progress": {"kind": "turn_state", "check": "answer", "gain": True}}), pair)
    method = Method(trainer.entry, 0.0)
    context = trainer.judge(method, trainer.write(method))["main"].context
    for b, episode in enumerate(TaskJudge(pair).answers(context.rollout).episodes):
        states = [pair.verify("answer", text, context.rollout.prompts[b]) for text in episode.said]
        found = context.turn_rewards["progress"][b]
        assert found[found != 0].tolist() == [now - was for was, now in zip([0.0, *states], states, strict=False) if now != was]


def test_the_horizon_is_counted_in_turns(pair: LoadedPair) -> None:
    turns = {"schedule": "linear", "start": 1.0, "end": 3.0}
    trainer = trainer_of(entry({**ACTIONS, "turns": turns}, {"made": ["feedback"], "template": "feedback"}), pair)
    most = [int(trainer.write(Method(trainer.entry, progress))["main"].turns_BT.max()) + 1 for progress in (0.0, 0.49, 0.5, 1.0)]
    assert most == [1, 1, 2, 3]


def test_a_branch_leaves_at_a_turn(pair: LoadedPair) -> None:
    streams = {"main": {"author": "student", "environment": REVISE},
               "relabelled": {"author": "branch", "of": "main", "by": "teacher", "unit": "turn", "high": 1.0, "supervise": "continuation"}}  # fmt: skip
    method = entry(REVISE, rollouts=streams, teachers={"teacher": "external"}, objective=[{"term": "likelihood", "on": "relabelled", "reduce": "token_mean"}])
    assert problems(method) == []
    written = trainer_of(method, pair).write(Method(method, 0.0))
    main, branch = written["main"], written["relabelled"]
    left = set()
    for b in range(len(main)):
        start = int(branch.mask_BT[b].nonzero()[0])
        turn = int(branch.turns_BT[b][branch.mask_BT[b]][0])
        assert start == int((main.written_BT[b] & (main.turns_BT[b] < turn)).sum())
        assert main.response_BT[b, :start].tolist() == branch.response_BT[b, :start].tolist()
        assert set(branch.author_BT[b][branch.mask_BT[b]].tolist()) == {int(Author.TEACHER)}
        left.add(turn)
    assert left == {0, 1} and branch.judged == "last_turn"


# --- lessons


def test_lessons_are_kept_and_restored(pair: LoadedPair) -> None:
    told = {"made": [{"kind": "experience", "otherwise": {"given": "hint"}}], "template": "experience"}
    trainer = trainer_of(entry(REVISE, told), pair)
    lessons = trainer.parts["lessons"]
    assert isinstance(lessons, Lessons) and trainer.bank.judge.lessons == []
    first = trainer.write(Method(trainer.entry, 0.0))["main"]
    list(trainer.iterate())
    texts = TaskJudge(pair).answers(first).texts
    kept = trainer.bank.judge.lessons
    assert [lesson.text for lesson in kept] == list(texts)
    assert [lesson.right for lesson in kept] == [pair.verify("answer", text, prompt) > 0.5 for text, prompt in zip(texts, first.prompts, strict=True)]
    other = trainer_of(entry(REVISE, told), pair)
    other.parts["lessons"].load_state_dict(lessons.state_dict())
    assert other.bank.judge.lessons == kept


class Side(Processes):
    """One of two processes that are threads of this one."""

    slots: ClassVar[list[torch.Tensor | None]] = [None, None]
    gate: ClassVar[threading.Barrier] = threading.Barrier(2, timeout=60)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        self.slots[self.rank] = value
        self.gate.wait()
        found = torch.stack([slot for slot in self.slots if slot is not None]).sum(0)
        self.gate.wait()
        return found


def test_lessons_do_not_depend_on_the_number_of_processes(pair: LoadedPair) -> None:
    rollout, prompts = write(pair, REVISE), pair.task.prompts("train")
    alone = Lessons(("answer",), TaskJudge(pair), Processes(), prompts)
    alone.learn({"main": rollout}, 0.0)
    parts = [Lessons(("answer",), TaskJudge(pair), Side(rank, 2), prompts) for rank in range(2)]
    shares = [rollout.rows(range(7)), rollout.rows(range(7, 12))]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda rank: parts[rank].learn({"main": shares[rank]}, 0.0), range(2)))
    assert parts[0].kept == parts[1].kept == alone.kept and len(alone.kept["answer"]) == 12


# --- refusals


ROLE = {"kind": "role", "is": "call"}


@pytest.mark.parametrize(("changes", "message"), [
    ({"gates": [ROLE]}, "role reads turns or roles, but rollouts.main has no turns"), ({"gates": [{"kind": "turn", "at_most": 0}]}, "turn reads turns"),
    ({"reduce": "turn_mean"}, "reduce turn_mean is sequence_mean"),
    ({"weights": [{"kind": "mapped", "of": {"kind": "position"}, "scope": "turn"}]}, "mapped reads turns")])  # fmt: skip
def test_parts_of_turns_need_an_environment(changes: dict[str, Any], message: str) -> None:
    term = {**REVERSE_KL, "teacher": "teacher", "divergence": "forward_kl", "reduce": "token_mean", **changes}
    alone = made("made", rollouts={"main": {"author": "student"}}, teachers={"teacher": {"kind": "external"}}, objective=[term])
    assert any(message in problem for problem in problems(alone))
    answered = made("made", rollouts={"main": {"author": "student", "environment": CALLS}}, teachers={"teacher": {"kind": "external"}}, objective=[term])
    assert problems(answered) == []


@pytest.mark.parametrize(("context", "message"), [
    ({"made": ["observation"], "template": "observation"}, "shows what an environment said"),
    ({"made": ["feedback"], "template": "feedback", "per": "turn"}, "is per: turn")])  # fmt: skip
def test_contexts_of_turns_need_an_environment(context: dict[str, Any], message: str) -> None:
    assert any(message in p for p in problems(entry({}, context, rollouts={"main": {"author": "student"}})))


def test_speakers_and_what_pairs_lack() -> None:
    unknown = entry({"kind": "simulated_user", "by": "techer"}, {"made": ["feedback"], "template": "feedback"})
    assert any("'techer' is no teacher" in p for p in problems(unknown))
    method, task = entry({**CALLS, "tool": "calculater"}, {"made": ["feedback"], "template": "feedback"}), MicroTask()
    known: dict[str, Any] = {"templates": ["feedback"], "fields": None, "teachers": [], "checks": task.checks, "same_vocabulary": True}
    found = pair_problems(method, **known, turns={"result": "", "call": ""}, task=task)
    assert [("call_end" in p, "did you mean 'calculator'" in p) for p in found] == [(True, False), (False, True)]
    assert pair_problems(entry(CALLS, {"made": ["feedback"], "template": "feedback"}), **known, turns=task_turns(), task=task) == []


def task_turns() -> dict[str, str]:
    from zoo.tasks.micro import TURNS

    return dict(TURNS)


def test_given_text_and_replay_have_no_environment() -> None:
    for stream in ({"author": "dataset"}, {"author": "replay"}, {"author": "mixture", "of": {"student": 1.0, "teacher": 1.0}, "per": "sequence"}):
        with pytest.raises(ValueError, match="environment"):
            Slot("rollout").validate({**stream, "environment": CALLS})
    with pytest.raises(ValueError, match="needs an environment"):
        Slot("rollout").validate({"author": "mixture", "of": {"student": 1.0, "teacher": 1.0}, "per": "turn"})


# --- the micro task in turns


def test_tools_users_and_shards_of_the_micro_task() -> None:
    task, prompt = MicroTask(), add_prompt("3572")
    assert [task.tool("calculator", text, prompt) for text in ("3 8 15 17#", "3 8#", "#", "3 9#")] == ["17", "17", "17", "18"]
    assert [task.tool("lookup", text, prompt) for text in ("3 8 15 17#", "3 8#", "#")] == ["17", "15", "3"]
    assert task.tool("inspector", "3 8 14 17#17", prompt) == "bad 3"
    assert task.hidden(prompt) == "3 8 15 17 17" and task.shards(prompt, 2) == ["+35=", "+72="] and task.shards(add_prompt("35"), 3) == ["+3=", "+5="]
    assert [task.user(text, 0, prompt) for text in ("3 8 15 17#17", "3 9", "")] == [None, "bad 2", "bad 1"]
    assert [task.state(text, prompt) for text in ("3 8 15 17#17", "3 9", "")] == [1.0, 0.2, 0.0]
    assert replace(prompt, text="+35=").fields == prompt.fields
