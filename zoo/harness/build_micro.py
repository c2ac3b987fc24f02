"""Train the models of the micro pairs from named seeds and save them in bf16; `zoo pairs build micro` calls `build`.

`micro-cross` has the same student and a small teacher of its own that reads the same characters in merged tokens.

The student stops early, so that it has room to learn: at the first evaluation where 36 to 44 % of the answers are right, on the
valid and on the test list alike. From a fifth of the answers on it trains at a fifteenth of the learning rate: at the full rate
accuracy climbs by 20 points in 20 steps and the band is a matter of luck.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from zoo.errors import ZooError
from zoo.harness.writers import Decoder
from zoo.seeds import seed_for
from zoo.tasks import micro
from zoo.tensors import Prompt

PAD, STOP, OTHER_STOP, UNKNOWN, MERGED_STOP = "<pad>", "<e1>", "<e2>", "<unk>", "<end>"
MAX_NEW_TOKENS = 40
# Copies are drawn more often than they matter, because copying is what makes both models read a privileged context. A few longer
# lists (of the train split) put both models off the floor there: no method distils on them, so the longer test lists show whether
# what it teaches on short ones carries over, and what it costs.
MIXTURE = {"plain": 0.3, "longer": 0.1, "copy": 0.35, "solution": 0.15, "hint": 0.1}

Example = tuple[list[int], list[int]]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How one model is shaped and trained.

    The learning rate warms up, then falls along a cosine to zero at `steps`; with a `band` it stays, is divided by 15 once a fifth
    of the answers are right, and training ends at the first evaluation inside the band (`steps` is then the most allowed).
    """

    layers: int
    width: int
    feed_forward: int
    steps: int
    batch: int
    learning_rate: float
    band: tuple[float, float] | None = None
    heads: int = 4
    warmup: int = 50
    evaluate_every: int = 10


RECIPES = {
    "student": Recipe(2, 128, 352, steps=1500, batch=128, learning_rate=2e-3, band=(0.36, 0.44)),
    "teacher": Recipe(4, 256, 640, steps=1400, batch=64, learning_rate=1.5e-3),
}
CROSS_RECIPES = {"teacher": Recipe(3, 128, 352, steps=2000, batch=64, learning_rate=2e-3)}


