"""The native step's operations as Triton kernels; `plain` says in torch what each computes.

Seven launches a layer: norm, projection, attention with its rotation and cache write, projection, norm, gated projection, projection. A projection
onto the residual has few outputs and many inputs, so several programs sum over a part of the inputs each, and the norm that follows adds
the parts up. The residual stream is fp32 and rounding happens where it does in training under autocast.

Every kernel lets the next one start at once (`gdc_launch_dependents`) and waits for the one before to end (`gdc_wait`) before it
touches anything that changes, so that launches overlap (7 % of a step). Prefetching weights into L2 meanwhile made a step 8 % slower.
"""

from zoo.harness.native.kernels.attention import attend
from zoo.harness.native.kernels.draw import draw
from zoo.harness.native.kernels.linear import embed, gated_linear, head, linear, linear_parts, rms_norm
from zoo.harness.native.tiles import MOST_PARTS

__all__ = ["MOST_PARTS", "attend", "draw", "embed", "gated_linear", "head", "linear", "linear_parts", "rms_norm"]
