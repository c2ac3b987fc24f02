"""Where the exact update comes to rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.components.rollouts.base import Stream
from zoo.coordinates import is_anchor
from zoo.lab import references as ref
from zoo.lab.doubles import Tables
from zoo.lab.engine import Bench
from zoo.lab.measured import Measured
from zoo.lab.tilts import tilt_of
from zoo.lab.world import Array

ZERO = 1e-8  # of the update at the start
AWAY, REST = 1e-3, 1e-4  # nats from the teacher, and share of the update left, that tell a resting place from it
FOLLOW, RATE = 150, 2.0


@dataclass(frozen=True)
class FixedPoint:
    """What was found: `at_teacher` is the signal terms' update with the student at the teacher, relative to the start's; `rest` what is
    left of it after following it, and `kl` how far from the teacher that is, in nats per state (mean of both directions). A `trained`
    teacher moves by itself, so where the student alone would come to rest says nothing of the pair. `retold`: the teacher has tokens of its
    own, and was given the student's for this. `at_tilt` is the update with the student at the stated product of powers of scorers."""

    claimed: str | None
    teacher: str | None
    at_teacher: float | None
    agreeing: bool = False
    rest: float | None = None
    kl: float | None = None
    masses: tuple[float, float] | None = None
    trained: bool = False
    retold: bool = False
    at_tilt: float | None = None

    @property
    def zero(self) -> bool:
        """Whether the teacher is a resting place."""
        return self.at_teacher is not None and self.at_teacher <= ZERO

    @property
    def leads(self) -> str | None:
        """Where the update leads from the start: to the teacher, elsewhere, or not yet to rest; None where it was not followed."""
        if self.kl is None or self.rest is None:
            return None
        return "teacher" if self.kl <= AWAY else "elsewhere" if self.rest <= REST else "on its way"

    @property
    def found(self) -> str:
        """The fixed point in words."""
        if self.teacher is None:
            return "no teacher to compare with"
        found = "the teacher rests" if self.zero else "the teacher moves"
        found += " where the teachers agree" if self.agreeing and self.zero else ""
        found += ", had it the student's tokens" if self.retold else ""
        if self.at_tilt is not None:
            found += f"; the stated product {'rests' if self.at_tilt <= ZERO else 'moves'}"
        return found if self.leads is None else f"{found}; followed from the start: {self.leads}, KL {self.kl:.2g}, {self.rest:.0e} of the update left"

    @property
    def contradiction(self) -> str | None:
        """What the entry states against what was found."""
        if self.claimed is None or self.teacher is None:
            return None
        kind = self.claimed.split(":")[0]
        if kind == "teacher" and not self.zero:
            return f"fixed_point: teacher, but with the student at '{self.teacher}' {self.at_teacher:.1e} of the update at the start is left"
        if kind == "teacher" and self.leads == "elsewhere":
            return f"fixed_point: teacher, but the update also comes to rest {self.kl:.2g} nats away from it; write tilted: and what it rests at"
        if self.at_tilt is not None and self.at_tilt > ZERO:
            return f"fixed_point: {self.claimed}, but there {self.at_tilt:.1e} of the update at the start is left"
        if kind != "teacher" and self.zero and self.leads == "teacher" and not self.trained:
            return f"fixed_point: {kind}, but the teacher is one: the update vanishes there and leads there"
        return None


def signal_terms(bench: Bench) -> list[int]:
    """The active terms that are no anchors."""
    return [i for i in bench.terms if not is_anchor(bench.entry, bench.entry.objective[i])]


def teachers_of(bench: Bench) -> list[str]:
    """Scorers that signal terms or their streams compare the student with, in order."""
    found: list[str] = []
    for i in signal_terms(bench):
        term = bench.entry.objective[i]
        found += [s for s in (*term.update_scorers(), *term.scorers(bench.entry.rewards)) if s in bench.entry.teachers]
    if not found:
        found = [s for i in signal_terms(bench) for name in bench.entry.objective[i].streams() for s in _writers(bench.entry.rollouts[name])]
    return [s for s in dict.fromkeys(found) if s in bench.entry.teachers and not bench.entry.teachers[s].given]  # type: ignore[attr-defined]


def _writers(stream: Stream) -> tuple[str, ...]:
    return tuple(stream.reads)


