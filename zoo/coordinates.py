"""The surveys' vocabulary, and the rule that derives an entry's coordinates from what it runs.

Survey A is arXiv 2604.00626, survey B arXiv 2606.22793. Each signal term gives one tuple (signal, granularity, estimator,
routing); an entry's coordinates are projections of these. Anchors never count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from zoo.components.base import Strict
from zoo.components.rewards import measured_in_order
from zoo.components.rollouts import Edited, Mixture, Prefix, Replay, Stream
from zoo.components.targets import with_inputs
from zoo.components.teachers import Composite, InitialWeights, LearnedTeacher, SelfTeacher
from zoo.components.terms.direct import DivergenceTerm, LikelihoodTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.terms.preference import LogProbLossTerm
from zoo.components.terms.representation import RepresentationTerm

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
RESERVED = {"student": "the student being trained", "reference": "the initial student", "behaviour": "whoever wrote the token"}


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
    """Whether a term only holds the student in place: declared so, a pull to the initial student, or given text beside another signal."""
    if all(_holds(entry, part) for part in split(term)):
        return True
    return _given(entry, term) and any(not _holds(entry, other) and not _given(entry, other) for other in entry.objective)


def split(term: Any) -> tuple[Any, ...]:
    """The terms that a term is the sum of: one for each advantage of a policy gradient."""
    return term.split() if isinstance(term, PolicyGradientTerm) else (term,)


def _holds(entry: MethodEntry, term: Any) -> bool:
    """Whether a term is an anchor by role, or a divergence or log-ratio to the initial student in the same context."""
    if term.role == "anchor":
        return True
    pulls: set[str] = set()
    if isinstance(term, DivergenceTerm):
        pulls = {term.teacher}
    elif isinstance(term, PolicyGradientTerm):
        pulls = {*term.resolved_reward(entry.rewards).scorers(), *term.update_scorers()} - {"student", "behaviour"}
    return bool(pulls) and all(_initial(entry, name) for name in pulls)


def _initial(entry: MethodEntry, name: str) -> bool:
    """Whether a scorer is the initial student in the student's own context, untransformed."""
    teacher = entry.teachers.get(name)
    if teacher is None:
        return name == "reference"
    return isinstance(teacher, SelfTeacher) and isinstance(teacher.weights, InitialWeights) and teacher.context is None and teacher.target is None


def _given(entry: MethodEntry, term: Any) -> bool:
    """Whether a term reads text that nobody wrote for this run: a corpus, or the likelihood of a data set."""
    if isinstance(term, LogProbLossTerm):
        return False
    author = entry.rollouts[term.on].author
    return author == "corpus" or (author == "dataset" and isinstance(term, LikelihoodTerm))


def descends(entry: MethodEntry, name: str) -> bool:
    """Whether a teacher's weights come from the student's: its own, or those of a learner that began as the student."""
    teacher = entry.teachers[name]
    learner = entry.learners.get(teacher.learner) if isinstance(teacher, LearnedTeacher) else None
    return teacher.lineage or getattr(learner, "model", None) == "student"


def external_scorers(entry: MethodEntry, term: Any) -> tuple[str, ...]:
    """Scorers of a term that are other models, the members of composite ones among them."""
    return tuple(s for s in voices(entry, term) if s not in RESERVED and not descends(entry, s) and not entry.teachers[s].given)


def voices(entry: MethodEntry, term: Any) -> tuple[str, ...]:
    """The scorers of a term and those that they are made of or transformed with; what is made of others says nothing of its own."""
    found = with_inputs(term.scorers(entry.rewards), entry.teachers)
    return tuple(s for s in found if not isinstance(entry.teachers.get(s), Composite) or entry.teachers[s].given)


