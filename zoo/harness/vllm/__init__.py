"""The student's answers from vLLM, inside the training process: awake while it writes, asleep while the student learns.

One engine a process. It is built at the first rollout from the student's configuration alone, with weights of its own to write over; before each
rollout it wakes, takes the student's present weights, and writes; after it, it sleeps: level 2 drops weights and cache (what it keeps then are
its captured graphs), level 1 parks the weights in host memory, level 0 keeps everything, for GPUs with room. Weights are handed over in place,
through vLLM's own loader, so they are rounded to bf16 exactly as autocast rounds them; there is no second copy of the student on the host and
nothing passes through a file.

Noise: each request carries a seed that is read off its own uniforms, hence off named axes. vLLM's sampler (model runner V2) draws from the seed and the
position alone, so an answer does not depend on what is decoded beside it or before it, up to rounding: its bf16 products differ in the last bits with the
number of rows, and where two tokens are nearly tied the answer goes another way. So a run on the same GPU and version repeats itself nearly,
not bit for bit (`VLLM_BATCH_INVARIANT=1` in the environment makes its kernels indifferent to the batch, and slower). It is not the noise of the other
engines: the law is the same, the tokens are not.
"""

from zoo.harness.vllm.decoder import VllmDecoder, seeds_of, serves, unsupported
from zoo.harness.vllm.engine import VllmOptions, options_for

__all__ = ["VllmDecoder", "VllmOptions", "options_for", "seeds_of", "serves", "unsupported"]
