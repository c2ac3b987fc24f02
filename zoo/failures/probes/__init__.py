"""Probes: measurements beside a run, on a fixed set of prompts with noise of their own, which nothing else in the run sees.

A probe is a function from models (a `Scene`) to a small frame; `measure` runs one by name. The frames enter `RunLogs.probes`, and the detectors of
`zoo.failures.detectors` read them there. Which probes a run takes is `settings.probes` of its comparison; `zoo preflight` takes several before any run.
"""

from __future__ import annotations

from zoo.failures.probes.names import CHEAP, NAMES, WHAT

__all__ = ["CHEAP", "NAMES", "WHAT"]