def derive_term(entry: MethodEntry, index: int, part: int = 0) -> TermCoordinates:
    """The tuple of one term, by the rule of the catalogue; `part` counts the advantages of a policy gradient."""
    term = split(entry.objective[index])[part]
    scorers = term.scorers(entry.rewards)
    signals: list[str] = []
    reward = term.resolved_reward(entry.rewards) if isinstance(term, PolicyGradientTerm) else None
    outcome_factor = any(part.outcome or part.judged for _, part in term.parts()) or (isinstance(term, PolicyGradientTerm) and bool(term.outcomes()))
    # Drawing a prompt more often is a weight on all answers to it.
    outcome_factor = outcome_factor or any(entry.rollouts[name].prompts is not None for name in term.streams())
    seen = [entry.teachers[s].context for s in with_inputs(scorers, entry.teachers) if s in entry.teachers]
    shown = [part for context in seen if context is not None for outer in context.made for part in outer.alternatives()]
    shown += [part for name in term.streams() if isinstance(stream := entry.rollouts[name], Edited) for part in stream.put.alternatives()]
    if external_scorers(entry, term):
        signals.append("logit")
    if outcome_factor or (reward is not None and (reward.per_sequence or reward.per_turn)) or any(part.outcome for part in shown):
        signals.append("outcome")
    if any(s != "student" and s in entry.teachers and descends(entry, s) and not _initial(entry, s) for s in voices(entry, term)):
        signals.append("self_play")
    labelled = any(s in entry.teachers and entry.teachers[s].given for s in voices(entry, term))
    if labelled or (not signals and isinstance(term, LikelihoodTerm)):
        signals.append("label")
    signals = signals or ["self_play"]
    if isinstance(term, LogProbLossTerm):
        return TermCoordinates(index, tuple(signals), "sequence", "preference", "none")
    if isinstance(term, PolicyGradientTerm):
        assert reward is not None
        granularity = "token" if term.credit.local and not reward.per_sequence else "sequence"
        estimator, routing = term.credit.estimator(), term.routing.coordinate
    elif isinstance(term, RepresentationTerm):
        granularity, estimator, routing = "token", "representation", "none"
    elif isinstance(term, DivergenceTerm):
        alignment = getattr(entry.teachers.get(term.teacher), "alignment", None)
        granularity, estimator = "sequence" if term.divergence.positions else "token", "direct"
        routing = term.support.routing if alignment is None or alignment.columns is None else alignment.columns.routing
        if labelled:
            estimator, routing = "mle", "sampled_token"
    else:
        granularity, estimator, routing = "token", "mle", "sampled_token"
    # A token's own probability or entropy is no second signal; what a teacher says of it is.
    teachers = {name for _, part in term.parts() for name in part.scorers()} - {"student", "behaviour"}
    modulated = reward is not None and reward.per_sequence and bool(teachers)
    if modulated or (outcome_factor and granularity == "token"):
        granularity = "hybrid"
    return TermCoordinates(index, tuple(signals), granularity, estimator, routing)


def derive_tuples(entry: MethodEntry) -> tuple[TermCoordinates, ...]:
    """One tuple for each signal term, and for each further advantage of one."""
    signals = [(i, term) for i, term in enumerate(entry.objective) if not is_anchor(entry, term)]
    found = [derive_term(entry, i, j) for i, term in signals for j, part in enumerate(split(term)) if not _holds(entry, part)]
    # A reward that is trained against the student makes its term adversarial as well.
    against = {i for i, term in signals for part in measured_in_order(term.reward_names(), entry.rewards).values() if part.adversarial}
    return tuple(each for tuple_ in found for each in ((replace(tuple_, estimator="adversarial"),) if tuple_.term in against else ()) + (tuple_,))


def derive_coordinates(entry: MethodEntry) -> Coordinates:
    """The entry's coordinates: projections of its signal terms' tuples, and the access that all its parts need together."""
    tuples = derive_tuples(entry)
    granularities = {t.granularity for t in tuples}
    if any(external_scorers(entry, term) for term in entry.objective) or _reads_while_writing(entry):
        access = "white_box"
    elif any(names_external(entry, read) for read in (*(s.reads for s in entry.rollouts.values()), *_asked(entry))):
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


def _asked(entry: MethodEntry) -> list[tuple[str, ...]]:
    """Models whose judgements or texts rewards, gates and weights read."""
    return [*(reward.asks() for reward in entry.rewards.values())] + [part.asks() for term in entry.objective for _, part in term.parts()]


def names_external(entry: MethodEntry, names: tuple[str, ...]) -> bool:
    """Whether one of the names is another model."""
    return any(name not in RESERVED and not descends(entry, name) and not entry.teachers[name].given for name in names)


def _reads_while_writing(entry: MethodEntry) -> bool:
    """Whether some stream needs another model's probabilities, not only its texts, while it is written."""
    return any(names_external(entry, read_while_writing(stream)) for stream in entry.rollouts.values())


def read_while_writing(stream: Stream) -> tuple[str, ...]:
    """Models whose next-token probabilities a stream needs while it is written; the text of a model that writes alone needs none."""
    if isinstance(stream, Replay):
        return (*read_while_writing(stream.of), *read_while_writing(stream.otherwise))
    if isinstance(stream, Prefix):
        return read_while_writing(stream.of)
    alone = len(stream.reads) < 2 or (isinstance(stream, Mixture) and stream.per != "token")
    return () if alone else stream.reads
