"""Shared by the tests of the harness: a tiny random pair, a task whose answers random models sometimes get right, comparisons and
entries written in place."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.components.base import Context
from zoo.entry import MethodEntry, Registry, load_entry
from zoo.harness.build_micro import make_tokenizer
from zoo.harness.cell import make_trainer
from zoo.harness.comparison import Comparison, Settings
from zoo.harness.models import LoadedPair, load_pair, load_pair_spec
from zoo.harness.parallel import Processes
from zoo.harness.train import Trainer
from zoo.paths import data_root
from zoo.tasks.micro import CONTEXTS, MADE_CONTEXTS, TURNS, WORDS, MicroTurns, add_prompt
from zoo.tensors import Prompt, Rollout

TESTS = Path(__file__).parent
SUITE = {"id": "tiny", "title": "Four sums", "chat_template": False,
         "tasks": [{"task": "micro_add", "family": "in_distribution", "headline": "exact_match,strict", "max_new_tokens": 6, "limit": 4}]}  # fmt: skip


class ToyTask(MicroTurns):
    """Chain addition whose check `answer` accepts about half of all texts, so that random models earn rewards of both kinds."""

    checks = ("answer",)

    def prompts(self, split: str) -> list[Prompt]:
        count, length = (48, 4) if split == "train" else (8, 3)
        contents = [str(int(hashlib.sha256(f"{split}{i}".encode()).hexdigest(), 16))[: length + i % 3] for i in range(count)]
        return [add_prompt(digits, f"{split}-{i}") for i, digits in enumerate(contents)]

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        return float(sum(map(ord, text)) % 2)

    def feedback(self, text: str, prompt: Prompt) -> str:
        return "good" if self.verify("answer", text, prompt) else f"bad {len(text)}"


def llama(seed: int, hidden: int, tied: bool, vocabulary: int = 40) -> LlamaForCausalLM:
    """A small Llama whose distributions are uneven and which stops by itself now and then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        return LlamaForCausalLM(config)


def write_pair(folder: Path, **changes: Any) -> Path:
    """A pair in files: student with tied, teacher with untied embeddings; returns its YAML file."""
    for name, model in {"student": llama(1, 16, True), "teacher": llama(2, 24, False)}.items():
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    spec = {
        "id": "tiny", "title": "Tiny random models", "student": {"path": str(folder / "student")},
        "teachers": {"teacher": {"path": str(folder / "teacher")}}, "task": {"kind": "micro"}, "max_new_tokens": 8,
        "contexts": {**CONTEXTS, **MADE_CONTEXTS}, "words": dict(WORDS), "turns": dict(TURNS),
    }  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump({**spec, **changes}), encoding="utf-8")
    return file


def write_suite(folder: Path) -> Path:
    """A suite of four short sums."""
    file = folder / "tiny.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    return file


def read_pair(file: Path, dtype: torch.dtype = torch.float32) -> LoadedPair:
    """The pair in memory, with the toy task. In float64 comparisons of gradients are sharp."""
    pair = load_pair(load_pair_spec(file))
    for model in (pair.student, *pair.teachers.values()):
        model.to(dtype)
    return replace(pair, task=ToyTask(), initial={k: v.detach().clone() for k, v in pair.student.state_dict().items()})


def comparison(pair: str | Path = "tiny", **changes: Any) -> Comparison:
    """A comparison of a few hundred tokens; keys of `settings` and of the comparison alike."""
    settings = {"rollouts_per_step": 8, "max_new_tokens": 8, "learning_rate": 1.0e-2, "micro_tokens": 100, "chunk_tokens": 16, "checkpoint_every": 1,
                "validation_prompts": 4, "validate_every": 2}  # fmt: skip
    base: dict[str, Any] = {"id": "trial", "title": "Trial", "pair": str(pair), "methods": ("gkd",), "seeds": (0,), "suites": ("micro",),
                            "budget": {"amount": 400}}  # fmt: skip
    for key, value in changes.items():
        (settings if key in Settings.model_fields else base)[key] = value
    return Comparison.model_validate({**base, "settings": settings})


@cache
def shipped(name: str) -> MethodEntry:
    """An entry of the registry."""
    return load_entry(data_root() / "registry" / "methods" / f"{name}.yaml")


TEACHER = {"teachers": {"teacher": {"kind": "external"}}}
REVERSE_KL = {"term": "divergence", "teacher": "teacher", "divergence": "reverse_kl", "support": "full", "reduce": "token_mean"}
LOG_RATIO = {"term": "policy_gradient", "reward": {"kind": "contrast", "of": {"teacher": 1, "behaviour": -1}}, "credit": "immediate", "reduce": "token_mean"}


def made(id: str = "made", **body: Any) -> MethodEntry:
    """An entry from its body alone."""
    rest = {"id": id, "name": id, "paper": {}, "evidence": {"level": "inferred", "source": "a test"}, "fixed_point": "none", "anchor": "trained"}
    if "rollout" in body:
        body["rollouts"] = {"main": body.pop("rollout")}
    return MethodEntry.model_validate(_tuples({**rest, **body}))


