"""From coordinates to claims: what each signal term says it estimates, and whether its exact mean is that.

A claim is tested on the term's core: without gates and weights, with its denominator replaced by the sum over a sequence's tokens and its
coefficient by 1. Whatever else bends the estimate (a routing, a shaping, a ratio, a stream that others write) enters the formula where
there is one; where there is none the term is only measured, and `altered` names why. The whole term, as it runs, is compared as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch

from zoo.components.reduces import Sum
from zoo.components.rewards import Verifier
from zoo.components.terms.direct import DivergenceTerm, LikelihoodTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm
from zoo.coordinates import derive_term, split
from zoo.lab import references as ref
from zoo.lab.doubles import Tables
from zoo.lab.engine import Bench
from zoo.lab.laws import Law
from zoo.lab.measured import Measured, replace_terms
from zoo.lab.world import Array

EXACT, PARALLEL = 1e-8, 1e-8  # relative bias, and 1 - cosine, up to which a claim holds
NULL = 1e-10  # of the root mean square of one outcome's gradient
ROUNDING = 1e-12  # a reference of this length is rounding alone, as where the writer is the student itself

Against = Literal["equal", "parallel", "null"]


@dataclass(frozen=True)
class Compared:
    """A mean against a reference: |mean - reference| / |reference|, and the cosine of the two."""

    bias: float
    cosine: float


@dataclass(frozen=True)
class Claim:
    """A statement about a term's mean; `bias` and `cosine` are its core's against the reference.

    `state`, `sequence` and `reward` compare the core with (a) and (b) of the reverse KL to its teacher and with (c), whatever it claims.
    `withheld`, of a core that is (a): by how much (b) raises the logits of the stop token more, over all states (D.4).
    """

    term: int
    estimator: str
    says: str
    against: Against | None
    bias: float = float("nan")
    cosine: float = float("nan")
    altered: tuple[str, ...] = ()
    state: Compared | None = None
    sequence: Compared | None = None
    reward: Compared | None = None
    withheld: float | None = None

    @property
    def holds(self) -> bool | None:
        """None where nothing is claimed."""
        if self.against is None:
            return None
        if self.against == "null":
            return bool(self.bias <= NULL)
        return bool(self.bias <= EXACT if self.against == "equal" else 1.0 - self.cosine <= PARALLEL)


@dataclass
class TermReferences:
    """The references of one term at one student, each computed when asked for."""

    bench: Bench
    tables: Tables
    index: int
    law: Law
    altered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tables = self.tables.read_in(self.law.reading)

    @cached_property
    def term(self) -> Any:
        return self.bench.entry.objective[self.index]

    @cached_property
    def p(self) -> Array:
        """The student's probabilities as it reads the texts, (S, V)."""
        return np.exp(ref.log_softmax(self.tables.logits("student").detach().numpy()))

    @cached_property
    def weight(self) -> Array:
        """How often the stream passes each state."""
        return self.law.visits(len(self.bench.world.states))

    @cached_property
    def reached(self) -> Array:
        """The same, 0 in states that the stream never reaches."""
        return np.where(self.weight[:, None] > 0, self.p, 0.0)

    @cached_property
    def counts(self) -> Array:
        """How often each token is written in each state."""
        return self.law.tokens(*self.p.shape)

    @cached_property
    def on_policy(self) -> bool:
        """Whether the written tokens have the student's own law."""
        return bool(np.allclose(self.counts, self.weight[:, None] * self.p, atol=1e-12))

    @cached_property
    def behaviour(self) -> Array:
        """The law of the written tokens in each state, 0 where none is written."""
        return np.asarray(self.counts / np.maximum(self.counts.sum(-1, keepdims=True), 1e-300))

    def logp(self, scorer: str, temperature: float = 1.0) -> Array:
        """A scorer's log-probabilities after its target transform: data here, as the tables are."""
        if scorer == "behaviour":
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.nan_to_num(np.log(self.counts / self.counts.sum(-1, keepdims=True)), neginf=-1e4)
        every = torch.arange(len(self.bench.world.states))
        view = self.bench.view_at(every, torch.zeros_like(every), self.tables)
        return np.asarray(view.logp_NV(scorer, temperature).detach().double().numpy())

    def mean(self, advantage_SV: Array) -> Array:
        """The exact mean of a score function with this advantage, under the stream's own tokens or corrected by its ratio."""
        corrected = any(ratio.kind in ("importance", "mixture_importance") for ratio in getattr(self.term, "ratio", ()))
        if corrected or self.on_policy:
            return ref.field(self.weight, self.p, advantage_SV)
        self.altered.append("tokens drawn from another law than the student's, without a ratio")
        written = self.counts * advantage_SV
        return np.asarray(written.sum(-1, keepdims=True) * self.p - written)

    @property
    def teacher(self) -> str | None:
        """The scorer that the term compares the student with."""
        if isinstance(self.term, DivergenceTerm):
            found = None if getattr(self.term.divergence, "teacherless", False) else self.term.teacher
        else:
            scorers = [s for s in self.term.scorers(self.bench.entry.rewards) if s not in ("student", "behaviour")]
            found = next((s for s in scorers if s in self.bench.entry.teachers), scorers[0] if scorers else None)
        return None if found is None or not self.has_law(found) else found

    def has_law(self, scorer: str) -> bool:
        """Whether a scorer has a law at each state: not where it has tokens of its own, or is a given text."""
        return scorer not in self.bench.method.aligned and not self.tables.given(scorer)

    def reverse_kl(self, level: Literal["state", "sequence"]) -> Array | None:
        """(a) or (b) of the reverse KL to the term's teacher, at the states that the student itself visits."""
        if self.teacher is None:
            return None
        world, reward_SV = self.bench.world, self.logp(self.teacher) - np.log(self.p)
        advantage_SV = reward_SV if level == "state" else ref.action_values(world, self.p, reward_SV)
        return ref.field(ref.visits(world, self.p), self.p, advantage_SV)

    def expected_reward(self) -> Array | None:
        """(c): minus the gradient of the expected reward of whole answers, of a verifier where there is one."""
        rewards = self.bench.entry.rewards
        named = sorted((n for n, r in rewards.items() if r.per_sequence), key=lambda n: not isinstance(rewards[n], Verifier))
        reward_SV = next((found for name in named if (found := self.bench.text_values(name)) is not None), None)
        if reward_SV is None:
            return None
        world = self.bench.world
        return ref.field(ref.visits(world, self.p), self.p, ref.action_values(world, self.p, reward_SV))

    def three(self, mean: Array) -> dict[str, Any]:
        """A mean against (a), (b) and (c), each where there is one and it is not zero."""
        wanted = {"state": self.reverse_kl("state"), "sequence": self.reverse_kl("sequence"), "reward": self.expected_reward()}
        return {name: None if one is None or size_of(one) <= ROUNDING else Compared(*ref.compare(mean, one)) for name, one in wanted.items()}

    def withheld(self, mean: Array, state: Compared | None) -> float | None:
        """The stop bonus that a core equal to (a) leaves out; its update is minus the gradient."""
        sequence = self.reverse_kl("sequence")
        if sequence is None or state is None or state.bias > EXACT:
            return None
        return float((mean - sequence)[:, self.bench.world.stop].sum())


