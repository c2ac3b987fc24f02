"""The engine: an entry's own terms on every outcome at once, and the exact mean and second moment of what they do to the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.rewards.base import Answered
from zoo.components.teachers import Composite
from zoo.entry import MethodEntry
from zoo.lab.doubles import Tables, fitted, verified
from zoo.lab.exact import COPIES, LabContext, Unweighed, Weighing, contexts_by_process
from zoo.lab.laws import Exempt, Law, together
from zoo.lab.streams import law_of
from zoo.lab.world import Array, World
from zoo.method import Method, Prepared, annotate
from zoo.statistics import Statistic, TokenContext, Value
from zoo.tensors import Prompt, Rollout
from zoo.views import LogitView

SHIFTS = 64  # evenly shifted sets of draws for gates that draw
PROGRESS = 0.5
MOST_ROWS = 60_000
LETTERS = "abcdef"
PROMPT = Prompt("lab", "0", {"solution": "0", "answer": "0", "hint": "0"})


@dataclass(frozen=True)
class Measured:
    """What one step does to the student's table, per term and in all; gradients of the loss, so the update is their negative.

    `second` is the mean squared length of one outcome's gradient, `tokens` the mean number of supervised tokens of one outcome.
    """

    by_term: dict[int, Array]
    laws: dict[str, Law]
    error: float
    tokens: float
    second: dict[int, float]
    prepared: tuple[Prepared, ...] = ()

    @cached_property
    def gradient(self) -> Array:
        """The whole loss."""
        found: Array = np.sum(list(self.by_term.values()), 0)
        return found

    def of(self, terms: Sequence[int]) -> Array:
        """Some of its terms."""
        return np.sum([self.by_term[i] for i in terms], 0) if terms else np.zeros_like(self.gradient)

    def variance(self, term: int) -> float:
        """Trace of the covariance of one outcome's gradient."""
        return self.second[term] - float((self.by_term[term] ** 2).sum())