def build(out: Path, seed: int = 0, progress: Report = print, pair: str = "micro") -> dict[str, Any]:
    """Train a pair's models, save them under `out/student` and `out/teacher` (`micro-cross` has a teacher only), and write and return
    `out/build.json`.

    About 17 minutes of one idle core, 6 for `micro-cross`. The accuracies in the returned dict are measured on the saved files.

    Raises:
        ZooError: the student jumped over its band or never reached it; take another seed.
    """
    recipes, tokenizer = (CROSS_RECIPES, make_merged_tokenizer()) if pair == "micro-cross" else (RECIPES, make_tokenizer())
    packages = {name: version(name) for name in ("torch", "transformers", "tokenizers", "safetensors")}
    report: dict[str, Any] = {"seed": seed, "packages": packages, "mixture": MIXTURE}
    with one_thread():
        for name, recipe in recipes.items():
            report[name] = _build_one(out / name, recipe, tokenizer, seed, lambda line, name=name: progress(f"{name}: {line}"))  # type: ignore[misc]
    (out / "build.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _build_one(folder: Path, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int, report: Report) -> dict[str, Any]:
    began = time.perf_counter()
    model, steps = train(recipe, tokenizer, seed, report)
    seconds = round(time.perf_counter() - began)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    scores = measure(folder)
    report(f"saved after {steps} steps, {seconds} s; accuracy {scores}")
    return {"parameters": model.num_parameters(), "steps": steps, "seconds": seconds, "accuracy": scores, "recipe": asdict(recipe)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensor work on one CPU thread: models this small gain little from a second, and lose most of their speed when a core is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(folder: Path) -> dict[str, float]:
    """Greedy exact-match accuracy of a saved model, computed in fp32, on the test lists, plain and behind each context.

    Keys: `add`, `ood`, `copy`, and `add` behind its solution or hint (`solution`, `hint`).
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lists = {name: (micro.held_out(name), "{prompt}") for name in ("add", "ood", "copy")}
    lists |= {name: (micro.held_out("add"), template) for name, template in micro.CONTEXTS.items()}
    return {name: round(accuracy(model, tokenizer, prompts, template), 4) for name, (prompts, template) in lists.items()}


def write_items(folder: Path) -> None:
    """Write the test lists to `micro_add.jsonl`, `micro_ood.jsonl` and `micro_copy.jsonl` for the evaluation suite."""
    for name in ("add", "ood", "copy"):
        rows = [{"id": p.id, "prompt": p.text, **{key: p.fields[key] for key in ("solution", "answer")}} for p in micro.held_out(name)]
        (folder / f"micro_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, 40 in all; nothing is added before or after the text.

    `<e1>` is the stop token of both models; `<e2>` is a second stop symbol that neither is trained on.
    """
    vocabulary = {token: i for i, token in enumerate([PAD, STOP, OTHER_STOP, UNKNOWN, *micro.CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer, STOP, [OTHER_STOP])


def make_merged_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE over the same characters whose merges take a running total with the space or the `#` before it as one token, and two neighbouring
    letters of the alphabet: `3 8 15#15` is `3`, ` 8`, ` 15`, `#15`. Its stop token has another name and number."""
    marks, tens = (" ", "#"), micro.DIGITS[1:]
    merges = [(mark, digit) for mark in marks for digit in micro.DIGITS]
    merges += [(mark + ten, digit) for mark in marks for ten in tens for digit in micro.DIGITS]
    merges += list(zip(micro.LETTERS, micro.LETTERS[1:], strict=False))
    tokens = [UNKNOWN, PAD, *micro.CHARACTERS, *("".join(pair) for pair in merges), MERGED_STOP]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token=UNKNOWN))
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer, MERGED_STOP, [])


def _fast(tokenizer: Tokenizer, stop: str, others: list[str]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=stop,
        unk_token=UNKNOWN,
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and random weights drawn from `seed`; the process's random state stays as it was."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.feed_forward,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def pretraining_examples(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Example]:
    """Prompt and response ids without end, all of the train split: chains, copies, and chains behind a solution or a hint."""
    rng = random.Random(seed_for("micro", "pretraining", seed))
    lists = micro.draw("add", "train", micro.ADD_LENGTHS, rng)
    longer = micro.draw("add", "train", micro.OOD_LENGTHS, rng)
    strings = micro.draw("copy", "train", micro.COPY_LENGTHS, rng)
    while True:
        kind = rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
        prompt = micro.copy_prompt(next(strings)) if kind == "copy" else micro.add_prompt(next(longer if kind == "longer" else lists))
        text = micro.CONTEXTS.get(kind, "{prompt}").format(prompt=prompt.text, **prompt.fields)
        yield tokenizer.encode(text), [*tokenizer.encode(prompt.fields["solution"]), tokenizer.eos_token_id]


def train(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, seed: int, report: Report) -> tuple[LlamaForCausalLM, int]:
    """Train one model by its recipe; returns it with the number of steps taken."""
    model = make_model(recipe, tokenizer, seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    examples = pretraining_examples(tokenizer, seed)
    brake = 1.0
    for step in range(1, recipe.steps + 1):
        batch = [next(examples) for _ in range(recipe.batch)]
        loss = update(model, optimizer, batch, brake * learning_rate(recipe, step))
        if step % 100 == 0:
            report(f"step {step}, loss {loss:.3f}")
        if recipe.band is None or step % recipe.evaluate_every:
            continue
        shares = in_distribution(model, tokenizer)
        brake = 1 / 15 if max(shares) > 0.2 else brake
        report(f"step {step}, loss {loss:.3f}, accuracy on valid and test {shares[0]:.3f} {shares[1]:.3f}")
        if all(recipe.band[0] <= share <= recipe.band[1] for share in shares):
            return model, step
        if min(shares) > recipe.band[1]:
            break
    if recipe.band is not None:
        raise ZooError(f"micro student: no evaluation within {recipe.band} by step {step}; build again with another seed")
    return model, recipe.steps


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step before the brake: warm-up, then constant towards a band, else a cosine to zero."""
    decay = 1.0 if recipe.band else 0.5 + 0.5 * math.cos(math.pi * step / recipe.steps)
    return recipe.learning_rate * min(1.0, step / recipe.warmup) * decay


def update(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: Sequence[Example], rate: float) -> float:
    """One AdamW step on the mean cross-entropy of all response tokens of a batch; returns that mean.

    Quarters of like length keep padding low; they share the batch's denominator.
    """
    ordered = sorted(batch, key=lambda example: len(example[0]) + len(example[1]))
    tokens, quarter = sum(len(response) for _, response in batch), len(batch) // 4
    losses = [summed_loss(model, ordered[i : i + quarter]) / tokens for i in range(0, len(batch), quarter)]
    optimizer.zero_grad(set_to_none=True)
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return float(sum(loss.detach() for loss in losses))


def summed_loss(model: Any, examples: Sequence[Example]) -> Tensor:
    """Cross-entropy summed over the response tokens of some examples."""
    longest = max(len(prompt) + len(response) for prompt, response in examples)
    pad = int(model.config.pad_token_id or 0)
    device = next(model.parameters()).device
    rows = torch.tensor([(p + r + [pad] * longest)[:longest] for p, r in examples], device=device)
    targets = torch.tensor([([-100] * len(p) + r + [-100] * longest)[1:longest] for p, r in examples], device=device)
    # Padding stands on the right, so causal attention alone keeps it out of every supervised position.
    logits_BTV = model(input_ids=rows[:, :-1]).logits
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def in_distribution(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> tuple[float, float]:
    """Accuracy on the valid and the test list of the model as it will be saved: rounded to bf16."""
    rounded = copy.deepcopy(model).bfloat16().float()
    return accuracy(rounded, tokenizer, micro.MicroTask().prompts("valid")), accuracy(rounded, tokenizer, micro.held_out("add"))


def accuracy(model: Any, tokenizer: Any, prompts: Sequence[Prompt], template: str = "{prompt}") -> float:
    """Share of greedy answers that pass the check `answer`, each prompt shown through a context template."""
    texts = [template.format(prompt=prompt.text, **prompt.fields) for prompt in prompts]
    decoder = Decoder(model, pad_id=tokenizer.pad_token_id, stop_ids=[tokenizer.eos_token_id])
    answers = decoder.generate(tokenizer(texts).input_ids, max_new_tokens=MAX_NEW_TOKENS)
    task = micro.MicroTask()
    return sum(task.verify("answer", tokenizer.decode(a.ids), p) for a, p in zip(answers, prompts, strict=True)) / len(prompts)
