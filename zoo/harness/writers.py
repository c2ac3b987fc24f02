"""Which code decodes a stream: vLLM where it is asked for, the native decoder where one supported model writes alone on a GPU, the reference steps
everywhere else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.components.rollouts import Policy
from zoo.components.rollouts.decoded import Solo, Student, Teacher
from zoo.components.teachers import Labels
from zoo.errors import ZooError, suggest
from zoo.harness.decode import Stepper, Written, by_length, decoding, lock_step
from zoo.harness.labels import LabelStepper
from zoo.harness.native import NativeDecoder, unsupported
from zoo.harness.vllm import VllmDecoder, VllmOptions, seeds_of, serves
from zoo.harness.vllm import unsupported as unsupported_by_vllm
from zoo.seeds import uniforms
from zoo.tensors import Generation

log = logging.getLogger(__name__)


class Writers:
    """The decoders of a run's models, kept between rollouts.

    The rule, the first that fits: with `vllm` (`engine: vllm`), the student writing alone, with any stop tokens and `top_p`, at temperature 0 or at
    least 0.01, is decoded by vLLM, unless an adapter or a hook changes its layers. On a GPU, a model of a family that `zoo.harness.native` knows, in
    bf16, writing alone is decoded natively; `native=False` turns this off. Any other stream or model is
    decoded by the reference steps. `masters` are the models in training of which some are narrow copies.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        *,
        pad_id: int,
        stop_ids: Sequence[int],
        vocab_size: int | None,
        max_batch: int,
        native: bool = True,
        masters: Mapping[str, Any] | None = None,
        vllm: VllmOptions | None = None,
    ) -> None:
        self.models, self.pad_id, self.stop_ids, self.vocab_size = models, pad_id, tuple(stop_ids), vocab_size
        self.masters = {} if masters is None else masters
        self.max_batch, self.native = max_batch, native
        self._steppers: dict[str, Stepper] = {}
        self._natives: dict[str, NativeDecoder | None] = {}
        self._vllm = self._beside(vllm) if vllm is not None and "student" in models else None

    def rest(self) -> None:
        """No rollout for now: memory that is only needed for one goes back to the trainer."""
        if self._vllm is not None:
            self._vllm.rest()

    def release(self) -> None:
        """Free caches and graphs."""
        self.rest()
        kept: list[Stepper | NativeDecoder] = [*self._steppers.values(), *(n for n in self._natives.values() if n is not None)]
        for each in kept:
            each.release()

    def batch(self, policy: Policy, stop_ids: Sequence[int] | None = None) -> int:
        """How many prompts may be given at once; vLLM and the native decoder keep queues of their own."""
        return self.max_batch if self._vllm_for(policy) is None and self._native_for(policy, stop_ids) is None else 1 << 20

    def write(
        self,
        policy: Policy,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        uniform_TUB: Tensor,
        *,
        stop_ids: Sequence[int] | None = None,
        score_student: bool = True,
    ) -> Written:
        """One response to each prompt; see `lock_step`."""
        law: dict[str, Any] = {"temperature": policy.temperature, "top_p": policy.top_p} if isinstance(policy, Solo) else {}
        if (beside := self._vllm_for(policy)) is not None:
            return beside.write(prompts["student"], seeds_of(uniform_TUB[0, 0]), len(uniform_TUB), **law, stops=stop_ids, scored=score_student)
        decoder = self._native_for(policy, stop_ids)
        if decoder is None:
            steppers = {name: self.stepper(name) for name in policy.reads}
            return lock_step(policy, steppers, prompts, uniform_TUB, stop_ids=stop_ids or self.stop_ids, score_student=score_student)
        [name] = policy.reads
        with decoding([decoder.model]):
            rows = decoder.write(prompts[name], uniform_TUB[:, 0].T, **law)
        return rows.written(len(prompts[name]), isinstance(policy, Student), scored=score_student and name == "student")

    def stepper(self, name: str) -> Stepper:
        """The reference decoding state of one model."""
        if name not in self._steppers:
            model = self._model(name)
            given = isinstance(model, Labels)
            self._steppers[name] = LabelStepper(self.stepper("student")) if given else Stepper(model, pad_id=self.pad_id, vocab_size=self.vocab_size)
        return self._steppers[name]

    def _model(self, name: str) -> Any:
        if name not in self.models:
            raise ZooError(f"a stream is written by '{name}', which is not among the models{suggest(name, self.models)}")
        return self.models[name]

    def _vllm_for(self, policy: Policy) -> VllmDecoder | None:
        return self._vllm if serves(policy) else None

    def _beside(self, options: VllmOptions) -> VllmDecoder | None:
        model = self.masters.get("student", self.models["student"])
        if reason := unsupported_by_vllm(model):
            log.warning("the student is not decoded by vLLM: %s", reason)
            return None
        return VllmDecoder(model, pad_id=self.pad_id, stop_ids=self.stop_ids, vocab_size=self.vocab_size, options=options)

    def _native_for(self, policy: Policy, stop_ids: Sequence[int] | None) -> NativeDecoder | None:
        if not self.native or type(policy) not in (Student, Teacher) or stop_ids is not None:
            return None
        [name] = policy.reads
        if name not in self._natives:
            self._natives[name] = self._make(name, self._model(name))
        return self._natives[name]

    def _make(self, name: str, model: Any) -> NativeDecoder | None:
        if model.device.type != "cuda" or model.dtype != torch.bfloat16:
            return None
        if reason := unsupported(model):
            log.warning("'%s' is decoded by the reference steps, several times slower: %s", name, reason)
            return None
        if name in self._steppers:  # fusing weights moves them away from under captured graphs
            self._steppers.pop(name).release()
        options: dict[str, Any] = {"rows": self.max_batch, "vocab_size": self.vocab_size, "master": self.masters.get(name)}
        return NativeDecoder(model, pad_id=self.pad_id, stop_ids=self.stop_ids, **options)


