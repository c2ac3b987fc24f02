"""Rollout speed of the native decoder, of vLLM inside the process and of transformers' static cache, in one run.

python benchmarks/vllm_vs_native.py MODEL_DIR [--rows 256] [--new 256] [--peers alone,vllm,static] [--lock FILE] [--json FILE]

vLLM runs as its documentation advises for speed (token ids in and out, no detokenisation, asynchronous scheduling, compiled, full CUDA graphs) and as the
harness uses it (in this process, a seed and a log-probability for every token); `bare` leaves seeds and log-probabilities out, for the most that it
can give, and `alone` is the bare engine in a process of its own, as `vllm.LLM` comes. Full length: nothing stops an answer. Uneven: answers end where the
model ends them, twice as many as rows; tokens up to the end count. Sleep: seconds to wake, to hand over all weights and to sleep again, and the memory
given back. Parity: recorded log-probabilities against the training forward, as in benchmarks/decode.py. Timed sections hold the lock, so several of
these may start side by side on one GPU.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers
from decode import parity, prompts_for, timed
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.harness.decode import decoding
from zoo.harness.native import NativeDecoder
from zoo.harness.vllm import VllmDecoder, VllmOptions
from zoo.harness.vllm.engine import colocated
from zoo.seeds import uniforms

CACHE = 4 << 30  # bytes of vLLM's key-value cache: twice what the rows need, and no measuring beside other processes
ALONE = """
import json, sys, time
import vllm
given = json.load(sys.stdin)
if __name__ == "__main__":
    llm = vllm.LLM(given["model"], dtype="bfloat16", skip_tokenizer_init=True, async_scheduling=True, max_num_seqs=given["rows"],
                   gpu_memory_utilization=0.3, kv_cache_memory_bytes=given["cache"], enable_prefix_caching=False)
    asked = [{"prompt_token_ids": ids} for ids in given["prompts"]]
    free = vllm.SamplingParams(temperature=1.0, max_tokens=given["new"], ignore_eos=True, detokenize=False)
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        done = llm.generate(asked, free, use_tqdm=False)
        taken.append(time.perf_counter() - began)
    print("tokens/s", sum(len(one.outputs[0].token_ids) for one in done) / min(taken))
