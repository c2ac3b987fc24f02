"""Layers of a backbone with a third of the kernels: what lies between their matrix products in one launch each, forward and backward."""

from zoo.harness.lean.layers import LeanLayers, fits

__all__ = ["LeanLayers", "fits"]
