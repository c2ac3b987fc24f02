"""The surveys' vocabulary, and the rule that derives an entry's coordinates from what it runs.

Survey A is arXiv 2604.00626, survey B arXiv 2606.22793. Each signal term gives one tuple (signal, granularity, estimator,
routing); an entry's coordinates are projections of these. Anchors never count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.components.base import Strict
from zoo.components.terms.direct import DivergenceTerm, LikelihoodTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Signal = Literal["logit", "outcome", "self_play", "label"]
Access = Literal["white_box", "black_box", "teacher_free"]
Granularity = Literal["token", "sequence", "hybrid"]
Estimator = Literal[
    "direct", "pg_immediate", "pg_discounted", "pg_return_to_go", "pg_kstep", "pg_gae", "pg_group",
    "preference", "mle", "adversarial", "representation",
]  # fmt: skip
Routing = Literal[
    "full_vocab", "teacher_topk", "student_topk", "union_topk", "overlap_topk", "nucleus", "fixed_set",
    "sampled_token", "counterfactual", "none",
]  # fmt: skip
RESERVED = ("student", "reference", "behaviour")


class Coordinates(Strict):
    """An entry's place in the taxonomy."""

    feedback_signal: tuple[Signal, ...]
    teacher_access: Access
    loss_granularity: Granularity
    estimator: tuple[Estimator, ...]
    routing: tuple[Routing, ...]

    def differences(self, other: Coordinates) -> dict[str, tuple[Any, Any]]:
        """Fields that differ, sets compared without order."""
        found = {}
        for name in type(self).model_fields:
            mine, theirs = getattr(self, name), getattr(other, name)
            if (set(mine) != set(theirs)) if isinstance(mine, tuple) else mine != theirs:
                found[name] = (mine, theirs)
        return found


@dataclass(frozen=True)
class TermCoordinates:
    """One signal term's tuple; `term` is its position in the objective."""

    term: int
    signals: tuple[str, ...]
    granularity: str
    estimator: str
    routing: str


def is_anchor(entry: MethodEntry, term: Any) -> bool:
    """Whether a term only holds the student in place: declared so, a pull to `reference`, or data text beside another signal."""
    if term.role == "anchor" or (isinstance(term, DivergenceTerm) and term.teacher == "reference"):
        return True
    if not isinstance(term, LikelihoodTerm) or entry.rollouts[term.on].author not in ("dataset", "corpus"):
        return False
    return any(not isinstance(other, LikelihoodTerm) and other.role == "signal" for other in entry.objective)


def external_scorers(entry: MethodEntry, term: Any) -> tuple[str, ...]:
    """Scorers of a term that are other models."""
    return tuple(s for s in term.scorers(entry.rewards) if s not in RESERVED and not entry.teachers[s].lineage)


def derive_term(entry: MethodEntry, index: int) -> TermCoordinates:
    """The tuple of one term, by the rule of the catalogue."""
    term = entry.objective[index]
    scorers = term.scorers(entry.rewards)
    signals: list[str] = []
    gates = [*term.gates, *term.weights, *getattr(term, "keep_chosen", ()), *getattr(term, "keep_rejected", ())]
    reward = term.resolved_reward(entry.rewards) if isinstance(term, PolicyGradientTerm) else None
    outcome_factor = any(getattr(part, "outcome", False) for part in gates)
    if external_scorers(entry, term):
        signals.append("logit")
    if outcome_factor or (reward is not None and reward.per_sequence):
        signals.append("outcome")
    if any(s not in RESERVED and entry.teachers[s].lineage for s in scorers):
        signals.append("self_play")
    signals = signals or ["label" if isinstance(term, LikelihoodTerm) else "self_play"]
    if isinstance(term, LogProbLossTerm):
        return TermCoordinates(index, tuple(signals), "sequence", "preference", "none")
    if isinstance(term, PolicyGradientTerm):
        assert reward is not None
        granularity = "token" if term.credit.local and not reward.per_sequence else "sequence"
        estimator, routing = term.credit.estimator(), term.routing.coordinate
    elif isinstance(term, DivergenceTerm):
        granularity, estimator, routing = "token", "direct", term.support.routing
    else:
        granularity, estimator, routing = "token", "mle", "sampled_token"
    if outcome_factor and granularity == "token":
        granularity = "hybrid"
    return TermCoordinates(index, tuple(signals), granularity, estimator, routing)


def derive_tuples(entry: MethodEntry) -> tuple[TermCoordinates, ...]:
    """One tuple for each signal term."""
    return tuple(derive_term(entry, i) for i, term in enumerate(entry.objective) if not is_anchor(entry, term))


def derive_coordinates(entry: MethodEntry) -> Coordinates:
    """The entry's coordinates: projections of its signal terms' tuples, and the access that all its parts need together."""
    tuples = derive_tuples(entry)
    granularities = {t.granularity for t in tuples}
    if any(external_scorers(entry, term) for term in entry.objective) or _reads_while_writing(entry):
        access = "white_box"
    elif any(names_external(entry, stream.reads) for stream in entry.rollouts.values()):
        access = "black_box"
    else:
        access = "teacher_free"
    return Coordinates.model_validate(
        {
            "feedback_signal": tuple(dict.fromkeys(s for t in tuples for s in t.signals)),
            "teacher_access": access,
            "loss_granularity": granularities.pop() if len(granularities) == 1 else "hybrid" if granularities else "token",
            "estimator": tuple(dict.fromkeys(t.estimator for t in tuples)),
            "routing": tuple(dict.fromkeys(t.routing for t in tuples)),
        }
    )


def names_external(entry: MethodEntry, names: tuple[str, ...]) -> bool:
    """Whether one of the names is another model."""
    return any(name not in RESERVED and not entry.teachers[name].lineage for name in names)


def _reads_while_writing(entry: MethodEntry) -> bool:
    """Whether some stream needs another model's probabilities, not only its texts, while it is written."""
    mixed = [s for s in entry.rollouts.values() if s.author not in ("teacher", "replay") and getattr(s, "per", "token") == "token"]
    return any(names_external(entry, stream.reads) for stream in mixed)
