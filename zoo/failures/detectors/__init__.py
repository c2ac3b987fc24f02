"""Detectors that read a run's logs, one function for each failure mode."""