def core_of(bench: Bench, index: int, part: int = 0) -> Bench:
    """A bench on one term (one of its advantages) without gates, weights, coefficient and denominator."""
    term = split(bench.entry.objective[index])[part]
    plain: dict[str, Any] = {"gates": (), "weights": (), "coefficient": 1.0, "during": None}
    plain |= {name: empty for name, empty in (("plus", ()), ("temperature_by", None)) if hasattr(term, name)}
    if hasattr(term, "reduce"):
        plain["reduce"] = Sum()
    objective = tuple(term.model_copy(update=plain) if i == index else other for i, other in enumerate(bench.entry.objective))
    found = Bench(bench.entry.model_copy(update={"objective": objective}), bench.world, fit=False)
    found.method = replace_terms(found.method, index)
    found.terms, found.values = (index,), bench.values
    return found


def parts_of(bench: Bench, index: int) -> int:
    """How many advantages a term adds up."""
    return len(split(bench.entry.objective[index]))


def claim_of(bench: Bench, tables: Tables, index: int, part: int = 0) -> Claim:
    """Test what the coordinates of a term, or of one of the advantages that it adds up, say."""
    estimator = derive_term(bench.entry, index, part).estimator
    core = core_of(bench, index, part)
    found = core.measure(tables)
    term = core.entry.objective[index]
    law = found.laws[term.streams()[0]]
    at = TermReferences(core, tables, index, law)
    says, against, wanted = _expected(at, term, found)
    mean, size = found.by_term[index], np.sqrt(found.second[index])
    three = at.three(mean)
    claim = Claim(index, estimator, says, None, altered=tuple(at.altered), **three, withheld=at.withheld(mean, three["state"]))
    if against == "null":
        return replace(claim, against=against, bias=float(np.linalg.norm(mean) / size) if size else 0.0, cosine=0.0)
    if wanted is None:
        return claim
    bias, cosine = ref.compare(mean, wanted)
    if size_of(wanted) <= max(NULL * size, ROUNDING):
        return replace(claim, altered=(*claim.altered, "which is zero: no direction to compare, and only gates and weights act"))
    return replace(claim, against=against, bias=bias, cosine=cosine)


def size_of(value: Array) -> float:
    """Its length."""
    return float(np.linalg.norm(value))


def _expected(at: TermReferences, term: Any, found: Measured) -> tuple[str, Against | None, Array | None]:
    from zoo.lab import formulas

    if isinstance(term, LikelihoodTerm):
        return "the gradient of the stream's cross-entropy", "equal", ref.cross_entropy_field(at.counts, at.p)
    if isinstance(term, DivergenceTerm):
        return formulas.direct(at, term, found)
    if isinstance(term, PolicyGradientTerm):
        return formulas.policy_gradient(at, term, found)
    if isinstance(term, LogProbLossTerm):
        return formulas.preference(at, term, found)
    at.altered.append(f"term {term.term}: no formula in the lab")
    return "measured only", None, None
