"""What `zoo check` says about an entry in the lab."""

from __future__ import annotations

from zoo.entry import MethodEntry
from zoo.lab.report import LabReport, study
from zoo.probe import Finding

FOLLOW = 150


def lab(entry: MethodEntry, bench: object = None) -> list[Finding]:
    """One line: what was measured, or each contradiction, or why the lab is silent."""
    found = study(entry, follow=FOLLOW)
    if found.exempt:
        return [Finding("lab", "skip", found.exempt)]
    if found.contradictions:
        return [Finding("lab", "fail", line) for line in found.contradictions]
    return [Finding("lab", "pass", summary(found))]


def summary(found: LabReport) -> str:
    """Claims that hold, the fixed point, the metric, in one line."""
    held = sum(claim.holds is True for claim in found.claims)
    open_claims = sum(claim.holds is None for claim in found.claims)
    parts = [f"{found.world}: {held} of {len(found.claims)} terms are what their estimator says to 1e-8"]
    parts += [f"{open_claims} without a formula"] if open_claims else []
    parts += [found.fixed.found] if found.fixed is not None else []
    if found.descent is not None and found.descent.ok:
        parts.append(f"{found.descent.metric} {'rises' if found.descent.metric == 'expected_reward' else 'falls'}")
    if found.error:
        parts.append(f"sampled, error {found.error:.0e}")
    return "; ".join(parts)
