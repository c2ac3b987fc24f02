"""Untrusted code, run where it can do no harm: see `zoo.harness.sandbox.outside`."""

from zoo.harness.sandbox.outside import Limits, Ran, run_untrusted

__all__ = ["Limits", "Ran", "run_untrusted"]