def fixed_point(bench: Bench, tables: Tables, start: Measured, *, follow: int) -> FixedPoint:
    """Put the student at the teacher and see whether it stays; `follow` is how many steps to follow the update from the start (where the
    entry claims something else than the teacher, and the teacher stays, it is followed in any case)."""
    claimed, terms, names = bench.entry.fixed_point, signal_terms(bench), teachers_of(bench)
    size = float(np.linalg.norm(start.of(terms)))
    if not names or size == 0.0:
        return FixedPoint(claimed, None, None)
    chosen, at_teacher, agreeing = names[0], float("inf"), False
    for agree in (False, True) if len(names) > 1 else (False,):
        placed = _at_teacher(tables, chosen, names if agree else [chosen])
        left = float(np.linalg.norm(bench.measure(placed).of(terms))) / size
        if left < at_teacher:
            at_teacher, agreeing = left, agree
        if at_teacher <= ZERO + 10 * start.error:
            break
    at_teacher = 0.0 if at_teacher <= 10 * start.error else at_teacher
    found = FixedPoint(claimed, chosen, at_teacher, agreeing, retold=chosen in bench.method.aligned)
    if found.retold:  # where the student rests beside such a teacher is no table of the teacher's
        return found
    if claimed is not None and claimed.startswith("tilted:"):
        found = replace(found, at_tilt=_at_tilt(bench, tables, claimed.partition(":")[2], chosen, size))
    tilted = claimed is not None and claimed != "teacher"
    if not follow and not (tilted and found.zero):
        return found
    table_SV, rest, kept_S = followed(bench, tables, terms, size, follow or FOLLOW)
    q_SV = np.exp(ref.log_softmax(_frozen(tables, chosen).numpy()))
    p_SV = np.exp(ref.log_softmax(table_SV.numpy()))
    apart_S = 0.5 * (p_SV * np.log(p_SV / q_SV) + q_SV * np.log(q_SV / p_SV)).sum(-1)
    kl = float(apart_S[kept_S].mean()) if kept_S.any() else 0.0
    trained = bench.entry.teachers[chosen].kind == "learner"  # type: ignore[attr-defined]
    return replace(found, rest=rest, kl=kl, masses=_masses(bench, terms, p_SV, q_SV), trained=trained)


def _at_tilt(bench: Bench, tables: Tables, stated: str, chosen: str, size: float) -> float | None:
    """What is left of the signal terms' update at a stated product of powers, relative to the start's."""
    table_SV = tilt_of(tables, stated, chosen)
    return None if table_SV is None else float(np.linalg.norm(bench.measure(tables.at(table_SV)).of(signal_terms(bench)))) / size


def _frozen(tables: Tables, name: str) -> Tensor:
    return tables.logits(name).detach().clone()


def _at_teacher(tables: Tables, chosen: str, pinned: list[str]) -> Tables:
    """The student at a teacher's table; a teacher that is the live student is put into the student's own context."""
    teacher = tables.entry.teachers[chosen]
    live = getattr(getattr(teacher, "weights", None), "kind", None) == "live"
    table_SV = tables.student.detach().clone() if live else _frozen(tables, chosen)
    placed = tables.at(table_SV)
    placed.pinned = {**tables.pinned, **dict.fromkeys(pinned, table_SV)}
    return placed


def followed(bench: Bench, tables: Tables, terms: list[int], size: float, steps: int) -> tuple[Tensor, float, Any]:
    """The student after following the exact update, each state at its own pace, and what is left of the update, and the states that it acts on."""
    at, rest, rate = tables.at(tables.student.detach().clone()), 1.0, RATE
    for _ in range(steps):
        measured = bench.measure(at)
        gradient = measured.of(terms)
        last, rest = rest, float(np.linalg.norm(gradient)) / size
        # An update that does not shrink circles around its rest: shorter steps, until it does.
        rate = max(0.7 * rate, 0.05) if rest > (1.0 - 1e-4) * last else min(1.1 * rate, RATE)
        if rest < 1e-7:
            break
        pace_S1 = _pace(measured, len(bench.world.states))
        at = at.at(at.student - torch.from_numpy(np.clip(rate * gradient / pace_S1, -1.0, 1.0)))
    kept_S = np.zeros(len(bench.world.states), dtype=bool)
    for part in measured.prepared:
        law = measured.laws[part.stream]
        acts_RT = (law.state_RT >= 0) & (part.scale_BT.numpy() != 0) & (law.probability_R[:, None] > 1e-12)
        kept_S[law.state_RT[acts_RT]] |= part.term in terms
    return at.student, rest, kept_S


def _pace(measured: Measured, states: int) -> Array:
    """How often each state is visited at all; states that hardly ever are move as fast as the others."""
    visits = sum((law.visits(states) for law in measured.laws.values()), np.zeros(states))
    found: Array = np.maximum(visits, 1e-3)[:, None] / max(measured.tokens, 1.0)
    return found


def _masses(bench: Bench, terms: list[int], p_SV: Array, q_SV: Array) -> tuple[float, float] | None:
    """Student's and teacher's mass on the teacher's top-k in the first state, where a term is truncated to one."""
    for i in terms:
        support: Any = getattr(bench.entry.objective[i], "support", None)
        if getattr(support, "truncated", False) and hasattr(support, "k"):
            best = np.argsort(-(q_SV if support.kind == "teacher_topk" else p_SV)[0], kind="stable")[: support.k]
            return float(p_SV[0, best].sum()), float(q_SV[0, best].sum())
    return None
