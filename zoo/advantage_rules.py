"""Compatibility rules about how an advantage comes about: groups to compare, values to read, parts that are known in closed form.

Each is a function from an entry to messages, like those of `zoo.compat`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.components.baselines import GroupMean
from zoo.components.credits import BayesOdds, Gae, Group, LeaveOneOut
from zoo.components.rewards import Contrast
from zoo.components.terms.policy_gradient import PolicyGradientTerm

if TYPE_CHECKING:
    from zoo.entry import MethodEntry

Messages = Iterator[str]


def gradients(entry: MethodEntry) -> Iterator[tuple[int, PolicyGradientTerm]]:
    """Every policy gradient, each further advantage as a term of its own."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, PolicyGradientTerm):
            yield from ((i, part) for part in term.split())


def compared_answers(entry: MethodEntry) -> Messages:
    """Group credit and the group's mean compare answers to one prompt."""
    for i, term in gradients(entry):
        if entry.rollouts[term.on].group >= 2:
            continue
        if isinstance(term.credit, BayesOdds | Group | LeaveOneOut):
            yield f"objective[{i}]: credit {term.credit.kind} compares answers to one prompt, but rollouts.{term.on} has group 1; set group to 2 or more"
        if isinstance(term.baseline, GroupMean):
            yield f"objective[{i}]: baseline group_mean compares answers to one prompt, but rollouts.{term.on} has group 1; set group to 2 or more"


def value_head(entry: MethodEntry) -> Messages:
    """GAE and a learned baseline need a critic."""
    for i, term in enumerate(entry.objective):
        if isinstance(term, PolicyGradientTerm) and (critic := term.critic()) not in (None, *entry.learners):
            reader = f"credit {term.credit.kind}" if term.credit.critic() else f"baseline {term.baseline.kind}"  # type: ignore[attr-defined]
            yield f"objective[{i}]: {reader} needs a value head named '{critic}'; declare it: learners: {{{critic}: {{kind: value_head}}}}"


def known_part(entry: MethodEntry) -> Messages:
    """The divergence of a state is the known part of the value of one reward alone: the log-ratio of the same teacher to the student."""
    for i, term in gradients(entry):
        if not isinstance(term.credit, Gae) or term.credit.known is None:
            continue
        reward = term.resolved_reward(entry.rewards)
        wanted = {term.credit.known: 1.0, "student": -1.0}
        if not isinstance(reward, Contrast) or reward.of != wanted or reward.map != "log" or reward.scale != 1.0 or reward.clip is not None:
            yield (
                f"objective[{i}]: credit gae with known: {term.credit.known} takes -KL(student || {term.credit.known}) for the mean of the reward, "
                f"which must then be {{kind: contrast, of: {{{term.credit.known}: 1, student: -1}}}}; drop known, or change the reward"
            )


RULES = (compared_answers, value_head, known_part)
