"""Combinations that cannot mean what they say, each refused with its reason and the remedy.

Every rule is a function from an entry (or an entry and a pair) to messages. Numbers D.x are derivations of the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from zoo import advantage_rules, alignment_rules, asked_rules, context_rules, explore_rules, movement_rules, placement, turn_rules
from zoo.components.base import extremes
from zoo.components.divergences import K1, K3, Divergence, FDivergence, ReverseKL, SkewReverseKL
from zoo.components.ratios import Shaped
from zoo.components.rewards import Contrast, Learned, SequenceReward
from zoo.components.rollouts import Continued, Stream, Switch
from zoo.components.routings import Spread
from zoo.components.supports import Detach, Full, Sampled
from zoo.components.targets import with_inputs
from zoo.components.teachers import Carried, External, LearnedTeacher, SelfTeacher
from zoo.components.terms.direct import DivergenceTerm
from zoo.components.terms.policy_gradient import PolicyGradientTerm
from zoo.components.updates import TrustRegion
from zoo.coordinates import RESERVED, read_while_writing
from zoo.errors import suggest

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def unknown_names(entry: MethodEntry) -> Messages:
    """Streams, teachers and rewards that a term or stream names but the entry does not declare."""
    for i, term in enumerate(entry.objective):
        for read in term.streams():
            if read not in entry.rollouts:
                yield f"objective[{i}]: stream '{read}' is not under rollouts{suggest(read, entry.rollouts)}"
        missing = [name for name in term.reward_names() if name not in entry.rewards]
        yield from (f"objective[{i}]: reward '{name}' is not under rewards{suggest(name, entry.rewards)}" for name in missing)
        if not missing:
            for scorer in term.scorers(entry.rewards):
                if scorer not in RESERVED and scorer not in entry.teachers:
                    yield f"objective[{i}]: scorer '{scorer}' is not under teachers{suggest(scorer, [*entry.teachers, *RESERVED])}"
    for name, teacher in entry.teachers.items():
        for other in teacher.target.reads if teacher.target is not None else ():
            if other == "behaviour" or (other not in RESERVED and other not in entry.teachers):
                yield f"teachers.{name}.target: '{other}' is not under teachers{suggest(other, [*entry.teachers, 'student', 'reference'])}"
    for name, stream in entry.rollouts.items():
        for model in stream.reads:
            if model not in RESERVED and model not in entry.teachers:
                yield f"rollouts.{name}: '{model}' is not under teachers{suggest(model, entry.teachers)}"


def reserved_names(entry: MethodEntry) -> Messages:
    """`student`, `reference` and `behaviour` are there without being declared, and mean what they say."""
    for name, teacher in entry.teachers.items():
        if name not in RESERVED:
            continue
        weights = _kind(teacher.weights) if isinstance(teacher, SelfTeacher) else None
        if weights is None or name == "behaviour":
            yield f"teachers.{name}: '{name}' is reserved for {RESERVED[name]}; use another name"
        elif name == "student" and (weights != "live" or teacher.target is not None):
            yield "teachers.student is the student being trained: set weights: live, without a target, or use another name"
        elif name == "reference" and weights != "initial":
            yield "teachers.reference is the initial student: set weights: initial, or use another name"


def black_box_probabilities(entry: MethodEntry) -> Messages:
    """A black-box teacher gives texts, not probabilities."""
    closed = {name for name, t in entry.teachers.items() if isinstance(t, External) and t.access == "black_box"}
    for i, term in enumerate(entry.objective):
        for name in closed.intersection(with_inputs(term.scorers(entry.rewards), entry.teachers)):
            yield (
                f"objective[{i}] reads probabilities of '{name}', a black-box teacher that gives only texts; "
                "learn from its texts (likelihood, log_prob_loss), or set access: white_box"
            )
    for name, stream in entry.rollouts.items():
        for model in closed.intersection(stream.reads):
            if model in read_while_writing(stream):
                yield f"rollouts.{name} needs next-token probabilities of the black-box teacher '{model}'; use author: teacher or a mixture per sequence"


def sampled_divergence(entry: MethodEntry) -> Messages:
    """A divergence on the sampled token alone must be one of the estimators made for it."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, DivergenceTerm):
            continue
        divergence, sampled = term.divergence, isinstance(term.support, Sampled)
        if isinstance(divergence, K1):
            yield f"objective[{i}]: k1 differentiated directly has no teacher gradient (its expectation is 0); use k2, or a policy_gradient term"
        elif sampled and not divergence.sampled_only:
            yield f"objective[{i}]: {_no_estimate(divergence)}"
        elif divergence.sampled_only and not sampled:
            yield f"objective[{i}]: {_kind(divergence)} is a function of the sampled token; set support: sampled"


