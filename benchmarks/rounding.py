"""How far bf16 alone moves log-probabilities: a training forward in bf16 autocast beside fp32, beside itself with another attention or with the inputs of
each product in another order (the same products of the same rounded numbers, summed otherwise), beside fp16, and with one kind of rounding at a time. On a CPU.

python benchmarks/rounding.py MODEL_DIR [--answers 8] [--new 40]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from step_setup import question_texts
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.harness.native import NativeDecoder
from zoo.seeds import uniforms

PLACES = {"projections in": (("_proj",), True, False), "projections out": (("_proj",), False, True), "q and k": (("q_proj", "k_proj"), True, True),
          "v": (("v_proj",), True, True), "attention out": (("o_proj",), True, True), "mlp": (("gate_proj", "up_proj", "down_proj"), True, True)}  # fmt: skip


def rounded(value: Tensor) -> Tensor:
    """To bf16 and back."""
    return value.bfloat16().float()


@contextmanager
def rounding(model: Any, names: Sequence[str], inward: bool, outward: bool) -> Iterator[None]:
    """Inputs, outputs or both of the linear layers of these names, rounded."""
    layers = [m for name, m in model.named_modules() if any(part in name for part in names) and isinstance(m, torch.nn.Linear)]
    hooks = [layer.register_forward_pre_hook(lambda _, given: (rounded(given[0]),)) for layer in layers if inward]
    hooks += [layer.register_forward_hook(lambda _, given, out: rounded(out)) for layer in layers if outward]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def reordered(model: Any) -> Iterator[None]:
    """The inputs of every linear layer in an order of their own, and its weights likewise: its sums run otherwise."""
    layers, hooks, before = [m for m in model.model.modules() if isinstance(m, torch.nn.Linear)], [], []
    for number, layer in enumerate(layers):
        order = torch.randperm(layer.in_features, generator=torch.Generator().manual_seed(number))
        before.append(layer.weight.data)
        layer.weight.data = layer.weight.data[:, order].contiguous()
        hooks.append(layer.register_forward_pre_hook(lambda _, given, order=order: (given[0][..., order],)))
    try:
        yield
    finally:
        for hook, layer, weight in zip(hooks, layers, before, strict=True):
            hook.remove()
            layer.weight.data = weight


@torch.no_grad()
def logp(model: Any, texts: Sequence[tuple[list[int], Tensor]], kind: torch.dtype | None = None, attention: str = "sdpa") -> Tensor:
    """Log-probabilities of the answers, under autocast to `kind` if one is given; the head in fp32, its operands rounded under autocast."""
    model.set_attn_implementation(attention)
    found, head = [], model.get_output_embeddings().weight
    for prompt, answer in texts:
        with torch.autocast("cpu", dtype=kind) if kind else nullcontext():
            hidden = model.model(torch.tensor([prompt + answer.tolist()])).last_hidden_state[0, len(prompt) - 1 : -1]
        logits = F.linear(*(part.to(kind).float() if kind else part for part in (hidden, head)))
        found.append(logits.log_softmax(-1).gather(1, answer[:, None])[:, 0])
    return torch.cat(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--new", type=int, default=40)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    narrow, wide = (AutoModelForCausalLM.from_pretrained(options.model, dtype=kind).eval() for kind in (torch.bfloat16, torch.float32))
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in question_texts(tokenizer, options.answers)]
    native = NativeDecoder(narrow, pad_id=0, stop_ids=[-1], rows=options.answers, master=wide)
    rows = native.write(prompts, uniforms(list(range(options.answers)), options.new), temperature=1.0)
    texts = [(prompt, rows.response_QT[q].long()) for q, prompt in enumerate(prompts)]
    exact = logp(wide, texts)
    with reordered(wide):
        other, other_half = (logp(wide, texts, kind) for kind in (torch.bfloat16, torch.float16))
    seen = {
        "training forward, sdpa": logp(wide, texts, torch.bfloat16),
        "training forward, eager": logp(wide, texts, torch.bfloat16, "eager"),
        "training forward, sums in another order": other,
        "training forward in fp16": logp(wide, texts, torch.float16),
        "the same, sums in another order": other_half,
        "native decoder": rows.student_QT[: options.answers, : options.new].flatten(),
    }
    for name, (parts, inward, outward) in PLACES.items():
        with rounding(wide, parts, inward, outward):
            seen[f"fp32, rounded at {name}"] = logp(wide, texts)
    mean = lambda one, two: float((one - two).abs().mean())  # noqa: E731
    for name, value in seen.items():
        print(f"{name:40s} from fp32 {mean(value, exact):.4f}   from the training forward {mean(value, seen['training forward, sdpa']):.4f}")
    print(f"fp16 in two orders of sums               from each other {mean(other_half, seen['training forward in fp16']):.4f}")


if __name__ == "__main__":
    main()
