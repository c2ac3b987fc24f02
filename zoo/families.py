"""One family for each method, from its coordinates: how tables, figures and pages of many methods are divided so that they stay readable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.coordinates import Coordinates
    from zoo.entry import MethodEntry

ANCHOR_FAMILY, OTHER = "Anchors", "Not in the registry"
FAMILIES = (
    "Given texts",
    "Divergences",
    "Divergence and log-ratio",
    "Log-ratio policy gradients",
    "Self-teachers",
    "Outcome rewards",
    "Preferences, discriminators",
    ANCHOR_FAMILY,
    OTHER,
)
ABOUT = {
    "Given texts": "likelihood of texts that were given, or written by the teacher",
    "Divergences": "a divergence to the teacher, differentiated directly",
    "Divergence and log-ratio": "a direct divergence and a policy gradient in one objective",
    "Log-ratio policy gradients": "a policy gradient whose reward is what the teacher says of the sampled token",
    "Self-teachers": "no other model: the student itself, with a context or as it was, judges",
    "Outcome rewards": "a verifier or a reward model takes part",
    "Preferences, discriminators": "pairs of answers, or a discriminator trained against the student",
    ANCHOR_FAMILY: "what every comparison holds for reference",
}


def family(coordinates: Coordinates) -> str:
    """The one family of an entry: by who judges where nobody else does, else by how the gradient is taken."""
    estimators, signals = set(coordinates.estimator), set(coordinates.feedback_signal)
    if estimators & {"preference", "adversarial"}:
        return "Preferences, discriminators"
    if "outcome" in signals:
        return "Outcome rewards"
    if estimators <= {"mle"}:
        return "Given texts"
    if coordinates.teacher_access == "teacher_free":
        return "Self-teachers"
    gradients = {"pg" if name.startswith("pg") else "direct" for name in estimators - {"mle"}}
    return {frozenset({"pg"}): "Log-ratio policy gradients", frozenset({"direct"}): "Divergences"}.get(frozenset(gradients), "Divergence and log-ratio")


def families(registry: Mapping[str, MethodEntry]) -> dict[str, str]:
    """The family of every entry that has coordinates, or is an anchor."""
    found = {}
    for name, entry in registry.items():
        if entry.anchor is not None:
            found[name] = ANCHOR_FAMILY
        elif entry.coordinates is not None:
            found[name] = family(entry.coordinates)
    return found
