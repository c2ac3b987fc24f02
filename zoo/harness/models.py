"""Pairs: a student, its teachers, their common tokenizer and the task; loaded from the hub, from folders, or as shipped."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator

from zoo.components.base import ABSENT, PLAIN, Context, Strict
from zoo.errors import ZooError, suggest
from zoo.harness.adapters import detach, merged
from zoo.harness.classifier import Classifier, load_classifier
from zoo.harness.endpoint import Endpoint, EndpointSource
from zoo.harness.parallel import Processes
from zoo.harness.sharding import shard, sharded_copy
from zoo.harness.sources import ModelSource, location
from zoo.paths import declared
from zoo.tasks import Task, make_task
from zoo.tensors import Prompt
from zoo.yamlio import load_model

# Configuration fields of models whose logits are not the head's output alone (Gemma 2, Cohere, Granite).
AFTER_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling")
PROMPTS_KEPT = 1 << 15


class TaskSource(Strict):
    """Which task's prompts and verifiers the pair uses; `path` or `hub` where its data are not made by us."""

    kind: str
    path: str | None = None
    hub: str | None = None


# What texts made during the run say, unless a pair has words of its own: a verdict, a group's share of right answers, what stands
# between several texts, and what an answer's statement about itself begins with.
WORDS = {"right": "right", "wrong": "wrong", "rate": "{rate:.2f}", "between": "\n\n", "mark": "Confidence: "}


class PairSpec(Strict):
    """A pair as its YAML file declares it. `contexts` are templates by name, `words` replace those of `WORDS`, `turns` are what environments say and
    the marks of calls and answers."""

    id: str
    title: str
    student: ModelSource
    teachers: dict[str, ModelSource] = {}
    endpoints: dict[str, EndpointSource] = Field({}, exclude_if=operator.not_)
    reward_models: dict[str, ModelSource] = Field({}, exclude_if=operator.not_)
    task: TaskSource
    chat: bool = False
    prompt_suffix: str = ""
    max_new_tokens: int = Field(ge=1)
    contexts: dict[str, str] = {}
    words: dict[str, str] = {}
    turns: dict[str, str] = {}
    weights_note: str | None = None

    @model_validator(mode="after")
    def _some_teacher(self) -> PairSpec:
        if not self.teachers and not self.endpoints:
            raise ValueError("teachers is required and missing: at least one model, or an endpoint under endpoints")
        return self


