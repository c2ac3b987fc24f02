"""A method at one moment of its run: the entry's components put together. The only place where they meet.

The order is fixed: columns without gradient -> rewards -> each term's signal -> denominators over the global batch ->
the differentiable loss, in chunks of tokens of any size. Nothing here knows a model, a device or a method's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from zoo.components.base import Component, resolve
from zoo.components.rewards import SequenceReward, Verifier, measured_in_order
from zoo.components.rollouts import Stream
from zoo.components.targets import Target, with_inputs
from zoo.components.teachers import Carried, Composite
from zoo.components.terms.base import Signal, TokenTerm, unique
from zoo.components.terms.direct import DivergenceTerm
from zoo.components.terms.representation import RepresentationTerm
from zoo.context_rules import read_streams
from zoo.entry import MethodEntry
from zoo.statistics import Explored, Paired, Statistic, TokenContext, View
from zoo.views import Mix

BEHAVIOUR = "behaviour"


@dataclass(frozen=True)
class Prepared:
    """One term's part in one stream's update: `scale_BT` is coefficient * gates * weights * denominator."""

    term: int
    stream: str
    scale_BT: Tensor
    columns: Mapping[str, Tensor]
    value: Tensor | None

    def rows(self, rows: Sequence[int]) -> Prepared:
        """The same for some of the sequences."""
        at = torch.as_tensor(list(rows), dtype=torch.long, device=self.scale_BT.device)
        return replace(self, scale_BT=self.scale_BT[at], columns={name: column[at] for name, column in self.columns.items()})


class Method:
    """An entry with its schedules resolved at `progress` (0 to 1), ready to be asked what it needs and what its loss is. `measured` has
    the present numbers of schedules that follow a measure; the others are at their start."""

    def __init__(self, entry: MethodEntry, progress: float = 0.0, measured: Mapping[Component, float] | None = None) -> None:
        known = measured or {}
        self.entry = resolve(entry, at=lambda schedule: known[schedule] if schedule in known else _scheduled(schedule, progress))
        self.terms = tuple((i, term) for i, term in enumerate(self.entry.objective) if term.active(progress))

    @property
    def live(self) -> bool:
        """Whether a term needs the student's log-probabilities afresh at every optimizer step."""
        return any(term.live for _, term in self.terms)

    @property
    def streams(self) -> dict[str, Stream]:
        """The streams to write now: all but those that only terms at rest read."""
        named = {name for term in self.entry.objective for name in term.streams()}
        read = {name for _, term in self.terms for name in term.streams()} or named
        wanted = read | read_streams(self.entry) | self.taught
        return {name: stream for name, stream in self.entry.rollouts.items() if name in wanted or name not in named}

    @property
    def learned(self) -> set[str]:
        """Streams that a present term reads."""
        return {name for _, term in self.terms for name in term.streams()}

    @property
    def taught(self) -> set[str]:
        """Streams that a learner beside the student reads."""
        return {name for learner in self.entry.learners.values() for name in learner.streams()}

    @property
    def weighed(self) -> dict[str, set[str]]:
        """Streams whose answers decide which prompts are drawn, each with the rewards that say how."""
        found: dict[str, set[str]] = {}
        for name, draw in [(name, stream.prompts) for name, stream in self.streams.items() if stream.prompts is not None]:
            for read in (name, *draw.others):
                found.setdefault(read, set()).add(draw.name)
        return found

    def statistics(self, stream: str) -> tuple[Statistic, ...]:
        """Columns that some term needs on a stream."""
        terms = [term for _, term in self.terms if stream in term.streams()]
        return unique([*(s for term in terms for s in term.statistics(self.entry.rewards)), *(s for term in terms for s in self._paired(term))])

    def _paired(self, term: Any) -> tuple[Paired, ...]:
        """Where a direct term's comparison with a teacher of another tokenizer stands."""
        direct = isinstance(term, RepresentationTerm) or (isinstance(term, DivergenceTerm) and not term.divergence.teacherless)
        return (Paired(term.teacher),) if direct and (term.teacher in self.aligned or term.teacher in self.carried) else ()

    @property
    def carried(self) -> dict[str, Carried]:
        """Teachers that a learner brings together with hidden states, by name."""
        return {name: teacher for name, teacher in self.entry.teachers.items() if isinstance(teacher, Carried)}

    @property
    def aligned(self) -> dict[str, Any]:
        """Alignments by teacher name."""
        found = {name: getattr(teacher, "alignment", None) for name, teacher in self.entry.teachers.items()}
        return {name: alignment for name, alignment in found.items() if alignment is not None}

    def update_scorers(self, stream: str) -> tuple[str, ...]:
        """Scorers whose distributions the update on a stream reads, the student first."""
        teachers = [s for _, term in self.terms if stream in term.streams() for s in term.update_scorers()]
        return unique(["student", *self.with_target_inputs(teachers)])

    def annotation_scorers(self, stream: str) -> tuple[str, ...]:
        """Scorers whose distributions the columns of a stream read."""
        found = self.with_target_inputs(s for statistic in self.statistics(stream) for s in statistic.scorers)
        # What a span is worth to the student decides how its log-probability splits over the student's tokens.
        return unique([*found, *(["student"] if self.aligned.keys() & set(found) else [])])

    def with_target_inputs(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, and the scorers that their targets read."""
        return with_inputs((name for name in names if name != BEHAVIOUR), self.entry.teachers)

    @property
    def targets(self) -> dict[str, Target]:
        """Target transforms by teacher name."""
        return {name: teacher.target for name, teacher in self.entry.teachers.items() if teacher.target is not None}

    def mixes(self, index: Mapping[str, Tensor]) -> dict[str, Mix]:
        """How scorers made of others combine them; `index` says of each where its tokens are routed."""
        made = {name: self.entry.teachers[name] for name in index if isinstance(self.entry.teachers.get(name), Composite) and name not in self.carried}
        return {name: partial(teacher.combine, index_N=index[name]) for name, teacher in made.items()}  # type: ignore[attr-defined]

    def sequence_rewards(self, stream: str) -> dict[str, SequenceReward]:
        """Rewards of whole answers that some term, or the draw of prompts, reads on a stream, by name, and those they are made of, parts before wholes."""
        read = [name for _, term in self.terms if stream in term.streams() for name in term.reward_names()]
        read += sorted(self.weighed.get(stream, ()))
        return measured_in_order(read, self.entry.rewards)

    def turn_rewards(self, stream: str) -> dict[str, Any]:
        """Rewards of turns that some term reads on a stream, by name."""
        read = {name for _, term in self.terms if stream in term.streams() for name in term.reward_names()}
        return {name: reward for name, reward in self.entry.rewards.items() if name in read and reward.per_turn}

    def verifiers(self, stream: str) -> dict[str, Verifier]:
        """Those among them that the task's checks decide."""
        return {name: reward for name, reward in self.sequence_rewards(stream).items() if isinstance(reward, Verifier)}

    def prepare(self, contexts: Mapping[str, TokenContext]) -> list[Prepared]:
        """Every active term's scales and columns; the denominators count the whole global batch.

        `contexts` holds one optimizer step's sequences of each stream.
        """
        prepared = []
        with torch.no_grad():
            for index, term in self.terms:
                for signal in term.prepare(contexts, self.entry.rewards):
                    for paired in self._paired(term):
                        signal = _at(signal, contexts[signal.stream].column(paired) > 0)
                    signal = _heard(signal, contexts[signal.stream].heard_BT(self.with_target_inputs(term.scorers(self.entry.rewards))))
                    scale_BT = signal.weight_BT
                    if not signal.reduced:
                        assert isinstance(term, TokenTerm)
                        context = contexts[signal.stream]
                        scale_BT = scale_BT * term.reduce.scale(context.mask_BT, signal.kept_BT, context.total, context.rollout.turns_BT)
                    prepared.append(Prepared(index, signal.stream, scale_BT, signal.columns, signal.value))
        return prepared

    def chunk_loss(self, parts: Sequence[Prepared], view: View, at: Callable[[Tensor], Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Loss of the view's tokens, and each part's share of it; `at` picks the view's tokens from a (B, T) tensor."""
        shares = []
        for part in parts:
            columns_N = {name: at(column_BT) for name, column_BT in part.columns.items()}
            loss_N = self.entry.objective[part.term].token_loss(view, columns_N)
            scale_N = at(part.scale_BT)
            shares.append(torch.where(scale_N == 0, torch.zeros_like(loss_N), loss_N * scale_N).sum())
        return torch.stack(shares).sum(), [share.detach() for share in shares]


def annotate(statistics: Sequence[Statistic], view: View, mask_BT: Tensor, chunk: slice, columns: dict[Statistic, Tensor]) -> None:
    """Fill the columns (B, T) of the tokens `chunk` (a slice of the flattened mask) from a view of these tokens."""
    if not statistics:
        return
    annotate_at(statistics, view, mask_BT.flatten().nonzero()[:, 0][chunk], mask_BT.shape, columns)


def annotate_at(statistics: Sequence[Statistic], view: View, place_N: Tensor, shape: Sequence[int], columns: dict[Statistic, Tensor]) -> None:
    """The same at the places `place_N` of the flattened columns, which have this shape."""
    for statistic in (s for s in statistics if not isinstance(s, Explored)):
        value_N = statistic.compute(view).detach()
        column_BT = columns.setdefault(statistic, torch.zeros(tuple(shape), dtype=value_N.dtype, device=place_N.device))
        column_BT.view(-1)[place_N] = value_N


def _heard(signal: Signal, heard_BT: Tensor | None) -> Signal:
    """The signal without the sequences that a scorer it reads knows nothing about."""
    if heard_BT is None:
        return signal
    return replace(signal, kept_BT=signal.kept_BT & heard_BT, weight_BT=signal.weight_BT * heard_BT)


def _at(signal: Signal, place_BT: Tensor) -> Signal:
    """The signal at some tokens only."""
    return replace(signal, kept_BT=signal.kept_BT & place_BT, weight_BT=signal.weight_BT * place_BT)


def _scheduled(schedule: Component, progress: float) -> float:
    return float(schedule.value(progress))  # type: ignore[attr-defined]