class Decoder:
    """One causal LM on one device that answers prompts, for evaluation."""

    def __init__(
        self, model: Any, *, pad_id: int, stop_ids: Sequence[int], max_batch: int = 256, vocab_size: int | None = None, vllm: VllmOptions | None = None
    ) -> None:
        self.writers = Writers({"student": model}, pad_id=pad_id, stop_ids=stop_ids, vocab_size=vocab_size, max_batch=max_batch, vllm=vllm)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: Sequence[int] | None = None,
    ) -> list[Generation]:
        """One answer a prompt, in the given order, the stop token left out. Temperature 0 is greedy; above it, each row
        draws from its own `seeds[row]`, so answers depend on neither batch, padding nor order.

        Raises:
            ZooError: sampling without one seed a prompt, or an empty prompt.
        """
        if temperature > 0 and (seeds is None or len(seeds) != len(prompts)):
            raise ZooError(f"sampling {len(prompts)} prompts needs one seed for each; pass seeds=, or temperature 0 for greedy")
        policy = Student(temperature=temperature, top_p=top_p)
        answers: dict[int, Generation] = {}
        for chunk in by_length(prompts, self.writers.batch(policy)):
            uniform_TUB = torch.zeros(max_new_tokens, 1, len(chunk), dtype=torch.float64)
            if temperature > 0 and seeds is not None:
                uniform_TUB = uniforms([seeds[i] for i in chunk], max_new_tokens).T[:, None]
            written = self.writers.write(policy, {"student": [prompts[i] for i in chunk]}, uniform_TUB, score_student=False)
            counts = (written.mask_BT.sum(1) - written.finished_B.long()).tolist()
            for i, ids, count, finished in zip(chunk, written.response_BT.tolist(), counts, written.finished_B.tolist(), strict=True):
                answers[i] = Generation(tuple(ids[:count]), finished)
        self.writers.rest()
        return [answers[i] for i in range(len(prompts))]