def _no_estimate(divergence: Divergence) -> str:
    """Why the written token's entry is no loss, and what to use."""
    if divergence.forward:
        side, remedy = "a forward generator", "k3, whose gradient is the forward KL's"
    elif isinstance(divergence, FDivergence) and not isinstance(divergence, ReverseKL | SkewReverseKL):
        side, remedy = "the entry", "a policy_gradient term with shaping w_f"
    else:
        side, remedy = "a reverse generator" if isinstance(divergence, ReverseKL | SkewReverseKL) else "the entry", "k2, or a policy_gradient term"
    return f"{side} on the sampled token alone is no estimate of {_kind(divergence)}; use {remedy}"


def whole_vocabulary(entry: MethodEntry) -> Messages:
    """Some divergences are defined on the whole vocabulary: heads and tails, the written token against the rest, pairs of logits."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, DivergenceTerm) and term.divergence.whole and not isinstance(term.support, Full | Sampled):
            yield f"objective[{i}]: {_kind(term.divergence)} is defined on the whole vocabulary; set support: full"


def truncated_mass(entry: MethodEntry) -> Messages:
    """A truncated support must say what becomes of the mass outside it (D.11)."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, DivergenceTerm) or not term.support.truncated:
            continue
        mass = getattr(term.support, "mass", None)
        if mass is None:
            leak = "with a reverse KL the student moves to P_S = Q_S/e" if isinstance(term.divergence, ReverseKL) else "the mass outside is unconstrained"
            yield f"objective[{i}]: a truncated support leaks mass ({leak}); set mass: renormalise, tail_bucket or detach, or mass: raw to ask for it by name"
        elif isinstance(mass, Detach) and not isinstance(term.divergence, ReverseKL):
            yield f"objective[{i}]: mass: detach is defined for reverse_kl only; use renormalise or tail_bucket with {_kind(term.divergence)}"


def null_advantage(entry: MethodEntry) -> Messages:
    """A state-only value as the advantage has zero expected gradient (D.6)."""
    for i, term in advantage_rules.gradients(entry):
        if term.resolved_reward(entry.rewards).state_only and term.credit.local:
            yield (
                f"objective[{i}]: a divergence value does not depend on the written token, so as an immediate advantage its expected gradient is 0 (D.6); "
                "use a divergence term, or a contrast reward"
            )


