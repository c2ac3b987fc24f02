"""Rollout speed of the native decoder beside its peers, in one run: full-length and uneven answers, start-up, and parity.

python benchmarks/decode.py MODEL_DIR [--rows 256] [--new 256] [--peers static,reference] [--json FILE]

Full length: nothing stops an answer. Uneven: real answers end where the model ends them, more of them than rows, so finished rows are
refilled; useful tokens are those up to the end. Parity: recorded log-probabilities against the training forward over the finished text
(bf16 autocast, the head summed in fp32); greedy tokens against that forward's best token in fp32 with TF32 off, near-ties (a margin
under 0.01 nat) counted apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.components.rollouts import Student
from zoo.harness.decode import Stepper, decoding, lock_step
from zoo.harness.native import NativeDecoder
from zoo.seeds import uniforms

NEAR_TIE = 0.01


def timed(run: Any, repeats: int = 3) -> tuple[float, float]:
    """Seconds of the first call, and the best of the later ones."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:])


def prompts_for(tokenizer: Any, count: int) -> list[list[int]]:
    """Chat prompts of about 50 tokens."""
    texts = [f"Tom has {3 + i} apples and buys {5 + i % 7} more. How many apples does he have? Think step by step." for i in range(count)]
    chats = [tokenizer.apply_chat_template([{"role": "user", "content": t}], tokenize=False, add_generation_prompt=True) for t in texts]
    return [tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]


def parity(master: Any, prompts: list[list[int]], found: Any) -> dict[str, float]:
    """Differences of recorded log-probabilities to the training forward (fp32 master weights under bf16 autocast, the head summed in fp32), in nats."""
    gaps, weight = [], master.get_output_embeddings().weight.to(torch.bfloat16)
    for q in range(min(len(prompts), 64)):
        count = int((found.student_QT[q] != 0).sum())
        ids = torch.tensor([prompts[q] + found.response_QT[q, :count].tolist()], device=master.device)
        with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
            hidden = master.model(ids).last_hidden_state[0, len(prompts[q]) - 1 : -1]
        logits = torch.mm(hidden.to(torch.bfloat16), weight.T, out_dtype=torch.float32)
        logp = logits.log_softmax(-1).gather(1, found.response_QT[q, :count, None].long())[:, 0]
        gaps.append((logp - found.student_QT[q, :count]).abs())
    gap = torch.cat(gaps)
    return {"mean": gap.mean().item(), "q999": gap.quantile(0.999).item(), "max": gap.max().item(), "tokens": len(gap)}


def greedy_parity(model: Any, prompts: list[list[int]], native: NativeDecoder, limit: int) -> dict[str, int]:
    """First differences of greedy answers, by whether the reference's two best tokens were nearly tied there."""
    uniform = torch.zeros(len(prompts), limit, dtype=torch.float64)
    found = native.write(prompts, uniform, temperature=0.0)
    same = ties = different = 0
    for q, prompt in enumerate(prompts):
        answer = found.response_QT[q, : int((found.student_QT[q] != 0).sum())].tolist()
        ids = torch.tensor([prompt + answer], device=model.device)
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0, len(prompt) - 1 : -1]
            logits = hidden @ model.get_output_embeddings().weight.T
        top = logits.topk(2)
        wrong = (top.indices[:, 0] != ids[0, len(prompt) :]).nonzero()[:, 0]
        tied = (top.values[:, 0] - top.values[:, 1])[wrong] < NEAR_TIE
        same, ties, different = same + len(answer) - len(wrong), ties + int(tied.sum()), different + int((~tied).sum())
    return {"same": same, "near_ties": ties, "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--new", type=int, default=256)
    parser.add_argument("--requests", type=int, default=1024, help="answers of the uneven case")
    parser.add_argument("--peers", default="static,reference")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16).cuda().eval()
    prompts, rows, new = prompts_for(tokenizer, options.rows), options.rows, options.new
    result: dict[str, Any] = {"model": Path(options.model).name, "rows": rows, "new": new, "device": torch.cuda.get_device_name()}
    uniform = uniforms(list(range(rows)), new)
    stop = tokenizer.eos_token_id
    exact = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).cuda().eval()
    with decoding([model]):
        native = NativeDecoder(model, pad_id=0, stop_ids=[-1], rows=rows, master=exact)
        first, best = timed(lambda: native.write(prompts, uniform, temperature=1.0))
        result["native"] = {"start_up_s": first - best, "tokens_per_s": rows * new / best, "ms_per_token_step": 1000 * best / new}
        print("native", result["native"], flush=True)
        result["parity"] = parity(exact, prompts, native.write(prompts, uniform, temperature=1.0))
        print("parity", result["parity"], flush=True)
        if options.profile:
            profile(native, prompts, uniform)
        native.release()
        stopping = NativeDecoder(model, pad_id=0, stop_ids=[stop], rows=rows)
        many, noise = prompts_for(tokenizer, options.requests), uniforms(list(range(options.requests)), new)
        written: list[Any] = []
        _, uneven = timed(lambda: written.append(stopping.write(many, noise, temperature=1.0)), repeats=2)
        useful = int((written[-1].student_QT[: options.requests] != 0).sum())
        result["uneven"] = {"useful_tokens_per_s": useful / uneven, "mean_length": useful / options.requests, "share": useful / (options.requests * new)}
        print("uneven", result["uneven"], flush=True)
        stopping.release()
        result["greedy"] = greedy_parity(exact, prompts[:64], NativeDecoder(exact, pad_id=0, stop_ids=[stop], rows=64), new)
        print("greedy", result["greedy"], flush=True)
        del exact
        if "static" in options.peers:
            batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt", padding_side="left").to("cuda")
            run = lambda: model.generate(  # noqa: E731
                **batch, max_new_tokens=new, min_new_tokens=new, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, cache_implementation="static"
            )
            first, best = timed(run, repeats=2)
            result["transformers_static"] = {"start_up_s": first - best, "tokens_per_s": rows * new / best}
            print("transformers_static", result["transformers_static"], flush=True)
        if "reference" in options.peers:
            stepper = Stepper(model, pad_id=0)
            run = lambda: lock_step(Student(), {"student": stepper}, prompts, uniform.T[:, None], stop_ids=[-1])  # noqa: E731
            first, best = timed(run, repeats=1)
            result["reference"] = {"start_up_s": first - best, "tokens_per_s": rows * new / best}
            print("reference", result["reference"], flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1))


def profile(native: NativeDecoder, prompts: list[list[int]], uniform: torch.Tensor) -> None:
    """Seconds by kernel over one rollout."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as trace:
        native.write(prompts, uniform[:, :64], temperature=1.0)
        torch.cuda.synchronize()
    print(trace.key_averages().table(sort_by="cuda_time_total", row_limit=16, max_name_column_width=50))


if __name__ == "__main__":
    main()