def _tuples(value: Any) -> Any:
    """Lists as YAML files give them to the strict models."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def registry(*entries: MethodEntry) -> Registry:
    """A registry of these entries."""
    return Registry({entry.id: entry for entry in entries})


def trainer_of(entry: MethodEntry, pair: LoadedPair, processes: Processes | None = None, seed: int = 0, **changes: Any) -> Trainer:
    """A trainer at its first step."""
    return make_trainer(entry, comparison(**changes), seed, pair, processes or Processes())


def weights(model: Any) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A digest of tensors, bit for bit."""
    parts = hashlib.sha256()
    for name in sorted(tensors):
        parts.update(name.encode() + tensors[name].detach().contiguous().numpy().tobytes())
    return parts.hexdigest()


def stub_evaluation(decoder: Any, model: Any, *arguments: Any, **settings: Any) -> dict[str, Any]:
    """In place of lm-eval: a result that carries the digest of the evaluated weights into the record."""
    score = {"family": "in_distribution", "headline": "exact_match,strict", "metrics": {"exact_match,strict": 0.0}, "n": 1, "truncated_share": 0.0,
             "mean_length": 1.0, "items": [[0, 0.0]], "weights": digest(weights(model))}  # fmt: skip
    return {"micro_add": score}


def process(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    """A Python process on one thread that finds this kit."""
    path = os.pathsep.join(filter(None, [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH")]))
    surroundings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, *map(str, arguments)], env=surroundings, text=True, **pipes)


@dataclass
class Plain:
    """What plain losses read: the models, one unpadded sequence at a time, with all logits; `old` is the student at rollout time."""

    pair: LoadedPair
    old: Any

    def logp_TV(self, model: Any, rollout: Rollout, row: int, context: Context | None = None, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of one model before each supervised token of a sequence."""
        prompt = self.pair.format_prompt(rollout.prompts[row], context) if context else list(rollout.prompt_ids[row])
        response = rollout.response_BT[row][rollout.mask_BT[row]].tolist()
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        return (logits / temperature).log_softmax(-1)

    def three(self, rollout: Rollout, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Student now, student at rollout time, teacher."""
        with torch.no_grad():
            old, teacher = self.logp_TV(self.old, rollout, row), self.logp_TV(self.pair.teachers["teacher"], rollout, row)
        return self.logp_TV(self.pair.student, rollout, row), old, teacher


def chosen(logp_TV: Tensor, rollout: Rollout, row: int) -> Tensor:
    """Log-probability of each supervised token of a sequence."""
    return logp_TV.gather(-1, rollout.response_BT[row][rollout.mask_BT[row]][:, None])[:, 0]


def stateful_entries() -> list[MethodEntry]:
    """Methods whose next step depends on more than the student's weights, and one plain method."""
    gae = {"kind": "gae", "gamma": 0.9, "lambda": 0.8}
    log_ratio = {"kind": "contrast", "of": {"teacher": 1, "student": -1}}
    replay = {"author": "replay", "of": {"author": "student"}, "capacity": 36, "phi": {"start": 0.8, "step": 0.1, "eps": 0.0}}
    average = {"kind": "student", "weights": {"ema": 0.7}, "context": {"fields": ["solution"], "template": "solution"}}
    return [
        shipped("gkd"),
        shipped("minillm"),
        made("replay", rollout=replay, **TEACHER, objective=[REVERSE_KL]),
        made("average", rollout={"author": "student", "reuse": {"minibatches": 2}}, teachers={"self": average}, objective=[
            {**REVERSE_KL, "teacher": "self"}, {"term": "likelihood", "reduce": "token_mean", "coefficient": 0.3}]),
        made("critic", rollout={"author": "student", "reuse": {"epochs": 2, "minibatches": 2}}, **TEACHER, learners={
            "value": {"kind": "value_head", "learning_rate": 0.05}}, objective=[
            {"term": "policy_gradient", "reward": log_ratio, "credit": gae, "ratio": [{"ppo_clip": 0.2}], "reduce": "token_mean"}]),
        *moving_entries(),
    ]  # fmt: skip


def moving_entries() -> list[MethodEntry]:
    """Every kind of state that a step, a schedule or a copied teacher keeps."""
    hint = {"fields": ["solution"], "template": "solution"}
    own = {"rollout": {"author": "student"}}
    momentum = {"schedule": "momentum", "start": 0.2, "rate": 0.3, "beta": 0.5}
    trend = {"schedule": "loss_trend", "measure": "loss.0", "tolerance": 0.0, "warmup": 0.1, "change": 0.3, "decay": 0.5}
    return [
        made("foreseeing", **own, **TEACHER, objective=[REVERSE_KL], update={"kind": "adamw", "step": {"kind": "extrapolate", "prompts": 8, "factor": 0.5}}),
        made("private", **own, **TEACHER, objective=[{**REVERSE_KL, "reduce": "sequence_mean"}], update={
            "kind": "adamw", "step": {"kind": "dp", "clip": 0.5, "noise": 0.7, "delta": 1e-3}}),
        made("anchored", **own, **TEACHER, objective=[REVERSE_KL], update={"kind": "adamw", "anchor": {"kind": "fisher", "strength": 5.0, "samples": 4}}),
        made("following", **own, teachers={"teacher": {"kind": "external", "target": {"kind": "interpolate", "t": momentum}}}, objective=[
            {**REVERSE_KL, "coefficient": trend}]),
        made("copied", **own, rewards={"correct": {"kind": "verifier"}}, teachers={
            "clock": {"kind": "student", "weights": {"kind": "periodic", "every": 2}, "context": hint},
            "rounds": {"kind": "student", "weights": {"kind": "periodic", "rounds": 3}, "context": hint},
            "gate": {"kind": "student", "weights": {"kind": "gated", "measure": "reward.correct.main", "every": 2, "smooth": 0.5}, "context": hint}},
            objective=[*({**REVERSE_KL, "teacher": name} for name in ("clock", "rounds", "gate")), {
                "term": "policy_gradient", "reward": "correct", "credit": "return_to_go", "coefficient": 0.1, "reduce": "token_mean"}]),
        made("bridged", **own, **TEACHER, learners={"bridge": {"kind": "projector", "learning_rate": 0.05}}, objective=[
            {"term": "representation", "layers": "all", "projector": "bridge", "reduce": "token_mean"}]),
        made("carried", **own, learners={"bridge": {"kind": "dual_projector", "learning_rate": 0.02}, "reader": {"kind": "cross_attention"}, "bytes": {
            "kind": "byte_heads", "heads": 2, "learning_rate": 0.05}}, teachers={
            "teacher": {"kind": "external"}, "whole": {"kind": "external", "alignment": "whole_response"},
            "seen": {"kind": "projected", "learner": "bridge"}, "there": {"kind": "projected", "learner": "bridge", "space": "teacher"},
            "read": {"kind": "projected", "of": "whole", "learner": "reader"},
            "back": {"kind": "projected", "of": "whole", "learner": "reader", "space": "teacher"},
            "spelled": {"kind": "byte_labels", "learner": "bytes"}}, objective=[
            {**REVERSE_KL, "teacher": name, "divergence": "forward_kl"} for name in ("seen", "there", "read", "back", "spelled")]),
        made("mates", **own, teachers={"partner": {"kind": "learner", "learner": "mate"}}, objective=[{**REVERSE_KL, "teacher": "partner"}], learners={
            "mate": {"kind": "peer", "learning_rate": 0.02, "objective": [{**REVERSE_KL, "teacher": "pupil"}]}}),
        made("remembering", **own, **TEACHER, objective=[
            {**REVERSE_KL, "gates": [{"kind": "persistent", "of": {"kind": "divergence"}, "level": 0.7, "rounds": 8, "streak": 1}]},
            {"term": "likelihood", "coefficient": 0.1, "reduce": "token_mean", "gates": [
                {"kind": "hysteresis", "of": {"kind": "entropy"}, "down": 0.99, "warmup": 0.1}]}]),
        made("drawing", rollout={"author": "student", "group": 2, "prompts": {"kind": "pass_rate", "name": "correct", "pool": 6, "floor": 0}}, **TEACHER,
             rewards={"correct": {"kind": "verifier"}}, objective=[REVERSE_KL]),
        made("adapted", **own, **TEACHER, objective=[REVERSE_KL], update={
            "kind": "adamw", "adapter": {"kind": "lora", "rank": 2, "alpha": 4.0, "targets": ["q_proj", "up_proj"]}}),
    ]  # fmt: skip


def shared_entries() -> dict[str, tuple[MethodEntry, dict[str, Any]]]:
    """Methods to be trained on several processes, with their settings."""
    several = {"rollouts_per_step": 16, "max_new_tokens": 6, "budget": {"amount": 260}, "learning_rate": 3e-3}
    return {
        "gkd_on_policy": (shipped("gkd_on_policy"), several),
        "tml_opd": (shipped("tml_opd"), several),
        "grpo": (shipped("grpo"), {**several, "rollouts_per_step": 24}),  # three groups in two minibatches: one process has none in the first
        "minillm": (shipped("minillm"), {**several, "rollouts_per_step": 10, "budget": {"amount": 500}}),
        "orpo_distill": (shipped("orpo_distill"), {**several, "rollouts_per_step": 30}),
        **{entry.id: (entry, several) for entry in stateful_entries() if entry.id in ("average", "critic", "carried", "drawing")},
        "trusting": (made("trusting", rollout={"author": "student"}, **TEACHER, objective=[REVERSE_KL], update={"kind": "trust_region"}), several),
    }