def foreign_tokens(entry: MethodEntry) -> Messages:
    """A policy gradient on tokens that others wrote needs their probabilities."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm):
            continue
        stream = entry.rollouts[term.on]
        own = any(_kind(gate) == "author" and gate.wrote == "student" for gate in term.gates)
        if not own and not _student_writes_all(stream) and not any(ratio.off_policy for ratio in term.ratio):
            yield (
                f"objective[{i}]: rollouts.{term.on} holds tokens that the student did not write, so the policy gradient needs behaviour log-probabilities: "
                "add ratio importance, mixture_importance or shaped (behaviour: one), or a gate author: student"
            )


def idle_ratio(entry: MethodEntry) -> Messages:
    """With one minibatch per rollout the ratio is always 1, but for a step that searches along the surrogate."""
    if isinstance(entry.update, TrustRegion):
        return
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm) or not term.ratio:
            continue
        stream = entry.rollouts[term.on]
        # The loop takes the largest reuse of all streams.
        steps = max(s.reuse.epochs * s.reuse.minibatches * s.reuse.refresh_every for s in entry.rollouts.values())
        unlike = any(isinstance(ratio, Shaped) and ratio.behaviour == "one" for ratio in term.ratio) or any(ratio.own for ratio in term.ratio)
        if steps == 1 and not unlike and _student_writes_all(stream) and _plain_sampling(stream):
            yield f"objective[{i}]: with one minibatch per rollout every ratio is 1; set rollouts.{term.on}.reuse, or drop ratio"


def spread_candidates(entry: MethodEntry) -> Messages:
    """Candidates beside the written token have a reward where it is a function of log-probabilities, and neither a future nor a past."""
    for i, term in enumerate(entry.objective):
        if not isinstance(term, PolicyGradientTerm) or not isinstance(term.routing, Spread):
            continue
        start = f"objective[{i}]: routing {_kind(term.routing)} pushes tokens that were not written, so"
        if not isinstance(term.reward, Contrast) or "behaviour" in term.reward.of:
            yield f"{start} their reward must be a contrast of scorers, written in the term and without 'behaviour'"
        if _kind(term.credit) != "immediate" or _kind(term.baseline) != "none" or any(shaping.batchwide for shaping in term.shaping):
            yield f"{start} credit must be immediate, baseline none, and no shaping may read the batch"
        if term.plus:
            yield f"{start} no other advantage can be added; drop plus, or write a second term"
        if term.ratio and not term.routing.keeps_written:
            yield f"{start} their old probabilities are not kept and a ratio would be 1; drop ratio"


def zero_signal(entry: MethodEntry) -> Messages:
    """A teacher equal to the live student in the same context says nothing."""
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, SelfTeacher) and _kind(teacher.weights) == "live" and context_rules.sees_nothing(entry, teacher) and teacher.target is None:
            yield f"teachers.{name} is the live student in the student's own context, so its signal is 0; give it a context, other weights or a target"
    for i, term in enumerate(entry.objective):
        if isinstance(term, DivergenceTerm) and term.teacher == "student" and "student" not in entry.teachers:
            yield f"objective[{i}]: the student is compared with itself, so the signal is 0; name another teacher"


def chained_targets(entry: MethodEntry) -> Messages:
    """A target combines distributions as they are, so those that it reads have no such target of their own."""
    for name, teacher in entry.teachers.items():
        for other in teacher.target.reads if teacher.target is not None else ():
            inner = entry.teachers[other].target if other in entry.teachers else None
            if inner is not None and inner.reads:
                yield f"teachers.{name}.target reads '{other}', whose own target reads {', '.join(inner.reads)}; drop one of the two targets"


def unused_parts(entry: MethodEntry) -> Messages:
    """Declared but never read: usually a misspelling."""
    streams = {s for term in entry.objective for s in term.streams()} | context_rules.read_streams(entry)
    streams |= {s for learner in entry.learners.values() for s in learner.streams()} | {s for _, draw in placement.draws(entry) for s in draw.others}
    beside = [term for learner in entry.learners.values() for term in getattr(learner, "objective", ())]
    named = (s for term in (*entry.objective, *beside) for s in term.scorers(entry.rewards) if s != "pupil")
    read = {*with_inputs(named, entry.teachers), *(m for s in entry.rollouts.values() for m in s.reads)}
    rewarded = {name for term in entry.objective for name in term.reward_names()}
    measured = [reward for reward in entry.rewards.values() if isinstance(reward, SequenceReward)]
    rewarded |= {part for reward in measured for part in reward.reads()} | {draw.name for _, draw in placement.draws(entry)}
    read |= {judge for reward in entry.rewards.values() for judge in reward.asks()}
    read |= {name for term in entry.objective for _, part in term.parts() for name in part.asks()}
    yield from (f"rollouts.{name} is written but no term reads it; remove it or name it with `on:`" for name in entry.rollouts if name not in streams)
    yield from (f"teachers.{name} is declared but nothing reads it; remove it" for name in entry.teachers if name not in read)
    yield from (f"rewards.{name} is declared but nothing reads it; remove it" for name in entry.rewards if name not in rewarded)
    critics = {t.critic() for t in entry.objective if isinstance(t, PolicyGradientTerm)} | {getattr(t, "projector", None) for t in entry.objective}
    critics |= {reward.learner for reward in measured if isinstance(reward, Learned)}
    critics |= {teacher.learner for name, teacher in entry.teachers.items() if isinstance(teacher, LearnedTeacher | Carried) and name in read}
    yield from (f"learners.{name} is declared but nothing reads it; remove it" for name in entry.learners if name not in critics)


def warped_sampling(entry: MethodEntry) -> Messages:
    """Truncated or tempered sampling does not mix silently with means over the student's own distribution."""
    for i, term in enumerate(entry.objective):
        estimate = isinstance(term, DivergenceTerm) and term.divergence.sampled_only and term.role == "signal"
        gradient = isinstance(term, PolicyGradientTerm) and not any(ratio.off_policy for ratio in term.ratio)
        if (estimate or gradient) and not _plain_sampling(entry.rollouts[term.on]):
            remedy = "or add ratio: [importance]" if gradient else "or compare on another support"
            yield f"objective[{i}]: rollouts.{term.on} samples from a truncated or tempered distribution; set temperature and top_p to 1, {remedy}"