"""


@contextmanager
def alone(file: str | None) -> Iterator[None]:
    """Nobody else with this lock measures meanwhile."""
    if file is None:
        yield
        return
    with Path(file).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def seconds(run: Any, times: int) -> float:
    """The best of a few."""
    taken = []
    for _ in range(times):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


class Bench:
    """One model, its prompts, and what was found so far; every stage writes the file again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.rows, self.new = options, options.rows, options.new
        self.tokenizer = AutoTokenizer.from_pretrained(options.model)
        self.model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).cuda().eval()
        self.prompts = prompts_for(self.tokenizer, self.rows)
        device = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "transformers": transformers.__version__}
        self.found: dict[str, Any] = {"model": Path(options.model).name, "rows": self.rows, "new": self.new, **device}

    def say(self, name: str, **values: Any) -> None:
        """Keep, print and write what a stage found."""
        self.found[name] = values
        print(name, values, flush=True)
        if self.options.json:
            Path(self.options.json).write_text(json.dumps(self.found, indent=1))

    def native(self) -> None:
        """The native decoder, full length and uneven."""
        noise = uniforms(list(range(self.rows)), self.new)
        many, further = prompts_for(self.tokenizer, 2 * self.rows), uniforms(list(range(2 * self.rows)), self.new)
        model = AutoModelForCausalLM.from_pretrained(self.options.model, dtype=torch.bfloat16).cuda().eval()  # the decoder moves its weights
        decoder = NativeDecoder(model, pad_id=0, stop_ids=[-1], rows=self.rows)
        with decoding([model]):
            first, best = timed(lambda: decoder.write(self.prompts, noise, temperature=1.0))
            self.say("native", tokens_per_s=self.rows * self.new / best, start_up_s=first - best)
            decoder.release()
            stopping, kept = NativeDecoder(model, pad_id=0, stop_ids=[self.tokenizer.eos_token_id], rows=self.rows), []
            _, uneven = timed(lambda: kept.append(stopping.write(many, further, temperature=1.0)), repeats=2)
            useful = int(kept[-1].length_Q[: len(many)].sum())
            self.say("native_uneven", useful_tokens_per_s=useful / uneven, mean_length=useful / len(many))
            stopping.release()

    def by_itself(self) -> None:
        """vLLM's own process, told the same prompts."""
        given = {"model": self.options.model, "rows": self.rows, "new": self.new, "cache": CACHE, "prompts": [list(ids) for ids in self.prompts]}
        surroundings = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        done = subprocess.run([sys.executable, "-c", ALONE], input=json.dumps(given), capture_output=True, text=True, env=surroundings)
        speed = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("tokens/s")]
        if speed:
            self.say("vllm_alone", tokens_per_s=speed[0])
        else:
            print(f"vLLM in a process of its own failed: {done.stderr[-1500:]}", file=sys.stderr)

    def start_vllm(self) -> tuple[VllmDecoder, Any, Any]:
        """vLLM, compiled and warm; the decoder, the engine under it, and one rollout of full length."""
        began = time.perf_counter()
        options = VllmOptions(memory=0.1, rows=self.rows, cache_bytes=CACHE)
        decoder = VllmDecoder(self.model, pad_id=0, stop_ids=[self.tokenizer.eos_token_id], options=options)
        decoder.write(self.prompts, list(range(self.rows)), 8, temperature=1.0, stops=[])
        engine = colocated(self.model, None, options)
        self.say("vllm_start", seconds=time.perf_counter() - began, version=engine.library.__version__)
        return decoder, engine, decoder.write(self.prompts, list(range(self.rows)), self.new, temperature=1.0, stops=[])

    def vllm(self, decoder: VllmDecoder, engine: Any, written: Any) -> None:
        """As the harness uses it and bare."""
        best = seconds(lambda: decoder.write(self.prompts, list(range(self.rows)), self.new, temperature=1.0, stops=[]), 2)
        self.say("vllm", tokens_per_s=self.rows * self.new / best)
        bare = [engine.library.SamplingParams(temperature=1.0, max_tokens=self.new, ignore_eos=True, detokenize=False) for _ in self.prompts]
        asked = [{"prompt_token_ids": list(ids)} for ids in self.prompts]
        best = seconds(lambda: engine.llm.generate(asked, bare, use_tqdm=False), 2)
        self.say("vllm_bare", tokens_per_s=self.rows * self.new / best)
        self.sleep(decoder, engine)
        exact = AutoModelForCausalLM.from_pretrained(self.options.model, dtype=torch.float32).cuda().eval()
        self.say("vllm_parity", **parity(exact, self.prompts, SimpleNamespace(student_QT=written.student_logp_BT, response_QT=written.response_BT)))
        many, kept = prompts_for(self.tokenizer, 2 * self.rows), []
        uneven = seconds(lambda: kept.append(decoder.write(many, list(range(len(many))), self.new, temperature=1.0)), 1)
        useful = int(kept[0].mask_BT.sum())
        self.say("vllm_uneven", useful_tokens_per_s=useful / uneven, mean_length=useful / len(many))

    def sleep(self, decoder: VllmDecoder, engine: Any) -> None:
        """What giving the memory back costs; the second round, since the first one of each makes its buffers."""
        for _ in range(2):
            free, began = torch.cuda.mem_get_info()[0], time.perf_counter()
            decoder.rest()
            torch.cuda.synchronize()
            slept, freed, began = time.perf_counter() - began, torch.cuda.mem_get_info()[0] - free, time.perf_counter()
            engine.ready(self.model)
            torch.cuda.synchronize()
            woke = time.perf_counter() - began
        decoder.rest()
        self.say("vllm_sleep", sleep_s=slept, wake_and_push_s=woke, given_back_gib=freed / 2**30)

    def compare(self) -> None:
        """How many times as fast the native decoder is as what has been measured so far."""
        peers = {name: self.found[name]["tokens_per_s"] for name in ("vllm", "vllm_bare", "vllm_alone", "transformers_static") if name in self.found}
        self.say("native_over", **{name: self.found["native"]["tokens_per_s"] / speed for name, speed in peers.items()})

    def start_static(self) -> Any:
        """transformers' `generate` with the static cache, which it compiles by itself; warm."""
        batch = self.tokenizer.pad({"input_ids": self.prompts}, return_tensors="pt", padding_side="left").to("cuda")
        fixed: dict[str, Any] = {"max_new_tokens": self.new, "min_new_tokens": self.new, "cache_implementation": "static"}
        run = lambda: self.model.generate(**batch, **fixed, do_sample=True, top_k=0, top_p=1.0, temperature=1.0)  # noqa: E731
        self.say("transformers_static_start", seconds=seconds(run, 1))
        return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--peers", default="alone,vllm,static")
    parser.add_argument("--lock")
    parser.add_argument("--json")
    options = parser.parse_args()
    bench, peers = Bench(options), options.peers.split(",")
    with alone(options.lock):
        bench.native()
        gc.collect()
        torch.cuda.empty_cache()
        if "alone" in peers:
            bench.by_itself()
    beside = bench.start_vllm() if "vllm" in peers else None
    static = bench.start_static() if "static" in peers else None
    with alone(options.lock):
        if static is not None:
            bench.say("transformers_static", tokens_per_s=bench.rows * bench.new / seconds(static, 2))
            bench.compare()
        if beside is not None:
            bench.vllm(*beside)
    bench.compare()


if __name__ == "__main__":
    main()