@dataclass
class LoadedPair:
    """The models of a pair in memory, on one device, with what every method needs to know about them."""

    spec: PairSpec
    student: Any
    teachers: dict[str, Any]
    tokenizer: Any
    task: Task
    stop_ids: tuple[int, ...]
    pad_id: int
    vocab_size: int
    same_vocabulary: bool
    initial: dict[str, torch.Tensor] = field(repr=False)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    reward_models: dict[str, Classifier] = field(default_factory=dict)
    untrusted_code: bool = False
    tokenizers: dict[str, Any] = field(default_factory=dict)
    split: Processes | None = None  # the processes that the models are sharded over
    lent: bool = False  # the teachers' weights are another process's, and are not to be written to
    _read: dict[tuple[int, str], list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def format_prompt(self, prompt: Prompt, context: Context | None = None, teacher: str | None = None) -> list[int]:
        """Token ids that a model reads before it writes: the prompt, in a context if one is given, in the chat format if the pair has one. They
        are those of a teacher's own tokenizer and chat format if one is named."""
        tokenizer = self.tokenizer if teacher is None else self.tokenizers[teacher]
        text = prompt.text if context is None else self._arranged(prompt, context)
        text += self.spec.prompt_suffix
        key = (id(tokenizer), text)
        if key not in self._read:  # a chat template takes about a millisecond, and a prompt is read by several models and in every epoch
            if len(self._read) >= PROMPTS_KEPT:
                self._read.clear()
            shown = text
            if self.spec.chat:
                shown = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
            self._read[key] = list(tokenizer.encode(shown, add_special_tokens=not self.spec.chat))
        return list(self._read[key])

    def _arranged(self, prompt: Prompt, context: Context) -> str:
        """The prompt in the pair's template; plain where a part made during the run has nothing to show."""
        places = {name: name for name in context.fields} | {part.kind: context.key(part) for part in context.made}
        if missing := [name for name, field in places.items() if field not in prompt.fields]:
            raise ZooError(f"prompt '{prompt.id}' has no field '{missing[0]}' for context '{context.template}'")
        if context.template == PLAIN or ABSENT in (prompt.fields[field] for field in places.values()):
            return prompt.text
        shown = {**prompt.fields, **{name: prompt.fields[field] for name, field in places.items()}}
        return self.spec.contexts[context.template].format(prompt=prompt.text, **shown)

    @property
    def words(self) -> dict[str, str]:
        """What texts made during the run say."""
        return {**WORDS, **self.spec.words}

    def question(self, prompt: Prompt, context: Context | None = None) -> str:
        """What an endpoint is asked: the prompt, in a context if one is given, without any chat format."""
        return (prompt.text if context is None else self._arranged(prompt, context)) + self.spec.prompt_suffix

    def verify(self, check: str, text: str, prompt: Prompt) -> float:
        """The task's verdict on an answer, without what the answer says about itself behind the pair's word `mark`."""
        return self.task.verify(check, text.split(self.words["mark"])[0], prompt)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def reset_student(self) -> Any:
        """The student with its initial weights, in place; gradients and adapters that a run left behind are dropped."""
        if detach(self.student):
            self.student.requires_grad_(True)
        self.student.load_state_dict(self.initial, strict=False)
        self.student.zero_grad(set_to_none=True)
        return self.student

    def frozen_student(self, dtype: torch.dtype | None = None) -> Any:
        """A copy of the student with its initial weights, without gradient."""
        if self.split is not None:
            return sharded_copy(self.student, self.initial, self.split, dtype)
        twin = copy.deepcopy(self.student)
        twin.load_state_dict(self.initial, strict=False)
        return twin.requires_grad_(False).eval().to(dtype or next(twin.parameters()).dtype)


def load_pair_spec(pair: str | Path) -> PairSpec:
    """The declaration of a pair, by id or by the path of a YAML file.

    Raises:
        ZooError: no such pair, or mistakes in its file.
    """
    return load_model(PairSpec, declared("pair", pair))


def load_pair(
    spec: PairSpec,
    *,
    paths: Mapping[str, Path] | None = None,
    data: Path | None = None,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    split: Processes | None = None,
    lender: Callable[[], dict[str, Any] | None] | None = None,
) -> LoadedPair:
    """Load a pair's models and task. `paths` replaces sources by local folders (`student`, or a teacher's name); `data` is a
    local folder for the task. On CUDA teachers are bf16 and the student fp32; on a CPU all are fp32. Student and teachers are sharded over the
    processes `split`, if they are given. A `lender` is asked for the teachers before they are loaded.

    Raises:
        ZooError: missing or broken files, with the remedy; tokenizers of different vocabularies are reported, not refused.
    """
    paths = dict(paths or {})
    refuse_stray_paths(spec, paths)
    device = torch.device(device)
    held = device if split is None else torch.device("cpu")
    student = _load_model(spec, "student", spec.student, paths, torch.float32, held, trust_remote_code)
    given = None if lender is None else lender()
    teachers = load_teachers(spec, paths, device, held=held, trust_remote_code=trust_remote_code) if given is None else given
    rows = {name: model.get_output_embeddings().weight.shape[0] for name, model in (("student", student), *teachers.items())}
    tokenizer = _load_tokenizer(spec, "student", spec.student, paths, rows["student"], trust_remote_code)
    others = {name: _load_tokenizer(spec, name, source, paths, rows[name], trust_remote_code) for name, source in spec.teachers.items()}
    alike = [name for name, other in others.items() if other.get_vocab() == tokenizer.get_vocab()]
    stops = stop_ids_of(student, tokenizer)
    if split is not None:
        for model in (student, *teachers.values()):
            shard(model, split)
    return LoadedPair(
        spec=spec,
        student=student,
        teachers=teachers,
        tokenizer=tokenizer,
        task=make_task(spec.task.kind, data or (Path(spec.task.path) if spec.task.path else None), spec.task.hub),
        stop_ids=stops,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0],
        vocab_size=min(len(tokenizer), *(rows[name] for name in ("student", *alike))),
        same_vocabulary=len(alike) == len(others),
        tokenizers=others,
        initial={k: v.detach().clone() for k, v in student.state_dict().items()},
        endpoints={name: Endpoint(source) for name, source in spec.endpoints.items()},
        reward_models={name: load_classifier(spec.id, name, *_location(spec, name, source, paths), device) for name, source in spec.reward_models.items()},
        split=split,
        lent=given is not None,
    )


