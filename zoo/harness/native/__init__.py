"""The fast decoder for small students on one GPU: own kernels, one CUDA graph a step, rows refilled from the queue."""

from zoo.harness.native.decoder import NativeDecoder
from zoo.harness.native.weights import unsupported

__all__ = ["NativeDecoder", "unsupported"]