class Bench:
    """An entry in a world. `fit` shrinks sizes that the world could not truncate; `changes` says which."""

    def __init__(self, entry: MethodEntry, world: World, *, group: int = 4, progress: float = PROGRESS, fit: bool = True) -> None:
        sized, self.changes = fitted(entry, world, group) if fit else (entry, [])
        self.world, self.method = world, Method(sized, progress)
        self.entry = self.method.entry
        self.terms = tuple(i for i, _ in self.method.terms)
        self.copies = 1
        self.values: dict[str, Tensor] = {}
        self._measured: dict[Any, dict[str, Tensor]] = {}
        self.slow = False

    def tables(self, student: Tensor | None = None) -> Tables:
        """The doubles of all scorers; the student stands at a table of its own."""
        found = Tables(self.world, self.world.table("student") if student is None else student, self.entry)
        return found.at(found.student)

    def laws(self, tables: Tables) -> dict[str, Law]:
        """Every stream's law; streams that one term reads together share their outcomes."""
        found = {name: law_of(stream, tables) for name, stream in self.entry.rollouts.items() if self._read(name)}
        for _, term in self.method.terms:
            names = list(dict.fromkeys(term.streams()))
            if len(names) == 2:
                found[names[0]], found[names[1]] = together(found[names[0]], found[names[1]])
            elif len(names) > 2:
                raise Exempt(f"objective: a term that reads {len(names)} streams at once")
        if (rows := max(len(law) for law in found.values())) > MOST_ROWS:
            raise Exempt(f"size: {rows} joint outcomes")
        return {name: _copied(law, self.copies) for name, law in found.items()}

    def _read(self, stream: str) -> bool:
        return any(stream in term.streams() for _, term in self.method.terms)

    def measure(self, tables: Tables, laws: Mapping[str, Law] | None = None) -> Measured:
        """The expected gradient at a student, exact where the laws are."""
        laws = self.laws(tables) if laws is None else laws
        asked: list[str] = []
        with Weighing() as weighing:
            contexts = {name: self.context(name, law, tables, weighing.weigher(_weights(law)), asked) for name, law in laws.items()}
            try:
                prepared = self._by_process(contexts, laws) if self.slow else self.method.prepare(contexts)
            except Unweighed:
                self.slow = True
                prepared = self._by_process(contexts, laws)
            if not asked or self.copies > 1:
                return self._gradients(prepared, contexts, laws, tables)
        self.copies = SHIFTS
        return self.measure(tables)

    def context(self, name: str, law: Law, tables: Tables, total: Callable[[Tensor], Tensor], asked: list[str]) -> LabContext:
        """One stream's rollout, rewards and columns."""
        rollout = self._rollout(law, tables)
        rewards = self._rewards(name, law)
        statistics, columns = self.method.statistics(name), dict[Statistic, Tensor]()
        view = self.view(law, tables)
        plain = [s for s in statistics if not isinstance(s, Value)]
        annotate(plain, view, rollout.mask_BT, slice(None), columns)
        shift_B = torch.from_numpy(np.arange(len(law)) // max(len(law) // self.copies, 1) / self.copies) if self.copies > 1 else torch.zeros(len(law))
        context = LabContext(rollout, columns, rewards, total, shift_B=shift_B, asked=asked)
        for statistic in statistics:
            if isinstance(statistic, Value):
                values_S = self._values(statistic.learner, name, context, law)
                columns[statistic] = torch.where(rollout.mask_BT, values_S[torch.from_numpy(np.maximum(law.state_RT, 0))], 0.0)
        return context

    def view(self, law: Law, tables: Tables, student_NV: Tensor | None = None) -> LogitView:
        """All scorers at the law's tokens; the student with a gradient only where its logits are given."""
        valid = law.state_RT >= 0
        return self.view_at(torch.from_numpy(law.state_RT[valid]), torch.from_numpy(law.token_RT[valid]), tables, student_NV)

    def view_at(self, state_N: Tensor, token_N: Tensor, tables: Tables, student_NV: Tensor | None = None) -> LogitView:
        """The same at any states and tokens."""
        made = [n for n, t in self.entry.teachers.items() if isinstance(t, Composite) and n not in tables.pinned]
        mixes = self.method.mixes({name: torch.zeros(len(state_N), dtype=torch.long) for name in made})
        logits: dict[str, Callable[[], Tensor]] = {n: (lambda n=n: tables.logits(n).detach()[state_N]) for n in ("reference", *self.entry.teachers)}  # type: ignore[misc]
        logits["student"] = lambda: tables.student.detach()[state_N] if student_NV is None else student_NV
        return LogitView(token_N, logits, self.method.targets, mixes=mixes)

    def _rollout(self, law: Law, tables: Tables) -> Rollout:
        mask_BT = torch.from_numpy(law.state_RT >= 0)
        logp_SV = tables.student.detach().log_softmax(-1)
        student_BT = logp_SV[torch.from_numpy(np.maximum(law.state_RT, 0)), torch.from_numpy(law.token_RT)]
        return Rollout(
            prompts=(PROMPT,) * len(law),
            prompt_ids=((0,),) * len(law),
            response_BT=torch.from_numpy(law.token_RT),
            mask_BT=mask_BT,
            author_BT=torch.from_numpy(law.author_RT),
            behaviour_logp_BT=torch.from_numpy(law.behaviour_RT),
            student_logp_BT=student_BT.masked_fill(torch.from_numpy(law.given_R)[:, None] & mask_BT, float("nan")),
            group_B=torch.from_numpy(law.outcome_R),
            finished_B=torch.from_numpy(law.finished_R),
        )

    def _rewards(self, stream: str, law: Law) -> dict[str, Tensor]:
        """Every reward of whole answers on a stream; the task's checks are fair coins, all else is the reward's own rule."""
        key = (stream, law.token_RT.tobytes(), law.state_RT.tobytes())
        if key not in self._measured:
            answers = []
            for tokens, states, finished in zip(law.token_RT, law.state_RT, law.finished_R, strict=True):
                learned = np.flatnonzero(states >= 0)
                written = tokens[: learned[-1] + 1] if len(learned) else tokens[:0]
                shown = written[:-1] if finished else written
                answers.append(Answered(" ".join(LETTERS[v] for v in shown), len(learned), bool(finished)))
            values: dict[str, Tensor] = {}
            for name, reward in self.method.sequence_rewards(stream).items():
                values[name] = reward.measure(answers, values, lambda check: torch.from_numpy(self._verdicts(law, _coin(check))))
            self._measured = {key: values}
        return self._measured[key]

    def _verdicts(self, law: Law, check: str) -> Array:
        """The verifier's result of each row; texts cut before the world's horizon fail."""
        codes, verdict = self.world.codes, verified(self.world, check)
        base = (self.world.vocabulary + 1) ** np.arange(self.world.horizon)
        written_RT = np.flip(np.logical_or.accumulate(np.flip(law.state_RT >= 0, 1), 1), 1)  # a given beginning is part of the text
        code_R = np.where(written_RT, (law.token_RT + 1) * base, 0).sum(1)
        place_R = np.minimum(np.searchsorted(codes[0], code_R), len(codes[0]) - 1)
        found: Array = np.where(codes[0][place_R] == code_R, verdict[codes[1][place_R]], 0.0)
        return found

    def _values(self, learner: str, stream: str, context: TokenContext, law: Law) -> Tensor:
        """The exact value of each state under the credit that reads this critic, unless a test has put a table in its place."""
        if learner in self.values:
            return self.values[learner]
        term = next(t for _, t in self.method.terms if stream in t.streams() and getattr(t, "critic", lambda: None)() == learner)
        gamma = float(getattr(term.credit, "gamma", 1.0))
        reward_BT = term.resolved_reward(self.entry.rewards).tokens(context, term.reward if isinstance(term.reward, str) else None)
        if term.credit.critic() is None:  # a baseline's: the mean of what is credited
            reward_BT, gamma = term.credited(context, self.entry.rewards), 0.0
        elif getattr(term.credit, "known", None) is not None:  # only what comes after the state
            reward_BT, gamma = term.credit.value_target(reward_BT, context), 0.0
        return torch.from_numpy(state_values(law, reward_BT.numpy(), gamma, len(self.world.states)))

    def _gradients(self, prepared: Sequence[Prepared], contexts: Mapping[str, TokenContext], laws: Mapping[str, Law], tables: Tables) -> Measured:
        shape = (len(self.world.states), self.world.vocabulary)
        by_term = {i: np.zeros(shape) for i in self.terms}
        pieces: dict[int, list[tuple[Law, Array]]] = {i: [] for i in self.terms}
        for part in prepared:
            law, mask_BT = laws[part.stream], contexts[part.stream].mask_BT
            valid = law.state_RT >= 0
            leaf_NV = tables.student.detach()[torch.from_numpy(law.state_RT[valid])].requires_grad_()
            with torch.enable_grad():
                loss, _ = self.method.chunk_loss([part], self.view(law, tables, leaf_NV), lambda value_BT, mask_BT=mask_BT: value_BT[mask_BT])  # type: ignore[misc]
                [grad_NV] = torch.autograd.grad(loss, leaf_NV, allow_unused=True, materialize_grads=True) if loss.requires_grad else [torch.zeros_like(leaf_NV)]
            weight_RT = np.broadcast_to(law.probability_R[:, None] * COPIES, law.state_RT.shape)
            one_NV = grad_NV.numpy()
            np.add.at(by_term[part.term], law.state_RT[valid], weight_RT[valid][:, None] * one_NV)
            pieces[part.term].append((law, one_NV * COPIES))
        tokens = sum(float((law.probability_R * (law.state_RT >= 0).sum(1)).sum()) for law in laws.values())
        second = {i: _second(pieces[i], shape) for i in self.terms}
        return Measured(by_term, dict(laws), max(law.error for law in laws.values()), tokens, second, tuple(prepared))

    def _by_process(self, contexts: Mapping[str, TokenContext], laws: Mapping[str, Law]) -> list[Prepared]:
        """`prepare`, one outcome at a time; only where all streams share their outcomes or each term reads one."""
        found: list[Prepared] = []
        for index, term in self.method.terms:
            names = tuple(dict.fromkeys(term.streams()))
            rows = {name: _rows_of(laws[name]) for name in names}
            outcomes = [{name: _part(contexts[name], rows[name][o]) for name in names} for o in range(laws[names[0]].outcomes)]
            alone = replace_terms(self.method, index)
            made = contexts_by_process(alone.prepare, outcomes, list(laws[names[0]].per_outcome))
            for k, first in enumerate(made[0]):
                order = np.argsort(np.concatenate(rows[first.stream]))
                scale_BT = torch.cat([parts[k].scale_BT.double() for parts in made])[order]
                columns = {n: torch.cat([parts[k].columns[n] for parts in made])[order] for n in first.columns}
                found.append(Prepared(index, first.stream, scale_BT, columns, None))
        return found

    def by_process(self, tables: Tables) -> Array:
        """The expected gradient the literal way, for tests."""
        laws, asked = self.laws(tables), list[str]()
        with Weighing() as weighing:
            contexts = {name: self.context(name, law, tables, weighing.weigher(_weights(law)), asked) for name, law in laws.items()}
            return self._gradients(self._by_process(contexts, laws), contexts, laws, tables).gradient


def replace_terms(method: Method, only: int) -> Method:
    """The method with one of its terms."""
    found = Method.__new__(Method)
    found.__dict__.update(method.__dict__)
    found.terms = tuple((i, term) for i, term in method.terms if i == only)
    return found


def state_values(law: Law, reward_RT: Array, gamma: float, states: int) -> Array:
    """E[sum over k >= t of gamma^(k-t) r_k | state], (S,)."""
    return_RT, running = np.zeros_like(reward_RT), np.zeros(len(law))
    for t in range(reward_RT.shape[1] - 1, -1, -1):
        running = reward_RT[:, t] + gamma * running
        return_RT[:, t] = running
    valid = law.state_RT >= 0
    weight = np.broadcast_to(law.probability_R[:, None], valid.shape)[valid]
    total = np.bincount(law.state_RT[valid], weight * return_RT[valid], minlength=states)
    mass = np.bincount(law.state_RT[valid], weight, minlength=states)
    found: Array = np.where(mass > 0, total / np.where(mass > 0, mass, 1.0), 0.0)
    return found


def _coin(check: Any) -> str:
    """The name of a check, or of a reward that needs a model to judge."""
    return check if isinstance(check, str) else str(getattr(check, "check", check.kind))


def _weights(law: Law) -> Tensor:
    return torch.from_numpy(law.probability_R)


def _copied(law: Law, copies: int) -> Law:
    if copies == 1:
        return law
    index = np.tile(np.arange(len(law)), copies)
    found = law.rows(index)
    shifted = found.outcome_R + np.repeat(np.arange(copies), len(law)) * law.outcomes
    return replace(found, probability_R=found.probability_R / copies, outcome_R=shifted)


def _second(pieces: list[tuple[Law, Array]], shape: tuple[int, int]) -> float:
    """E of the squared length of one outcome's gradient."""
    if not pieces:
        return 0.0
    outcomes = pieces[0][0].outcomes
    whole = np.zeros((outcomes, *shape))
    for law, one_NV in pieces:
        valid = law.state_RT >= 0
        outcome_N = np.broadcast_to(law.outcome_R[:, None], valid.shape)[valid]
        np.add.at(whole, (outcome_N, law.state_RT[valid]), one_NV)
    return float((pieces[0][0].per_outcome * (whole**2).sum((1, 2))).sum())


def _rows_of(law: Law) -> list[Any]:
    order = np.argsort(law.outcome_R, kind="stable")
    return np.split(order, law.outcomes)


def _part(context: TokenContext, rows: Any) -> TokenContext:
    at = torch.from_numpy(rows)
    columns = {s: c[at] for s, c in context.columns.items()}
    changes: dict[str, Any] = {"rollout": context.rollout.rows(rows.tolist()), "columns": columns, "rewards": {n: r[at] for n, r in context.rewards.items()}}
    if isinstance(context, LabContext) and context.shift_B is not None:
        changes["shift_B"] = context.shift_B[at]
    return replace(context, **changes)
