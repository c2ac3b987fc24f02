"""`zoo preflight`: what can be known about a pair, a suite and a method before anything is trained.

    report = preflight(pair, suite)              # or with entry=..., for the checks of one method
    report.verdict                               # ok, amber or red

Each check is a number from a probe of `zoo.failures.probes`, a verdict, and what to do. docs/preflight.md explains them.
"""

from __future__ import annotations

from zoo.preflight.checks import Check, Level
from zoo.preflight.running import Report, preflight

__all__ = ["Check", "Level", "Report", "preflight"]
