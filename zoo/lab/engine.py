"""The engine: an entry's own terms on every outcome at once, and the exact mean and second moment of what they do to the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.rewards.base import Answered, SequenceReward
from zoo.components.teachers import Composite
from zoo.entry import MethodEntry
from zoo.lab.doubles import EXEMPT, LETTERS, PROMPT, Tables, verified
from zoo.lab.exact import COPIES, LabContext, Unweighed, Weighing, contexts_by_process
from zoo.lab.explore import explored_column
from zoo.lab.joint import joint_laws
from zoo.lab.laws import Exempt, Law, unrolled
from zoo.lab.measured import Measured, copied, part_of, replace_terms, rows_of, second_moment, state_values, weights
from zoo.lab.sizes import fitted
from zoo.lab.tokenizers import Split, split, teacher_world
from zoo.lab.votes import with_votes
from zoo.lab.world import Array, World
from zoo.method import Method, Prepared, annotate
from zoo.statistics import Explored, Statistic, TokenContext, Value
from zoo.tensors import Rollout
from zoo.views import LogitView

SHIFTS = 64  # evenly shifted sets of draws for gates that draw
PROGRESS = 0.5


class Bench:
    """An entry in a world. `fit` shrinks sizes that the world could not truncate; `changes` says which."""

    def __init__(self, entry: MethodEntry, world: World, *, group: int = 4, progress: float = PROGRESS, fit: bool = True) -> None:
        sized, self.changes = fitted(entry, world, group) if fit else (entry, [])
        self.world, self.method, self.progress = world, Method(with_votes(sized, world), progress), progress
        self.entry = self.method.entry
        self.method.terms = tuple((i, term) for i, term in self.method.terms if f"term.{term.term}" not in EXEMPT)
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
        found = joint_laws(tables, [term.streams() for _, term in self.method.terms])
        return {name: copied(law, self.copies) for name, law in found.items()}

    def measure(self, tables: Tables, laws: Mapping[str, Law] | None = None) -> Measured:
        """The expected gradient at a student, exact where the laws are."""
        laws = self.laws(tables) if laws is None else laws
        asked: list[str] = []
        with Weighing() as weighing:
            contexts = {name: self.context(name, law, tables, weighing.weigher(weights(law)), asked) for name, law in laws.items()}
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
            elif isinstance(statistic, Explored):
                columns[statistic] = explored_column(statistic, law, tables, context)
        return context

    def view(self, law: Law, tables: Tables, student_NV: Tensor | None = None) -> LogitView:
        """All scorers at the law's tokens; the student with a gradient only where its logits are given."""
        valid, tables = law.state_RT >= 0, tables.read_in(law.reading)
        splits = {name: self._split(name, alignment, law, tables) for name, alignment in self.method.aligned.items()}
        label_N = None if law.label_RT is None else torch.from_numpy(law.label_RT[valid])
        return self.view_at(torch.from_numpy(law.state_RT[valid]), torch.from_numpy(law.token_RT[valid]), tables, student_NV, splits, label_N)

    def view_at(
        self, state_N: Tensor, token_N: Tensor, tables: Tables, student_NV: Tensor | None = None, splits: Mapping[str, Split] | None = None,
        label_N: Tensor | None = None,
    ) -> LogitView:  # fmt: skip
        """The same at any states and tokens; scorers with other tokens, or given text for tokens, only where these are at hand."""
        made = [n for n, t in self.entry.teachers.items() if isinstance(t, Composite) and n not in tables.pinned]
        mixes = self.method.mixes({name: torch.zeros(len(state_N), dtype=torch.long) for name in made})
        splits = splits or {}

        def read(name: str) -> Tensor:
            if name in splits:
                return self._table(name, tables)[splits[name].state_M]
            if name in self.method.aligned:
                raise Exempt(f"scorer '{name}': has tokens of its own, so no law at a state of the student's")
            if tables.given(name) and name not in tables.pinned:
                if label_N is None:
                    raise Exempt(f"scorer '{name}': is a given text, so no law at a state")
                return torch.full((len(label_N), self.world.vocabulary), -torch.inf, dtype=torch.float64).scatter_(1, label_N[:, None], 0.0)
            return tables.logits(name).detach()[state_N]

        logits: dict[str, Callable[[], Tensor]] = {n: (lambda n=n: read(n)) for n in ("reference", *self.entry.teachers)}  # type: ignore[misc]
        shift = tables.shift()
        own = shift if isinstance(shift, float) else shift[state_N]
        logits["student"] = lambda: tables.logits("student").detach()[state_N] if student_NV is None else student_NV + own
        return LogitView(token_N, logits, self.method.targets, mixes=mixes, pairings={name: one.pairing for name, one in splits.items()})

    def _table(self, name: str, tables: Tables) -> Tensor:
        """The table of a teacher with its own tokens, or, put where a test wants it, with the student's."""
        if name in tables.pinned:
            return tables.logits(name).detach()
        teacher = self.entry.teachers[name]
        return teacher_world(self.world.vocabulary).table(f"foreign:{teacher.model}:{'' if teacher.context is None else teacher.context.template}")  # type: ignore[attr-defined]

    def _split(self, name: str, alignment: Any, law: Law, tables: Tables) -> Split:
        return split(alignment, law, self.world, tables.logits("student"), self._table(name, tables), same=name in tables.pinned)

    def _rollout(self, law: Law, tables: Tables) -> Rollout:
        mask_BT = torch.from_numpy(law.state_RT >= 0)
        logp_SV = tables.read_in(law.reading).logits("student").detach().log_softmax(-1)
        student_BT = logp_SV[torch.from_numpy(np.maximum(law.state_RT, 0)), torch.from_numpy(law.token_RT)]
        return Rollout(
            prompts=(PROMPT,) * len(law),
            prompt_ids=((0,),) * len(law),
            response_BT=torch.from_numpy(law.token_RT),
            mask_BT=mask_BT,
            author_BT=torch.from_numpy(law.author_RT),
            behaviour_logp_BT=torch.from_numpy(law.behaviour_RT),
            student_logp_BT=student_BT.masked_fill(torch.from_numpy(np.isnan(law.behaviour_RT)) & mask_BT | (law.reading is not None), float("nan")),
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

    def text_values(self, name: str) -> Array | None:
        """A reward of whole answers as one of their last token, (S, V): of every text that the world holds; None where it depends on more
        than the answer."""
        reward = self.entry.rewards[name]
        stream = next((one for one in self.entry.rollouts if name in self.method.sequence_rewards(one)), None)
        if stream is None or type(reward).verdict is not SequenceReward.verdict:  # type: ignore[attr-defined]
            return None
        states, vocabulary = len(self.world.states), self.world.vocabulary
        even = np.full((states, vocabulary), 1.0 / vocabulary)
        law = unrolled(self.world, self.world.horizon, lambda s, t: (even[s][:, None], np.log(even[s]), (0,)))
        last_R = (law.state_RT >= 0).sum(1) - 1
        found, rows = np.zeros((states, vocabulary)), np.arange(len(law))
        found[law.state_RT[rows, last_R], law.token_RT[rows, last_R]] = self._rewards(stream, law)[name].double().numpy()
        return found

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
        second = {i: second_moment(pieces[i], shape) for i in self.terms}
        return Measured(by_term, dict(laws), max(law.error for law in laws.values()), tokens, second, tuple(prepared))

    def _by_process(self, contexts: Mapping[str, TokenContext], laws: Mapping[str, Law]) -> list[Prepared]:
        """`prepare`, one outcome at a time; only where all streams share their outcomes or each term reads one."""
        found: list[Prepared] = []
        for index, term in self.method.terms:
            names = tuple(dict.fromkeys(term.streams()))
            rows = {name: rows_of(laws[name]) for name in names}
            outcomes = [{name: part_of(contexts[name], rows[name][o]) for name in names} for o in range(laws[names[0]].outcomes)]
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
            contexts = {name: self.context(name, law, tables, weighing.weigher(weights(law)), asked) for name, law in laws.items()}
            return self._gradients(self._by_process(contexts, laws), contexts, laws, tables).gradient


def _coin(check: Any) -> str:
    """The name of a check, or of a reward that needs a model to judge."""
    return check if isinstance(check, str) else str(getattr(check, "check", check.kind))