def labelled_k3(entry: MethodEntry) -> Messages:
    """k3 as the signal has the gradient of the forward KL; as an anchor it is customary."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, DivergenceTerm) and isinstance(term.divergence, K3) and term.teacher != "reference" and term.role == "signal":
            yield f"objective[{i}]: direct k3 descends the FORWARD KL; use k2 for the reverse KL, or role: anchor where it only holds the student"


NAMES = (reserved_names, unknown_names, *placement.NAMES, *context_rules.NAMES, *movement_rules.NAMES, *asked_rules.NAMES, *turn_rules.NAMES,
         *alignment_rules.NAMES)  # fmt: skip
RULES: tuple[Callable[[Any], Messages], ...] = (
    black_box_probabilities, sampled_divergence, whole_vocabulary, truncated_mass, null_advantage, *advantage_rules.RULES, foreign_tokens,
    idle_ratio, spread_candidates, zero_signal, chained_targets, unused_parts, warped_sampling, labelled_k3, *placement.RULES, *context_rules.RULES,
    *movement_rules.RULES, *asked_rules.RULES, *alignment_rules.RULES, *turn_rules.RULES, *explore_rules.RULES,
)  # fmt: skip


def problems(entry: MethodEntry) -> list[str]:
    """All messages about an entry; the rules run only where every name resolves."""
    return [m for rule in NAMES for m in rule(entry)] or [m for rule in RULES for m in rule(entry)]


def pair_problems(entry: MethodEntry, *, templates: Collection[str], fields: Collection[str] | None, teachers: Collection[str],
                  checks: Collection[str] | None,
                  same_vocabulary: bool,
                  reward_models: Collection[str] | None = None, turns: Collection[str] | None = None, task: Any = None) -> list[str]:  # fmt: skip
    """What a pair lacks for an entry: teachers, prompt fields, templates, verifier checks, a common vocabulary; None is not checked."""
    found: list[str] = []
    found += context_rules.pair_contexts(entry, templates, fields, checks)
    found += movement_rules.pair_fields(entry, fields, checks)
    found += asked_rules.pair_lacks(entry, fields, reward_models)
    found += turn_rules.pair_turns(entry, turns, task, checks)
    for name, teacher in entry.teachers.items():
        if isinstance(teacher, External) and teacher.model not in teachers:
            found.append(f"teachers.{name}.model '{teacher.model}' is no teacher of this pair{suggest(teacher.model, teachers)}")
    found += alignment_rules.pair_tokenizers(entry, same_vocabulary)
    for name, reward in entry.rewards.items():
        check = getattr(getattr(reward, "reward", reward), "check", None)
        if check is not None and checks is not None and check not in checks:
            found.append(f"rewards.{name}.check '{check}' is not among the task's checks{suggest(check, checks)}")
    return found


def _kind(component: Any) -> str:
    return str(component.kind)


def _student_writes_all(stream: Stream) -> bool:
    if stream.context is not None:
        return False
    if isinstance(stream, Continued):
        return stream.by == "student" and stream.supervise == "continuation"
    return stream.author == "student" or (isinstance(stream, Switch) and stream.stop and stream.first == "student")


def _plain_sampling(stream: Stream) -> bool:
    return extremes(stream.temperature) == (1.0, 1.0) and extremes(stream.top_p) == (1.0, 1.0)