def load_teachers(
    spec: PairSpec, paths: Mapping[str, Path], device: torch.device, *, held: torch.device | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """A pair's teachers by name, in the type that `device` computes them in, on that device unless they are to be `held` elsewhere.

    Raises:
        ZooError: missing or broken files, with the remedy.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    return {name: _load_model(spec, name, source, paths, dtype, held or device, trust_remote_code) for name, source in spec.teachers.items()}


def refuse_stray_paths(spec: PairSpec, paths: Mapping[str, Path]) -> None:
    """Raise ZooError for a local folder under a name that is no model of the pair."""
    for name in paths:
        if name not in ("student", *spec.teachers):
            raise ZooError(f"--pair-path {name}: pair '{spec.id}' has no such model{suggest(name, ['student', *spec.teachers])}")


def _location(spec: PairSpec, name: str, source: ModelSource, paths: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    return location(spec.id, name, source, spec.student, paths)


def _load_model(
    spec: PairSpec, name: str, source: ModelSource, paths: Mapping[str, Path], dtype: torch.dtype, device: torch.device, trust_remote_code: bool
) -> Any:
    from transformers import AutoModelForCausalLM

    where, kwargs = _location(spec, name, source, paths)
    options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, "trust_remote_code": trust_remote_code, **kwargs}
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(where, dtype=dtype if source.adapter is None else torch.float32, **options)
    except Exception as error:
        raise _unloadable(spec, name, source, paths, _first_line(error)) from None
    model, report = loaded
    if report["missing_keys"]:
        raise _unloadable(spec, name, source, paths, f"its files lack {len(report['missing_keys'])} tensors, {min(report['missing_keys'])} among them")
    scaled = [field for field in AFTER_HEAD if getattr(model.config, field, None) not in (None, 1.0)]
    if scaled:
        raise ZooError(f"pair '{spec.id}': {name} at {where} changes its logits after the head ({scaled[0]}), which scoring in chunks does not do; "
                       "choose a model without it")  # fmt: skip
    model.generation_config.do_sample = False
    if source.adapter is not None:
        model = merged(model, source.adapter.at(spec.id), f"pair '{spec.id}': {name}").to(dtype)
    model = model.eval().to(device)
    model.requires_grad_(name == "student")
    return model


def _load_tokenizer(spec: PairSpec, name: str, source: ModelSource, paths: Mapping[str, Path], rows: int, trust_remote_code: bool) -> Any:
    """A model's tokenizer, which may have fewer tokens than the model has logits (`rows`), not more."""
    from transformers import AutoTokenizer

    where, kwargs = _location(spec, name, source, paths)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, padding_side="left", trust_remote_code=trust_remote_code, **kwargs)
    except Exception as error:
        raise _unloadable(spec, name, source, paths, f"its tokenizer: {_first_line(error)}") from None
    if len(tokenizer) > rows:
        raise ZooError(f"pair '{spec.id}': the tokenizer of {name} at {where} has {len(tokenizer)} tokens, but the model only {rows} logits; "
                       "is the tokenizer another model's?")  # fmt: skip
    return tokenizer


def _unloadable(spec: PairSpec, name: str, source: ModelSource, paths: Mapping[str, Path], reason: str) -> ZooError:
    where, hub = _location(spec, name, source, paths)
    if hub:
        remedy = f"give a local folder with --pair-path {name}=DIR, or make the hub reachable"
    elif any(Path(where).glob("*.bin")) and not any(Path(where).glob("*.safetensors")):
        remedy = "pickled weights (.bin) are never loaded: save the model again with save_pretrained, which writes safetensors"
    else:
        again = f"run `zoo pairs build {spec.id}`" if source.shipped and name not in paths else "fetch it again"
        remedy = f"a file is missing, damaged or incomplete: {again}"
    return ZooError(f"pair '{spec.id}': cannot load {name} from {where} ({reason.rstrip('.:')}); {remedy}")


def stop_ids_of(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end an answer of a model."""
    named = model.generation_config.eos_token_id
    ids = [*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id]
    # The tokenizer's own stop token comes first: it is the one that ends given texts.
    return tuple(dict.fromkeys(i for i in reversed(ids) if i is not None))


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]
